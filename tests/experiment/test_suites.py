"""Suites: which comparisons belong to a suite, how settings are chosen, and which files it writes."""

import json

import pytest

from feddat.config import ConfigError, load_config
from feddat.experiment import Plan, Search, all_runs, known_methods, run_suite
from feddat.experiment.grids.suites import SUITES, Suite, find_suite, tune_suite
from feddat.experiment.grids.tuning import trials
from feddat.experiment.single.methods import SERVER_RULES, resolve


def test_each_federation_is_a_comparison_in_a_folder_of_its_own(tmp_path):
    configs = SUITES["mini"].configs(load_config(runs_dir=tmp_path))
    assert list(configs) == ["mini-domain", "mini-scene", "mini-function", "mini-task", "mini-convention"]
    runs = all_runs({label: Plan(config, ["feddat"], [0, 1]) for label, config in configs.items()})
    assert len(runs) == 10
    run = runs["mini-task/feddat-s1"]
    assert (run.benchmark, run.run_dir) == ("mini/task", tmp_path / "suite-mini" / "mini-task" / "feddat-s1")
    assert SUITES["mini"].configs(load_config(runs_dir=tmp_path, name="x"))["mini-task"].runs_dir == tmp_path / "x"


def test_mistakes_are_named(make_config):
    with pytest.raises(
        ConfigError, match="suite 'papr': unknown; suites are paper, mini, deciding, published, rivals, all"
    ):
        find_suite("papr")
    with pytest.raises(ConfigError, match=r"suite mini: its federations are mini/domain, .*; leave out `clients`"):
        SUITES["mini"].configs(make_config())
    with pytest.raises(ConfigError, match="suite x: unknown benchmark mini/z; see `feddat list`"):
        Suite("x", "", ("mini/domain", "mini/z"), ("feddat",)).configs(load_config())
    configs = SUITES["mini"].configs(load_config())
    with pytest.raises(ConfigError, match="'fedavgg' is unknown"):
        all_runs({label: Plan(config, ["fedavgg"], [0]) for label, config in configs.items()})
    with pytest.raises(ConfigError, match=r"no federation 'mini/z' in the suite .* its federations are mini/domain"):
        tune_suite(configs, ["feddat"], Search.parse("train.lr=1,2"), "mini/z")


def test_rows_name_known_methods_once():
    for suite in SUITES.values():
        assert len(set(suite.methods)) == len(suite.methods)
        assert set(suite.methods) <= known_methods().keys()
    assert {"feddat", "fedavg", "local", "central", "head"} <= set(SUITES["rivals"].methods)
    assert {*SUITES["mini"].methods, *SUITES["rivals"].methods, *SERVER_RULES} <= set(SUITES["all"].methods)


def test_a_rule_of_the_server_is_a_method_whose_options_can_be_changed():
    settings = resolve(load_config(**{"method": "fedadam", "server.options": {"tau": 0.1}}))
    assert (settings.method, settings.server.rule) == ("fedavg", "fedadam")
    assert settings.server.options == {"eta": 0.01, "tau": 0.1}
    assert resolve(load_config(**{"method": "fedadam", "server.options": {"eta": 0.5}})).server.options == {"eta": 0.5}


def fake_runs(monkeypatch, score, failed=()):
    """Make every run end at once with ``score(config)``; return the list of the names that were run."""
    seen = []

    def run_all(runs, *arguments):
        seen.extend(runs)
        done = {}
        for name, run in runs.items():
            clients = {client: {"score": score(run)} for client in "ab"}
            summary = {
                "method": run.method,
                "seed": run.seed,
                "rounds": 1,
                "benchmark": run.benchmark,
                "clients": clients,
            }
            if name not in failed:
                done[name] = summary | {"mean": score(run)}
                run.run_dir.mkdir(parents=True, exist_ok=True)
                (run.run_dir / "summary.json").write_text(json.dumps(done[name]))
        return done, dict.fromkeys(failed, "no disk")

    monkeypatch.setattr("feddat.experiment.grids.comparison.run_all", run_all)
    monkeypatch.setattr("feddat.experiment.grids.tuning.run_all", run_all)
    return seen


def test_settings_are_chosen_for_each_federation_or_on_one_for_all(tmp_path, monkeypatch):
    configs = SUITES["mini"].configs(load_config(runs_dir=tmp_path))
    best = {"mini/domain": 0.1, "mini/scene": 0.2, "mini/function": 0.1, "mini/task": 0.2, "mini/convention": 0.1}
    seen = fake_runs(monkeypatch, lambda run: 50.0 + (run.train.lr == best[run.benchmark]))
    wanted = Search.parse("train.lr=0.1,0.2")
    each = tune_suite(configs, ["feddat"], wanted)
    assert [chosen["best"]["feddat"]["train.lr"] for chosen in each.values()] == [0.1, 0.2, 0.1, 0.2, 0.1]
    assert seen == list(trials(configs, ["feddat"], wanted)) and len(seen) == 10
    assert (
        json.loads((tmp_path / "suite-mini" / "mini-task" / "tuning" / "tuning.json").read_text()) == each["mini-task"]
    )
    seen.clear()
    one = tune_suite(configs, ["feddat"], wanted, "mini/scene")
    assert [chosen["best"]["feddat"]["train.lr"] for chosen in one.values()] == [0.2] * 5
    assert [chosen["benchmark"] for chosen in one.values()] == ["mini/scene"] * 5
    assert seen == ["mini-scene/feddat-train.lr=0.1", "mini-scene/feddat-train.lr=0.2"]


def test_a_suite_leaves_its_tables_and_names_what_failed(tmp_path, monkeypatch):
    suite = Suite("two", "two federations", ("mini/domain", "mini/task"), ("feddat", "local"))
    configs = suite.configs(load_config(runs_dir=tmp_path))
    plans = {label: Plan(config, suite.methods, [0, 1]) for label, config in configs.items()}
    failed = ["mini-task/local-s0", "mini-task/local-s1"]
    fake_runs(monkeypatch, lambda run: {"feddat": 60.0, "local": 50.0}[run.method] + run.seed, failed)
    result = run_suite(suite, plans)
    folder = tmp_path / "suite-two"
    assert json.loads((folder / "suite.json").read_text()) == result
    assert result["folders"] == {"mini/domain": "mini-domain", "mini/task": "mini-task"}
    assert list(result["failed"]) == failed
    text = (folder / "results.md").read_text()
    assert "| FedDAT | 0 | 0 | **60.5 ± 0.7** | 60.5 ± 0.7 | 60.5 ± 0.7 | – |" in text
    assert "| Local only | 0 | 0 | 50.5 ± 0.7 | – | – | – |" in text, "no difference without all federations"
    assert (folder / "report.html").is_file() and (folder / "mini-task" / "report.html").is_file()
