from pathlib import Path

import pytest

from feddat.files import whole_file, write_atomic, write_json


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomic(target, b"old")

    def interrupted(self, other):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("sync", [True, False])
def test_only_a_file_that_must_survive_a_power_cut_waits_for_the_disk(tmp_path, monkeypatch, sync):
    waits = []
    monkeypatch.setattr("feddat.files.os.fsync", waits.append)
    with whole_file(tmp_path / "file", sync) as temporary:
        temporary.write_bytes(b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]
    assert bool(waits) == sync


def test_json_that_no_reader_would_take_is_refused(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert not list(tmp_path.iterdir())
