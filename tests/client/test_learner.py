from types import SimpleNamespace

import pytest
import torch

from feddat.client.learner import BatchLearner


def learner(clip=None):
    """Return a learner and its only weight; its features are the weight times the input."""
    weight = torch.nn.Parameter(torch.tensor([[2.0, 1.0]]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    backbone = SimpleNamespace(features=lambda inputs: inputs["x"] * weight)
    made = BatchLearner(backbone, SimpleNamespace(route=lambda name: None), "fp32", optimizer, clip)
    task = SimpleNamespace(
        views_per_example=1,
        logits=lambda head, features: features,
        loss=lambda logits, targets: (logits * targets).sum(),
    )
    made.take(
        SimpleNamespace(task=task, heads={"main": None}, generation=None, pooled=lambda features: features),
        {"x": torch.ones(1, 2)},
        torch.tensor([[3.0, 4.0]]),
    )
    return made, weight


def step(made):
    made.update(made.task_loss(made.logits(made.features("global"))))


def test_update_by_hand():
    made, weight = learner()
    step(made)
    assert weight.tolist() == [[-1.0, -3.0]]
    assert made.take_norm().item() == 5.0


def test_gradients_do_not_add_up():
    made, weight = learner()
    step(made)
    step(made)
    assert weight.tolist() == [[-4.0, -7.0]]


def test_clipping_scales_to_the_norm_and_reports_the_norm_before():
    made, weight = learner(clip=1.0)
    step(made)
    assert weight.tolist()[0] == pytest.approx([2.0 - 0.6, 1.0 - 0.8], abs=1e-5)
    assert made.take_norm().item() == pytest.approx(5.0)


def test_a_learner_without_optimizer_only_answers():
    made = BatchLearner(SimpleNamespace(), SimpleNamespace(), "fp32")
    with pytest.raises(RuntimeError, match="no optimizer"):
        made.update(torch.zeros(()))
