"""Norms and weighted sums of examples' gradients, formed and not, in floating point."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feddat.privacy.clipping import Formed, Unformed, factors, linear, margin


def test_norms_factors_and_sum_of_two_gradients_by_hand():
    one = Formed(torch.tensor([[3.0, 4.0], [0.0, 0.5]]))
    assert one.squared().tolist() == pytest.approx([25.0, 0.25], rel=1e-5)
    weights = factors(one.squared(), clip=1.0)
    assert weights.tolist() == pytest.approx([0.2, 1.0], rel=1e-4)
    total = one.weighted(weights, torch.tensor([True, True]))
    assert total.dtype == torch.float64
    assert total.tolist() == pytest.approx([0.6, 1.3], rel=1e-4)


def test_a_gradient_is_formed_where_that_takes_little_memory():
    torch.manual_seed(0)
    many, few = (
        linear(torch.randn(2, 30, 16), torch.randn(2, 30, 4)),
        linear(torch.randn(2, 1, 96), torch.randn(2, 1, 48)),
    )
    assert isinstance(many, Formed) and isinstance(few, Unformed)


def test_formed_and_unformed_gradients_give_the_same():
    torch.manual_seed(0)
    x, g = torch.randn(11, 5, 6), torch.randn(11, 5, 4)
    formed, unformed = Formed(g.transpose(1, 2) @ x), Unformed(x, g)
    torch.testing.assert_close(formed.squared(), unformed.squared(), rtol=1e-4, atol=0.0)
    torch.testing.assert_close(formed.each(), unformed.each())
    weights, finite = torch.rand(11), torch.arange(11) != 3
    expected = torch.tensordot(weights.double() * finite, g.double().transpose(1, 2) @ x.double(), dims=1)
    for one in (formed, unformed):
        torch.testing.assert_close(one.weighted(weights, finite), expected, rtol=1e-5, atol=1e-5)


def test_large_and_small_numbers_keep_all_digits():
    assert factors(torch.tensor([1.0], dtype=torch.float64), 1.0).dtype == torch.float32
    assert factors(torch.tensor([1e40], dtype=torch.float64), 1.0).dtype == torch.float64
    assert factors(torch.tensor([1.0], dtype=torch.float64), 1e-20).dtype == torch.float64
    huge = Formed(torch.tensor([[3e37, 4e37]]))  # their squares are beyond float32
    assert huge.squared().sqrt().item() == pytest.approx(5e37)
    total = huge.weighted(factors(huge.squared(), 1.0), torch.tensor([True]))
    assert total.tolist() == pytest.approx([0.6, 0.8], rel=1e-4)


@given(
    seed=st.integers(0, 2**32 - 1),
    examples=st.sampled_from([1, 2, 7, 8, 9, 40]),
    shape=st.sampled_from([(1,), (300,), (3, 5), (2, 900)]),
    size=st.integers(-42, 38).map(lambda power: 10.0**power),
    spread=st.sampled_from([0.0, 3.0, 30.0]),
    clip=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]),
)
@settings(max_examples=200)
@example(0, 40, (300,), 1.0, 0.0, 1.0)
@example(0, 8, (2, 900), 1e38, 30.0, 1e-30)
def test_no_example_moves_a_sum_by_more_than_the_clip(seed, examples, shape, size, spread, clip):
    """Whichever example is left out; then the others are added up in other groups."""
    generator = torch.Generator().manual_seed(seed)
    each = torch.randn(examples, *shape, generator=generator)
    each = each * torch.exp(spread * torch.randn(examples, *[1] * len(shape), generator=generator)) * size
    each = each.clamp(-3e38, 3e38)

    def total(rows: torch.Tensor) -> torch.Tensor:
        one = Formed(rows)
        squared = one.squared()
        true = rows.double().flatten(1).square().sum(dim=1)
        assert (squared >= true * (1 - 1e-12)).all()
        # Bounded from above too: within 1 in 1,000, and what float32 calls 0.
        assert (squared <= true * 1.001 + math.prod(shape) * 2.0**-125).all()
        return one.weighted(factors(squared, clip), squared.isfinite())

    whole = total(each)
    for i in range(0, examples, 3):
        rest = torch.cat([each[:i], each[i + 1 :]])
        moved = whole - total(rest) if len(rest) else whole
        assert moved.norm() <= clip
    # Gradients within the clip are summed as they are; next to a clip of 1e-30, 300 zeros are not short.
    if clip > 1e-10 and each.double().flatten(1).norm(dim=1).max() < clip * (1 - margin(examples)) / 1.001:
        torch.testing.assert_close(whole, each.double().sum(dim=0), rtol=1e-4, atol=1e-5 * clip)
