"""Columns with other names than readers know: the names that a client gives, and guesses.

A mapping from our columns to theirs names the columns: ``{"question": "q", "answers": "answers.answer"}``. A dot
reaches into a struct, or into every struct of a list; a number after a dot takes one item of a list (``pair.0``). A
column whose own name has dots is named as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from feddat.data.readers import arrow
from feddat.data.readers.records import COLUMNS, Record, spellings
from feddat.data.readers.values import listed
from feddat.example import DataError

log = logging.getLogger(__name__)

#: Our column -> its names in datasets, the likeliest first.
NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "images", "img", "picture", "image_path", "file_name"),
    "image2": ("image2", "image_2", "right_image"),
    "question": ("question", "questions", "query", "sentence", "hypothesis", "text", "prompt"),
    "answers": ("answers", "answer", "multiple_choice_answer", "gt_answer", "label"),
    "choices": ("choices", "options", "answer_choices"),
    "label": ("label", "answer_label", "gold_label"),
}


def renamed(records: Iterable[Record], columns: Mapping[str, str]) -> Iterator[Record]:
    """Yield records in which the columns that a client names have our names.

    Raises:
        DataError: a record lacks a named column; names file and record.
    """
    for record in records:
        yield replace(record, fields=dict(record.fields) | named(record, columns))


def named(record: Record, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the columns that a client names, by our names.

    Raises:
        DataError: the record lacks a named column; names file and record.
    """
    return {ours: _find(record, ours, theirs) for ours, theirs in columns.items()}


def guess_columns(path: Path, given: Mapping[str, str], task: str) -> dict[str, str]:
    """Return the columns of a Parquet or Arrow file that a task needs: ours -> theirs, as given or guessed.

    Columns are guessed by their names, and those of pictures by their type.

    Raises:
        DataError: the file cannot be read, or no column looks like one that the task needs.
    """
    kinds = arrow.column_kinds(path)
    found = dict(given)
    for ours in COLUMNS[task]:
        if ours in found:
            continue
        theirs = _likeliest(ours, kinds, set(found.values()))
        if theirs is None:
            have = listed(kinds)
            raise DataError(f"{path}: no column looks like {ours!r} (columns: {have}); name it under columns")
        found[ours] = theirs
    if guessed := [f"{ours}={theirs}" for ours, theirs in found.items() if ours not in given]:
        log.info("%s: columns taken as %s", path.name, ", ".join(guessed))
    return found


def _likeliest(ours: str, kinds: Mapping[str, str], taken: Iterable[str]) -> str | None:
    if ours == "image2" and (second := _second_picture(kinds, taken)) is not None:
        return second
    lower = {name.lower(): name for name in kinds if name not in taken}
    known = [lower[name] for name in NAMES[ours] if name in lower]
    if ours in ("image", "image2"):
        # The type counts most, but only beside a likely name or if no name is likely: any bytes look like a picture.
        pictures = [name for name in known or lower.values() if kinds[name].startswith("image")]
        known = pictures or known
    if not known:
        return None
    return f"{known[0]}.0" if kinds[known[0]] == "images" else known[0]


def _second_picture(kinds: Mapping[str, str], taken: Iterable[str]) -> str | None:
    """Return the second item of the list whose first item is the first picture."""
    firsts = (name.removesuffix(".0") for name in taken if name.endswith(".0"))
    return next((f"{name}.1" for name in firsts if kinds.get(name) == "images"), None)


def _find(record: Record, ours: str, theirs: str) -> Any:
    value: Any = record.fields
    for part in _path(record, theirs):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, list) and all(isinstance(item, Mapping) and part in item for item in value):
            value = [item[part] for item in value]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            have = listed(record.fields)
            raise DataError(f"{record.where}: column {theirs!r}, named as {ours}: no {part!r} (columns: {have})")
    return value


def _path(record: Record, theirs: str) -> list[str]:
    """Return the parts of a name, the first as the record has it; a column's own name may have dots."""
    first, *others = theirs.split(".")
    for name, rest in ((theirs, []), (first, others)):
        if found := [spelling for spelling in spellings(name) if spelling in record.fields]:
            return [found[0], *rest]
    return [first, *others]


def in_header(theirs: str) -> tuple[str, ...]:
    """Return the names that a column which a client names can have in the header of a table."""
    return (*spellings(theirs), *spellings(theirs.partition(".")[0]))
