"""A forward pass in two stages, which meet where adapters begin, gives the same as the whole pass."""

import numpy as np
import pytest
import torch

from feddat.adapters.build import build_adapters
from feddat.example import View
from feddat.models.base import StagedBackbone
from feddat.models.blip.backbone import BlipBackbone
from feddat.models.generative import ANSWER_IDS, ANSWER_MASK, ANSWER_ROWS
from feddat.models.vilt.backbone import ViltBackbone
from feddat.models.vilt.block import PlainLayer, pure_layers
from feddat.models.vilt.stages import ViltStages
from feddat.models.vilt_bert.backbone import ViltBertBackbone
from helpers import make_tiny_blip, make_tiny_vilt, make_unit

CPU = torch.device("cpu")
KINDS = ("bottleneck", "lora", "prompt", "norm", "bias", "full", "head")
#: Unusual adapter sites: only the second layer, whole layers, and parts of layers.
SITES = tuple(
    rf"(.*\.)?layer\.{site}"
    for site in (r"1\.output", r"\d+", r"\d+\.attention", r"\d+\.attention\.output", r"\d+\.intermediate")
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    blip = make_tiny_blip(root / "blip")
    return {"vilt": make_tiny_vilt(root / "vilt"), "vilt-bert": make_unit("vilt-bert", root / "both"), "blip": blip}


def load(folders, family, peft="bottleneck", sites=None):
    """Return a backbone, adapters that are neither zero nor alike, and a batch with padded text and images."""
    backbone = {"vilt": ViltBackbone, "vilt-bert": ViltBertBackbone, "blip": BlipBackbone}[family](folders[family])
    adapters = build_adapters(backbone.model, peft=peft, reduction=4, rank=4, sites=sites)
    generator = torch.Generator().manual_seed(1)
    for name in ("global", "local", "anchor"):
        for parameter in adapters.parameters(name):
            with torch.no_grad():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    shapes = [(32, 32), (32, 48), (48, 32)] if family != "blip" else [(32, 32)] * 3
    texts = ["what is the color", "red", "is it blue ?"]
    draw = np.random.default_rng(0)
    views = [View(draw.integers(0, 256, (*s, 3), dtype=np.uint8), t) for s, t in zip(shapes, texts, strict=True)]
    inputs = backbone.encode(views).batch([0, 1, 2], CPU)
    if family == "blip":
        ids = backbone.answer_tokens(["red", "blue", "no"])
        inputs |= {ANSWER_IDS: torch.tensor(ids), ANSWER_MASK: torch.ones(3, len(ids[0]), dtype=torch.bool)}
        inputs[ANSWER_ROWS] = torch.arange(3)
    return backbone, adapters, inputs


def routes(peft):
    return ("global", "dat", "local", "none") if peft in ("bottleneck", "lora") else ("global", "local", "none")


def gradients(adapters, features):
    weight = torch.linspace(-1, 1, features.numel()).view_as(features)
    tensors = [p for name in ("global", "local") for p in adapters.parameters(name)]
    return torch.autograd.grad((features * weight).sum(), tensors, allow_unused=True, retain_graph=True)


def assert_same(adapters, features, expected):
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    if not expected.requires_grad:
        assert not features.requires_grad
        return
    for ours, theirs in zip(gradients(adapters, features), gradients(adapters, expected), strict=True):
        if theirs is None:
            assert ours is None or not ours.any()
        elif ours is None:
            assert not theirs.any()
        else:
            torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max() + 1), rtol=1e-4)


def as_under_autocast(stages, which, states):
    """Return layers in one number format if they support it, as under autocast; the format is float32 here."""
    layers = [] if stages._whole_stack else list(stages.vilt.encoder.layer[which])
    return pure_layers(layers, torch.float32) or [PlainLayer(layer) for layer in layers]


@pytest.mark.parametrize(
    ("peft", "sites"), [*((kind, None) for kind in KINDS), *(("bottleneck", sites) for sites in SITES)]
)
@pytest.mark.parametrize("layers", ["plain", "pure"])
def test_vilt_in_stages_equals_the_whole_of_it_on_every_route(folders, monkeypatch, peft, sites, layers):
    backbone, adapters, inputs = load(folders, "vilt", peft, sites)
    if layers == "pure":
        monkeypatch.setattr(ViltStages, "_layers", as_under_autocast)
    unstaged = {}
    for route in routes(peft):
        adapters.route(route)
        unstaged[route] = backbone.features(inputs)
        assert_same(adapters, unstaged[route], backbone.model(**inputs).pooler_output)
    assert backbone.prefix(inputs) is inputs
    backbone.stage(adapters.changed)
    with torch.no_grad():
        prefix = backbone.prefix(inputs)
    for route in routes(peft):
        adapters.route(route)
        assert_same(adapters, backbone.features(prefix), unstaged[route])


@pytest.mark.parametrize("family", ["vilt-bert", "blip"])
@pytest.mark.parametrize("peft", KINDS)
def test_other_families_too(folders, family, peft):
    backbone, adapters, inputs = load(folders, family, peft)
    assert isinstance(backbone, StagedBackbone)
    expected = {}
    for route in routes(peft):
        adapters.route(route)
        expected[route] = backbone.features(inputs)
    backbone.stage(adapters.changed)
    with torch.no_grad():
        prefix = backbone.prefix(inputs)
    # Norms and biases are in every layer; other kinds do not change the first tower.
    assert (prefix is inputs) == (peft in ("norm", "bias", "full"))
    assert peft in ("norm", "bias", "full") or "pixel_values" not in prefix
    for route in routes(peft):
        adapters.route(route)
        assert_same(adapters, backbone.features(prefix), expected[route])


@pytest.mark.parametrize(
    ("peft", "sites", "done"),
    [
        ("bottleneck", None, ["embeddings", "layer 0"]),
        ("bottleneck", SITES[0], ["embeddings", "layer 0", "layer 1"]),
        ("lora", None, ["embeddings"]),
        ("head", None, ["embeddings", "layer 0", "layer 1"]),
        ("bias", None, []),
    ],
)
def test_the_prefix_goes_as_far_as_no_route_differs_and_is_not_done_again(folders, peft, sites, done):
    backbone, adapters, inputs = load(folders, "vilt", peft, sites)
    backbone.stage(adapters.changed)
    vilt = getattr(backbone.model, "base_model", backbone.model)
    ran = []
    modules = {"embeddings": vilt.embeddings} | {f"layer {n}": x.intermediate for n, x in enumerate(vilt.encoder.layer)}
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    prefix = backbone.prefix(inputs)
    assert ran == done
    ran.clear()
    backbone.features(prefix)
    assert ran == [name for name in modules if name not in done]


def test_the_last_layer_asks_for_the_first_token_alone(folders):
    backbone, adapters, inputs = load(folders, "vilt")
    backbone.stage(adapters.changed)
    shapes = []
    for layer in backbone.model.encoder.layer:
        layer.intermediate.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape[1]))
    backbone.features(inputs)
    assert shapes[0] > 1
    assert shapes[1] == 1


def test_with_dropout_at_work_nothing_is_shared(folders):
    backbone, adapters, inputs = load(folders, "vilt")
    backbone.stage(adapters.changed)
    backbone.model.train()
    assert backbone.prefix(inputs) is not inputs  # a rate of 0 drops nothing
    backbone.model.encoder.layer[1].attention.output.dropout.p = 0.1
    assert backbone.prefix(inputs) is inputs
    backbone.model.eval()
    assert backbone.prefix(inputs) is not inputs
