"""Norms and weighted sums of examples' gradients, formed and not, in floating point."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from feddat.privacy.clipping import Clip, Formed, Reformed, Unformed, factors, linear, margin
from feddat.privacy.example_gradients import ExampleGradients

ONE = Clip(1.0, 64)


def test_norms_factors_and_sum_of_two_gradients_by_hand():
    one = Formed(torch.tensor([[3.0, 4.0], [0.0, 0.5]]))
    assert one.squared(ONE).tolist() == pytest.approx([25.0, 0.25], rel=1e-5)
    weights = factors(one.squared(ONE), ONE)
    assert weights.tolist() == pytest.approx([0.2, 1.0], rel=1e-3)
    total = one.weighted(weights, torch.tensor([True, True]))
    assert total.dtype == torch.float64
    assert total.tolist() == pytest.approx([0.6, 1.3], rel=1e-3)


def test_the_margin_is_small_and_a_sum_too_large_for_it_is_refused():
    assert Clip.of_samples(1.0, 32.0) == Clip(1.0, 128)
    assert Clip(1.0, 128).limit > 0.9997
    assert Clip(1.0, 4096).single and not Clip(1.0, 4097).single
    assert min(Clip(1.0, most).limit for most in (4096, 4097, 1_000_000)) > 0.99
    with pytest.raises(ValueError, match="a sum of 100000000 examples cannot be clipped"):
        margin(100_000_000, single=False)


def test_a_large_gradient_is_formed_anew_with_the_same_numbers():
    torch.manual_seed(0)
    for tokens, kept in ((1, False), (40, True)):
        x, g = torch.randn(3, tokens, 96), torch.randn(3, tokens, 48)
        found = linear(x, g)
        assert isinstance(found, Reformed) != kept
        assert torch.equal(found.each(), Reformed(x, g).each())
        assert torch.equal(found.squared(ONE), Formed(Reformed(x, g).each()).squared(ONE))


def test_formed_and_unformed_gradients_give_the_same():
    torch.manual_seed(0)
    x, g = torch.randn(11, 5, 6), torch.randn(11, 5, 4)
    weights, finite = torch.rand(11), torch.arange(11) != 3
    expected = torch.tensordot(weights.double() * finite, g.double().transpose(1, 2) @ x.double(), dims=1)
    for one in (linear(x, g), Unformed(x, g)):
        torch.testing.assert_close(one.squared(ONE), Unformed(x, g).squared(ONE), rtol=1e-4, atol=0.0)
        torch.testing.assert_close(one.each(), g.transpose(1, 2) @ x)
        torch.testing.assert_close(one.weighted(weights, finite), expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_formed_in_float32_under_autocast_too():
    with torch.autocast("cpu", torch.bfloat16):
        assert Reformed(torch.randn(2, 3, 4), torch.randn(2, 3, 5)).each().dtype == torch.float32


def test_large_and_small_numbers_keep_all_digits():
    one = torch.ones(1, dtype=torch.float64)
    assert factors(one, ONE).dtype == torch.float32
    assert factors(1e40 * one, ONE).dtype == factors(one, Clip(1e-20, 64)).dtype == torch.float64
    assert factors(torch.ones(65, dtype=torch.float64), ONE).dtype == torch.float64
    huge = Formed(torch.tensor([[3e37, 4e37]]))  # their squares are beyond float32
    assert huge.squared(ONE).sqrt().item() == pytest.approx(5e37)
    total = huge.weighted(factors(huge.squared(ONE), ONE), torch.tensor([True]))
    assert total.tolist() == pytest.approx([0.6, 0.8], rel=1e-3)


# --- what one example does to the sum ---------------------------------------------------------------------------------


def total(rows: torch.Tensor, clip: Clip) -> torch.Tensor:
    """Return the sum of clipped gradients (N, ...)."""
    one = Formed(rows)
    squared = one.squared(clip)
    return one.weighted(factors(squared, clip), squared.isfinite())


@given(
    seed=st.integers(0, 2**32 - 1),
    examples=st.sampled_from([1, 2, 7, 8, 9, 40, 63, 64, 65, 200]),
    shape=st.sampled_from([(1,), (300,), (3, 5), (2, 900)]),
    alike=st.sampled_from([0.0, 1e-7, 1e-3, 1.0]),
    size=st.integers(-42, 38).map(lambda power: 10.0**power),
    spread=st.sampled_from([0.0, 3.0, 30.0]),
    clip=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]),
    last=st.sampled_from([None, "opposite", 1e23, 3e38, float("inf"), float("nan")]),
)
@settings(max_examples=200)
@example(0, 40, (300,), 1.0, 1.0, 0.0, 1.0, None)
@example(0, 8, (2, 900), 1.0, 1e38, 30.0, 1e-30, None)
@example(0, 65, (1,), 0.0, 4.0, 0.0, 1.0, "opposite")
@example(0, 64, (2, 900), 0.0, 4.0, 0.0, 1.0, float("nan"))
def test_no_example_moves_a_sum_by_more_than_the_clip(seed, examples, shape, alike, size, spread, clip, last):
    """Aligned, opposite and huge gradients, and with and without the one that makes a sample larger than expected."""
    clip, generator = Clip(clip, 64), torch.Generator().manual_seed(seed)
    apart = [1] * len(shape)
    each = torch.randn(1, *shape, generator=generator) + alike * torch.randn(examples, *shape, generator=generator)
    each = each * torch.exp(spread * torch.randn(examples, *apart, generator=generator)) * size
    each = each.clamp(-3e38, 3e38)
    if last is not None:
        each[-1] = -each[0] if last == "opposite" else last
    squared, true = Formed(each).squared(clip), each.double().flatten(1).square().sum(dim=1)
    known = true.isfinite()
    assert (squared[known] >= true[known] * (1 - 1e-12)).all() and not squared[~known].isfinite().any()
    # Bounded from above too: within 1 in 100,000, and what float32 calls 0.
    assert (squared[known] <= true[known] * 1.00001 + math.prod(shape) * 2.0**-125).all()
    whole = total(each, clip)
    for i in {0, examples // 2, examples - 1}:
        moved = whole - total(torch.cat([each[:i], each[i + 1 :]]), clip) if examples > 1 else whole
        assert moved.norm() <= clip.norm
    # Gradients within the clip are summed as they are; next to a clip of 1e-30, 300 zeros are not short.
    if clip.norm > 1e-10 and known.all() and true.sqrt().max() < clip.limit / 1.0001:
        torch.testing.assert_close(whole, each.double().sum(dim=0), rtol=1e-4, atol=1e-5 * clip.norm * examples)


@pytest.mark.parametrize("count", [16, 32, 64, 256, 1024])
@pytest.mark.parametrize("size", [3.9719595909, 4.0, 1.0])
def test_many_that_are_alike_do_not_add_up_what_one_more_changes(count, size):
    """Were the margin to depend on the number in the sample, one more would change the factors of all others."""
    clip = Clip.of_samples(1.0, count)
    rows = torch.full((count, 1), size)
    for more in (-8.0, 8.0, float("nan")):
        moved = total(torch.cat([rows, torch.tensor([[more]])]), clip) - total(rows, clip)
        assert moved.abs() <= (1e-3 if math.isnan(more) else 1.0)


@pytest.mark.parametrize("more", [4.0, -4.0, 1e23, 3e38, float("inf"), float("nan")])
@pytest.mark.parametrize("shape", [(48,), (16, 8), (5, 600)])
def test_another_example_changes_no_norm_of_a_formed_gradient(shape, more):
    """In squares that float32 does not hold, only that example's are taken again."""
    torch.manual_seed(0)
    rows = torch.randn(20, *shape)
    with_it = torch.cat([rows, torch.full((1, *shape), more)])
    assert torch.equal(Formed(with_it).squared(ONE)[:20], Formed(rows).squared(ONE))


@pytest.mark.parametrize("tokens", [1, 2, 11, 12, 200])
def test_sequences_are_formed_however_long_they_are(tokens):
    """The longest text of a batch must not decide how the others' norms are computed."""
    record = ExampleGradients({"w": (weight := nn.Parameter(torch.zeros(48, 768)))})
    with record:
        output = F.linear(torch.ones(3, tokens, 768) / 3, weight)
    output.square().sum().add(output.sum()).backward()
    assert isinstance(linear(torch.ones(3, tokens, 768), torch.ones(3, tokens, 48)), Formed)
    (found,) = record.clipped_sums(ONE, 3).values()
    formed = Formed(torch.full((3, 48, 768), tokens / 3))  # each token adds 1/3 to each entry
    expected = formed.weighted(factors(formed.squared(ONE), ONE), torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("count", [1, 32, 256])
def test_another_example_changes_no_norm_of_an_unformed_gradient(count):
    """Two uses of a head, 3e6 long, differ by 30: the bound on rounding is a part of the norm."""
    torch.manual_seed(0)
    base, apart, slope = (part / part.norm() for part in (torch.randn(768), torch.randn(768), torch.randn(48)))
    x = torch.stack([3e6 * base + 30 * apart, 3e6 * base]).expand(count + 1, 2, 768)
    g = torch.stack([slope, -slope]).expand(count + 1, 2, 48)
    alone, together = (Unformed(x[:size], g[:size]).squared(ONE)[0] for size in (1, count + 1))
    assert alone.item() == pytest.approx(together.item(), rel=1e-12)
    assert alone.sqrt() > 30.1, "the bound is a part of it"
