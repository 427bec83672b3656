"""Frozen weights rounded once give the results of autocast, which rounds them in every pass.

Products in 8 bits come close to those in float32.
"""

import pytest
import torch
from torch import nn

from feddat.adapters.build import build_adapters
from feddat.adapters.frozen import multiply_in_int8, round_frozen
from feddat.adapters.int8_products import Int8ProductLinear
from feddat.example import View
from feddat.models.catalog import load_backbone
from feddat.models.generative import ANSWER_IDS, ANSWER_MASK, ANSWER_ROWS, GenerativeBackbone
from helpers import make_unit, needs_vnni

FAMILIES = ("vilt", "blip", "albef", "vilt-bert", "clip", "siglip", "smolvlm", "qwen2_5_vl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("frozen")
    return {family: make_unit(family, root / family) for family in FAMILIES}


def adapted(folder, peft):
    backbone = load_backbone(str(folder))
    adapters = build_adapters(backbone.model, peft=peft)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in ("global", "local", "anchor"):
            for parameter in adapters.parameters(name):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return backbone, adapters


def features_and_gradients(backbone, adapters, autocast=True):
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    views = [View(pictures[0].numpy(), "what color is the circle ?"), View(pictures[1].numpy(), "red")]
    inputs = backbone.encode(views).batch([0, 1], torch.device("cpu"))
    if isinstance(backbone, GenerativeBackbone):
        ids = torch.tensor(backbone.answer_tokens(["red", "blue"]))
        inputs |= {ANSWER_IDS: ids, ANSWER_MASK: ids >= 0, ANSWER_ROWS: torch.arange(2)}
    adapters.route("dat")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        features = backbone.features(inputs)
    # Not the sum of squares: the final norm fixes it, so the gradients would be only rounding errors.
    (features * torch.randn(features.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    return [features.detach(), *(p.grad for p in adapters.parameters("local") if p.grad is not None)]


@pytest.mark.parametrize("peft", ["bottleneck", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_and_gradients_are_those_of_autocast(folders, family, peft):
    expected = features_and_gradients(*adapted(folders[family], peft))
    backbone, adapters = adapted(folders[family], peft)
    assert round_frozen(adapters) > 0
    found = features_and_gradients(backbone, adapters)
    assert len(found) == len(expected) > 1
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_layers_are_rounded_and_nothing_else(folders):
    backbone, adapters = adapted(folders["vilt"], "lora")
    before = {name: parameter.detach().clone() for name, parameter in adapters.model.named_parameters()}
    count = round_frozen(adapters)
    rounded = {n: p for n, p in adapters.model.named_parameters() if p.dtype == torch.bfloat16}
    # In each of two layers: query, key, value, attention output and the two of the feed-forward block. Each has a
    # weight and a bias.
    assert count == 2 * 6 and len(rounded) == 2 * count
    assert all(".layer." in name for name in rounded)
    for name, parameter in adapters.model.named_parameters():
        assert torch.equal(parameter, before[name].to(parameter.dtype))
    heads = backbone.word_head(["red", "blue"])
    assert all(parameter.dtype == torch.float32 for parameter in heads.parameters())
    assert all(p.dtype == torch.float32 for name in ("global", "local", "anchor") for p in adapters.parameters(name))
    assert round_frozen(adapters) == 0


@needs_vnni
@pytest.mark.parametrize("peft", ["bottleneck", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_layers_multiply_in_8_bits_and_change_little(folders, family, peft):
    expected = features_and_gradients(*adapted(folders[family], peft), autocast=False)
    rounded = round_frozen(adapted(folders[family], peft)[1])
    backbone, adapters = adapted(folders[family], peft)
    before = {name: value.clone() for name, value in adapters.model.state_dict().items()}
    assert multiply_in_int8(adapters) == rounded > 0
    assert sum(type(module) is Int8ProductLinear for module in adapters.model.modules()) == rounded
    after = adapters.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    found = features_and_gradients(backbone, adapters, autocast=False)
    assert len(found) == len(expected) > 1
    gradients, exact = (torch.cat([gradient.flatten() for gradient in of[1:]]) for of in (found, expected))
    for one, other in ((found[0], expected[0]), (gradients, exact)):
        assert 0 < (one - other).norm() < 0.05 * other.norm()
    assert multiply_in_int8(adapters) == 0


def test_weights_that_train_keep_their_format(folders):
    _, adapters = adapted(folders["vilt"], "bottleneck")
    trains = next(m for n, m in adapters.model.named_modules() if n.endswith("layer.1.attention.attention.key"))
    trains.weight.requires_grad_(True)
    round_frozen(adapters)
    assert isinstance(trains, nn.Linear) and trains.weight.dtype == trains.bias.dtype == torch.float32
