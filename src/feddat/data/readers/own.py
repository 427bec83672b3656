"""Read one client's own data from files into a :class:`~feddat.example.ClientData`.

The specification of a client is a mapping, as under ``clients:`` in a configuration file:

================ =============================================================================================
``train``        file of training records (JSON Lines, JSON, CSV, TSV or Parquet); required
``validation``   file of validation records; default: hold out 10 % of ``train``, drawn with a fixed seed
``test``         file of test records; required
``images``       folder that image names are relative to; default: the folder of the file that names them
``task``         ``vqa`` (default), ``nlvr2``, ``snli-ve`` or ``vcr``
``top_answers``  VQA: number of most frequent training answers in the answer vocabulary; default 100
``answers``      VQA on a model that writes: ``rank``, ``generate`` or ``classes``; default: ``eval.answers``
``skip_missing`` skip records whose image file is missing, and log how many; default: refuse them
``columns``      mapping from our columns to theirs, if they have other names (:mod:`feddat.data.readers.columns`)
``pictures``     how images are read; overrides settings of the run's section ``pictures``
``description``  one line for reports
================ =============================================================================================

or, for a published dataset in its original files, or a folder of Hugging Face ``datasets``:

================ =============================================================================================
``format``       name in :data:`~feddat.data.readers.published.SOURCES`, or ``hf``; required
``root``         folder that holds the dataset, or ``owner/name[@revision]`` of a dataset on the Hub; required
``train``, ...   names of published splits; default: the first split for training, the last for test, one
                 between them (if any) for validation; with ``hf``: those of these names, and validation for
                 test if there is no test split
``columns``      ``hf``: as above, for columns that cannot be guessed (:mod:`feddat.data.readers.hf`)
``task``         ``hf``: as above
================ =============================================================================================

with ``top_answers``, ``answers``, ``skip_missing``, ``pictures`` and ``description`` as above. ``model`` may repeat the
run's model, since all clients share one.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddat.data.readers import arrow, csv, hf, json_file, jsonl
from feddat.data.readers.columns import renamed
from feddat.data.readers.hub_data import SHARDS, at_hand
from feddat.data.readers.image_folder import ImageFolder, is_file, is_folder
from feddat.data.readers.published import FORMS, SOURCES, FormatSource, Source
from feddat.data.readers.records import BLANK_VOTES, COLUMNS, Record, is_column, to_examples
from feddat.data.readers.shards import used_splits
from feddat.example import ANSWERING, OUTSIDE, SPLITS, ClientData, DataError, Example, image_identity
from feddat.picture_settings import PictureSettings
from feddat.seeding import numpy_generator
from feddat.text import did_you_mean, find_file, normal_text

log = logging.getLogger(__name__)

#: File name suffix -> function that yields the records of such a file.
FORMATS = {
    ".jsonl": jsonl.read,
    ".ndjson": jsonl.read,
    ".json": json_file.read,
    ".csv": csv.read,
    ".tsv": csv.read,
    ".parquet": arrow.read,
}
_SPREADSHEETS = frozenset({".xlsx", ".xls", ".ods", ".numbers"})
#: Name of the format of Hugging Face ``datasets``.
HF = "hf"
KEYS = (
    *SPLITS, "images", "format", "root", "columns", "task", "top_answers", "answers", "skip_missing", "pictures",
    "description", "model",
)  # fmt: skip
#: Share of the training records to hold out if there is no validation file.
HELD_OUT = 0.1


@dataclass(frozen=True)
class _Origin:
    """Source of a split: a name for messages, and a function that reads it and counts the records it skips."""

    place: str
    read: Callable[[Counter[str]], Iterator[Example]]


def read_client(name: str, spec: Mapping[str, Any], pictures: PictureSettings | None = None) -> ClientData:
    """Read one client's data according to ``spec`` (see the tables of this module).

    ``pictures`` are the run's settings; the client's own settings override them.

    A training question is dropped if none of its answers is in the vocabulary, and the log says how many were. All
    validation and test questions are kept: those that the vocabulary cannot answer score 0.

    Raises:
        DataError: a key of ``spec`` or a record cannot be used; names the client or the file and record.
    """
    spec = at_hand(name, spec) if isinstance(spec, Mapping) else spec
    _check_spec(name, spec)
    pictures = _pictures(name, spec, pictures or PictureSettings())
    read = _from_format if spec.get("format") is not None else _from_files
    task, origins = read(spec, pictures.outside)
    left_out: dict[str, dict[str, int]] = {split: {} for split in origins}
    splits = {split: _read_split(name, split, origin, left_out[split]) for split, origin in origins.items()}
    train, test = splits["train"], splits["test"]
    if "validation" in splits:
        validation = splits["validation"]
    else:
        train, validation = _hold_out(name, train)
    answers: tuple[str, ...] = ()
    if task == "vqa":
        answers = top_answers(train, spec.get("top_answers") or 100)
        if not answers:
            raise DataError(f"client {name!r}: {origins['train'].place}: no answer has a score above 0")
        if all(score < 1 for example in train for score in example.answers.values()):
            log.warning(
                "client %s: no training answer has score 1; a list of answers is read as annotators' votes (0.3 each), "
                "so write one right answer as a text, not as a list",
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
            left_out["train"][OUTSIDE] = len(train) - len(kept)
        train = kept
    return ClientData(
        name,
        task,
        train,
        validation,
        test,
        answers,
        description=normal_text(str(spec.get("description") or "")),
        answering=spec.get("answers"),
        left_out=left_out,
        pictures=pictures,
    )


def top_answers(examples: Iterable[Example], count: int) -> tuple[str, ...]:
    """Return the ``count`` answers with the largest sums of scores, largest first; ties are in alphabetical order."""
    totals: defaultdict[str, float] = defaultdict(float)
    for example in examples:
        for answer, score in example.answers.items():
            totals[answer] += score
    # Rounding makes sums equal that were added up in different orders.
    ranked = sorted((-round(total, 6), answer) for answer, total in totals.items() if total > 0)
    return tuple(answer for _, answer in ranked[:count])


def known_formats() -> dict[str, str]:
    """Return all names for ``format``, each with a one-line description."""
    published = {name: source.description for name, source in SOURCES.items()}
    published |= {name: description for name, (description, _) in FORMS.items()}
    return published | {HF: "a folder of Hugging Face datasets: Parquet shards, or written by save_to_disk"}


def read_records(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[Record]:
    """Yield the records of a file; the suffix of its name is its format.

    Args:
        path: the file.
        columns: our column -> theirs, for columns that have other names.

    Raises:
        DataError: the file is missing, of an unknown format, or malformed, or a record lacks a column that is named.
    """
    reader = FORMATS.get(path.suffix.lower())
    if reader is None:
        hint = "; save a spreadsheet as CSV" if path.suffix.lower() in _SPREADSHEETS else ""
        raise DataError(f"{path}: unknown format {path.suffix!r}; expected {', '.join(FORMATS)}{hint}")
    if not is_file(path):
        raise DataError(f"{path}: no such file")
    return renamed(reader(path, columns) if reader is csv.read else reader(path), columns) if columns else reader(path)


def _from_files(spec: Mapping[str, Any], outside: bool) -> tuple[str, dict[str, _Origin]]:
    """Return the task and the origins of the splits of a client with files of records."""
    task = spec.get("task") or "vqa"
    skip_missing = bool(spec.get("skip_missing"))

    def origin(path: Path) -> _Origin:
        images = find_file(Path(spec["images"])) if spec.get("images") is not None else path.parent
        folder = ImageFolder(images, outside)
        columns = spec.get("columns")
        return _Origin(
            str(path), lambda skipped: to_examples(read_records(path, columns), task, folder, skip_missing, skipped)
        )

    return task, {split: origin(find_file(Path(spec[split]))) for split in SPLITS if spec.get(split) is not None}


def _from_format(spec: Mapping[str, Any], outside: bool) -> tuple[str, dict[str, _Origin]]:
    """Return the task and the origins of the splits of a client with a published format."""
    root = find_file(Path(spec["root"]))
    skip_missing = bool(spec.get("skip_missing"))
    named = {split: str(spec[split]) for split in SPLITS if spec.get(split) is not None}
    if spec["format"] == HF:
        shards = spec.get(SHARDS) or hf.folder_shards(root)
        names = used_splits(shards, named)
        shards = {split: hf.named_shards(root, shards, split) for split in names.values()}
        task = spec.get("task") or "vqa"
        rows = hf.Rows(spec.get("columns") or {}, shards, task)
        source: Source = FormatSource(HF, task, "", tuple(names.values()), rows)
    elif spec["format"] in FORMS:
        names = {"train": "train", "test": "test"} | named
        description, form = FORMS[spec["format"]]
        source = FormatSource(spec["format"], "vqa", description, tuple(names.values()), form)
    else:
        source = SOURCES[spec["format"]]
        names = {"train": source.splits[0], "test": source.splits[-1]}
        if len(source.splits) == 3:
            names["validation"] = source.splits[1]
        names |= named

    def origin(split: str) -> _Origin:
        return _Origin(
            f"{source.name} {split} in {root}",
            lambda skipped: source.read(root, split, skip_missing=skip_missing, skipped=skipped, outside=outside),
        )

    return source.task, {split: origin(published) for split, published in names.items()}


def _pictures(name: str, spec: Mapping[str, Any], default: PictureSettings) -> PictureSettings:
    own = spec.get("pictures") or {}
    if not isinstance(own, Mapping):
        raise DataError(f"client {name!r}: pictures: expected keys and values, got {own!r}")
    try:
        return default.updated(own)
    except ValueError as error:
        raise DataError(f"client {name!r}: pictures: {error}") from None


def _check_spec(name: str, spec: Mapping[str, Any]) -> None:
    where = f"client {name!r}"
    if not isinstance(spec, Mapping):
        raise DataError(f"{where}: expected keys and values ({', '.join(KEYS)}), got {spec!r}")
    for key in spec:
        if key not in (*KEYS, SHARDS):
            raise DataError(f"{where}: unknown key {key!r}{did_you_mean(str(key), KEYS)}; known: {', '.join(KEYS)}")
    for key in (*SPLITS, "images", "root"):
        if not isinstance(spec.get(key), str | Path | None):
            expected = "the name of a split" if spec.get("format") and key in SPLITS else "a path"
            raise DataError(f"{where}: {key}: expected {expected}, got {spec[key]!r}")
    for key in ("images", "root"):
        if spec.get(key) is not None and not is_folder(find_file(Path(spec[key]))):
            raise DataError(f"{where}: {key}: no such folder: {spec[key]}")
    task = spec.get("task") or "vqa"
    if not isinstance(task, str) or task not in COLUMNS:
        raise DataError(
            f"{where}: unknown task {task!r}{did_you_mean(str(task), COLUMNS)}; known: {', '.join(COLUMNS)}"
        )
    top = spec.get("top_answers")
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
        raise DataError(f"{where}: top_answers: expected a whole number of at least 1, got {top!r}")
    if spec.get("answers") not in (None, *ANSWERING):
        raise DataError(f"{where}: answers: expected {', '.join(ANSWERING)}, got {spec['answers']!r}")
    if not isinstance(spec.get("skip_missing"), bool | None):
        raise DataError(f"{where}: skip_missing: expected true or false, got {spec['skip_missing']!r}")
    columns = spec.get("columns") or {}
    if not isinstance(columns, Mapping) or not all(isinstance(n, str) for item in columns.items() for n in item):
        raise DataError(f"{where}: columns: expected our column: their column, got {columns!r}")
    for ours in columns:
        if not is_column(ours):
            known = ", ".join(("id", *COLUMNS[task]))
            raise DataError(
                f"{where}: columns: unknown column {ours!r}; expected our column: their column; ours: {known}"
            )
    if spec.get("format") is not None:
        _check_format(where, spec)
        return
    for key in ("train", "test"):
        if spec.get(key) is None:
            raise DataError(f"{where}: key {key!r} is missing; expected a file ({', '.join(FORMATS)})")
    _refuse(where, spec, ("root",), "without format")


def _check_format(where: str, spec: Mapping[str, Any]) -> None:
    known = known_formats()
    form = spec["format"]
    if not isinstance(form, str) or form not in known:
        raise DataError(f"{where}: unknown format {form!r}{did_you_mean(str(form), known)}; known: {', '.join(known)}")
    if spec.get("root") is None:
        raise DataError(f"{where}: key 'root' is missing; expected the folder that holds {form}")
    _refuse(where, spec, ("images",), "with format: image names are relative to root")
    if form != HF:
        _refuse(where, spec, ("task", "columns"), f"with format {form}")


def _refuse(where: str, spec: Mapping[str, Any], keys: Iterable[str], reason: str) -> None:
    for key in keys:
        if spec.get(key) is not None:
            raise DataError(f"{where}: key {key!r} is not allowed {reason}")


def _read_split(name: str, split: str, origin: _Origin, left_out: dict[str, int]) -> tuple[Example, ...]:
    """Return a split's examples, and record in ``left_out`` why records were left out, and how many."""
    skipped: Counter[str] = Counter()
    examples = tuple(origin.read(skipped))
    blank = skipped.pop(BLANK_VOTES, 0)
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
    if not examples:
        all_skipped = f" that can be used: {reasons}" if skipped else ""
        raise DataError(f"client {name!r}: {split}: {origin.place} holds no records{all_skipped}")
    if skipped:
        log.warning("client %s: %s: records of %s skipped: %s", name, split, origin.place, reasons)
        left_out.update(skipped)
    if blank:
        log.warning("client %s: %s: blank votes of %s left out: %d", name, split, origin.place, blank)
    return examples


def _hold_out(name: str, train: Sequence[Example]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Split off about a random tenth of the training records; both parts keep the order of the file.

    Records that share a picture stay together, so that no picture is in both parts, unless each such group is more than
    a tenth: then single records are split off.
    """
    if len(train) < 2:
        raise DataError(f"client {name!r}: one training record cannot be split; give a validation file")
    count = max(1, math.floor(HELD_OUT * len(train)))
    order = numpy_generator(0, name, "validation").permutation(len(train)).tolist()
    together = _sharing_pictures(train)
    held: set[int] = set()
    for index in order:
        if index not in held and len(held) + len(together[index]) <= count:
            held.update(together[index])
    held = held or set(order[:count])
    return (
        tuple(example for index, example in enumerate(train) if index not in held),
        tuple(example for index, example in enumerate(train) if index in held),
    )


def _sharing_pictures(examples: Sequence[Example]) -> list[list[int]]:
    """Return for each example the group of examples that share pictures with it, directly or through others."""
    pictures = [[image_identity(image) for image in example.images] for example in examples]
    parents: dict[Hashable, Hashable] = {}

    def root(picture: Hashable) -> Hashable:
        while (parent := parents.setdefault(picture, picture)) != picture:
            parents[picture] = picture = parents[parent]
        return picture

    for first, *others in pictures:
        for other in others:
            parents[root(other)] = root(first)
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, (first, *_) in enumerate(pictures):
        groups[root(first)].append(index)
    return [groups[root(first)] for first, *_ in pictures]
