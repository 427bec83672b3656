"""Momentum distillation, worked out by hand: the averages, using them in place of the weights, and a batch's loss."""

from math import log
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from writer import Writer

from feddat.client.generation import AnnotatedAnswers, Generation
from feddat.client.learner import BatchLearner
from feddat.client.momentum import MomentumCopy, rising
from feddat.config import EvalConfig
from feddat.example import Example

CPU = torch.device("cpu")


def parameter(*values):
    return nn.Parameter(torch.tensor(values))


def test_averages_follow():
    weight = parameter(2.0, 0.0)
    copy = MomentumCopy({"w": weight}, 0.75)
    copy.follow()
    assert copy.state()["w"].tolist() == [2.0, 0.0]
    weight.data += 4.0
    copy.follow()
    assert copy.state()["w"].tolist() == [3.0, 1.0]  # ¾ of the old, ¼ of (6, 4)
    assert MomentumCopy({"w": weight}, 0.75, copy.state()).state()["w"].tolist() == [3.0, 1.0]


def test_averages_stand_in_without_disturbing_a_graph_that_waits():
    weight = parameter(2.0)
    copy = MomentumCopy({"w": weight}, 0.5, {"w": torch.tensor([10.0])})
    loss = weight.square().sum()
    with copy.instead():
        taught = weight * 3
        assert taught.item() == 30.0
        assert not taught.requires_grad
    assert weight.item() == 2.0
    loss.backward()
    assert weight.grad.item() == 4.0  # the gradient at the weight itself, not at 10
    with pytest.raises(KeyError), copy.instead():
        raise KeyError
    assert weight.item() == 2.0


@pytest.mark.parametrize(
    ("averages", "message"),
    [
        ({"v": torch.zeros(1)}, "'v' is unexpected"),
        ({"w": torch.zeros(1), "v": torch.zeros(1)}, "'v' is unexpected"),
        ({"w": torch.zeros(2)}, r"'w' has shape \(2,\), expected \(1,\)"),
    ],
)
def test_averages_of_something_else_are_refused(averages, message):
    with pytest.raises(ValueError, match=message):
        MomentumCopy({"w": parameter(1.0)}, 0.5, averages)


def test_the_weight_rises_in_the_first_round_alone():
    assert [rising(0.4, step, 4, first=True) for step in range(4)] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert rising(0.4, 0, 4, first=False) == 0.4


class Uniform(Writer):
    """A writer with states of 0, so that only the head's biases decide how likely a token is."""

    def decode(self, questions, ids, mask):
        return torch.zeros(*ids.shape, 3)


def test_the_loss_of_a_batch_by_hand():
    # The model gives "a" and END a probability of ½ each; the copy gives them ¾ and ¼.
    bias = parameter(*[-1e4] * 8)
    head = nn.Linear(3, 8)
    head.bias, backbone = bias, Uniform()
    bias.data[[1, 7]] = torch.tensor([log(3.0), 0.0])
    copy = MomentumCopy({"head": bias}, 0.5)
    bias.data[1] = 0.0
    member = SimpleNamespace(
        task=SimpleNamespace(views_per_example=1, logits=lambda head, features: head(features)),
        pooled=lambda features: features,
        heads={"main": head},
        generation=Generation(backbone, ["a"], EvalConfig()),
    )
    learner = BatchLearner(backbone, SimpleNamespace(route=lambda route: None), "fp32", momentum=copy)
    inputs = {"question": torch.zeros(1, 1, 3)}
    inputs |= AnnotatedAnswers([Example("0", (), "?", answers={"a": 1.0})], backbone).batch(torch.tensor([0]), CPU)
    copy.follow = lambda: None  # the averages stay as they are
    learner.take(member, inputs, torch.zeros(1, 1), alpha=0.4)
    with torch.no_grad():
        learner.logits(learner.features("dat"))  # FedDAT's teacher; without gradients it needs no averages
    loss = learner.task_loss(learner.logits(learner.features("global")))
    assert loss.item() == pytest.approx(2 * log(2))  # with the copy's targets, too: both tokens are equally likely
    loss.backward()
    # p − target, for "a" and then for END. The target is 0.6 · (one right) + 0.4 · (¾, ¼).
    gradient = (0.5 - (0.6 + 0.4 * 0.75)) + (0.5 - 0.4 * 0.75)
    assert bias.grad[1].item() == pytest.approx(gradient)
    assert bias.grad[7].item() == pytest.approx(-gradient)
    with pytest.raises(RuntimeError, match="did not return"):
        learner.task_loss(learner.logits(learner.features("global")) * 1.0)
