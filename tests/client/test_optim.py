import pytest
import torch
from torch import nn

from feddat.client.optim import build_optimizer, schedule, set_learning_rate
from feddat.config import TrainConfig


def test_biases_and_norms_do_not_decay():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    optimizer = build_optimizer(model.parameters(), TrainConfig())
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(model[0].weight)] == 1e-2
    assert [decay[id(p)] for p in (model[0].bias, model[1].weight, model[1].bias)] == [0.0, 0.0, 0.0]


def test_first_step_by_hand():
    # AdamW's first step is lr * sign(gradient) (for a gradient far above eps), after decay by lr * weight_decay.
    weight = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))
    optimizer = build_optimizer([weight], TrainConfig(lr=0.1, weight_decay=0.5))
    (3.0 * weight).sum().backward()
    optimizer.step()
    assert weight.item() == pytest.approx(2.0 * (1 - 0.05) - 0.1, abs=1e-8)


def test_a_parameter_without_gradient_rests():
    moving, resting = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimizer = build_optimizer([moving, resting], TrainConfig(lr=0.1))
    (moving.sum() + resting.sum()).backward()
    optimizer.step()
    before = resting.detach().clone()
    optimizer.zero_grad(set_to_none=True)
    moving.sum().backward()
    optimizer.step()
    assert torch.equal(before, resting)


def test_schedule_rises_over_the_warm_up_and_falls_to_the_end():
    factors = [schedule(step, 20, 0.1) for step in range(20)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert factors[3] == pytest.approx(17 / 18)
    assert factors[-1] == pytest.approx(1 / 18)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.1), (1, 1.0), (5, 0.0), (7, 1.0)])
def test_schedule_never_stands_still(steps, warmup):
    assert all(0 < schedule(step, steps, warmup) <= 1 for step in range(steps))


def test_learning_rate_reaches_every_group():
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model.parameters(), TrainConfig())
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_the_head_has_a_learning_rate_of_its_own():
    adapter, head = (nn.Parameter(torch.ones(1, 1, dtype=torch.float64)) for _ in range(2))
    optimizer = build_optimizer([adapter], TrainConfig(weight_decay=0.0), [head], head_factor=0.1)
    set_learning_rate(optimizer, 0.5)
    (adapter.sum() + head.sum()).backward()
    optimizer.step()
    assert (adapter.item(), head.item()) == pytest.approx((0.5, 0.95), abs=1e-6)


def test_the_rate_falls_on_a_line_or_a_cosine_or_stays():
    steps, warmup = 10, 0.2
    shapes = {
        shape: [schedule(i, steps, warmup, shape) for i in range(steps)] for shape in ("linear", "cosine", "constant")
    }
    for factors in shapes.values():
        assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert shapes["linear"][3:] == pytest.approx([7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert shapes["cosine"][6] == pytest.approx(0.5)
    assert shapes["cosine"][3] > shapes["linear"][3] and 0 < shapes["cosine"][9] < shapes["linear"][9]
    assert shapes["constant"][3:] == [1.0] * 7


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_every_step_moves_on_every_schedule(shape, warmup):
    for steps in (1, 2, 7, 30):
        assert all(0 < schedule(step, steps, warmup, shape) <= 1 for step in range(steps))
