"""A layer as one function of tensors gives the same as the layer; unknown kinds of layers run as they are."""

import inspect

import pytest
import torch
from torch import nn

from feddat.adapters.bottleneck import BottleneckConfig
from feddat.adapters.build import build_adapters
from feddat.adapters.frozen import prepare_frozen
from feddat.adapters.int8_products import cannot_multiply
from feddat.models.base import AddsToOutput
from feddat.models.stages import STATES
from feddat.models.vilt import stages as vilt_stages
from feddat.models.vilt.backbone import ViltBackbone
from feddat.models.vilt.block import PlainLayer, pure_layers
from feddat.models.vilt.fast import product_of_patches
from helpers import make_tiny_vilt

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_vilt(tmp_path_factory.mktemp("model") / "tiny")


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


def pure(layer, dtype=torch.float32, fused=False):
    (found,) = pure_layers([layer], dtype, fused)
    return found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("route", ["global", "dat", "none", {"global": 0.3, "local": 0.7}])
@pytest.mark.parametrize("of", ["whole", "first", "adapted"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_layer_and_its_gradients_are_the_same(folder, route, masked, of, fused):
    backbone, adapters, layer = loaded(folder)
    states, mask = states_and_mask(backbone, masked)
    adapters.route(route)
    run = {
        "whole": lambda one, states: one.whole(states, mask),
        "first": lambda one, states: one.first(states, mask),
        "adapted": lambda one, states: one.adapt(one.bare(states, mask)),
    }[of]
    found = []
    for one in (PlainLayer(layer), pure(layer, fused=fused)):
        entering = states.clone().requires_grad_()
        output = run(one, entering)
        output.square().sum().backward()
        gradients = [p.grad for name in ("global", "local") for p in adapters.parameters(name) if p.grad is not None]
        found.append([output.detach(), entering.grad, *gradients])
        adapters.model.zero_grad()
    assert len(found[0]) == len(found[1]) > (5 if route != "none" else 1)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("of", ["bare", "first"])
def test_a_layer_before_its_adapter_is_the_same_on_every_route(folder, of):
    backbone, adapters, layer = loaded(folder)
    states, mask = states_and_mask(backbone, masked=True)
    found = []
    for kind, route in ((PlainLayer, "dat"), (pure, "dat"), (pure, "none")):
        adapters.route(route)
        one = kind(layer)
        found.append(one.bare(states, mask) if of == "bare" else one.first(states, mask, bare=True))
    adapters.route("none")
    expected = PlainLayer(layer).whole(states, mask)[:, : 1 if of == "first" else None]
    for output in found:
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_layers_that_differ_get_their_own_adapters(folder):
    """The second layer's local adapter has fewer inner units, so the weights of both layers cannot be joined."""
    backbone, adapters, _ = loaded(folder)
    layers = list(backbone._stages.vilt.encoder.layer)
    layers[1].output.update_layer("local", BottleneckConfig(reduction=8))
    adapters.route("dat")
    states, mask = states_and_mask(backbone, masked=False)
    for layer, one in zip(layers, pure_layers(layers, torch.float32), strict=True):
        expected = PlainLayer(layer).whole(states, mask)
        torch.testing.assert_close(one.whole(states, mask), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.4, [[[0.4]], [[0.1]]]])
def test_scales_may_be_tensors_of_the_batch_or_of_each_row_and_get_gradients(folder, scale):
    _, adapters, layer = loaded(folder)
    states = torch.randn(2, 3, layer.output.width)
    scale = torch.tensor(scale, requires_grad=True)
    found = []
    for kind in (PlainLayer, pure):
        adapters.route({"global": scale, "local": 0.5})
        one = kind(layer)
        one.adapt(states).square().sum().backward()
        found.append(scale.grad)
        scale.grad = None
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_under_autocast_a_model_runs_in_its_format_and_near_its_modules(folder, monkeypatch, precision):
    if precision == "int8" and cannot_multiply("cpu"):
        pytest.skip(cannot_multiply("cpu"))
    backbone, adapters, _ = loaded(folder)
    with torch.no_grad():  # large enough for routes to differ
        for parameter in adapters.parameters("local"):
            parameter.mul_(4)
    prepare_frozen(adapters, precision)
    ids = torch.tensor([[2, 5, 6, 3], [2, 5, 3, 0]])
    config = backbone._stages.vilt.config
    inputs = {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "pixel_values": torch.randn(2, 3, config.image_size, config.image_size),
        "pixel_mask": torch.ones(2, config.image_size, config.image_size, dtype=torch.long),
    }
    found = {}
    for way in ("pure", "plain"):
        if way == "plain":
            monkeypatch.setattr(vilt_stages, "pure_layers", lambda layers, dtype, fused: None)
        for route in ("dat", "global"):
            adapters.route(route)
            with torch.autocast("cpu", torch.bfloat16):
                prefix = backbone.prefix(inputs)
                found[way, route] = backbone.features(prefix)
        assert prefix[STATES].dtype == (torch.bfloat16 if way == "pure" else torch.float32)
    for route in ("dat", "global"):
        error = (found["pure", route] - found["plain", route]).norm() / found["plain", route].norm()
        assert 0 < error < 0.02
    assert (found["plain", "dat"] - found["plain", "global"]).norm() / found["plain", "dat"].norm() > 0.1


def test_states_are_in_one_format_between_layers_whatever_autocast_does(folder):
    backbone, adapters, layer = loaded(folder)
    adapters.route("dat")
    states, _ = states_and_mask(backbone, masked=False)
    with torch.autocast("cpu", torch.bfloat16):
        expected = PlainLayer(layer).whole(states, None)
        output = pure(layer, torch.bfloat16).whole(states, None)
    assert output.dtype == torch.bfloat16 and expected.dtype == torch.float32
    torch.testing.assert_close(output.float(), expected, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_are_as_near_to_float32_as_those_of_modules_under_autocast(folder, monkeypatch, padded, device):
    """Compare medians over tensors, averaged over six draws; a ReLU unit that rounding turns off is an outlier."""
    ways = {"pure": vilt_stages.pure_layers, "plain": lambda layers, dtype, fused: None}
    errors = {"pure": [], "plain": []}
    backbone, adapters, _ = loaded(folder)
    backbone.model.to(device)
    ids = torch.tensor([[2, 5, 6, 3]] * 8)
    if padded:
        ids[::2, 3] = 0
    size = backbone._stages.vilt.config.image_size
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        for name in ("global", "local", "anchor"):
            adapters.initialise(generator, name)
        inputs = {
            "input_ids": ids,
            "attention_mask": (ids > 0).long(),
            "pixel_values": torch.randn(8, 3, size, size, generator=generator),
            "pixel_mask": torch.ones(8, size, size, dtype=torch.long),
        }
        inputs = {key: value.to(device) for key, value in inputs.items()}

        def features_and_gradients(autocast, inputs=inputs):
            adapters.route("dat")
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                features = backbone.features(backbone.prefix(inputs))
            weight = torch.linspace(-1, 1, features.numel(), device=device).view_as(features)
            return features.detach(), *torch.autograd.grad((features * weight).sum(), adapters.parameters("local"))

        exact = features_and_gradients(False)
        for way, function in ways.items():
            monkeypatch.setattr(vilt_stages, "pure_layers", function)
            found = features_and_gradients(True)
            relative = [(a - b).norm() / b.norm() for a, b in zip(found, exact, strict=True)]
            errors[way].append(torch.stack(relative).median())
    pure, plain = (torch.stack(errors[way]).mean().item() for way in ("pure", "plain"))
    assert 0 < plain < 0.03
    assert plain != pure < 2 * plain, (pure, plain)


@pytest.mark.parametrize("change", ["lora", "checkpointed", "dropout", "activation"])
def test_a_layer_of_another_kind_is_not_taken_for_one(folder, change):
    backbone, _, layer = loaded(folder, "lora" if change == "lora" else "bottleneck")
    assert (pure_layers([layer], torch.float32) is None) == (change == "lora")
    if change == "checkpointed":
        layer.forward = layer.forward
    if change == "dropout":
        backbone.model.train()
        layer.attention.output.dropout.p = 0.5
    if change == "activation":
        layer.intermediate.intermediate_act_fn = nn.ReLU()
    assert pure_layers([layer], torch.float32) is None


def test_what_a_protocol_asks_for_is_seen_by_every_python(folder):
    # Since Python 3.12, isinstance() with a protocol does not call __getattr__, which returns a module's children.
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
