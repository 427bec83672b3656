"""Parquet files, read with pyarrow (``pip install feddat[parquet]``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feddat.data.readers.records import Record
from feddat.example import DataError


def read(path: Path) -> Iterator[Record]:
    """Yield the rows of a Parquet file; ``answers`` may be text, a list, a map or a struct.

    Raises:
        DataError: pyarrow is not installed, or it cannot read the file.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'feddat[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for fields in batch.to_pylist():
                    number += 1
                    yield Record(path, f"row {number}", {name: _plain(value) for name, value in fields.items()})
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {' '.join(str(error).split())}") from None


def _plain(value: Any) -> Any:
    """Return a map (a list of pairs) or a struct (a dict padded with ``None``) as a dict of what it holds."""
    if isinstance(value, list) and value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        return dict(value)
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if item is not None}
    return value
