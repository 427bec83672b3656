"""Per-example gradients, compared with sums by hand, Opacus, and loops over single examples."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from torch import nn

from feddat.privacy.clipping import Clip
from feddat.privacy.example_gradients import ExampleGradients, UnknownGradient, noisy

ENDLESS = Clip(1e9, 8)


def of_examples(record, examples):
    """Return each example's gradients: a list of mappings from a parameter's id to its gradient."""
    found = [record.clipped_sums(ENDLESS, examples, F.one_hot(torch.tensor(i), examples)) for i in range(examples)]
    return [{id(parameter): gradient for parameter, gradient in one.items()} for one in found]


def test_two_numbers_are_clipped_and_added_by_hand():
    # Loss of example i: w · x_i. Gradients 3 and 0.5, clipped to 1: 1 + 0.5.
    weight = nn.Parameter(torch.tensor([[2.0]]))
    record = ExampleGradients({"w": weight})
    with record:
        output = F.linear(torch.tensor([[3.0], [0.5]]), weight)
    output.sum().backward()
    assert weight.grad is None
    ((parameter, total),) = record.clipped_sums(Clip(1.0, 4), 2).items()
    assert parameter is weight
    assert total.item() == pytest.approx(1.5, rel=1e-5)


def test_all_parameters_share_one_norm():
    # One example's gradient of weight and bias is (12, 4), of norm √160; it is clipped to norm 1.
    weight, bias = nn.Parameter(torch.tensor([[1.0]])), nn.Parameter(torch.tensor([1.0]))
    record = ExampleGradients({"w": weight, "b": bias})
    with record:
        output = F.linear(torch.tensor([[3.0]]), weight, bias)  # gradients 3·g and g
    (output * 4.0).sum().backward()  # 12 and 4: norm √160
    sums = record.clipped_sums(Clip(1.0, 4), 1)
    assert sums[weight].item() == pytest.approx(12 / 160**0.5, rel=1e-5)
    assert sums[bias].item() == pytest.approx(4 / 160**0.5, rel=1e-5)


def test_a_gradient_that_is_not_finite_adds_nothing_and_costs_the_others_nothing():
    weight = nn.Parameter(torch.tensor([[1.0]]))
    record = ExampleGradients({"w": weight})
    with record:
        output = F.linear(torch.tensor([[float("inf")], [0.25], [float("nan")]]), weight)
    output.sum().backward()
    assert record.clipped_sums(Clip(1.0, 4), 3)[weight].item() == pytest.approx(0.25)


def test_examples_that_do_not_count_add_nothing():
    weight = nn.Parameter(torch.ones(1, 1))
    record = ExampleGradients({"w": weight})
    with record:
        output = F.linear(torch.tensor([[0.5], [0.25]]), weight)
    output.sum().backward()
    assert record.clipped_sums(Clip(1.0, 4), 2, torch.zeros(2))[weight].item() == 0.0


def test_another_use_of_a_parameter_is_found_out():
    weight = nn.Parameter(torch.ones(2, 2))
    record = ExampleGradients({"adapter.w": weight})
    with record:
        output = torch.randn(3, 2) @ weight
    output.sum().backward()
    with pytest.raises(UnknownGradient, match=r"^adapter\.w: gradients of single examples are not known here$"):
        record.clipped_sums(Clip(1.0, 4), 3)


def test_rows_that_belong_to_no_example_are_found_out():
    weight = nn.Parameter(torch.ones(2, 2))
    record = ExampleGradients({"w": weight})
    with record:
        output = F.linear(torch.randn(5, 2), weight)
    output.sum().backward()
    with pytest.raises(UnknownGradient, match="w: 5 rows of 2 examples"):
        record.clipped_sums(Clip(1.0, 4), 2)


class Network(nn.Module):
    """A bottleneck that is used twice, over tokens, and a head."""

    def __init__(self, tokens):
        super().__init__()
        self.down, self.up = nn.Linear(6, 3), nn.Linear(3, 6)
        self.head = nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 4))
        self.tokens = tokens

    def forward(self, x):
        x = x + self.up(F.relu(self.down(x)))
        x = x + self.up(F.relu(self.down(x)))  # used twice
        return self.head(x.mean(dim=1))


@pytest.mark.parametrize("tokens", [1, 2, 40])  # with and without forming per-example weight gradients
def test_the_same_as_opacus(tokens):
    torch.manual_seed(tokens)
    ours = Network(tokens)
    theirs = GradSampleModule(copy.deepcopy(ours), loss_reduction="mean")
    x, targets = torch.randn(5, tokens, 6), torch.rand(5, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        F.mse_loss(theirs(x), targets).backward()
    record = ExampleGradients(dict(ours.named_parameters()))
    with record:
        output = ours(x)
    (5 * F.mse_loss(output, targets)).backward()
    singles = of_examples(record, 5)
    norms = torch.zeros(5)
    for name, parameter in ours.named_parameters():
        expected = theirs.get_parameter(f"_module.{name}").grad_sample
        if isinstance(expected, list):  # a layer that is used twice
            expected = sum(expected)
        found = torch.stack([single[id(parameter)] for single in singles])
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-6)
        norms += expected.flatten(1).square().sum(dim=1)
    clip = norms.sqrt().median().item()
    factors = (clip / norms.sqrt()).clamp(max=1.0)
    sums = record.clipped_sums(Clip(clip, 5), 5)
    for name, parameter in ours.named_parameters():
        grad_sample = theirs.get_parameter(f"_module.{name}").grad_sample
        expected = sum(grad_sample) if isinstance(grad_sample, list) else grad_sample
        torch.testing.assert_close(
            sums[parameter].float(), torch.tensordot(factors, expected, dims=1), rtol=1e-4, atol=1e-4 * clip
        )


def test_biases_of_convolutions_and_norms_without_weights():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 4, 2, stride=2), torch.randn(3, 3, 4, 4)
    conv.weight.requires_grad_(False)
    record = ExampleGradients({"b": conv.bias})
    with record:
        output = conv(x)
    output.square().flatten(1).sum(dim=1).sum().backward()
    for i, single in enumerate(of_examples(record, 3)):
        conv.zero_grad()
        conv(x[i : i + 1]).square().sum().backward()
        torch.testing.assert_close(single[id(conv.bias)].float(), conv.bias.grad)
        conv.bias.grad = None


def test_a_release_is_the_noisy_sum_by_the_expected_number():
    weight = nn.Parameter(torch.zeros(1, 2))
    noisy({weight: torch.tensor([[1.0, 2.0]])}, torch.tensor([0.5, -0.5], dtype=torch.float64), 2.0)
    assert weight.grad.tolist() == [[0.75, 0.75]]


# --- clipping in floating point ---------------------------------------------------------------------------------------


class Parts(nn.Module):
    """One use of every kind of parameter: a bottleneck, LoRA, a norm, biases, a convolution's bias, and a head."""

    def __init__(self, wide, inner):
        super().__init__()
        self.down, self.up = nn.Linear(wide, inner), nn.Linear(inner, wide)
        self.a, self.b = nn.Linear(wide, 2, bias=False), nn.Linear(2, wide, bias=False)
        self.norm, self.head = nn.LayerNorm(wide), nn.Linear(wide, 3)
        self.conv = nn.Conv2d(1, 1, 1)
        self.conv.weight.requires_grad_(False)

    def forward(self, x):
        x = self.conv(x[:, None])[:, 0]
        return self.head(x + self.up(self.down(x)) + self.b(self.a(x)) + self.norm(x))


def summed(record, examples, clip):
    """Return what each example adds to the sums, one row of float64 numbers per example."""
    rows = []
    for i in range(examples):
        sums = record.clipped_sums(Clip(clip, 4), examples, F.one_hot(torch.tensor(i), examples))
        rows.append(torch.cat([total.double().flatten() for total in sums.values()]))
    return torch.stack(rows)


@given(
    seed=st.integers(0, 2**32 - 1),
    examples=st.integers(1, 4),
    tokens=st.sampled_from([1, 2, 3, 30]),
    wide=st.sampled_from([4, 24]),
    size=st.integers(-30, 38).map(lambda power: 10.0**power),
    slope=st.integers(-30, 30).map(lambda power: 10.0**power),
    apart=st.sampled_from([0.0, 1e-7, 1e-3, 1.0]),
    clip=st.sampled_from([1e-3, 1.0, 1e4]),
    bad=st.sampled_from([None, float("inf"), float("nan"), -3e38]),
)
@settings(max_examples=150)
@example(0, 4, 2, 24, 1e7, 1.0, 1e-6, 1.0, None)
@example(0, 2, 2, 24, 1e38, 1e30, 1e-7, 1.0, None)
@example(1, 3, 30, 4, 1e-30, 1e-30, 1.0, 1.0, float("inf"))
def test_no_example_adds_more_than_the_clip(seed, examples, tokens, wide, size, slope, apart, clip, bad):
    """Tokens cancel each other, and numbers are as large as float32 has them, or not finite."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Parts(wide, 2)
    x = torch.randn(examples, 1, wide, generator=generator) * (1 + apart * torch.randn(1, tokens, 1))
    x, weights = (x * size).clamp(-3e38, 3e38), torch.randn(examples, tokens, 3, generator=generator)
    weights[:, 0] -= weights.sum(dim=1)  # their sum is 0, so that alike tokens cancel each other
    if bad is not None:
        x[0, 0, 0] = bad
    record = ExampleGradients({name: p for name, p in model.named_parameters() if p.requires_grad})
    with record:
        output = model(x)
    (output * (weights * slope).clamp(-3e38, 3e38)).flatten(1).sum(dim=1).sum().backward()
    added = summed(record, examples, clip)
    assert added.isfinite().all()
    assert (added.norm(dim=1) <= clip).all()
    whole = torch.cat([total.flatten() for total in record.clipped_sums(Clip(clip, 4), examples).values()])
    assert (whole - added[1:].sum(dim=0)).norm() <= clip


@pytest.mark.parametrize("size", [1.0, 1e5, 1e7])
def test_uses_that_cancel_each_other_are_clipped_by_what_is_left(size):
    """A head is used twice, on vectors ``size`` long that differ by 30; the gradient of norm 30 is never formed."""
    torch.manual_seed(0)
    layer = nn.Linear(768, 48, bias=False)
    base, apart, slope = torch.randn(768), torch.randn(768), torch.randn(48)
    base, apart = size * base / base.norm(), 30 * apart / apart.norm()
    x, slope = torch.stack([base + apart, base]).expand(4, 2, 768), slope / slope.norm()
    record = ExampleGradients({"w": layer.weight})
    with record:
        output = layer(x[:, 0]) - layer(x[:, 1])
    (output @ slope).sum().backward()
    difference = x[0, 0].double() - x[0, 1].double()  # the vectors as they were rounded
    expected = torch.outer(slope.double(), difference) / difference.norm()
    (total,) = record.clipped_sums(Clip(1.0, 4), 4, torch.tensor([1, 0, 0, 0])).values()
    assert total.norm() <= 1.0
    assert (total / total.norm() - expected / expected.norm()).norm() < 1e-6
    assert total.norm() > 0.9, "the bound on rounding is not much larger than the gradient"
