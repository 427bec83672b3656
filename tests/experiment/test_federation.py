"""What is loaded for a run: the examples, and the model in the format that the settings ask for."""

import pytest
import torch

from feddat.adapters.int8_products import Int8ProductLinear
from feddat.config import ConfigError
from feddat.experiment import load_clients
from feddat.experiment.single.federation import load_federation
from feddat.experiment.single.foundation import load_foundation
from feddat.experiment.single.methods import resolve
from helpers import needs_vnni


def test_caps_draw_the_same_examples_of_own_data_each_time(make_config):
    whole = {data.name: data for data in load_clients(make_config())}
    capped = {data.name: data for data in load_clients(make_config(train_examples=4, test_examples=2))}
    again = {data.name: data for data in load_clients(make_config(train_examples=4, test_examples=2))}
    for name, data in capped.items():
        assert (len(data.train), len(data.validation), len(data.test)) == (4, 2, 2)
        ids = [example.id for example in data.train]
        assert ids == [example.id for example in again[name].train]
        assert set(ids) <= {example.id for example in whole[name].train}
        assert data.answers == whole[name].answers


@pytest.mark.parametrize(
    ("settings", "rounded"),
    [
        ({}, True),
        ({"adapter.peft": "lora"}, True),
        ({"train.precision": "fp32"}, False),
        ({"adapter.peft": "full"}, False),
        ({"adapter.peft": "bias"}, False),
        ({"method": "fedex-lora", "adapter.peft": "lora"}, False),
    ],
)
def test_frozen_weights_are_rounded_for_bf16_unless_they_move(make_config, settings, rounded):
    given = {"method": "fedavg", "train.precision": "bf16"} | settings
    exact = load_foundation(resolve(make_config(method="fedavg")))
    foundation = load_foundation(resolve(make_config(**given)))
    layers = [p.dtype for n, p in foundation.backbone.model.named_parameters() if "layer.1.attention.output" in n]
    assert layers and all((dtype == torch.bfloat16) == rounded for dtype in layers)
    # Clients that compute in different formats can work together: the hash is of the file's weights.
    assert foundation.model["weights"] == exact.model["weights"]


@needs_vnni
def test_frozen_layers_multiply_in_8_bits_for_a_run_that_says_so(make_config):
    exact = load_foundation(resolve(make_config(method="fedavg")))
    foundation = load_foundation(resolve(make_config(**{"method": "fedavg", "train.precision": "int8"})))
    kinds = {type(m) for n, m in foundation.backbone.model.named_modules() if n.endswith("layer.1.intermediate.dense")}
    assert kinds == {Int8ProductLinear}
    assert foundation.model == exact.model
    assert not [m for m in exact.backbone.model.modules() if type(m) is Int8ProductLinear]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"adapter.peft": "full"}, "but adapter.peft full trains the model's own"),
        ({"method": "fedex-lora", "adapter.peft": "lora"}, "but fedex-lora adds to the model's own"),
        ({"weights": "int4"}, "but weights: int4 is another way to round them"),
        ({"device": "meta"}, "but 8-bit products need a CPU, not device meta"),
    ],
)
def test_layers_that_cannot_multiply_in_8_bits_are_refused(make_config, monkeypatch, settings, reason):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True}, raising=False)
    config = resolve(make_config(**{"method": "fedavg", "train.precision": "int8"} | settings))
    with pytest.raises(ConfigError, match=rf"train\.precision: int8, {reason}"):
        load_foundation(config)


def test_a_cpu_without_8_bit_products_is_named(make_config, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    with pytest.raises(ConfigError, match=r"train\.precision: int8, but this CPU has no 8-bit products"):
        load_foundation(resolve(make_config(**{"method": "fedavg", "train.precision": "int8"})))


def test_nothing_is_recorded_on_a_cpu(make_config, tmp_path):
    federation = load_federation(resolve(make_config()), tmp_path)
    assert all(participant._captured is None for participant in federation.participants.values())
