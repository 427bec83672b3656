"""Guarded steps (``privacy.guarded_steps``): what leaves shows neither the size of gradients nor single pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_clients import vqa_client
from torch import nn

from feddat.algorithms import ALGORITHMS
from feddat.algorithms.base import Algorithm
from feddat.audit.imprint import states_at
from feddat.audit.message import vilt_of
from feddat.client import local_training
from feddat.client.batches import plan_batches
from feddat.client.guarded import Guard, most_batches
from feddat.client.local_training import TrainingError
from feddat.client.optim import build_optimizer
from feddat.client.private_rules import check_privacy, steps_are_guarded
from feddat.client.received import Received
from feddat.config import ConfigError, RunConfig, TrainConfig
from feddat.data.cache import EncodedImage
from feddat.example import image_identity

GUARDED = {"privacy.guarded_steps": True}


def trained(gradients, guarded=True, **config):
    """Return what numbers that start at 0 become, given the gradient of each (a column) at each step (a row)."""
    numbers = nn.Parameter(torch.zeros(gradients.shape[1]))
    guard = Guard([numbers], examples=1) if guarded else None
    optimizer = build_optimizer([numbers], TrainConfig(lr=0.01, weight_decay=0, **config), guard=guard)
    for row in gradients:
        numbers.grad = row.clone()
        optimizer.step()
    return numbers, optimizer


@given(
    st.lists(
        st.lists(st.floats(-1, 1).filter(lambda g: abs(g) > 1e-3), min_size=3, max_size=3), min_size=1, max_size=6
    ),
    st.data(),
)
def test_only_the_signs_of_gradients_show(gradients, data):
    table = torch.tensor(gradients)
    sizes = data.draw(st.lists(st.floats(1e-30, 1e30), min_size=table.numel(), max_size=table.numel()))
    assert torch.equal(trained(table)[0], trained(table.sign() * torch.tensor(sizes).view_as(table))[0])


def test_without_the_guard_the_size_shows_even_where_it_is_far_above_eps():
    table = torch.full((1, 2), 1e-5) * torch.tensor([1.0, 3.0])
    one, other = trained(table, guarded=False)[0].tolist()
    assert abs(one - other) > 1e-6


def test_steps_are_those_of_adamw_on_signs():
    table = torch.randn(12, 50, generator=torch.Generator().manual_seed(0)) * 1e-3
    assert torch.equal(trained(table)[0], trained(table.sign(), guarded=False)[0])


def test_one_batch_counts_no_more_than_another():
    """All batches leave a trace; that of the first is a million times as large."""
    for first in range(3):
        table = torch.full((8, 2), 1e-9) * torch.tensor([1.0, -1.0])
        table[first] = torch.tensor([-1e-3, -1e-3])
        numbers, optimizer = trained(table)
        assert optimizer.finish() == 0.0
        assert numbers[0] < 0 < numbers[1], "seven of eight signs decide"


def test_a_change_by_too_few_batches_is_undone():
    # The first number moves in one of eight steps, the second in three, the third in four, the last in all.
    table = torch.tensor([[step == 0, step < 3, step < 4, True] for step in range(8)]).float()
    numbers, optimizer = trained(table)
    assert (numbers < 0).all()
    share = optimizer.finish()
    assert [value < 0 for value in numbers.tolist()] == [False, False, True, True]
    assert share == 0.5


def test_what_stays_with_the_client_may_learn_from_one_batch():
    stays, leaves = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = build_optimizer([stays, leaves], TrainConfig(), guard=Guard([leaves], examples=1))
    for step in range(8):
        stays.grad, leaves.grad = (torch.tensor([float(step == 0)]) for _ in range(2))
        optimizer.step()
    optimizer.finish()
    assert stays.item() < 0
    assert leaves.item() == 0


def test_numbers_that_are_not_finite_stay_visible():
    for value in (float("nan"), float("inf")):
        assert trained(torch.tensor([[value]]))[0].isnan().all()


@pytest.mark.parametrize(
    ("steps", "examples", "pictures", "needed"),
    [
        (8, 1, 1, 4),  # one epoch: four examples are in four batches at least
        (16, 2, 2, 8),  # two epochs: each example comes twice
        (40, 10, 10, 40),  # four batches an epoch: every batch must move it
        (100, 2, 2, 50),  # half of all steps
        (5, 1, 1, 4),  # it could move in half of the steps only
        (3, 1, 1, 4),  # impossible
        (20, 1, 4, 16),  # a picture with four questions
        (20, 1, 9, 20),  # a picture in almost half of the batches: all must agree
    ],
)
def test_the_steps_that_a_number_needs(steps, examples, pictures, needed):
    assert Guard([], examples, pictures).needs(steps) == needed


def test_the_most_batches_of_a_picture():
    # Examples 0 and 2 share picture a; example 1 has two pictures.
    pictures = ["a", "bc", "a", "d"]
    assert most_batches([[0, 1], [2, 3]], pictures) == 2
    assert most_batches([[0, 2], [1, 3]], pictures) == 1, "both examples are in one batch"
    assert most_batches([[0, 2], [1, 3], [0, 1], [2, 3]], pictures) == 3
    assert most_batches([], pictures) == 0


def reading_unit(process, client, **config):
    """Let a server send a unit whose threshold only one picture exceeds.

    Returns:
        The received adapter, what the client sends without and with the guard, the unit's keys (weight and bias), and
        the examples that excite it.
    """
    sent = {}
    for guarded in (False, True):
        p = process("fedavg", **{"privacy.guarded_steps": guarded, "train.weight_decay": 0.0, **config})
        shared, participant = p.initial(), p.participant(client)
        part = participant.members[client.name].prepared("train")
        inputs = participant.members[client.name].inputs(part.views, torch.arange(part.size))
        states = states_at(vilt_of(p.backbone.model), inputs, "fp32")[0]  # (examples, tokens, width)
        keys = [next(key for key in shared if key.endswith(f"down.{part}")) for part in ("weight", "bias")]
        direction = torch.randn(shared[keys[0]].shape[1], generator=torch.Generator().manual_seed(0))
        most = (states @ direction).amax(dim=1)
        first = most.max()
        second = most[most < first - 1e-4].max()
        shared[keys[0]][0], shared[keys[1]][0] = direction, -(first + second) / 2
        sent[guarded] = participant.fit(shared, 1).shared
    return shared, sent[False], sent[True], keys, (most > second + 1e-4).nonzero().flatten().tolist()


def test_a_unit_that_reads_one_picture_stays_as_received(process, caplog, monkeypatch):
    monkeypatch.setattr(local_training, "_MUCH", 0.0)
    received, open_, guarded, (down, bias), readers = reading_unit(
        process, vqa_client("museum"), **{"train.batch_size": 2}
    )
    assert len(readers) == 1
    assert not torch.equal(open_[down][0], received[down][0]), "its gradient is the picture's state"
    assert torch.equal(guarded[down][0], received[down][0])
    assert guarded[bias][0] == received[bias][0]
    assert not torch.equal(guarded[down][1:], received[down][1:]), "other units train"
    (said,) = [record.getMessage() for record in caplog.records if "guarded_steps" in record.getMessage()]
    assert said.startswith("client museum: round 1: ") and "did not stay changed" in said


def test_many_questions_about_one_picture_do_not_add_up(process, caplog):
    """The picture that excites the unit most has seven of eleven questions, so it alone moves more than half of it."""
    museum = vqa_client("museum")
    (reader,) = reading_unit(process, museum, **{"train.batch_size": 1})[-1]
    popular = museum.train[reader].images
    asked = [each if n > 6 and n != reader else replace(each, images=popular) for n, each in enumerate(museum.train)]
    caplog.clear()
    received, open_, guarded, (down, _), readers = reading_unit(
        process, replace(museum, train=tuple(asked)), **{"train.batch_size": 1}
    )
    assert len(readers) > 11 / 2
    assert not torch.equal(open_[down][0], received[down][0])
    assert torch.equal(guarded[down][0], received[down][0])
    (said,) = [record.getMessage() for record in caplog.records if "guarded_steps" in record.getMessage()]
    assert said.startswith(f"client museum: one picture is in {len(readers)} batches of a round")


def test_pixels_in_memory_are_known_by_their_place(tmp_path):
    pixels = np.zeros((3, 8, 8), np.uint8)
    image = EncodedImage.of(pixels, "encoder")
    assert image_identity(image) == image_identity(EncodedImage.of(pixels, "encoder")), "two views of one file"
    assert image_identity(image) != image_identity(EncodedImage.of(pixels[:, :4], "encoder"))
    assert image_identity(pixels) != image_identity(np.zeros((3, 8, 8), np.uint8))
    assert image_identity(tmp_path / "a.png") == image_identity(tmp_path / "a.png") != image_identity(b"a.png")


@pytest.mark.parametrize(
    "method", [name for name, one in ALGORITHMS.items() if one.hides_gradients and one.server is None]
)
def test_every_method_trains_and_scores_under_the_guard(process, method):
    algorithm = ALGORITHMS[method]
    p = process(method, **GUARDED, **{"train.batch_size": 1, "adapter.peft": (*algorithm.kinds, "bottleneck")[0]})
    participant = p.participant(vqa_client("museum"))
    shared = {key: value for key, value in p.initial().items() if participant.algorithm.shares(key)}
    shared = shared if algorithm.communicates else None
    result = participant.fit(shared, 1)
    if algorithm.communicates and algorithm.trains:
        moved = [key for key in result.shared if not torch.equal(result.shared[key], shared[key])]
        assert moved, "honest training leaves"
    assert participant.evaluate(Received(result.shared, 1), "test").scores["museum"]


def test_arrays_beside_the_adapter_do_not_leave(process):
    p = process("fedavg", **GUARDED, **{"train.batch_size": 2})
    participant = p.participant(vqa_client("museum"))

    class Sending(type(participant.algorithm)):
        name = "sending"

        def finish(self, learner, context):
            return {"gradient": torch.ones(1)}

    participant.algorithm = Sending()
    with pytest.raises(TrainingError, match=r"guarded_steps: sending sends arrays beside the adapter"):
        participant.fit(p.initial(), 1)


def test_too_few_batches_an_epoch_is_an_error(process):
    p = process("fedavg", **GUARDED, **{"train.batch_size": 8})
    with pytest.raises(TrainingError, match=r"client museum: privacy\.guarded_steps: 2 steps change nothing"):
        p.participant(vqa_client("museum")).fit(p.initial(), 1)


def test_methods_that_send_gradients_or_add_known_ones_are_refused():
    refused = {"fedprox", "scaffold", "feddyn", "pfedme", "pfedmma", "hilora", "fedmosaic"}
    talking = {name: one for name, one in ALGORITHMS.items() if one.communicates}
    assert {name for name, one in talking.items() if not one.hides_gradients} == refused
    for name in ALGORITHMS:
        settings = RunConfig().updated({"method": name, **GUARDED})
        if name in refused:
            with pytest.raises(ConfigError, match=rf"privacy\.guarded_steps: they do not cover {name}"):
                check_privacy(settings)
        else:
            check_privacy(settings)
        check_privacy(settings.updated({"privacy.guarded_steps": False}))


def test_a_method_that_says_nothing_is_not_covered():
    assert not Algorithm.hides_gradients


def test_clipping_is_refused_because_one_gradient_could_shrink_all_others():
    with pytest.raises(ConfigError, match=r"privacy\.guarded_steps: train\.clip_norm"):
        check_privacy(RunConfig().updated({"train.clip_norm": 1.0, **GUARDED}))


def test_a_rule_that_reads_training_losses_is_refused_before_the_run():
    with pytest.raises(ConfigError, match=r"^privacy\.guarded_steps: server\.rule is qfedavg, .*; take another"):
        check_privacy(RunConfig().updated({"server.rule": "qfedavg", **GUARDED}))


@pytest.mark.parametrize(
    ("settings", "guarded"),
    [
        ({"method": "fedavg"}, True),
        ({"method": "feddat", "privacy.unit": "client", "privacy.epsilon": 8.0}, True),
        ({"method": "fedavg", "privacy.epsilon": 8.0}, False),  # noise for records needs no guard
        ({"method": "local"}, False),  # nothing leaves
    ],
)
def test_which_runs_are_guarded(settings, guarded):
    assert steps_are_guarded(RunConfig().updated(settings | GUARDED)) is guarded
    assert not steps_are_guarded(RunConfig().updated(settings))


def test_batches_are_equally_large():
    sizes = [len(batch) for _, batch in plan_batches({"a": 73}, 2, 24, 0, 1, even=True)]
    assert sizes == [19, 18, 18, 18] * 2, "without it, the last batch has one example"
    plan = plan_batches({"a": 73}, 1, 24, 0, 1, even=True)
    assert torch.equal(torch.cat([batch for _, batch in plan]).sort().values, torch.arange(73))
