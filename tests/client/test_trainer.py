import dataclasses

import pytest
import torch
from small_clients import label_client, same, vqa_client

from feddat.algorithms import Algorithm
from feddat.client.batches import plan_batches
from feddat.client.local_training import LocalTraining, TrainingError
from feddat.client.received import Received
from feddat.client.store import StoreError
from feddat.client.trainer import evaluated_routes
from feddat.config import ConfigError
from feddat.example import DataError
from feddat.models.encoding import encode_views
from helpers import needs_vnni

MUSEUM, STREET = vqa_client("museum"), vqa_client("street", answers=("blue", "red"))


def losses(result):
    return {key: value for key, value in result.metrics.items() if key != "seconds"}


def stored(participant, round):
    return participant.store.read(round)[1]


# --- what leaves and what stays ---------------------------------------------------------------------------------------


def test_only_the_global_adapter_leaves(process):
    p = process()
    shared = p.initial()
    result = p.participant(MUSEUM).fit(shared, 1)
    assert result.shared.keys() == shared.keys()
    assert same(result.shared, p.weights("global"))
    assert not same(result.shared, shared)
    for private in (p.weights("local"), p.weights("anchor")):
        assert not same(result.shared, private)
    assert not any(word in key for key in result.shared for word in ("head", "local", "anchor"))
    assert result.examples == 11


def test_the_anchor_is_what_was_received(process):
    p = process()
    shared = p.initial()
    participant = p.participant(MUSEUM)
    participant.fit(shared, 1)
    assert same(p.weights("anchor"), shared)
    kept = stored(participant, 1)
    assert same({key: kept[f"anchor.{key}"] for key in shared}, shared)
    assert not same({key: kept[f"local.{key}"] for key in shared}, shared)


def test_the_anchor_is_new_in_every_round(process):
    p = process()
    participant = p.participant(MUSEUM)
    first = participant.fit(p.initial(), 1).shared
    received = {key: value + 0.5 for key, value in first.items()}
    participant.fit(received, 2)
    assert same(p.weights("anchor"), received)
    assert same({key: stored(participant, 2)[f"anchor.{key}"] for key in received}, received)


@pytest.mark.parametrize(
    ("method", "kept"), [("feddat", {"local", "anchor", "head"}), ("fedavg", {"head"}), ("head", {"head"}),
                         ("local", {"local", "anchor", "head"}), ("central", {"global", "head"})],
)  # fmt: skip
def test_what_each_method_keeps(process, method, kept):
    p = process(method)
    participant = p.participant(MUSEUM)
    result = participant.fit(p.initial() if p.algorithm.communicates else None, 1)
    assert {key.replace("/", ".").split(".")[0] for key in stored(participant, 1)} == kept
    assert (result.shared is not None) == (method in ("feddat", "fedavg"))


def test_a_communicating_method_needs_the_global_adapter(process):
    with pytest.raises(ValueError, match="client museum: feddat needs the global adapter"):
        process().participant(MUSEUM).fit(None, 1)


def test_head_only_trains_the_head_alone(process):
    p = process("head")
    participant = p.participant(MUSEUM)
    p.initial()
    before = p.weights("global")
    head = [v.clone() for v in participant.members["museum"].heads["main"].state_dict().values()]
    participant.fit(None, 1)
    assert same(before, p.weights("global"))
    assert not same(head, participant.members["museum"].heads["main"].state_dict())


def test_the_frozen_model_never_moves(process):
    p = process()
    trained = {id(q) for name in ("global", "local", "anchor") for q in p.adapters.parameters(name)}
    frozen = {n: q.detach().clone() for n, q in p.backbone.model.named_parameters() if id(q) not in trained}
    p.participant(MUSEUM).fit(p.initial(), 1)
    assert len(frozen) > 20
    assert all(torch.equal(q, dict(p.backbone.model.named_parameters())[n]) for n, q in frozen.items())


# --- the same numbers, whoever ran before -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["feddat", "fedavg", "local", "head"])
def test_order_of_clients_and_process_do_not_matter(process, method):
    def run(names):
        p = process(method)
        clients = {c.name: p.participant(c) for c in (MUSEUM, STREET)}
        shared = p.initial() if p.algorithm.communicates else None
        results = {}
        for round in (1, 2):
            for name in names:
                fit = clients[name].fit(shared, round)
                scores = clients[name].evaluate(Received(shared, round), "test").scores
                results[name, round] = (fit.shared or {}, losses(fit), scores, stored(clients[name], round))
        return results

    one, other = run(["museum", "street"]), run(["street", "museum"])
    for key, (shared, metrics, scores, kept) in one.items():
        assert same(shared, other[key][0])
        assert metrics == other[key][1]
        assert scores == other[key][2]
        assert same(kept, other[key][3])


def test_another_seed_gives_other_numbers(process):
    one, two = process(), process(seed=1)
    shared = one.initial()
    assert not same(one.participant(MUSEUM).fit(shared, 1).shared, two.participant(MUSEUM).fit(shared, 1).shared)


def test_a_restarted_process_goes_on_from_the_store(process, tmp_path):
    p = process()
    participant = p.participant(MUSEUM)
    first = participant.fit(p.initial(), 1).shared
    uninterrupted = participant.fit(first, 2)

    before, after = process(root=tmp_path / "shared"), process(root=tmp_path / "shared")
    assert same(before.participant(MUSEUM).fit(before.initial(), 1).shared, first)
    resumed = after.participant(MUSEUM).fit(first, 2)
    assert same(resumed.shared, uninterrupted.shared)
    assert losses(resumed) == losses(uninterrupted)


def test_repeating_a_round_repeats_its_numbers(process):
    p = process()
    participant = p.participant(MUSEUM)
    shared = p.initial()
    for round in (1, 2):
        once = participant.fit(shared, round)
        participant.evaluate(Received(once.shared, round), "test")
        again = participant.fit(shared, round)
        assert same(once.shared, again.shared)
        shared = once.shared


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"algorithm.order": "joint"}, {"adapter.peft": "lora"}])
def test_training_learns(process, settings):
    p = process(**{"train.epochs": 8, "train.lr": 5e-3, **settings})
    participant = p.participant(MUSEUM)
    shared = p.initial()
    before = participant.evaluate(Received(shared, 0), "train").scores["museum"]
    first = participant.fit(shared, 1)
    second = participant.fit(first.shared, 2)
    after = participant.evaluate(Received(second.shared, 2), "train").scores["museum"]
    assert second.metrics["loss"] < 0.7 * first.metrics["loss"]
    assert after["dat"] > before["dat"]
    assert after["global"] > 60


def test_a_fit_is_the_plain_loop_with_the_rate_set_at_every_batch(process):
    p, q = process("fedavg", **{"train.epochs": 2}), process("fedavg")
    shared = p.initial()
    trained = p.participant(MUSEUM).fit(shared, 1).shared

    q.adapters.load("global", shared)
    q.adapters.route("global")
    member = q.participant(MUSEUM).members["museum"]
    part = member.prepared("train")
    parameters = [*q.adapters.parameters("global"), *member.heads["main"].parameters()]
    groups = [
        {"params": [w for w in parameters if w.ndim > 1], "weight_decay": 1e-2},
        {"params": [w for w in parameters if w.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-8)
    plan = plan_batches({"museum": 11}, epochs=2, batch_size=4, seed=0, turn=1)
    for step, (_, indices) in enumerate(plan):  # 10 % of six steps: no warm-up
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (6 - step) / 6
        logits = member.heads["main"](q.backbone.features(part.views.batch(indices, member.device)))
        optimizer.zero_grad()
        member.task.loss(logits, part.targets[indices]).backward()
        optimizer.step()
    for key, value in q.adapters.state("global").items():
        torch.testing.assert_close(trained[key], value, atol=2e-6, rtol=0)
        assert not torch.equal(value, shared[key])


def test_metrics_of_a_fit(process):
    p = process(**{"train.epochs": 2})
    metrics = p.participant(MUSEUM).fit(p.initial(), 1).metrics
    assert metrics["examples"] == 11
    assert metrics["steps"] == 6
    assert metrics["seconds"] > 0
    expected = 0.5 * sum(metrics[key] for key in ("task_global", "task_dat", "kl_global", "kl_dat"))
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_images_are_encoded_once(process, monkeypatch):
    p = process()
    seen = []
    monkeypatch.setattr(
        "feddat.client.member.encode_views",
        lambda encoder, views, reader: seen.append(len(views)) or encode_views(encoder, views, reader),
    )
    participant = p.participant(MUSEUM)
    shared = p.initial()
    for round in (1, 2, 3):
        participant.fit(shared, round)
        participant.evaluate(Received(shared, round), "test")
    assert seen == [11, 6]


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("int8", marks=needs_vnni)])
def test_precision(process, precision):
    p = process(**{"train.precision": precision})
    full = process()
    shared = p.initial()
    result = p.participant(MUSEUM).fit(shared, 1)
    assert all(value.dtype == torch.float32 for value in result.shared.values())
    reference = full.participant(MUSEUM).fit(shared, 1)
    assert same(result.shared, reference.shared) == (precision == "fp32")
    assert result.metrics["loss"] == pytest.approx(reference.metrics["loss"], rel=0.05)


def test_a_diverging_run_stops_with_the_client_round_and_step_and_stores_nothing(process):
    p = process("fedavg", **{"train.lr": 1e30})
    participant = p.participant(MUSEUM)
    with pytest.raises(TrainingError, match=r"client museum: round 1, step 2 of 3: .* is (nan|inf)"):
        participant.fit(p.initial(), 1)
    assert participant.store.rounds() == []


def test_a_gradient_that_is_not_finite_stops_too(process):
    class Broken(Algorithm):
        name, trains, communicates, routes = "broken", (), False, ("none",)

        def step(self, learner, context):
            loss = (learner.logits(learner.features("none")) * 0.0).sum().sqrt()
            learner.update(loss)
            return {"loss": loss.detach()}

    p = process("head")
    p.algorithm = Broken()
    with pytest.raises(TrainingError, match="round 3, step 1 of 3: gradient norm is nan"):
        p.participant(MUSEUM).fit(None, 3)


def test_nothing_to_train_on_is_an_error(process):
    p = process()
    with pytest.raises(DataError, match="client museum: no training examples"):
        p.participant(dataclasses.replace(MUSEUM, train=())).fit(p.initial(), 1)


def test_an_example_that_the_task_cannot_use_names_the_client_and_split(process):
    p = process()
    broken = dataclasses.replace(MUSEUM.train[0], id="bad-one", answers={})
    participant = p.participant(dataclasses.replace(MUSEUM, train=(*MUSEUM.train, broken)))
    with pytest.raises(DataError, match="client museum, train: example bad-one"):
        participant.fit(p.initial(), 1)


def test_an_unknown_task_names_the_client(process):
    with pytest.raises(DataError, match="client museum: unknown task 'ocr'"):
        process().participant(dataclasses.replace(MUSEUM, task="ocr"))


def test_a_state_of_another_answer_list_is_refused(process, tmp_path):
    first, second = process(root=tmp_path / "disk"), process(root=tmp_path / "disk")
    shared = first.initial()
    first.participant(MUSEUM).fit(shared, 1)
    changed = dataclasses.replace(MUSEUM, answers=("green", "red", "blue"))
    with pytest.raises(StoreError, match=r"client museum: personal state of round 1 .* answer list"):
        second.participant(changed).fit(shared, 2)


def test_a_state_of_another_adapter_size_is_refused(process, tmp_path):
    first, second = process(root=tmp_path / "disk"), process(root=tmp_path / "disk", **{"adapter.peft": "lora"})
    first.participant(MUSEUM).fit(first.initial(), 1)
    with pytest.raises(StoreError, match=r"client museum: personal state of round 1 does not fit: .*key"):
        second.participant(MUSEUM).fit(second.initial(), 2)


def test_heads_can_start_from_words(process):
    p = process(**{"head.init": "words"})
    member = p.participant(MUSEUM).members["museum"]
    words = p.backbone.word_head(MUSEUM.answers)
    assert same(member.heads["main"].state_dict(), words.state_dict())


def test_words_need_a_word_head(process, monkeypatch):
    p = process(**{"head.init": "words"})
    monkeypatch.setattr(p.backbone, "word_head", lambda answers: None)
    with pytest.raises(ConfigError, match=r"head\.init"):
        p.participant(MUSEUM)


def test_a_frozen_head_stays_and_is_no_part_of_the_step(process):
    p = process(**{"head.lr": 0})
    participant = p.participant(MUSEUM)
    head = participant.members["museum"].heads["main"]
    before = {key: value.clone() for key, value in head.state_dict().items()}
    shared = p.initial()
    result = participant.fit(shared, 1)
    assert same(head.state_dict(), before)
    assert not same(result.shared, shared)
    assert not any(parameter.requires_grad for parameter in head.parameters())


# --- evaluation and prediction ----------------------------------------------------------------------------------------


def test_scores_are_the_mean_of_the_tasks_scores(process):
    p = process()
    participant = p.participant(MUSEUM)
    shared = participant.fit(p.initial(), 1).shared
    result = participant.evaluate(Received(shared, 1), "test")
    assert result.examples == {"museum": 6}
    assert list(result.scores["museum"]) == ["dat", "local", "global"]
    member = participant.members["museum"]
    part = member.prepared("test")
    for route, score in result.scores["museum"].items():
        p.adapters.route(route)
        with torch.no_grad():
            logits = member.heads["main"](p.backbone.features(part.views.batch(range(6), torch.device("cpu"))))
        right = [MUSEUM.answers[i] in e.answers for i, e in zip(logits.argmax(1), MUSEUM.test, strict=True)]
        assert score == pytest.approx(100 * sum(right) / 6)


def test_a_client_that_never_trained_answers_from_its_start(process):
    p, other = process(), process()
    shared = p.initial()
    fresh = p.participant(MUSEUM).evaluate(Received(shared, 4), "test").scores
    street = other.participant(STREET)
    street.fit(shared, 1)
    assert other.participant(MUSEUM).evaluate(Received(shared, 4), "test").scores == fresh
    assert same(p.weights("local"), other.weights("local"))
    assert same(p.weights("anchor"), shared)


@pytest.mark.parametrize("anchor", ["trained", "newest"])
def test_which_anchor_evaluation_uses(process, anchor):
    p = process(**{"eval.anchor": anchor})
    received = p.initial()
    participant = p.participant(MUSEUM)
    newer = participant.fit(received, 1).shared
    participant.evaluate(Received(newer, 1), "test")
    assert same(p.weights("anchor"), received if anchor == "trained" else newer)
    assert same(p.weights("global"), newer)


def test_evaluation_uses_the_state_of_its_round(process):
    p = process(**{"train.lr": 5e-3})
    participant = p.participant(MUSEUM)
    shared = participant.fit(p.initial(), 1).shared
    participant.evaluate(Received(shared, 1), "test")
    first = p.weights("local")
    assert same(first, [stored(participant, 1)[f"local.{key}"] for key in shared])
    participant.fit(shared, 2)
    participant.evaluate(Received(shared, 1), "test")
    assert same(p.weights("local"), first)
    participant.evaluate(Received(shared, 2), "test")
    assert not same(p.weights("local"), first)


def test_an_empty_split_has_no_scores(process):
    p = process()
    participant = p.participant(dataclasses.replace(MUSEUM, validation=()))
    result = participant.evaluate(Received(p.initial(), 0), "validation")
    assert (result.scores, result.examples) == ({}, {"museum": 0})


def test_predictions_agree_with_scores(process):
    p = process(**{"train.epochs": 4, "train.lr": 5e-3})
    participant = p.participant(MUSEUM)
    shared = participant.fit(p.initial(), 1).shared
    answers = participant.predict(Received(shared, 1), "museum", MUSEUM.test, k=2)
    assert [len(top) for top in answers] == [2] * 6
    assert all(1 >= top[0][1] >= top[1][1] >= 0 for top in answers)
    right = [top[0][0] in example.answers for top, example in zip(answers, MUSEUM.test, strict=True)]
    assert participant.evaluate(Received(shared, 1), "test").scores["museum"]["dat"] == pytest.approx(
        100 * sum(right) / 6
    )
    everything = participant.predict(Received(shared, 1), "museum", MUSEUM.test[:1], k=99)
    assert sum(value for _, value in everything[0]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("task", ["nlvr2", "snli-ve", "vcr"])
def test_examples_of_several_views_stay_together_in_batches(process, task):
    p = process(**{"train.batch_size": 3, "train.lr": 1e-12})
    client = label_client(task)
    participant = p.participant(client)
    shared = p.initial()
    metrics = participant.fit(shared, 1).metrics
    member = participant.members[task]

    def alone(example):
        p.adapters.route("global")
        views = p.backbone.encode(member.task.views(example))
        with torch.no_grad():
            return member.task.logits(
                member.heads["main"], p.backbone.features(views.batch(range(len(views)), member.device))
            )

    losses = [member.task.loss(alone(e), member.task.targets([e])).item() for e in client.train]
    assert metrics["task_global"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)

    scores = participant.evaluate(Received(shared, 1), "test").scores[task]
    right = [alone(e).argmax().item() == e.label for e in client.test]
    assert scores["global"] == pytest.approx(100 * sum(right) / len(right))

    together = participant.predict(Received(shared, 1), task, client.test, k=9)
    one_by_one = [participant.predict(Received(shared, 1), task, [e], k=9)[0] for e in client.test]
    for first, second in zip(together, one_by_one, strict=True):
        assert [answer for answer, _ in first] == [answer for answer, _ in second]
        assert [value for _, value in first] == pytest.approx([value for _, value in second], abs=1e-5)
    assert {answer for answer, _ in together[0]} == set(client.test[0].choices or member.task.classes)


def test_predicting_for_nobody_or_nothing(process):
    p = process()
    participant = p.participant(MUSEUM)
    assert participant.predict(Received(p.initial(), 0), "museum", []) == []
    with pytest.raises(ValueError, match="no member 'street'; expected one of museum"):
        participant.predict(Received(p.initial(), 0), "street", MUSEUM.test)


# --- personal fine-tuning after the last round ------------------------------------------------------------------------


def test_personal_fine_tuning(process):
    p = process("fedavg", **{"algorithm.personal_epochs": 12, "train.lr": 5e-3})
    participant = p.participant(MUSEUM)
    shared = participant.fit(p.initial(), 1).shared
    plain = participant.evaluate(Received(shared, 1), "train").scores["museum"]
    kept = stored(participant, 1)
    final = participant.evaluate(Received(shared, 1, final=True), "train").scores["museum"]
    assert list(plain) == ["global"]
    assert list(final) == ["local"]
    assert final["local"] > plain["global"]
    assert not same(p.weights("local"), shared)
    # The tuned adapter is stored beside the personal state. That state and the shared adapter stay as they were.
    assert same(p.weights("global"), shared)
    assert same(stored(participant, 1), kept)
    assert participant.evaluate(Received(shared, 1), "train").scores["museum"] == plain


def test_personal_fine_tuning_runs_once_and_is_used_for_predictions(process, tmp_path, monkeypatch):
    settings = {"algorithm.personal_epochs": 3, "train.lr": 5e-3}
    p = process("fedavg", root=tmp_path / "disk", **settings)
    participant = p.participant(MUSEUM)
    shared = participant.fit(p.initial(), 1).shared
    participant.evaluate(Received(shared, 1, final=True), "test")
    tuned = p.weights("local")

    restarted = process("fedavg", root=tmp_path / "disk", **settings)
    again = restarted.participant(MUSEUM)
    monkeypatch.setattr(LocalTraining, "run", None)
    again.predict(Received(shared, 1, final=True), "museum", MUSEUM.test)
    assert same(restarted.weights("local"), tuned)


def test_feddyn_answers_and_fine_tunes_from_the_clients_mean(process, monkeypatch):
    p = process("feddyn", **{"algorithm.personal_epochs": 1})
    participant = p.participant(MUSEUM)
    mean = participant.fit(p.initial(), 1).shared
    ahead = {key: torch.full_like(value, 0.5) for key, value in mean.items()}
    sent, extras = {key: value + 0.5 for key, value in mean.items()}, {f"ahead.{k}": v for k, v in ahead.items()}
    participant.evaluate(Received(sent, 1, extras=extras), "test")
    torch.testing.assert_close(p.weights("global"), list(mean.values()))
    monkeypatch.setattr(LocalTraining, "run", lambda *_, **__: None)
    participant.evaluate(Received(sent, 1, final=True, extras=extras), "test")
    torch.testing.assert_close(p.weights("local"), list(mean.values()))


def test_who_is_fine_tuned(process):
    p = process("fedavg", **{"algorithm.personal_epochs": 1})
    settings = p.config.algorithm
    assert evaluated_routes(p.algorithm, settings) == ("global",)
    assert evaluated_routes(p.algorithm, settings, final=True) == ("local",)
    assert evaluated_routes(process("feddat").algorithm, settings, final=True) == ("dat", "local", "global")
    assert evaluated_routes(process("local").algorithm, settings, final=True) == ("local",)


# --- all data in one place --------------------------------------------------------------------------------------------


def test_central_trains_one_adapter_and_a_head_for_each_member(process):
    p = process("central", **{"train.epochs": 4, "train.lr": 5e-3})
    participant = p.participant(MUSEUM, STREET, name="central")
    heads = {
        name: [v.clone() for v in m.heads["main"].state_dict().values()] for name, m in participant.members.items()
    }
    start = p.initial()
    first = participant.fit(None, 1)
    assert first.examples == 22
    assert first.metrics["steps"] == 24
    assert not same(p.weights("global"), start)
    for name, member in participant.members.items():
        assert not same(heads[name], member.heads["main"].state_dict())
    moved = p.weights("global")
    scores = participant.evaluate(Received(None, 1), "test")
    assert same(p.weights("global"), moved)
    assert {name: list(values) for name, values in scores.scores.items()} == {
        "museum": ["global"],
        "street": ["global"],
    }
    assert participant.fit(None, 2).metrics["loss"] < first.metrics["loss"]


def test_a_members_head_starts_the_same_in_every_method(process):
    alone = process("fedavg").participant(STREET).members["street"].heads["main"]
    central = process("central").participant(MUSEUM, STREET, name="central").members["street"].heads["main"]
    assert same(alone.state_dict(), central.state_dict())
