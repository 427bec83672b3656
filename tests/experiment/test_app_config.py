"""Flower's table of settings in pyproject.toml matches the package's settings, and carries them without loss."""

import tomllib
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from flwr.common.config import flatten_dict

from feddat.config import ConfigError, RunConfig, load_config
from feddat.experiment.serving.app_config import AppConfig, from_flat, to_flat, to_toml

ROOT = Path(__file__).parents[2]


def test_pyproject_has_every_key_at_its_default():
    app = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    expected = to_flat(AppConfig(RunConfig()))
    assert flatten_dict(app["config"]) == expected, f"[tool.flwr.app.config] should be:\n{to_toml(expected)}"


def test_flower_takes_the_repository_for_an_app_that_brings_no_code():
    _, warnings = load_and_validate(ROOT / "pyproject.toml")
    assert not warnings
    names = zipfile.ZipFile(BytesIO(build_fab_from_disk(ROOT))).namelist()
    assert not [name for name in names if name.endswith(".py")]


def test_what_toml_cannot_say_comes_back():
    config = load_config(
        benchmark=None,
        clients={"ann": {"train": "/a.jsonl", "test": None}, "bob": {}},
        **{"server.rule": "fedadam", "server.options": {"eta": 0.01}, "train.betas": [0.8, 0.9], "name": "x"},
    )
    assert from_flat(to_flat(AppConfig(config, resume=True))) == AppConfig(config, resume=True)


@pytest.mark.parametrize(
    "values", [{"seed": 2**40, "train.lr": 1e-9}, {"train.steps": 9, "name": "a-1"}, {"algorithm.apfl_learned": False}]
)
def test_every_setting_goes_there_and_back(values):
    config = RunConfig().updated(values)
    carried = flatten_dict(tomllib.loads(to_toml(to_flat(AppConfig(config)))))
    assert from_flat(carried).run == config


def test_toml_keeps_values_and_types():
    flat = to_flat(AppConfig(RunConfig()))
    assert flatten_dict(tomllib.loads(to_toml(flat))) == flat


@pytest.mark.parametrize(
    ("flat", "reason"), [({"train.lrr": 1}, "did you mean 'train.lr'"), ({"resume": "yes"}, "true or")]
)
def test_what_does_not_fit_is_refused(flat, reason):
    with pytest.raises(ConfigError, match=reason):
        from_flat(flat)
