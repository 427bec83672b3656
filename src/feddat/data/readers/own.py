"""One client's own data: a few files and what they mean, made into a :class:`~feddat.example.ClientData`.

The specification of a client is a mapping, as it stands under ``clients:`` in a configuration file:

=============== ==============================================================================================
``train``       file of training records (JSONL, CSV or Parquet); required
``validation``  file of validation records; default: 10 % of ``train``, drawn with a fixed seed, is held out
``test``        file of test records; required
``images``      folder that image names are relative to; default: the folder of the file that names them
``task``        ``vqa`` (default), ``nlvr2``, ``snli-ve`` or ``vcr``
``top_answers`` VQA: size of the answer vocabulary, made of the most frequent training answers; default 100
``description`` one line for reports
=============== ==============================================================================================
"""

from __future__ import annotations

import difflib
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from feddat.data.readers import csv, jsonl, parquet
from feddat.data.readers.records import COLUMNS, Record, to_example
from feddat.example import ClientData, DataError, Example
from feddat.seeding import numpy_generator

log = logging.getLogger(__name__)

#: File name suffix -> function that yields the records of such a file.
FORMATS = {".jsonl": jsonl.read, ".ndjson": jsonl.read, ".csv": csv.read, ".parquet": parquet.read}
KEYS = ("train", "validation", "test", "images", "task", "top_answers", "description")
#: Share of the training records held out where no validation file is given.
HELD_OUT = 0.1


def read_client(name: str, spec: Mapping[str, Any]) -> ClientData:
    """Read one client's files, as ``spec`` describes them (see the module's table).

    Training questions none of whose answers is in the vocabulary are dropped, and the log says how many. Validation and
    test questions are all kept: one that the vocabulary cannot answer scores 0.

    Raises:
        DataError: a key of ``spec`` or a record cannot be used; names the client or the file and line.
    """
    _check_spec(name, spec)
    task = spec.get("task") or "vqa"
    train = _read_split(name, spec, "train", task)
    test = _read_split(name, spec, "test", task)
    if spec.get("validation") is not None:
        validation = _read_split(name, spec, "validation", task)
    else:
        train, validation = _hold_out(name, train)
    answers: tuple[str, ...] = ()
    if task == "vqa":
        answers = top_answers(train, spec.get("top_answers") or 100)
        if not answers:
            raise DataError(f"client {name!r}: {spec['train']}: no answer has a score above 0")
        if all(score < 1 for example in train for score in example.answers.values()):
            log.warning(
                "client %s: no training answer has score 1: lists of answers are annotators' votes (0.3 each); "
                "write one right answer as a text, not as a list",
                name,
            )
        kept = tuple(example for example in train if not example.answers.keys().isdisjoint(answers))
        if len(kept) < len(train):
            log.info(
                "client %s: %d of %d training questions dropped: no answer among the %d most frequent",
                name,
                len(train) - len(kept),
                len(train),
                len(answers),
            )
        train = kept
    return ClientData(name, task, train, validation, test, answers, str(spec.get("description") or ""))


def top_answers(examples: Iterable[Example], count: int) -> tuple[str, ...]:
    """Return the ``count`` answers with the largest sum of scores, largest first, ties in alphabetical order."""
    totals: defaultdict[str, float] = defaultdict(float)
    for example in examples:
        for answer, score in example.answers.items():
            totals[answer] += score
    # Rounded, so that equal sums added up in different orders tie.
    ranked = sorted((-round(total, 6), answer) for answer, total in totals.items() if total > 0)
    return tuple(answer for _, answer in ranked[:count])


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file, by the format that its name ends in.

    Raises:
        DataError: the file is missing, of an unknown format, or malformed.
    """
    reader = FORMATS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown format {path.suffix!r}; expected {', '.join(FORMATS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return reader(path)


def _check_spec(name: str, spec: Mapping[str, Any]) -> None:
    where = f"client {name!r}"
    if not isinstance(spec, Mapping):
        raise DataError(f"{where}: expected keys and values ({', '.join(KEYS)}), got {spec!r}")
    for key in spec:
        if key not in KEYS:
            raise DataError(f"{where}: unknown key {key!r}{_nearest(str(key), KEYS)}; known: {', '.join(KEYS)}")
    for key in ("train", "test"):
        if spec.get(key) is None:
            raise DataError(f"{where}: key {key!r} is missing; expected a .jsonl, .csv or .parquet file")
    for key in ("train", "validation", "test", "images"):
        if not isinstance(spec.get(key), str | Path | None):
            raise DataError(f"{where}: {key}: expected a path, got {spec[key]!r}")
    if spec.get("images") is not None and not Path(spec["images"]).is_dir():
        raise DataError(f"{where}: images: no such folder: {spec['images']}")
    task = spec.get("task") or "vqa"
    if task not in COLUMNS:
        raise DataError(f"{where}: unknown task {task!r}{_nearest(str(task), COLUMNS)}; known: {', '.join(COLUMNS)}")
    top = spec.get("top_answers")
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
        raise DataError(f"{where}: top_answers: expected a whole number of at least 1, got {top!r}")


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""


def _read_split(name: str, spec: Mapping[str, Any], split: str, task: str) -> tuple[Example, ...]:
    path = Path(spec[split])
    folder = Path(spec["images"]) if spec.get("images") is not None else path.parent
    examples = []
    seen: dict[str, str] = {}
    for record in read_records(path):
        example = to_example(record, task, folder)
        if example.id in seen:
            raise DataError(f"{record.where}: duplicate id {example.id!r}, first used in {seen[example.id]}")
        seen[example.id] = record.place
        examples.append(example)
    if not examples:
        raise DataError(f"client {name!r}: {split}: {path} holds no records")
    return tuple(examples)


def _hold_out(name: str, train: Sequence[Example]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Split off a seeded tenth of the training records (at least one), both parts in file order."""
    if len(train) < 2:
        raise DataError(f"client {name!r}: one training record cannot be split; give a validation file")
    count = max(1, math.floor(HELD_OUT * len(train)))
    held = set(numpy_generator(0, name, "validation").permutation(len(train))[:count].tolist())
    return (
        tuple(example for index, example in enumerate(train) if index not in held),
        tuple(example for index, example in enumerate(train) if index in held),
    )
