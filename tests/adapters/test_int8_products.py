"""Products of inputs and weights that are rounded to 8 bits, with one scale per row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from feddat.adapters.int8_products import Int8ProductLinear, cannot_multiply
from helpers import needs_vnni


def linear(weight, bias=None):
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    layer.weight = nn.Parameter(torch.tensor(weight), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(torch.tensor(bias), requires_grad=False)
    return layer


def random_layer(seed=0):
    layer = nn.Linear(24, 16).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


@needs_vnni
def test_whole_numbers_with_127_among_them_are_multiplied_exactly():
    # Scales: 1 and 2 for the weight's rows, 1 and 0.5 for the input's rows, 1 and 2 for the weight's columns.
    layer = Int8ProductLinear(linear([[127.0, -4.0], [-2.0, 254.0]], [0.5, -1.0]))
    x = torch.tensor([[127.0, 4.0], [-1.5, 63.5]], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [[127 * 127 - 16 + 0.5, -254 + 1016 - 1], [-1.5 * 127 - 4 * 63.5 + 0.5, 3 + 254 * 63.5 - 1]]
    y.backward(torch.tensor([[127.0, 1.0], [0.0, -127.0]]))
    assert x.grad.tolist() == [[127 * 127 - 2, -508 + 254], [254, -127 * 254]]


@needs_vnni
def test_what_lies_between_is_rounded():
    layer = Int8ProductLinear(linear([[127.0, 0.0], [0.0, 127.0]]))
    assert layer(torch.tensor([[127.0, 0.4], [127.0, 0.6]])).tolist() == [[127.0 * 127, 0.0], [127.0 * 127, 127.0]]


@needs_vnni
@settings(max_examples=50)
@given(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.booleans())
def test_no_product_is_further_off_than_rounding_explains(seed, size, backward):
    generator = torch.Generator().manual_seed(seed)
    plain = random_layer(seed)
    rounded = Int8ProductLinear(plain)
    x = (torch.randn(5, 24, generator=generator) * size).requires_grad_()
    if backward:
        rows, weight = torch.randn(5, 16, generator=generator) * size, plain.weight.T
        (found,) = torch.autograd.grad(rounded(x), x, rows)
    else:
        rows, weight, found = x, plain.weight, rounded(x) - plain.bias
    exact = rows.double() @ weight.double().T
    # Half a rounding step of each operand times the other operand, plus the product of both half steps.
    steps = [of.double().abs().amax(dim=1, keepdim=True) / 127 for of in (rows, weight)]
    bound = (
        steps[0] / 2 * weight.double().abs().sum(dim=1) + rows.double().abs().sum(dim=1, keepdim=True) * steps[1].T / 2
    )
    bound = bound + rows.shape[1] * steps[0] * steps[1].T / 4
    bias = 1e-6 * (exact.abs().amax() + plain.bias.abs().amax())  # rounding of float32
    assert ((found.double() - exact).abs() <= bound * (1 + 1e-5) + bias).all()


@needs_vnni
def test_a_row_does_not_depend_on_the_others():
    layer = Int8ProductLinear(random_layer())
    x = torch.randn(3, 2, 24, generator=torch.Generator().manual_seed(1))
    together = layer(x)
    assert together.shape == (3, 2, 16)
    x[1:] *= 1000
    assert torch.equal(layer(x)[0], together[0])
    assert torch.equal(layer(x[0, 1]), together[0, 1])


@needs_vnni
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_spoils_itself_alone(wrong):
    layer = Int8ProductLinear(random_layer())
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(1))
    expected = layer(x)
    x[1, 5] = wrong
    found = layer(x)
    assert not found[1].isfinite().any()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


@needs_vnni
def test_rows_of_zeros_and_no_rows_at_all():
    layer = Int8ProductLinear(random_layer())
    assert torch.equal(layer(torch.zeros(2, 24)), layer.bias.expand(2, -1))
    x = torch.zeros(0, 3, 24, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == (0, 3, 16) and x.grad.shape == (0, 3, 24)


@needs_vnni
@pytest.mark.parametrize("entering", [torch.float32, torch.bfloat16])
def test_under_autocast_everything_leaves_in_its_dtype(entering):
    plain = random_layer()
    layer = Int8ProductLinear(plain)
    x = torch.randn(4, 24, generator=torch.Generator().manual_seed(1)).to(entering).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        expected = plain(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, atol=0.2, rtol=0.05)
    y.backward(torch.ones_like(y))
    assert x.grad.dtype == entering
    torch.testing.assert_close(x.grad.float(), plain.weight.sum(dim=0).expand(4, -1), atol=0.2, rtol=0.05)


@needs_vnni
def test_a_layer_that_trains_is_refused():
    with pytest.raises(ValueError, match="cannot train"):
        Int8ProductLinear(nn.Linear(2, 2))


def test_only_a_cpu_with_such_products_can(monkeypatch):
    assert "not device cuda:0" in cannot_multiply("cuda:0")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_vnni": False}, raising=False)
    assert "has no 8-bit products" in cannot_multiply("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx_vnni": True}, raising=False)
    assert cannot_multiply("cpu") is None
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert "too old to detect them" in cannot_multiply("cpu")
