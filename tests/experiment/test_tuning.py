"""The search for one setting per method: on validation data, the same for all, and what a comparison does with it."""

import json

import pytest

from feddat.config import ConfigError
from feddat.experiment import ExperimentError, Search, compare, read_tuning, search
from feddat.experiment.tuning import TUNING_SEED


def test_a_search_is_read_from_one_word():
    assert Search.parse("train.lr=1e-3,0.01") == Search("train.lr", (0.001, 0.01))
    for text in ("train.lr", "=1", "train.lr="):
        with pytest.raises(ConfigError, match=r"expected KEY=V1,V2"):
            Search.parse(text)


def test_every_method_gets_the_same_runs_on_validation_under_a_seed_of_their_own(make_config):
    runs = Search("train.lr", (0.1, 0.2)).runs(make_config(name="c"), ["feddat", "fedavg-2x"])
    assert list(runs) == ["feddat-lr-0.1", "feddat-lr-0.2", "fedavg-2x-lr-0.1", "fedavg-2x-lr-0.2"]
    for run in runs.values():
        assert run.eval.split == run.eval.curve_split == "validation"
        assert run.seed == TUNING_SEED
        assert run.run_dir.parts[-4:-1] == ("runs", "c", "tuning")
    with pytest.raises(ConfigError, match=r"unknown key 'train\.speed'"):
        Search("train.speed", (1,)).runs(make_config(), ["feddat"])


def test_the_best_value_of_each_method_is_chosen(make_config):
    wanted = Search("train.lr", (0.1, 0.2, 0.3))
    runs = wanted.runs(make_config(), ["feddat", "local"])
    means = {"feddat": (10.0, 30.0, 20.0), "local": (5.0, 5.0, 4.0)}
    results = {name: {"mean": means[run.method][wanted.values.index(run.train.lr)]} for name, run in runs.items()}
    chosen = wanted.choose(runs, results)
    assert chosen["best"] == {"feddat": 0.2, "local": 0.1}
    assert chosen["scores"]["feddat"] == {"0.1": 10.0, "0.2": 30.0, "0.3": 20.0}
    with pytest.raises(ExperimentError, match="no run of local succeeded"):
        wanted.choose(runs, {name: result for name, result in results.items() if name.startswith("feddat")})


def test_a_comparison_runs_each_method_with_its_own_value(make_config):
    config = make_config(name="c", rounds=1)
    tuning = search(config, ["local", "head"], Search("train.lr", (0.01, 0.02)), jobs=1)
    folder = config.runs_dir / "c"
    assert json.loads((folder / "tuning" / "tuning.json").read_text()) == tuning
    tuning["best"] = {"local": 0.02, "head": 0.01}
    comparison = compare(config, ["local", "head"], [0], jobs=1, tuning=tuning)
    assert comparison["tuning"] == tuning
    assert "lr: 0.02" in (folder / "local-s0" / "config.yaml").read_text()
    assert "lr: 0.01" in (folder / "head-s0" / "config.yaml").read_text()
    assert len(comparison["runs"]) == 2, "search runs must not be among the results"


def test_an_earlier_choice_is_read_back_and_checked(tmp_path):
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps({"key": "train.lr", "best": {"local": 0.02}}))
    assert read_tuning(path, ["local"])["best"] == {"local": 0.02}
    with pytest.raises(ConfigError, match=r"no value of train\.lr for head"):
        read_tuning(path, ["local", "head"])
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r"tuning\.json: not the tuning\.json of a search"):
        read_tuning(path, ["local"])
    with pytest.raises(ConfigError, match="not the tuning"):
        read_tuning(tmp_path / "none.json", ["local"])
