"""The trainer's hooks for algorithms that need more than a step."""

import pytest
import torch
from small_clients import same
from test_trainer import MUSEUM, stored

from feddat.algorithms import Algorithm
from feddat.algorithms.base import task_step
from feddat.algorithms.server import ServerPart
from feddat.client.received import Received
from feddat.client.store import StoreError


class Half(Algorithm):
    """Shares one half of the entries, trains another half, and counts its steps over all rounds."""

    name, trains, routes = "half", ("global",), ("global",)

    def shares(self, key):
        return "layer.0" in key

    def trains_key(self, key):
        return key.endswith("weight")

    def begin(self, learner, context):
        context.state.setdefault("count", torch.zeros(()))

    def step(self, learner, context):
        assert context.step < context.steps
        context.state["count"] += 1
        return task_step(learner, "global")


def test_what_travels_trains_and_stays_is_told_by_key(process):
    p = process()
    p.algorithm = Half()
    participant = p.participant(MUSEUM)
    start = p.initial()
    shared = {key: value for key, value in start.items() if "layer.0" in key}
    first = participant.fit(shared, 1)
    assert list(first.shared) == list(shared)
    after = p.adapters.state("global")
    for key, value in start.items():
        assert torch.equal(after[key], value) == key.endswith("bias"), key
    kept = stored(participant, 1)
    own = {key: value for key, value in after.items() if "layer.1" in key and key.endswith("weight")}
    assert same({key: kept[f"global.{key}"] for key in own}, own)
    assert {key for key in kept if not key.startswith("head/")} == {f"global.{key}" for key in own} | {"state.count"}
    assert not any(parameter.grad is not None for parameter in p.adapters.model.parameters())


class Rests(Half):
    """Takes a step on every second batch only."""

    def step(self, learner, context):
        return task_step(learner, "global") if context.step % 2 else {"loss": torch.zeros(())}


def test_a_method_may_leave_a_batch_out(process):
    p = process()
    p.algorithm = Rests()
    shared = {key: value for key, value in p.initial().items() if "layer.0" in key}
    result = p.participant(MUSEUM).fit(shared, 1)
    assert result.metrics["loss"] > 0 and result.metrics["steps"] == 3
    assert not same(result.shared, shared)


def test_own_tensors_last_from_round_to_round_and_are_not_counted_twice(process):
    p = process()
    p.algorithm = Half()
    participant = p.participant(MUSEUM)
    shared = {key: value for key, value in p.initial().items() if "layer.0" in key}
    steps = int(participant.fit(shared, 1).metrics["steps"])
    for _ in range(2):  # the second time repeats the round, as after an interruption
        participant.fit(shared, 2)
        assert stored(participant, 2)["state.count"] == 2 * steps


def test_a_second_process_goes_on_with_the_personal_half(process):
    one = process()
    one.algorithm = Half()
    shared = {key: value for key, value in one.initial().items() if "layer.0" in key}
    one.participant(MUSEUM).fit(shared, 1)
    other = process(root=one.root)
    other.algorithm = Half()
    results = [p.participant(MUSEUM).fit(shared, 2).shared for p in (one, other)]
    assert same(*results)
    assert same(one.adapters.state("global"), other.adapters.state("global"))


class Courier(Algorithm):
    """Sends back twice what it received; trains only the head."""

    name, trains, routes = "courier", (), ("none",)

    class Server(ServerPart):
        def sends(self, state):
            return {"control": torch.zeros(2)}

        def expects(self, shared):
            return {"doubled": (2,)}

    server = Server()

    def step(self, learner, context):
        return task_step(learner, "none")

    def finish(self, learner, context):
        return {"doubled": 2 * context.received["control"]}


def test_extra_arrays_come_and_go(process):
    p = process()
    p.algorithm = Courier()
    result = p.participant(MUSEUM).fit(p.initial(), 1, {"control": torch.tensor([1.0, 3.0])})
    assert result.extras["doubled"].tolist() == [2.0, 6.0]


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({}, r"extra array control: got nothing, courier expects shape \(2,\)"),
        ({"control": torch.zeros(3)}, r"extra array control: got shape \(3,\), courier expects shape \(2,\)"),
        ({"control": torch.zeros(2), "more": torch.zeros(1)}, r"extra array more: got shape \(1,\), .* nothing"),
    ],
)
def test_extra_arrays_that_do_not_fit_are_refused(process, extras, message):
    p = process()
    p.algorithm = Courier()
    with pytest.raises(ValueError, match=f"client museum: {message}"):
        p.participant(MUSEUM).fit(p.initial(), 1, extras)


class Mixture(Algorithm):
    """Answers with a learned mixture of both adapters; does not train the local one."""

    name, trains, keeps, routes = "mixture", ("global",), ("local",), ("mix", "global")

    def begin(self, learner, context):
        context.state["mix"] = context.state.get("mix", torch.tensor(0.5)).requires_grad_()
        learner.also_train([context.state["mix"]])
        if context.previous is None:
            learner.copy("global", "local")

    def step(self, learner, context):
        loss = learner.task_loss(self.answer(learner, "mix", context))
        learner.update(loss)
        return {"loss": loss.detach()}

    def answer(self, learner, route, context):
        if route != "mix":
            return super().answer(learner, route, context)
        mix = context.state.get("mix", torch.tensor(0.5))
        return learner.logits(learner.features({"global": mix, "local": 1 - mix}))


def test_a_mixture_is_learned_kept_and_answers(process):
    p = process(**{"train.lr": 0.05})
    p.algorithm = Mixture()
    participant = p.participant(MUSEUM)
    received = p.initial()
    shared = participant.fit(received, 1).shared
    kept = stored(participant, 1)
    assert kept["state.mix"] != 0.5
    assert same({key: kept[f"local.{key}"] for key in received}, received)
    assert not any(key.startswith("anchor.") for key in kept)
    scores = participant.evaluate(Received(shared, 1), "test").scores["museum"]
    assert list(scores) == ["mix", "global"]


def test_a_second_head_is_trained_kept_and_answers(process):
    p = process(**{"algorithm.heads": "separate"})
    participant = p.participant(MUSEUM)
    shared = participant.fit(p.initial(), 1).shared
    kept = stored(participant, 1)
    main, own = ({k.removeprefix(x): v for k, v in kept.items() if k.startswith(x)}
                 for x in ("head/museum/", "head.global/museum/"))  # fmt: skip
    assert main.keys() == own.keys()
    assert not same(main, own)
    participant.members["museum"].reset_heads()
    participant.evaluate(Received(shared, 1), "test")
    heads = participant.members["museum"].heads
    assert same(heads["main"].state_dict(), main)
    assert same(heads["global"].state_dict(), own)


def test_both_heads_start_the_same(process):
    heads = process(**{"algorithm.heads": "separate"}).participant(MUSEUM).members["museum"].heads
    assert same(heads["main"].state_dict(), heads["global"].state_dict())


def test_state_that_lacks_a_head_is_refused(process):
    one = process()
    one.participant(MUSEUM).fit(one.initial(), 1)
    other = process(root=one.root, **{"algorithm.heads": "separate"})
    with pytest.raises(StoreError, match="client museum: personal state of round 1 does not fit"):
        other.participant(MUSEUM).fit(other.initial(), 2)


@pytest.mark.parametrize("number", [4, 1e5, -1, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize(("method", "key", "most"), [("fedlease", "experts", 3), ("fedalt", "replies", 2**24)])
def test_a_server_chooses_no_sizes_that_a_client_computes_with(process, method, key, most, number):
    p = process(method)
    participant = p.participant(MUSEUM)
    shared = p.initial()
    server = p.algorithm.server
    extras = dict(server.sends(server.start(shared))) | {key: torch.full((1,), number)}
    if 0 <= number <= most and number == int(number):
        participant.fit(shared, 1, extras)
        return
    with pytest.raises(ValueError, match=f"extra array {key}: got .*, expected a whole number from 0 to {most}"):
        participant.fit(shared, 1, extras)
    if method == "fedlease":
        with pytest.raises(ValueError, match="expected a whole number from 0 to 3"):
            participant.evaluate(Received(shared, 1, extras=extras), "test")
    assert participant.kept() == 0


def test_the_number_of_experts_stays_the_same(process):
    p = process("fedlease")
    participant = p.participant(MUSEUM)
    shared = p.initial()
    server = p.algorithm.server
    extras = dict(server.sends(server.start(shared)))
    participant.fit(shared, 1, extras | {"experts": torch.full((1,), 2.0)})
    for other in (0.0, 1.0, 3.0):
        with pytest.raises(ValueError, match=rf"extra array experts: got {other:g}, expected 2 as in earlier rounds"):
            participant.fit(shared, 2, extras | {"experts": torch.full((1,), other)})
    participant.fit(shared, 2, extras | {"experts": torch.full((1,), 2.0)})
