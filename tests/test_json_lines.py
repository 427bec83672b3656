"""Files of JSON lines: torn lines cost only themselves, and a reader follows a file that another one replaces."""

import os

import pytest

from feddat.json_lines import LineError, Tail, append, objects, read
from helpers import full_disk


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.jsonl"


@pytest.mark.parametrize("whole", [True, False])
def test_a_line_that_a_full_disk_tore_spoils_no_other(path, whole):
    append(path, [{"a": 1}, {"b": "é"}])
    with full_disk(path.stat().st_size + 8), pytest.raises(OSError, match="too large"):
        append(path, [{"torn": "x" * 20}], whole=whole)
    assert path.read_bytes().endswith(b'"\xc3\xa9"}\n' if whole else b'\n{"torn":')
    append(path, [{"c": 3}], sync=True)
    assert objects(path.read_bytes()) == [{"a": 1}, {"b": "é"}, {"c": 3}]
    if whole:
        assert read(path) == [{"a": 1}, {"b": "é"}, {"c": 3}]
    else:
        with pytest.raises(LineError, match=r"x\.jsonl, line 3: not JSON"):
            read(path)


def test_a_last_line_without_line_feed_keeps_what_it_says(path):
    path.write_text('{"a": 1}')
    append(path, [])
    assert path.read_text() == '{"a": 1}'
    append(path, [{"b": 2}])
    assert read(path) == [{"a": 1}, {"b": 2}]


def test_what_is_no_object_or_not_complete_is_skipped(path):
    path.write_bytes(b'{"a": 1}\n\n7\n\x00\x00\xff\n{"text": "one\xe2\x80\xa8line"}\n{"b": ')
    assert objects(path.read_bytes()) == [{"a": 1}, {"text": "one\u2028line"}]


def test_the_end_of_a_file_is_what_others_add(path):
    append(path, [{"n": 1}])
    with Tail(path) as tail:
        assert tail.new() == []
        append(path, [{"n": 2}, {"n": 3}])
        assert tail.new() == [{"n": 2}, {"n": 3}]
        with path.open("a") as file:
            file.write('{"n": ')
            file.flush()
            assert tail.new() == []
            file.write("4}\n")
        assert tail.new() == [{"n": 4}]
        with path.open("a") as file:
            file.write('{"torn')
        append(path, [{"n": 5}])
        assert tail.new() == [{"n": 5}]
        assert tail.new() == []


@pytest.mark.parametrize("longer", [False, True])
def test_a_file_that_replaces_another_is_read_from_its_beginning(path, longer):
    """Even if it is longer before anyone looks: a file system may give it the inode of the file that is gone."""
    append(path, [{"old": n} for n in range(5)])
    with Tail(path) as tail:
        path.unlink()
        assert tail.new() == []
        fresh = [{"new": "x" * n} for n in range(50 if longer else 1)]
        append(path, fresh)
        assert tail.new() == fresh
        append(path, [{"n": 1}])
        assert tail.new() == [{"n": 1}]
        os.truncate(path, 0)
        append(path, [{"n": 2}])
        assert tail.new() == [{"n": 2}]


def test_a_file_that_does_not_exist_yet(path):
    with Tail(path) as tail:
        assert tail.new() == []
        append(path, [{"n": 1}])
        assert tail.new() == [{"n": 1}]
