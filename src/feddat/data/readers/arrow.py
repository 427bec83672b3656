"""Parquet files and Arrow streams, read with pyarrow (``pip install feddat[parquet]``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feddat.data.readers.records import Record
from feddat.example import DataError

#: Rows to convert to Python objects at a time; few, since a row may hold an image.
ROWS = 256


def read(path: Path) -> Iterator[Record]:
    """Yield the rows of a Parquet file, or of an Arrow stream if the name ends in ``.arrow``.

    ``answers`` may be text, a list, a map or a struct. Class labels that Hugging Face ``datasets`` wrote as numbers are
    replaced by their names from the file's schema.

    Raises:
        DataError: pyarrow is not installed, or it cannot read the file.
    """
    try:
        import pyarrow
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'feddat[parquet]'") from None
    number = 0
    try:
        for batch, names in _batches(path):
            for fields in batch.to_pylist():
                number += 1
                values = {key: _plain(value, names.get(key, ())) for key, value in fields.items()}
                yield Record(path, f"row {number}", values)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        # Text that is not UTF-8, or a date outside Python's range, fails only on conversion to a Python object.
        raise DataError(f"{path}: not a readable {_form(path)} file: {' '.join(str(error).split())}") from None


def column_kinds(path: Path) -> dict[str, str]:
    """Return the kinds of the columns of a Parquet file or Arrow stream: ``image``, ``images`` (a list) or ``other``.

    Raises:
        DataError: pyarrow is not installed, or it cannot read the file.
    """
    try:
        import pyarrow
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'feddat[parquet]'") from None
    try:
        schema = _schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable {_form(path)} file: {' '.join(str(error).split())}") from None
    return {field.name: _kind(field.type) for field in schema}


def _form(path: Path) -> str:
    return "Arrow" if path.suffix == ".arrow" else "Parquet"


def _schema(path: Path) -> Any:
    from pyarrow import OSFile, ipc, parquet

    if path.suffix != ".arrow":
        return parquet.read_schema(path)
    with OSFile(str(path)) as source, ipc.open_stream(source) as stream:
        return stream.schema


def _kind(kind: Any) -> str:
    """Return the kind of an Arrow type; Hugging Face datasets store an image as bytes or as a struct with bytes."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        return "images" if _kind(kind.value_type) == "image" else "other"
    if types.is_struct(kind):
        return "image" if any(kind.field(place).name == "bytes" for place in range(kind.num_fields)) else "other"
    return "image" if types.is_binary(kind) or types.is_large_binary(kind) else "other"


def _batches(path: Path) -> Iterator[tuple[Any, dict[str, list[str]]]]:
    """Yield record batches of at most ``ROWS`` rows, each with the names of the class-label columns."""
    from pyarrow import OSFile, ipc, parquet

    if path.suffix == ".arrow":
        with OSFile(str(path)) as source, ipc.open_stream(source) as stream:
            names = _class_names(stream.schema)
            for batch in stream:
                for start in range(0, batch.num_rows, ROWS):
                    yield batch.slice(start, ROWS), names
    else:
        with parquet.ParquetFile(path) as file:
            names = _class_names(file.schema_arrow)
            for batch in file.iter_batches(ROWS):
                yield batch, names


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Return the class names per column that the ``datasets`` library stored in a schema's metadata."""
    note = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(note).get("info", {}).get("features", {})
        return {column: list(kind["names"]) for column, kind in features.items() if "names" in kind}
    except (ValueError, TypeError, AttributeError):  # a note of another kind, or of another program
        return {}


def _plain(value: Any, names: list[str] | tuple[()]) -> Any:
    """Return the name of a class label, or a map or struct as a dict without the ``None`` that pads it."""
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    if isinstance(value, list) and value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        return dict(value)
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if item is not None}
    return value
