"""Attention in bfloat16 on CPUs, and in transformers' own models."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from feddat.models import attention as module
from feddat.models.attention import attention, use_in_transformers
from feddat.models.catalog import load_backbone
from helpers import make_tiny_albef

TOKENS = 157


def drawn(count=4, tokens=TOKENS, heads=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, tokens, 8, generator=generator).bfloat16() for _ in range(count)]


def mask_of(kind):
    if kind == "none":
        return None
    keep = torch.ones(2, 1, 1, TOKENS, dtype=torch.bool)
    keep[1, ..., 100:] = False
    return keep if kind == "bool" else torch.zeros(keep.shape).masked_fill(~keep, torch.finfo(torch.bfloat16).min)


def run(attend, dtype, mask, **settings):
    *given, gradient = drawn()
    tensors = [tensor.to(dtype, copy=True).requires_grad_() for tensor in given]
    output = attend(*tensors, mask if mask is None or mask.dtype == torch.bool else mask.to(dtype), **settings)
    output.backward(gradient.to(dtype))
    return [output.detach(), *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("scale", [None, 0.1])
@pytest.mark.parametrize("kind", ["none", "bool", "added"])
def test_in_bf16_it_has_the_gradients_of_float64(monkeypatch, kind, scale):
    """157 tokens use our own backward pass. It is about as exact as autograd's; masked keys get no gradient."""
    mask = mask_of(kind)
    exact = run(scaled_dot_product_attention, torch.float64, mask, scale=scale)
    ours = run(attention, torch.bfloat16, mask, scale=scale)
    monkeypatch.setattr(module, "_LONG", 10**6)
    for found, autograd, reference in zip(ours, run(attention, torch.bfloat16, mask, scale=scale), exact, strict=True):
        assert found.dtype == torch.bfloat16
        error = (found.double() - reference).norm() / reference.norm()
        assert error < 0.01
        assert error < 1.2 * (autograd.double() - reference).norm() / reference.norm()
    if kind != "none":
        assert not ours[2][1, :, 100:].any()


def test_in_float32_it_is_torchs_own():
    mask = mask_of("bool")
    for a, b in zip(
        run(attention, torch.float32, mask), run(scaled_dot_product_attention, torch.float32, mask), strict=True
    ):
        assert torch.equal(a, b)


@pytest.fixture
def counted(monkeypatch):
    """Return the list of calls that transformers' interface makes to our attention."""
    calls = []
    monkeypatch.setattr(module, "attention", lambda *args: calls.append(args) or attention(*args))
    use_in_transformers()
    return calls


def ask(query, key, value, mask=None, **layer):
    layer = {"is_causal": False} | layer
    return AttentionInterface().get_interface("sdpa", None)(SimpleNamespace(**layer), query, key, value, mask)[0]


def test_transformers_trains_through_it_in_bf16_alone(counted):
    query, key, value = (tensor.requires_grad_() for tensor in drawn(3))
    expected = sdpa_attention_forward(SimpleNamespace(is_causal=False), query, key, value, None)[0]
    torch.testing.assert_close(ask(query, key, value), expected, atol=0.02, rtol=0.02)
    assert len(counted) == 1
    with torch.no_grad():
        ask(query, key, value)
    ask(*(tensor.float() for tensor in (query, key, value)))
    assert len(counted) == 1


def test_what_it_does_not_know_is_left_to_transformers(counted):
    query, key, value = (tensor.requires_grad_() for tensor in drawn(3))
    layer = SimpleNamespace(is_causal=True)
    expected = sdpa_attention_forward(layer, query, key, value, None)[0]
    assert torch.equal(ask(query, key, value, is_causal=True), expected)
    ask(query, key[:, :1], value[:, :1], num_key_value_groups=3)
    assert not counted
    ask(query, key, value, mask_of("bool"), is_causal=True)  # a mask makes is_causal irrelevant
    ask(query[:, :, :1], key, value, is_causal=True)
    assert len(counted) == 2


def test_albef_trains_to_the_same_features_and_gradients(tmp_path, counted, monkeypatch):
    backbone = load_backbone(str(make_tiny_albef(tmp_path / "albef")))
    backbone.model.eval()
    weight = next(p for n, p in backbone.model.named_parameters() if n.endswith("layer.0.attention.self.value.weight"))
    weight.requires_grad_()
    size = backbone.model.config.vision_config.image_size
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "input_ids": torch.tensor([[2, 5, 6, 3], [2, 5, 3, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "pixel_values": torch.randn(2, 3, size, size, generator=generator),
    }
    found = []
    for slow in (lambda query: False, module._slow):
        monkeypatch.setattr(module, "_slow", slow)
        with torch.autocast("cpu", torch.bfloat16):
            features = backbone.question_features(inputs)
        (features * torch.linspace(-1, 1, features.shape[1])).sum().backward()
        found.append((features.detach(), weight.grad.clone(), len(counted)))
        weight.grad = None
    assert found[0][2] == 0 < found[1][2]
    torch.testing.assert_close(found[0][0], found[1][0], atol=0.05, rtol=0.05)
    assert (found[0][1] - found[1][1]).norm() < 0.05 * found[0][1].norm()
