import json

import pytest

from feddat.bench.wire import bench_wire
from feddat.cli import main
from feddat.config import ConfigError


def call(*arguments):
    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    return exit.value.code


def test_measured_shown_and_put_into_a_page(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- bench wire -->\n<!-- end -->\n")
    places = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    assert call("bench", "wire", "--quick", "--cycles", "2", *places) == 0
    assert "vilt-mini, 64 px, int8" in capsys.readouterr().out
    assert call("bench", "fill", str(page), "--from", str(tmp_path / "out")) == 0
    assert "| vilt-mini, 64 px, int8 | 16850 |" in page.read_text()


def test_secure_sums_cost_little_more_than_int8(tmp_path, capsys):
    places = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    assert call("bench", "sums", "--quick", *places) == 0
    rows = json.loads((tmp_path / "out" / "sums.json").read_text())["rows"]
    sums = [(bits, lost) for bits in (12, 16) for lost in (0, 20, 40)]
    assert [(row.get("bits"), row["lost"]) for row in rows] == [(None, 0), *sums]
    plain, *sums = (row["up"] + row["down"] for row in rows)
    assert all(0.5 < each / plain < 1.3 for each in sums)
    for few, more in (sums[:3], sums[3:]), (sums[3:], [2 * each for each in sums[:3]]):
        assert all(one < other for one, other in zip(few, more, strict=True)), "16 bits take more than 12"
    assert sums[0] > sums[1] > sums[2], "who has gone sends nothing"
    assert call("bench", "sums", "--counts", "2") == 2
    assert "expected numbers of clients of at least 3, separated by commas, got '2'" in capsys.readouterr().err


def test_numbers_of_clients_are_checked(capsys):
    assert call("bench", "clients", "--counts", "1,many") == 2
    assert "expected numbers of clients, separated by commas, got '1,many'" in capsys.readouterr().err


def test_runtimes_and_numbers_of_workers_are_checked(capsys):
    assert call("bench", "clients", "--runtime", "deployment") == 2
    assert "expected in-process or simulation, got 'deployment'" in capsys.readouterr().err
    assert call("bench", "jobs", "--jobs", "1") == 2
    assert "expected numbers of workers of at least 2, separated by commas, got '1'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["step", "sums", "privacy"])
def test_an_unknown_model_is_named(tmp_path, capsys, command):
    assert call("bench", command, "--models", "gpt", "--work", str(tmp_path)) == 2
    assert "'gpt': unknown; expected one of vilt-mini" in capsys.readouterr().err


def test_an_unknown_model_of_updates_is_named(tmp_path):
    with pytest.raises(ConfigError, match="'gpt': unknown; expected one of vilt-mini"):
        bench_wire(tmp_path, ["gpt"])


def test_schedules_can_be_chosen(tmp_path, capsys):
    places = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    assert call("bench", "step", "--quick", "--cycles", "1", "--threads", "1", "--schedules", "plain", *places) == 0
    rows = json.loads((tmp_path / "out" / "step.json").read_text())["rows"]
    assert [row["schedule"] for row in rows] == ["plain"]
    assert call("bench", "step", "--quick", "--schedules", "plain,fast", *places) != 0
    assert "schedule 'fast': unknown; expected one of published" in capsys.readouterr().err
