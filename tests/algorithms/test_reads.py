"""Each method declares the settings that it reads, and users hear about others that have no effect."""

import ast
import inspect
import sys

import pytest

from feddat.algorithms import ALGORITHMS
from feddat.algorithms.base import Algorithm
from feddat.config import AlgorithmConfig, load_config
from feddat.experiment.single.methods import without_effect
from helpers import call


def read_by(algorithm):
    """Return the settings that the algorithm's source reads from ``config`` or ``config.algorithm``."""
    found = set()
    for owner in type(algorithm).__mro__:
        if not issubclass(owner, Algorithm) or owner is Algorithm:
            continue
        for node in ast.walk(ast.parse(inspect.getsource(sys.modules[owner.__module__]))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith(("config", "config.algorithm")):
                found |= {node.attr}
            elif isinstance(node, ast.Name) and node.id == "separate_heads":
                found |= {"heads"}
    return found & AlgorithmConfig.model_fields.keys()


@pytest.mark.parametrize("name", ALGORITHMS.own)
def test_a_method_reads_what_it_declares(name):
    assert set(ALGORITHMS[name].reads) == read_by(ALGORITHMS[name])


def configs(*methods, **settings):
    return [load_config(None, [f"method={m}", *(f"algorithm.{k}={v}" for k, v in settings.items())]) for m in methods]


def test_settings_without_effect_are_found():
    assert without_effect(configs("fedavg", ditto_lambda=1, heads="separate")) == [
        "algorithm.ditto_lambda",
        "algorithm.heads",
    ]
    assert without_effect(configs("ditto", ditto_lambda=1, heads="separate")) == []
    assert without_effect(configs("fedavg", "ditto", ditto_lambda=1, moon_mu=2)) == ["algorithm.moon_mu"]
    assert without_effect(configs("fedavg", personal_epochs=2)) == []
    assert without_effect(configs("local", personal_epochs=2)) == ["algorithm.personal_epochs"]
    assert without_effect(configs("feddat-mild")) == without_effect(configs("feddat-2")) == []


def test_the_command_line_says_so(tmp_path, capsys):
    settings = (f"runs_dir={tmp_path}", "rounds=1", "train.steps=1", "train_examples=8", "test_examples=8")
    assert call("run", "method=fedavg", "algorithm.beta=0.2", *settings) == 0
    assert "warning: algorithm.beta: no effect, since method fedavg does not read it" in capsys.readouterr().err
