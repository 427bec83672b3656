"""The example of FedDAT-2 with one part changed: what each part changes, by hand."""

import importlib.util
from pathlib import Path

import pytest
from scalars import ScalarLearner, context

from feddat.algorithms import ALGORITHMS
from feddat.config import ConfigError, RunConfig

FILE = Path(__file__).parents[2] / "examples" / "feddat-2-parts" / "feddat_2_parts.py"
spec = importlib.util.spec_from_file_location("feddat_2_parts", FILE)
parts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parts)


def method(part):
    return parts.Part().for_run(RunConfig().updated({"algorithm.options": {"part": part}}), [])


def stepped(one, steps=2):
    learner = ScalarLearner()
    for step in range(steps):
        now = context()
        now.step, now.steps = step, steps
        one.step(learner, now)
    return learner


@pytest.mark.parametrize("part", ["none", "even"])
def test_nothing_changed_trains_as_feddat_2(part):
    assert stepped(method(part)).values() == stepped(ALGORITHMS["feddat-2"]).values()


@pytest.mark.parametrize(
    ("part", "moved"),
    [
        ("none", [{"global", "head.global"}, {"global", "local", "head"}]),
        ("one-head", [{"global", "head"}, {"global", "local", "head"}]),
        ("apart", [{"global", "head.global"}, {"local", "head"}]),
        ("halves", [{"global", "head.global"}, {"global", "local", "head"}]),
        ("frozen", [{"global", "head.global"}, {"local", "head"}]),
        ("no-turns", [{"global", "local", "head"}, {"global", "local", "head"}]),
    ],
)
def test_what_moves_in_each_step(part, moved):
    assert stepped(method(part)).moved == moved


def test_the_personal_route_of_each_part():
    found = {part: method(part).mixture("personal", context()) for part in parts.PARTS}
    both = {"local": 1.0, "global": 1.0}
    assert found == dict.fromkeys(found, both) | {"apart": {"local": 1.0}, "halves": {"local": 0.5, "global": 0.5}}


def test_other_parts_are_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.options\.part: expected one of none, one-head, .*, got 'heads'"):
        method("heads")
    with pytest.raises(ConfigError, match="unknown prat; feddat-2-part has only part"):
        parts.Part().for_run(RunConfig().updated({"algorithm.options": {"prat": "even"}}), [])
