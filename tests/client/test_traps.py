"""Faults of the published code, reproduced on request: what each changes, by hand, and that none is on by default."""

import pytest
import torch
from small_clients import same, vqa_client

from feddat.algorithms import ALGORITHMS
from feddat.client.learner import BatchLearner
from feddat.client.optim import schedule
from feddat.client.traps import Traps
from feddat.config import load_config

MUSEUM = vqa_client("museum")


def traps(trap, **settings):
    return Traps(load_config(**{"train.trap": trap, **settings}))


def test_by_default_nothing_is_reproduced():
    feddat, ours = ALGORITHMS["feddat"], traps("none")
    assert ours.trained(feddat, 2) == ("global", "local")
    assert [ours.schedule(i, 10, feddat) for i in range(10)] == [schedule(i, 10, 0.1) for i in range(10)]
    assert not ours.zeroes_gradients


def test_the_local_adapter_is_lost_after_the_first_evaluation():
    for trap in ("frozen-local", "all"):
        assert traps(trap).trained(ALGORITHMS["feddat"], 1) == ("global", "local")
        assert traps(trap).trained(ALGORITHMS["feddat"], 2) == ("global",)
    # A method without a global adapter never runs the evaluation that leaves only that one trainable.
    assert traps("frozen-local").trained(ALGORITHMS["local"], 2) == ("local",)


def test_a_round_is_the_beginning_of_a_schedule_of_fifteen():
    # Ten steps a round are planned as 150, the first 15 of them warm-up, and FedDAT counts two per batch.
    feddat = [traps("long-schedule").schedule(i, 10, ALGORITHMS["feddat"]) for i in range(10)]
    assert feddat[0] == 1 / 16
    assert feddat[5] == 11 / 16
    assert feddat[9] == pytest.approx((150 - 18) / 135)
    fedavg = [traps("long-schedule").schedule(i, 10, ALGORITHMS["fedavg"]) for i in range(10)]
    assert fedavg[9] == 10 / 16
    joint = traps("long-schedule", **{"algorithm.order": "joint"})
    assert joint.schedule(9, 10, ALGORITHMS["feddat"]) == 10 / 16
    # Two local epochs of five steps are planned as 75 steps, not 150.
    two = traps("long-schedule", **{"train.epochs": 2})
    assert two.schedule(9, 10, ALGORITHMS["fedavg"]) == pytest.approx((75 - 9) / 68)


@pytest.mark.parametrize("zeroes", [False, True])
def test_zeroed_gradients_move_what_rests(process, zeroes):
    p = process()
    moving, resting = p.adapters.parameters("global")[0], p.adapters.parameters("local")[0]
    optimizer = torch.optim.SGD([moving, resting], lr=0.5, momentum=0.5)
    learner = BatchLearner(p.backbone, p.adapters, "fp32", optimizer, zeroes_gradients=zeroes)
    start = resting.detach().clone()
    learner.update((moving + resting).sum())
    assert torch.allclose(resting, start - 0.5)
    learner.update(moving.sum())
    # With a gradient of zero, half of the momentum is left and moves it: 0.5 * 0.5.
    assert torch.allclose(resting, start - (0.75 if zeroes else 0.5))


def test_what_a_client_trains_with_each_trap(process):
    def local_after(trap):
        p = process(**{"train.trap": trap})
        participant, shared, found = p.participant(MUSEUM), p.initial(), []
        for round in (1, 2):
            shared = participant.fit(shared, round).shared
            found.append(p.weights("local"))
        return found

    plain, frozen, moving = local_after("none"), local_after("frozen-local"), local_after("moving-rest")
    assert not same(plain[0], plain[1])
    assert same(plain[0], frozen[0]) and same(frozen[0], frozen[1])
    assert not same(plain[0], moving[0])
