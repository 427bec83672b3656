import importlib
from types import SimpleNamespace

import pytest
import torch
from test_decoder import annotated
from torch import nn

from feddat.adapters.build import build_adapters, count_parameters
from feddat.models.base import ModelError
from feddat.models.catalog import load_backbone
from feddat.models.decoder.backbone import DecoderBackbone
from feddat.models.number_formats import Int8Linear, convert_weights, rest_dtype
from feddat.models.tiny import make_tiny
from feddat.models.tiny.settings import SIZES

WITH_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not WITH_BITSANDBYTES, reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny("llava", tmp_path_factory.mktemp("model") / "llava", SIZES["unit"])


def test_eight_bits_by_hand():
    linear = nn.Linear(2, 2)
    linear.weight.data = torch.tensor([[127.0, -63.4], [0.0, 0.0]])
    linear.bias.data = torch.tensor([1.0, 2.0])
    layer = Int8Linear(linear)
    assert layer.weight.tolist() == [[127, -63], [0, 0]]
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [[127 - 126 + 1.0, 2.0]]
    y[0, 0].backward()
    assert x.grad.tolist() == [[127.0, -63.0]]


def test_eight_bits_keep_no_second_copy_of_the_weights():
    layer, kept = Int8Linear(nn.Linear(64, 64, bias=False)), []
    x = torch.randn(3, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        layer(x)
    assert not [t for t in kept if t.dtype == torch.float32 and t.shape == (64, 64)]


@pytest.mark.parametrize(
    ("weights", "bound"),
    [("bf16", 0.05), ("int8", 0.03), pytest.param("int4", 0.5, marks=needs_bitsandbytes)],
)
def test_a_model_in_fewer_bits_is_nearly_the_same_and_takes_less(folder, weights, bound):
    plain, small = DecoderBackbone(folder), DecoderBackbone(folder, weights=weights)
    inputs = annotated(plain)
    with torch.no_grad():
        expected = plain.answer_head()(plain.features(inputs))
        found = small.answer_head()(small.features(inputs)).float()
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < bound
    layers = (".language_model.layers.0.mlp.down_proj", ".vision_tower.encoder.layers.0.mlp.fc1")
    for name in (f"model{layer}" for layer in layers):
        try:
            one, other = (model.get_submodule(name).weight for model in (plain.model, small.model))
        except AttributeError:
            continue
        assert other.numel() * other.element_size() < one.numel() * one.element_size() / 1.9
    assert small.answer_head()._words[0].weight.dtype == rest_dtype(weights, "cpu")


@pytest.mark.parametrize("weights", ["bf16", "int8", pytest.param("int4", marks=needs_bitsandbytes)])
@pytest.mark.parametrize("kind", ["bottleneck", "lora"])
def test_what_trains_is_float32_and_counts_are_of_weights(folder, weights, kind):
    counts = []
    for made in ("fp32", weights):
        backbone = DecoderBackbone(folder, weights=made)
        parts = ("language", "vision", "projector")
        adapters = build_adapters(backbone.model, peft=kind, rank=2, reduction=4, parts=parts)
        counts.append(count_parameters(adapters, trains=("global", "local"), shares=lambda key: True))
    assert counts[0] == counts[1]
    for name in ("global", "local"):
        assert all(p.dtype == torch.float32 for p in adapters.parameters(name))
    optimizer = torch.optim.AdamW([p for n in ("global", "local") for p in adapters.parameters(n)], lr=0.01)
    inputs, losses = annotated(backbone), []
    for _ in range(4):
        total = 0.0
        for route in ("global", "dat"):
            adapters.route(route)
            logits = backbone.answer_head()(backbone.features(inputs)).float()
            total = total - logits.log_softmax(dim=-1)[inputs["answer_mask"][:, 1:]][:, 5].mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("weights", ["int8", pytest.param("int4", marks=needs_bitsandbytes)])
def test_neighbours_do_not_change_an_answer(folder, weights):
    backbone = DecoderBackbone(folder, weights=weights)
    with torch.no_grad():
        alone = backbone.features(annotated(backbone, [2]))
        inputs = annotated(backbone)
        together = backbone.features(inputs)[inputs["answer_rows"] == 2]
    torch.testing.assert_close(together[:, : alone.shape[1]], alone, atol=2e-5, rtol=1e-4)


def test_a_missing_library_is_named(folder, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("feddat.models.number_formats.importlib", SimpleNamespace(import_module=missing))
    with pytest.raises(ModelError, match=r"weights: int4 needs bitsandbytes; install feddat\[quantize\]"):
        DecoderBackbone(folder, weights="int4")
    DecoderBackbone(folder, weights="int8")


def test_other_families_and_devices_are_refused(folder, tmp_path):
    with pytest.raises(ModelError, match=r"weights: int8 is only for decoder vision-language models; .* is a vilt"):
        load_backbone(str(make_tiny("vilt", tmp_path / "vilt", SIZES["unit"])), "int8")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="weights: int8 is not available on cuda"):
            convert_weights(nn.Sequential(nn.Linear(2, 2)), "int8", "cuda")
