"""Write answers to a file as they are found: JSON Lines, CSV or Parquet.

| column | what |
| --- | --- |
| ``id`` | id of the record |
| ``question`` | its question |
| ``answer``, ``probability`` | the likeliest answer; empty if there is an error |
| ``answers``, ``probabilities`` | the few likeliest answers; CSV puts ``|`` between them |
| ``error`` | why there is no answer; empty if there is one |
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from feddat.data.readers.csv import SEPARATOR
from feddat.example import DataError
from feddat.files import whole_file

COLUMNS = ("id", "question", "answer", "probability", "answers", "probabilities", "error")


@dataclass(frozen=True, slots=True)
class Answered:
    """Result for one record: its likeliest answers with their probabilities, or an error."""

    id: str
    question: str
    answers: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    def row(self) -> dict[str, Any]:
        """Return the values of :data:`COLUMNS`."""
        first = self.answers[0] if self.answers else (None, None)
        names, values = [name for name, _ in self.answers], [value for _, value in self.answers]
        return dict(zip(COLUMNS, (self.id, self.question, *first, names, values, self.error), strict=True))


Write: TypeAlias = Callable[[Sequence[Answered]], None]


@contextmanager
def open_writer(path: Path | None) -> Iterator[Write]:
    """Yield a function that writes answers to a file, or to standard output if ``path`` is ``None``.

    The file appears under its name only when it is complete.

    Raises:
        DataError: the format is unknown, or pyarrow is missing.
        OSError: the file cannot be written.
    """
    if path is None:
        yield lambda rows: _write_lines(sys.stdout, rows)
        return
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, _FORMATS[path.suffix.lower()](temporary) as write:
        yield write


def check_format(path: Path) -> None:
    """Raise ``DataError`` if answers cannot be written to a file of this name."""
    if path.suffix.lower() not in _FORMATS:
        raise DataError(f"{path}: unknown format {path.suffix!r}; expected {', '.join(_FORMATS)}")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; expected the name of a file")


@contextmanager
def _json_lines(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda rows: _write_lines(file, rows)


def _write_lines(file: TextIO, rows: Sequence[Answered]) -> None:
    file.write("".join(json.dumps(row.row(), ensure_ascii=False) + "\n" for row in rows))
    file.flush()


@contextmanager
def _csv(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)

        def write(rows: Sequence[Answered]) -> None:
            for row in rows:
                values = row.row().values()
                writer.writerow(SEPARATOR.join(map(str, v)) if isinstance(v, list) else v for v in values)

        yield write


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path}: writing Parquet needs pyarrow: pip install 'feddat[parquet]'") from None
    text, number = pyarrow.string(), pyarrow.float64()
    kinds = (text, text, text, number, pyarrow.list_(text), pyarrow.list_(number), text)
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    with parquet.ParquetWriter(path, schema) as writer:
        yield lambda rows: writer.write_table(pyarrow.Table.from_pylist([row.row() for row in rows], schema))


_FORMATS = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
