"""The state folder of a SuperLink: its database, lock and secrets; and a log that cannot be written."""

import logging
import sqlite3
import subprocess
import sys

import pytest

from feddat.deploy import link
from feddat.deploy.errors import DeployError
from feddat.files import secret
from feddat.log import JsonLog


def arguments(folder):
    return ["--database", str(folder / "superlink.db")]


def whole(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE node (id INTEGER)")
        database.executemany("INSERT INTO node VALUES (?)", [(n,) for n in range(5000)])
    database.close()


def torn(path):
    content = bytearray(path.read_bytes())
    content[4096:20_000] = b"\x17" * (20_000 - 4096)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"\x17" * 9000), torn])
def test_a_damaged_database_is_put_aside_with_all_its_files(tmp_path, damage, caplog):
    path = tmp_path / "superlink.db"
    whole(path)
    damage(path)
    (tmp_path / "superlink.db-wal").write_bytes(b"of its")
    link._settle_database(arguments(tmp_path))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{path}: ") and "moved aside as superlink.db.damaged-" in line and "\n" not in line
    left = sorted(file.name.split("-")[0] for file in tmp_path.iterdir())
    assert left == ["superlink.db.damaged"] * len(left)


def test_a_whole_or_missing_database_is_left_alone(tmp_path, caplog):
    link._settle_database(arguments(tmp_path))
    link._settle_database(["--insecure"])
    whole(tmp_path / "superlink.db")
    before = (tmp_path / "superlink.db").read_bytes()
    link._settle_database(arguments(tmp_path))
    assert (tmp_path / "superlink.db").read_bytes() == before
    assert not caplog.records


def test_one_server_works_with_a_state_folder_at_a_time(tmp_path):
    other = f"from feddat.files import locked; from pathlib import Path\nwith locked(Path({str(tmp_path)!r})): "
    other += "print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", other], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        told = rf"^state folder {tmp_path}: another server is using it"
        with pytest.raises(DeployError, match=told), link._alone(tmp_path):
            pass
        process.kill()
    with link._alone(tmp_path):
        pass


def test_a_secret_is_its_owners_alone_and_stays(tmp_path):
    found = secret(tmp_path / "state" / "token")
    assert len(found) == 32
    assert (tmp_path / "state" / "token").stat().st_mode & 0o777 == 0o600
    assert secret(tmp_path / "state" / "token") == found
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(ValueError, match="expected a secret of"):
        secret(tmp_path / "short")


def test_a_log_on_a_full_disk_is_told_of_once_and_nothing_ends(tmp_path, capsys, monkeypatch):
    log = JsonLog(tmp_path / "log.jsonl")
    full = tmp_path / "full.jsonl"
    full.symlink_to("/dev/full")
    record = logging.LogRecord("feddat.x", logging.WARNING, "", 0, "something", (), None)
    log.emit(record)
    with monkeypatch.context() as patch:
        patch.setattr(log, "path", full)
        log.emit(record)
        log.emit(record)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "full.jsonl: No space left on device; lines are lost until it can be written" in told
    log.emit(record)
    assert (tmp_path / "log.jsonl").read_text().count("something") == 2
