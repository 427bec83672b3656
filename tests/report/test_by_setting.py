"""A record's scores against one setting."""

import json

import pytest
from made_up import summary

from feddat.cli import main
from feddat.example import DataError
from feddat.report import by_setting
from feddat.report.record import read_record

KEY = "privacy.epsilon"


def write(path, runs):
    """Write a record of (value or ``...`` for a line without the key, summary)."""
    lines = [
        {"run": str(n), "settings": {} if value is ... else {"privacy": {"epsilon": value}}, "summary": s, "curve": []}
        for n, (value, s) in enumerate(runs)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def file(tmp_path):
    """FedDAT and FedAvg lose 2 points per step of epsilon; on mini/scene, 10.0 has no run of FedAvg with seed 1."""
    found = []
    for benchmark, shift in (("mini/domain", 0.0), ("mini/scene", 10.0)):
        for steps, value in enumerate((..., 10.0, 2.0)):
            for method in ("fedavg", "feddat"):
                for seed in (1, 0):
                    if (benchmark, value, method, seed) != ("mini/scene", 10.0, "fedavg", 1):
                        found.append((value, summary(method, seed, shift - 2 * steps) | {"benchmark": benchmark}))
    found.append((3.0, summary("fedavg", 10_000) | {"split": "validation"}))
    return write(tmp_path / "grid.jsonl", found)


def cells(study):
    return {(r["method"], r["point"], r["seed"]): round(r["score"], 6) for r in study["records"]}


def test_values_are_sorted_as_numbers_with_the_default_last_if_it_is_none(file):
    found = by_setting.studies(read_record(file), KEY, None)
    assert list(found) == ["All federations", "mini/domain", "mini/scene"]
    points = list(dict.fromkeys(r["point"] for r in found["mini/domain"]["records"]))
    assert points == ["2", "10", "none"]


def test_scores_are_means_over_clients(file):
    found = cells(by_setting.studies(read_record(file), KEY, None)["mini/domain"])
    # FedDAT's level is 66; clients add 0 … 4, seeds 0 and 1, and each step of epsilon takes 2.
    assert found["feddat", "none", 0] == 68.0
    assert found["feddat", "2", 1] == 65.0
    assert found["fedavg", "10", 1] == 57.0 + 2


def test_the_mean_counts_only_seeds_with_every_federation(file):
    every = cells(by_setting.studies(read_record(file), KEY, None)["All federations"])
    assert every["fedavg", "10", 0] == 63.0 and ("fedavg", "10", 1) not in every
    assert every["feddat", "10", 1] == 72.0


def test_methods_can_be_chosen_and_ordered(file):
    table = by_setting.markdown(by_setting.studies(read_record(file), KEY, None, ["feddat", "fedavg"]))
    assert "| privacy.epsilon | FedDAT | FedAvg |" in table
    assert "FedAvg" not in by_setting.markdown(by_setting.studies(read_record(file), KEY, None, ["feddat"]))


def test_runs_that_differ_in_something_else_are_refused(tmp_path):
    file = write(tmp_path / "r.jsonl", [(1.0, summary("local")), (1.0, summary("local", shift=1.0))])
    with pytest.raises(DataError, match=r"local on mini/domain, privacy\.epsilon 1\.0, seed 0, occurs with several"):
        by_setting.studies(read_record(file), KEY, None)
    searched = write(tmp_path / "s.jsonl", [(1.0, summary("local") | {"split": "validation"})])
    with pytest.raises(DataError, match="contains no runs to compare"):
        by_setting.studies(read_record(searched), KEY, None)


def test_runs_whose_clients_share_no_scores_are_left_out(tmp_path):
    secret = summary("local", 1) | {"clients": {}, "mean": None}
    file = write(tmp_path / "r.jsonl", [(1.0, summary("local")), (1.0, secret)])
    assert cells(by_setting.studies(read_record(file), KEY, None)["mini/domain"]) == {("local", "1", 0): 57.0}


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


def test_the_command_writes_the_same_tables_and_plot_every_time(file, capsys):
    assert run("report", file, "--by", KEY) == 0
    written = [file.with_suffix(".privacy.epsilon.md"), file.with_suffix(".privacy.epsilon.png")]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    first = [path.read_bytes() for path in written]
    assert first[1].startswith(b"\x89PNG")
    assert run("report", file, "--by", KEY) == 0
    assert [path.read_bytes() for path in written] == first
    capsys.readouterr()
    assert run("report", file, "--by", KEY, "--markdown") == 0
    assert capsys.readouterr().out.encode() == first[0]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("privacy.epsilonn", "--by: 'privacy.epsilonn' is not a configuration key"),
        ("privacy", "--by: 'privacy' is a section; expected one of its keys"),
        ("updated", "--by: 'updated' is not a configuration key"),  # a method
        ("run_dir", "--by: 'run_dir' is not a configuration key"),  # a property
        ("method.upper", "--by: 'method.upper' is not a configuration key"),
    ],
)
def test_a_key_that_does_not_exist_is_an_error(file, capsys, key, message):
    assert run("report", file, "--by", key) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("other", [["--json"], ["--reference", "fedavg"]])
def test_options_that_it_would_ignore_are_refused(file, capsys, other):
    assert run("report", file, "--by", KEY, *other) == 2
    assert "goes with --markdown, --methods, --seeds and --to only" in " ".join(capsys.readouterr().err.split())


def test_a_folder_has_no_settings_to_compare(tmp_path, capsys):
    assert run("report", tmp_path, "--by", KEY) == 2
    assert "is not a record of runs" in capsys.readouterr().err
