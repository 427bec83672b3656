"""Loading a configuration: overrides, defaults, paths, and the errors for bad settings."""

from pathlib import Path

import pytest

from feddat.config import ConfigError, RunConfig, load_config


def test_overrides_win_over_the_file_and_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("rounds: 7\ntrain: {lr: 0.5, epochs: 2}\n")
    config = load_config(path, ["train.lr=1e-3", "seed=3"])
    assert (config.rounds, config.train.lr, config.train.epochs, config.seed) == (7, 1e-3, 2, 3)
    copy = tmp_path / "copy.yaml"
    copy.write_text(config.to_yaml())
    assert load_config(copy) == config
    assert config.run_name == "feddat-mini-domain-s3"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", "unknown key 'train.lrr'; did you mean 'train.lr'"),
        ("rounds=-1", r"rounds: Input should be greater than or equal to 1 \(got -1\)"),
        ("rounds", "expected key=value"),
        ("seed.deep=1", "seed"),
        ("algorithm.order=sideways", "algorithm.order"),
        ("server.fraction=0", "server.fraction"),
    ],
)
def test_bad_overrides_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override])


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such"):
        load_config(tmp_path / "no-such.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("rounds: [1\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not valid YAML"):
        load_config(bad)
    bad.write_text("- a\n")
    with pytest.raises(ConfigError, match="expected keys and values"):
        load_config(bad)


def test_clients_and_benchmark_exclude_each_other_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("clients:\n  a: {train: a/train.jsonl, test: a/test.jsonl}\n")
    config = load_config(path)
    assert config.benchmark is None
    assert config.clients is not None
    assert config.clients["a"]["train"] == str(tmp_path / "a" / "train.jsonl")
    with pytest.raises(ConfigError, match="exactly one of"):
        load_config(path, ["benchmark=mini/domain"])


def test_updated_changes_nested_values_and_checks_them() -> None:
    config = RunConfig()
    changed = config.updated({"train.lr": 0.25, "seed": 9})
    assert (changed.train.lr, changed.seed, config.train.lr) == (0.25, 9, 1e-4)
    assert changed.value("train.lr") == 0.25
    assert changed.train.epochs == config.train.epochs
    with pytest.raises(ConfigError, match=r"unknown key 'train\.speed'"):
        config.updated({"train.speed": 1})


def test_a_bundled_model_brings_settings_of_its_own_where_none_are_given(tmp_path: Path) -> None:
    plain = load_config()
    assert (plain.adapter.reduction, plain.head.init, plain.head.lr, plain.train.lr) == (4, "words", 0.3, 4e-3)
    own = tmp_path / "own.yaml"
    own.write_text("benchmark: mini/domain\ntrain: {lr: 1.0e-4}\nadapter: {reduction: 16}\n")
    given = load_config(own, ["head.init=random"])
    assert (given.train.lr, given.adapter.reduction, given.head.init, given.head.lr) == (1e-4, 16, "random", 0.3)
    # With full fine-tuning, or with another model, the defaults for the paper's models apply.
    assert load_config(None, ["adapter.peft=full"]).train.lr == RunConfig().train.lr
    assert load_config(None, [f"model={tmp_path}"]).train.lr == RunConfig().train.lr
    with pytest.raises(ConfigError, match="train"):
        load_config(None, ["train=3"])
