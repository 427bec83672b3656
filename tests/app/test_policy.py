"""A client's policy: which settings it covers, which policies are valid, and which settings it accepts."""

import types
import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from feddat.algorithms import ALGORITHMS, Algorithm
from feddat.app.policy import PolicyError, check_scores, check_settings, check_training
from feddat.config import BOUNDS, ConfigError, PolicyConfig, RunConfig, load_config, parse_scalar
from feddat.config.policy import METHODS
from feddat.deploy.folder import policy_lines
from feddat.experiment.serving.app_config import asked_settings, asked_values, to_flat
from feddat.experiment.single.methods import VARIANTS, resolve
from feddat.experiment.single.places import CLIENTS_OWN
from feddat.site import read_site

DOCS = Path(__file__).parents[2] / "docs" / "security.md"
POLICY = PolicyConfig()


def numeric(annotation):
    """Return whether values of a type can be numbers."""
    if annotation in (int, float):
        return True
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, typing.Annotated):
        return any(numeric(part) for part in parts)
    return False


def numbers_of(model, prefix=""):
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from numbers_of(info.annotation, f"{prefix}{name}.")
        elif numeric(info.annotation):
            yield prefix + name


def test_every_number_that_a_server_sets_has_bounds():
    assert {key for key in numbers_of(RunConfig) if key.partition(".")[0] not in CLIENTS_OWN} == BOUNDS.keys()


@pytest.mark.parametrize("method", [*METHODS, *VARIANTS])
def test_default_settings_are_within_the_default_policy(method):
    settings = resolve(RunConfig(method=method))
    if settings.method not in METHODS or settings.adapter.peft not in POLICY.kinds:
        with pytest.raises(PolicyError, match=r"policy\.(methods|kinds): "):
            check_settings(POLICY, settings)
        return
    check_settings(POLICY, settings)
    check_training(POLICY, settings, 256)


def test_default_methods_send_nothing_but_an_adapter_and_move_no_frozen_weight():
    for name in METHODS:
        algorithm = ALGORITHMS[name]
        assert not algorithm.centralised
        assert type(algorithm).shift is Algorithm.shift
        assert algorithm.server is None or not algorithm.server.expects({})
    assert not {"central", "scaffold", "fedex-lora"} & set(METHODS)


def test_what_init_writes_is_the_default_policy():
    assert PolicyConfig.model_validate(yaml.safe_load(policy_lines())["policy"]) == POLICY


def test_the_page_has_every_key_with_its_default():
    page = DOCS.read_text()
    for line in policy_lines().splitlines()[1:]:
        key, _, value = line.strip().partition("  # ")[0].partition(": ")
        assert f"| `{key.removesuffix(':')}` |" in page, key
        if value and key != "methods":
            assert f"| `{key}` | `{value}` |" in page, key


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"method": ["feddat"]}, "Extra inputs"),
        ({"kinds": ["loar"]}, "unknown kind of adapter 'loar'"),
        ({"approval": "never"}, "'ask' or 'first-use'"),
        ({"min_examples": -1}, "greater than or equal to 0"),
        ({"bounds": {"train.lrr": [0, 1]}}, "'train.lrr' has no bounds; did you mean 'train.lr'?"),
        ({"bounds": {"train.lr": 1}}, "train.lr: expected [least, most], got 1"),
        ({"bounds": {"train.lr": [1, 0]}}, "train.lr: expected [least, most], got [1, 0]"),
        ({"bounds": {"train.lr": "01"}}, "train.lr: expected [least, most], got '01'"),
        ({"bounds": {"train.lr": [0, float("nan")]}}, "train.lr: expected [least, most]"),
        ({"score_splits": ["all"]}, "'train', 'validation' or 'test'"),
    ],
)
def test_invalid_policies_are_refused(tmp_path, policy, reason):
    with pytest.raises(ValidationError) as found:
        PolicyConfig.model_validate(policy)
    assert reason in str(found.value)
    file = tmp_path / "client.yaml"
    file.write_text(yaml.safe_dump({"client": "ann", "data": {}, "policy": policy}))
    with pytest.raises(ConfigError, match=r"client\.yaml: .*policy\.") as told:
        read_site(file)
    assert "\n" not in str(told.value)


def test_bounds_that_are_left_out_keep_their_defaults():
    policy = PolicyConfig(bounds={"train.lr": ["1e-6", "1e-1"]})  # YAML 1.1 reads them as text
    assert policy.bounds["train.lr"] == (1e-6, 0.1)
    assert {key: pair for key, pair in policy.bounds.items() if key != "train.lr"} == {
        key: pair for key, pair in POLICY.bounds.items() if key != "train.lr"
    }


@given(st.floats() | st.integers())
def test_a_number_is_within_its_bounds_or_refused(value):
    least, most = POLICY.bounds["train.eps"]
    assert (POLICY.outside("train.eps", value) is None) == (least <= value <= most)
    assert (POLICY.outside("train.betas", (0.9, value)) is None) == (0.5 <= value <= 0.9999)


@pytest.mark.parametrize("value", [None, True, "middle", ("language",)])
def test_what_is_no_number_has_no_bounds(value):
    assert POLICY.outside("pictures.frame", value) is None


# The default policy wants 4 steps and 64 examples or more. 100 examples in batches of 30 give 4 steps an epoch.
@pytest.mark.parametrize(
    ("train", "examples", "reason"),
    [
        ({"batch_size": 30}, 100, None),
        ({"batch_size": 30}, 90, "train.steps is 3 \\(90 examples in batches of 30\\)"),
        ({"batch_size": 30, "epochs": 2}, 90, None),
        ({"batch_size": 16}, 63, "an update of 63 examples, expected at least 64"),
        ({"batch_size": 16, "steps": 4}, 1000, None),
        ({"batch_size": 15, "steps": 4}, 1000, "an update of 60 examples"),
        ({"batch_size": 8, "epochs": 10}, 8001, "train.steps is 10010"),
    ],
)
def test_an_update_comes_of_enough_examples_and_steps(train, examples, reason):
    settings = load_config(None, None, **{f"train.{key}": value for key, value in train.items()})
    if reason is None:
        check_training(POLICY, settings, examples)
    else:
        with pytest.raises(PolicyError, match=reason):
            check_training(POLICY, settings, examples)


def test_a_score_on_too_few_questions_is_refused():
    check_scores(POLICY, 0)
    check_scores(POLICY, 32)
    with pytest.raises(PolicyError, match="a score on 1 questions, expected at least 32"):
        check_scores(POLICY, 1)


def test_what_a_client_is_asked_goes_there_and_back():
    from feddat.experiment.serving.app_config import AppConfig

    config = load_config(None, ["train.lr=0.002", "threads=4", "server.rule=krum", "adapter.parts=[language]"])
    asked = asked_settings(to_flat(AppConfig(config)))
    assert (asked.train.lr, asked.threads, asked.server.rule, asked.benchmark) == (0.002, None, "mean", None)
    values = asked_values(asked)
    assert asked_values(asked_settings(values)) == values
    assert not {key for key in values if key.partition(".")[0] in CLIENTS_OWN}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[&a 1, *a]", "a value has an alias"),
        ("[" * 500, "nested too deeply"),
        (f"[{'9' * 5000}]", "not valid YAML: Exceeds the limit"),
    ],
)
def test_values_that_cannot_be_read_in_reasonable_time(text, reason):
    with pytest.raises(ConfigError, match=reason):
        parse_scalar(text)
