"""The search for each method's settings: the same runs for all, on validation data, and its use in a comparison."""

import json

import pytest

from feddat.config import ConfigError
from feddat.experiment import ExperimentError, Search, Study, compare, read_tuning
from feddat.experiment.grids.tuning import TUNING_SEED, search_each

RATES = {"train.lr": (0.1, 0.2)}


def test_a_search_is_read_from_words():
    assert Search.parse("train.lr=1e-3,0.01") == Search({"train.lr": (0.001, 0.01)})
    both = Search.parse("train.lr=1,2 head.lr=0.1,1")
    assert both == Search({"train.lr": (1, 2), "head.lr": (0.1, 1)})
    assert list(both.points)[:2] == ["train.lr=1 head.lr=0.1", "train.lr=1 head.lr=1"]
    assert both.points["train.lr=2 head.lr=0.1"] == {"train.lr": 2, "head.lr": 0.1}
    for text in ("", "train.lr", "=1", "train.lr=", "train.lr=1, 2"):
        with pytest.raises(ConfigError, match=r"expected KEY=V1,V2"):
            Search.parse(text)
    with pytest.raises(ConfigError, match=r"train\.lr occurs twice"):
        Search.parse("train.lr=1 train.lr=2")


@pytest.mark.parametrize("key", ["method", "seed", "name", "runs_dir", "eval.split"])
def test_what_a_grid_sets_itself_cannot_be_varied(key, tmp_path):
    with pytest.raises(ConfigError, match=rf"search 'train\.lr=1 {key}=a,b': {key} cannot be varied: "):
        Search.parse(f"train.lr=1 {key}=a,b")
    with pytest.raises(ConfigError, match=rf"study '{key}=a,b': {key} cannot be varied: "):
        Study.parse(f"{key}=a,b")
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps({"keys": [key], "scores": {}, "best": {"local": {key: "a"}}}))
    with pytest.raises(ConfigError, match=rf"tuning\.json: {key} cannot be varied: "):
        read_tuning(path, ["local"])


def test_every_method_gets_the_same_runs_on_validation_under_a_seed_of_their_own(make_config):
    runs = Search(RATES | {"head.lr": (1,)}).runs(make_config(name="c"), ["feddat", "fedavg-2x"])
    assert list(runs) == [f"{m}-train.lr={lr}-head.lr=1" for m in ("feddat", "fedavg-2x") for lr in (0.1, 0.2)]
    for run in runs.values():
        assert run.eval.split == run.eval.curve_split == "validation"
        assert run.seed == TUNING_SEED
        assert run.run_dir.parts[-4:-1] == ("runs", "c", "tuning")
    with pytest.raises(ConfigError, match=r"unknown key 'train\.speed'"):
        Search({"train.speed": (1,)}).runs(make_config(), ["feddat"])


def test_the_best_point_of_each_method_is_chosen(make_config):
    wanted = Search({"train.lr": (0.1, 0.2, 0.3)})
    methods = ["feddat", "local"]
    means = {"feddat": (10.0, 30.0, 20.0), "local": (5.0, 5.0, 4.0)}
    results = {
        name: {"mean": means[run.method][(0.1, 0.2, 0.3).index(run.train.lr)], "clients": {"ann": {}, "bob": {}}}
        for name, run in wanted.runs(make_config(), methods).items()
    }
    chosen = wanted.choose(methods, results, "mini/domain")
    assert chosen["best"] == {"feddat": {"train.lr": 0.2}, "local": {"train.lr": 0.1}}
    assert chosen["scores"]["feddat"] == {"train.lr=0.1": 10.0, "train.lr=0.2": 30.0, "train.lr=0.3": 20.0}
    some = {name: result for name, result in results.items() if name.startswith("feddat")}
    with pytest.raises(ExperimentError, match="no run of local succeeded"):
        wanted.choose(methods, some, "mini/domain")


def test_a_comparison_runs_each_method_with_its_own_values(make_config, no_workers):
    config = make_config(name="c", rounds=1)
    tuning = search_each({"": config}, ["local", "head"], Search({"train.lr": (0.01, 0.02)}), jobs=1)[""]
    folder = config.runs_dir / "c"
    assert json.loads((folder / "tuning" / "tuning.json").read_text()) == tuning
    tuning["best"] = {"local": {"train.lr": 0.02, "head.lr": 0.5}, "head": {"train.lr": 0.01}}
    comparison = compare(config, ["local", "head"], [0], jobs=1, tuning=tuning)
    assert comparison["tuning"] == tuning
    written = (folder / "local-s0" / "config.yaml").read_text()
    assert "lr: 0.02" in written and "lr: 0.5" in written
    assert "lr: 0.01" in (folder / "head-s0" / "config.yaml").read_text()
    assert len(comparison["runs"]) == 2, "search runs must not be among the results"


def test_an_earlier_choice_is_read_back_and_checked(tmp_path):
    path = tmp_path / "tuning.json"
    chosen = {"keys": ["train.lr"], "scores": {"local": {"train.lr=0.02": 1}}, "best": {"local": {"train.lr": 0.02}}}
    path.write_text(json.dumps(chosen))
    assert read_tuning(path, ["local"])["best"] == {"local": {"train.lr": 0.02}}
    assert read_tuning(path, ["local", "local-lora"]), "a variant takes what was found for its algorithm"
    with pytest.raises(ConfigError, match=r"no value of train\.lr for head"):
        read_tuning(path, ["local", "head"])
    with pytest.raises(ConfigError, match=r"^method: 'locl' is unknown"):
        read_tuning(path, ["locl"])
    with pytest.raises(ConfigError, match=r"none\.json: No such file .*; expected the tuning\.json of a search"):
        read_tuning(tmp_path / "none.json", ["local"])
    # A comparison shows the scores at its end, so they are checked before it begins.
    for wrong, reason in (
        ([], "expected a JSON object with the keys keys, scores, best"),
        ({"keys": ["train.lr"], "best": {"local": {}}}, "key 'scores' is missing"),
        (chosen | {"keys": "train.lr"}, "keys: expected a list of texts"),
        (chosen | {"scores": {"local": {"train.lr=0.02": "1"}}}, "scores: expected a number for each method and point"),
        (chosen | {"best": {"local": 0.02}}, "best: expected values for each method and key"),
        (chosen | {"best": {}}, "best: no values for local"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ConfigError, match=rf"tuning\.json: {reason}"):
            read_tuning(path, ["local"])
