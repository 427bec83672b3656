"""The records of prepared data on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from feddat.benchmarks.prepared import read_records, write_records
from feddat.example import DataError


def test_questions_are_read_as_they_were_written(tmp_path: Path) -> None:
    """U+2028 and U+0085 end a line of text, but not one of JSON lines."""
    records = {"train": [{"text": "what\u2028is\u0085it ?"}, {"text": "é"}], "validation": [], "test": [{"text": ""}]}
    write_records(tmp_path, records, {})
    assert read_records(tmp_path) == records
    (tmp_path / "test.jsonl").write_bytes((tmp_path / "test.jsonl").read_bytes()[:-3])
    with pytest.raises(DataError, match=r"test\.jsonl: cannot be read .*; prepare the data again"):
        read_records(tmp_path)
