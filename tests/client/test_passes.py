"""The counts of passes through the backbone, and how an algorithm sees validation data."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from small_clients import same, vqa_client

from feddat.algorithms import ALGORITHMS
from feddat.algorithms.base import RoundContext
from feddat.client.learner import BatchLearner
from feddat.client.received import Received

MUSEUM = vqa_client("museum")


@pytest.mark.parametrize(
    ("method", "forward", "backward"),
    [
        ("fedavg", 1, 1),
        ("feddat", 2, 2),
        ("ditto", 2, 2),
        ("apfl", 2, 2),
        ("moon", 3, 1),
        ("pfedme", 5, 5),
        ("feddat-2", 1, 1),
        ("fedavg-local", 2, 2),
        ("fedalt", 2, 1),  # it looks at the frozen model's features first
        ("head", 1, 0),
    ],
)
def test_passes_of_a_round(process, method, forward, backward):
    p = process(method)
    shared = p.initial() if p.algorithm.communicates else None
    server = p.algorithm.server
    extras = {} if server is None else server.sends(server.start(shared))
    metrics = p.participant(MUSEUM).fit(shared, 1, extras).metrics
    assert (metrics["forward"], metrics["backward"]) == (forward * 11, backward * 11)
    assert p.algorithm.passes(p.config.algorithm) == (forward, backward), "what estimates of cost reckon with"


def test_validation_data_is_seen_as_in_an_evaluation(process, monkeypatch):
    """During training as well: without gradients, with the model's mode restored, and without random draws."""
    seen = []

    def begin(self, learner, context: RoundContext):
        model = p.backbone.model
        before = torch.get_rng_state()
        assert model.training
        for _ in learner.held_out():
            assert not model.training
            answers = learner.answers("global")
            assert not answers.requires_grad
            seen.append(learner.scores(answers))
        assert model.training and torch.equal(torch.get_rng_state(), before)

    settings = {"eval.batch_size": 2}
    p = process("fedavg", **settings)
    expected = p.participant(MUSEUM).fit(p.initial(), 1)
    p = process("fedavg", **settings)
    monkeypatch.setattr(type(ALGORITHMS["fedavg"]), "begin", begin)
    result = p.participant(MUSEUM).fit(p.initial(), 1)
    found = torch.cat(seen)
    assert len(found) == len(MUSEUM.validation) > 2, "in batches of two"
    assert same(result.shared, list(expected.shared.values())), "looking changes nothing"
    assert result.metrics["forward"] == expected.metrics["forward"] + len(found)


def test_looking_leaves_the_heads_of_all_members_in_training(process, monkeypatch):
    seen = []

    def begin(self, learner, context: RoundContext):
        heads = [head for member in participant.members.values() for head in member.heads.values()]
        assert len(heads) == 2 and all(head.training for head in heads)
        heads[1].eval()
        for _ in learner.held_out():
            seen.append([head.training for head in heads])
        seen.append([head.training for head in heads])

    p = process("fedavg", **{"eval.batch_size": 2})
    participant = p.participant(MUSEUM, vqa_client("street", sizes=(11, 2, 2)), name="both")
    monkeypatch.setattr(type(ALGORITHMS["fedavg"]), "begin", begin)
    participant.fit(p.initial(), 1)
    assert seen == [[False, False]] * 3 + [[True, False]]


def test_feddat_2_answers_with_the_weight_that_it_chose(process):
    p = process("feddat-2")
    participant = p.participant(MUSEUM)
    shared = participant.fit(p.initial(), 1).shared
    answering = participant.answering(Received(shared, 1))
    weight = answering._context.state["weight"].item()
    scores = participant.evaluate(Received(shared, 1), "validation").scores["museum"]
    assert 0 <= weight <= 1
    assert set(scores) == {"mixed", "personal", "global"}
    assert "state.weight" not in participant.store.read(1)[1], "it is chosen anew, not stored"


@pytest.mark.parametrize("method", ["feddat-2", "fedavg-local"])
def test_an_evaluation_passes_each_question_once_per_adapter(process, method):
    """The mixture shares the passes of the two routes that it mixes."""
    p = process(method)
    participant = p.participant(MUSEUM)
    shared = participant.fit(p.initial(), 1).shared
    answering = participant.answering(Received(shared, 1))
    answering._context.state["weight"] = torch.tensor(0.3)  # at 0 or 1, one route would be enough
    learner, member = answering._learner, participant.members["museum"]
    part = member.prepared("validation")

    def passes(*routes):
        before = learner.passes["forward"]
        scores = answering.scores(member, part, routes)
        return learner.passes["forward"] - before, scores

    routes = p.algorithm.routes
    assert passes(*routes[:1])[0] == 2 * len(MUSEUM.validation)
    count, scores = passes(*routes)
    assert count == 2 * len(MUSEUM.validation)
    assert scores == {route: passes(route)[1][route] for route in routes}


def test_written_answers_are_computed_once_per_route_and_head_of_a_batch():
    """A mixture asks both routes again; the free answers that it then reads are those of the route it asked last."""

    class Writing:
        calls = 0
        written: ClassVar = []

        def answer(self, head, inputs):
            self.calls += 1
            self.written = [(head, 0.5)]
            return torch.full((1, 2), float(self.calls))

    generation = Writing()
    heads = {"main": "main's", "personal": "personal's"}
    member = SimpleNamespace(generation=generation, heads=heads, task=SimpleNamespace(views_per_example=1))
    learner = BatchLearner(SimpleNamespace(), SimpleNamespace(route=lambda route: None), "fp32")
    with torch.inference_mode():
        for turn in range(2):
            learner.take(member, {"ids": torch.zeros(1)}, torch.zeros(1))
            first, second = learner.answers("global"), learner.answers({"local": 1.0}, "personal")
            assert generation.written == [("personal's", 0.5)]
            assert learner.answers("global") is first and generation.written == [("main's", 0.5)]
            assert learner.answers({"local": 1.0}, "personal") is second and generation.written == [("personal's", 0.5)]
            assert generation.calls == 2 * (turn + 1)
    learner.answers("global")
    learner.answers("global")
    assert generation.calls == 6, "in training, adapters move in between"
