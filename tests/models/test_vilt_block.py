"""A layer as one function of tensors gives what the layer gives; what it does not know runs as it is."""

import inspect

import pytest
import torch
from torch import nn

from feddat.adapters.methods import build_adapters
from feddat.models import vilt_block
from feddat.models.base import AddsToOutput
from feddat.models.fast_vilt import product_of_patches
from feddat.models.vilt import ViltBackbone
from feddat.models.vilt_block import bare_layer, block, compiled_bare, compiled_layer, plain_layer
from helpers import make_tiny_vilt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_vilt(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def as_it_is(monkeypatch):
    """Run the function without compiling it; count its calls."""
    calls = []
    monkeypatch.setattr(vilt_block, "_compiled", lambda: lambda *args: calls.append(args) or block(*args))
    return calls


def loaded(folder, peft="bottleneck"):
    backbone = ViltBackbone(folder)
    adapters = build_adapters(backbone.model, peft=peft, reduction=4, rank=4)
    for seed, name in enumerate(("global", "local", "anchor")):
        adapters.initialise(torch.Generator().manual_seed(seed), name)
        with torch.no_grad():
            for parameter in adapters.parameters(name):
                parameter.add_(0.05)
    backbone.stage(adapters.changed)
    return backbone, adapters, backbone._stages.vilt.encoder.layer[1]


def states_and_mask(backbone, masked):
    states = torch.randn(2, 6, backbone.feature_dim, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(6) < torch.tensor([6, 4])[:, None]
    return states, mask[:, None, None, :] if masked else None


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("route", ["global", "dat", "none"])
def test_a_layer_and_its_gradients_are_the_same(folder, as_it_is, route, masked):
    backbone, adapters, layer = loaded(folder)
    states, mask = states_and_mask(backbone, masked)
    adapters.route(route)
    found = []
    for run in (plain_layer, compiled_layer):
        entering = states.clone().requires_grad_()
        output = run(layer, entering, mask)
        output.square().sum().backward()
        gradients = [p.grad for name in ("global", "local") for p in adapters.parameters(name) if p.grad is not None]
        found.append([output.detach(), entering.grad, *gradients])
        adapters.model.zero_grad()
    assert len(as_it_is) == 1
    assert len(found[0]) == len(found[1]) > (5 if route != "none" else 1)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_layer_before_its_adapter_is_the_same_on_every_route(folder, as_it_is):
    backbone, adapters, layer = loaded(folder)
    states, mask = states_and_mask(backbone, masked=True)
    adapters.route("none")
    expected = plain_layer(layer, states, mask)
    adapters.route("dat")
    torch.testing.assert_close(compiled_bare(layer, states, mask), expected, atol=1e-5, rtol=1e-5)


def test_a_whole_model_gives_the_same_features_from_the_same_prefix(folder, as_it_is):
    backbone, adapters, _ = loaded(folder)
    ids = torch.tensor([[2, 5, 6, 3], [2, 5, 3, 0]])
    config = backbone._stages.vilt.config
    inputs = {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "pixel_values": torch.randn(2, 3, config.image_size, config.image_size),
        "pixel_mask": torch.ones(2, config.image_size, config.image_size, dtype=torch.long),
    }
    found = []
    for compiled in (False, True):
        backbone.compile(compiled)
        for route in ("dat", "global"):
            adapters.route(route)
            found.append(backbone.features(backbone.prefix(inputs)))
    assert as_it_is
    for plain, compiled in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(plain, compiled, atol=1e-5, rtol=1e-5)


def test_under_autocast_states_are_rounded_between_layers(folder, as_it_is):
    backbone, _, layer = loaded(folder)
    states, _ = states_and_mask(backbone, masked=False)
    with torch.autocast("cpu", torch.bfloat16):
        output = compiled_layer(layer, states, None)
        expected = plain_layer(layer, states, None)
    assert output.dtype == torch.bfloat16 and expected.dtype == torch.float32
    torch.testing.assert_close(output.float(), expected, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("change", ["lora", "checkpointed", "dropout", "activation"])
def test_a_layer_of_another_kind_runs_as_it_is(folder, as_it_is, change):
    backbone, _, layer = loaded(folder, "lora" if change == "lora" else "bottleneck")
    states, _ = states_and_mask(backbone, masked=False)
    if change == "checkpointed":
        layer.forward = layer.forward
    if change == "dropout":
        backbone.model.train()
        layer.attention.output.dropout.p = 0.5
    if change == "activation":
        layer.intermediate.intermediate_act_fn = nn.ReLU()
    torch.manual_seed(0)
    output = compiled_layer(layer, states, None)
    torch.manual_seed(0)
    assert torch.equal(output, plain_layer(layer, states, None))
    if change != "lora":
        torch.manual_seed(0)
        bare = compiled_bare(layer, states, None)
        torch.manual_seed(0)
        assert torch.equal(bare, bare_layer(layer, states, None))
    assert not as_it_is


@pytest.mark.slow
def test_compiled_it_is_the_same(folder):
    backbone, adapters, layer = loaded(folder)
    adapters.route("dat")
    for masked in (False, True):
        states, mask = states_and_mask(backbone, masked)
        torch.testing.assert_close(
            compiled_layer(layer, states, mask), plain_layer(layer, states, mask), atol=1e-5, rtol=1e-5
        )


def test_what_a_protocol_asks_for_is_seen_by_every_python(folder):
    # From 3.12 on, isinstance() does not ask __getattr__, by which modules give their children.
    _, _, layer = loaded(folder)
    asked = [name for name in {**AddsToOutput.__annotations__, **vars(AddsToOutput)} if not name.startswith("_")]
    assert {"adds_to_output", "get_base_layer"} <= set(asked)
    for name in asked:
        inspect.getattr_static(layer.output, name)


@pytest.mark.parametrize("size", [(8, 8), (9, 14)])
def test_patches_as_one_product_equal_the_convolution(size):
    convolution = nn.Conv2d(3, 5, kernel_size=4, stride=4).double()
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    found = product_of_patches(pixels, convolution.weight, convolution.bias)
    torch.testing.assert_close(found, convolution(pixels))
