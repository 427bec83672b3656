"""Cached outputs of the frozen prefix: the same training, less computing, within a memory budget."""

import pytest
import torch
from small_clients import same, vqa_client

from feddat.adapters.build import build_adapters
from feddat.client.prefixes import GROUP, PrefixCache, PrefixViews
from feddat.client.received import Received
from feddat.client.store import PersonalStore
from feddat.client.trainer import Participant
from feddat.example import View
from feddat.models.stages import MASK, STATES
from feddat.models.vilt.backbone import ViltBackbone

CPU = torch.device("cpu")
PLENTY = 2**30


@pytest.fixture
def staged(model_folder):
    backbone = ViltBackbone(model_folder)
    backbone.stage(build_adapters(backbone.model, reduction=4).changed)
    return backbone


def client_views(backbone, texts=("red", "what is the color ?", "is it blue ?")):
    image = vqa_client("a").train[0].images[0]
    return backbone.encode([View(image, text) for text in texts])


def kept(participant):
    return participant._prefixes._kept


def participant(process, cache, *clients):
    first = clients[0]
    store = PersonalStore(process.root, first.name)
    return Participant(
        first.name, clients, process.config, process.backbone, process.adapters, process.algorithm, store, cache
    )


def test_a_batch_pads_behind_what_it_needs():
    views = PrefixViews([torch.full((2, 1), 1.0), torch.full((3, 1), 2.0), torch.full((3, 1), 3.0)])
    assert views.batch([2, 1], CPU).keys() == {STATES}
    batch = views.batch(torch.tensor([0, 2]), CPU)
    assert batch[STATES][..., 0].tolist() == [[1, 1, 0], [3, 3, 3]]
    assert batch[MASK].tolist() == [[[[True, True, False]]], [[[True, True, True]]]]


@torch.no_grad()
def test_features_are_the_same_from_kept_prefixes(staged):
    views = client_views(staged)
    found = PrefixCache(PLENTY).views(("a",), views, staged, CPU)
    for rows in ([0, 1, 2], [2, 0], [1]):
        torch.testing.assert_close(
            staged.features(found.batch(rows, CPU)), staged.features(views.batch(rows, CPU)), atol=1e-5, rtol=0
        )


def test_nothing_below_the_first_adapter_is_computed_twice(staged):
    ran = []
    staged.model.embeddings.register_forward_hook(lambda *_: ran.append(1))
    views, cache = client_views(staged, ["red"] * (GROUP + 1)), PrefixCache(PLENTY)
    for _ in range(3):
        cache.views(("a",), views, staged, CPU).batch([0, GROUP], CPU)
    assert len(ran) == 2  # a whole group, and the rest
    with_again = cache.views(("b",), views, staged, CPU)
    assert len(ran) == 4 and with_again is not cache.views(("a",), views, staged, CPU)


def test_the_longest_unused_makes_room_and_comes_back_the_same(staged):
    views = client_views(staged)
    whole = PrefixCache(PLENTY)
    before = whole.views(("a",), views, staged, CPU).batch([0, 1, 2], CPU)[STATES]
    size = whole._kept["a",][1]
    cache = PrefixCache(2 * size)
    for key in ("a", "b", "a", "c"):
        cache.views((key,), views, staged, CPU)
    assert list(cache._kept) == [("a",), ("c",)]
    cache.views(("b",), views, staged, CPU)
    assert torch.equal(cache.views(("a",), views, staged, CPU).batch([0, 1, 2], CPU)[STATES], before)


def test_what_is_too_large_is_not_kept(staged):
    views, cache = client_views(staged), PrefixCache(1000)
    assert cache.views(("a",), views, staged, CPU) is views
    ran = []
    staged.model.embeddings.register_forward_hook(lambda *_: ran.append(1))
    assert cache.views(("a",), views, staged, CPU) is views
    assert not ran  # it is not tried again


def test_under_dropout_nothing_is_kept(staged):
    staged.model.train()
    staged.model.encoder.layer[0].attention.output.dropout.p = 0.1
    views = client_views(staged)
    assert PrefixCache(PLENTY).views(("a",), views, staged, CPU) is views


@pytest.mark.parametrize("method", ["feddat", "fedavg", "feddpa"])
def test_training_and_scores_are_the_same_with_and_without(process, method):
    """Within rounding; and exactly, whether or not the prefixes of earlier rounds were kept."""
    client = vqa_client("a")
    results = []
    for cache in (None, PrefixCache(PLENTY), PrefixCache(PLENTY)):
        fresh = process(method)
        shared, whole = fresh.initial(), participant(fresh, cache, client)
        for round in (1, 2):
            if round == 2 and len(results) == 2:
                whole._prefixes = PrefixCache(PLENTY)  # as in a resumed run
            fit = whole.fit(shared, round)
        results.append((fit.shared, whole.evaluate(Received(shared, 2), "test").scores))
    plain, carried, resumed = results
    for key, value in plain[0].items():
        torch.testing.assert_close(carried[0][key], value, atol=1e-5, rtol=1e-4)
    assert same(carried[0], resumed[0])
    assert plain[1] == carried[1] == resumed[1]


def test_heads_alone_train_on_features_that_are_kept_whole(process):
    """The features are those of the model without its adapters, whichever route was set before."""
    client = vqa_client("a")
    scores = []
    for cache in (None, PrefixCache(PLENTY)):
        fresh = process("head")
        whole = participant(fresh, cache, client)
        fresh.adapters.route("global")
        fits = [whole.fit(None, round).metrics["loss"] for round in (1, 2)]
        scores.append((fits, whole.evaluate(Received(None, 2), "test").scores))
        if cache is None:
            # Stage the model as if routes changed every layer.
            whole.backbone.stage(fresh.adapters.changed)
            assert whole.evaluate(Received(None, 2), "test").scores == scores[0][1]
    assert scores[0][0] == pytest.approx(scores[1][0], rel=1e-5)
    assert scores[0][1] == scores[1][1]
    states = cache.views(("a", "a", "train"), None, None, None)
    assert {len(row) for row in states._states} == {1}  # only the first token is needed again
