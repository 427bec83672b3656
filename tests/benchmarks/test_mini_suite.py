"""The mini federations are deterministic, balanced, new to the bundled model, and never change."""

import hashlib
import json
from collections import Counter
from random import Random

import numpy as np
import pytest

from feddat.benchmarks import BenchmarkError, list_benchmarks, load_benchmark
from feddat.benchmarks.baselines import majority_score, text_only_score
from feddat.data.mini.captions import caption, question
from feddat.data.mini.scene import sample_scenes
from feddat.data.mini.vocabulary import vocabulary
from feddat.example import ClientData, Example
from feddat.pretrain.batches import scene_views

MINI = [name for name in list_benchmarks() if name.startswith("mini/")]
SMALL = {"train_examples": 40, "test_examples": 20}


def pixels(example: Example) -> bytes:
    return b"".join(image.tobytes() for image in example.images if isinstance(image, np.ndarray))


@pytest.mark.parametrize("name", MINI)
def test_same_seed_same_federation_and_another_seed_another_one(name: str) -> None:
    first, second, other = (load_benchmark(name, seed, **SMALL) for seed in (0, 0, 1))
    for one, two, three in zip(first.clients, second.clients, other.clients, strict=True):
        for split in ("train", "validation", "test"):
            rows = [(e.id, e.text, dict(e.answers), e.choices, e.label, pixels(e)) for e in one.split(split)]
            assert rows == [(e.id, e.text, dict(e.answers), e.choices, e.label, pixels(e)) for e in two.split(split)]
            assert [e.text for e in one.split(split)] != [e.text for e in three.split(split)]
        assert (len(one.train), len(one.validation), len(one.test)) == (40, 10, 20)


#: Federation -> hash of its texts and answers, and mean of its pixels. Recorded results depend on this data.
FIXED: dict[str, tuple[str, float]] = {
    "mini/domain": ("e9303a73f2beab7e", 180.64),
    "mini/function": ("f51b73e52c5f33ee", 119.86),
    "mini/scene": ("0c67d5fb14a3716f", 110.67),
    "mini/task": ("aacac357d3be6c58", 142.10),
    "mini/convention": ("0cb927974975e77c", 170.66),
    "mini-v1/domain": ("f3428bc08766eb00", 151.86),
    "mini-v1/function": ("fe6cc852d2b99734", 127.71),
    "mini-v1/scene": ("3110bb1d6cc4dc07", 117.34),
    "mini-v1/task": ("336d8a805784a549", 137.19),
}


@pytest.mark.parametrize("name", FIXED)
def test_data_of_recorded_results_never_change(name: str) -> None:
    """Texts must be equal. Pixels are compared by their mean, since processors round sines and powers differently."""
    examples = [
        (client.name, split, e)
        for client in load_benchmark(name, 0, **SMALL).clients
        for split in ("train", "validation", "test")
        for e in client.split(split)
    ]
    rows = [[name, split, e.text, sorted(e.answers.items()), e.choices, e.label] for name, split, e in examples]
    found = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    mean = np.mean([np.mean(image) for *_, e in examples for image in e.images])
    text, pixel = FIXED[name]
    assert (found, round(float(mean), 2)) == (text, pytest.approx(pixel, abs=0.02)), (found, mean)


def test_a_smaller_training_set_is_a_prefix_of_a_larger_one() -> None:
    small = load_benchmark("mini/domain", 0, train_examples=30, test_examples=10)
    large = load_benchmark("mini/domain", 0, train_examples=70, test_examples=10)
    for one, two in zip(small.clients, large.clients, strict=True):
        assert [(e.text, pixels(e)) for e in one.train] == [(e.text, pixels(e)) for e in two.train[:30]]


def test_what_each_federation_is_made_of() -> None:
    clients = {name: load_benchmark(name, 0, **SMALL).clients for name in MINI}
    assert [c.name for c in clients["mini/domain"]] == ["sketch", "night", "photo", "silhouette", "easy-vqa"]
    assert [c.name for c in clients["mini/function"]] == ["attribute", "knowledge", "logical", "object", "relation"]
    assert len(clients["mini/scene"]) == 6
    assert [c.task for c in clients["mini/task"]] == ["vqa", "nlvr2", "snli-ve", "vcr"]
    assert all(len(e.images) == 2 for e in clients["mini/task"][1].train)


def test_vocabulary_comes_from_the_training_split_alone() -> None:
    for client in load_benchmark("mini/function", 0, **SMALL).clients:
        assert set(client.answers) == {answer for e in client.train for answer in e.answers}


def test_no_downstream_text_was_seen_in_pretraining_and_every_word_is_one_token() -> None:
    random, words = Random(0), set(vocabulary())
    views = scene_views(sample_scenes(np.random.default_rng(0), 2000, "pretrain", (1, 2, 3, 4)))
    seen = {" ".join(make(view, random).words) for view in views for make in (caption, question)}
    for name in MINI:
        for client in load_benchmark(name, 0, train_examples=200, test_examples=20).clients:
            for example in client.train:
                text = example.text.replace("?", "").strip()
                assert text not in seen
                assert set(text.split()) | set(example.answers) <= words, text


def test_easy_vqa_holds_validation_images_out_of_training() -> None:
    client = load_benchmark("mini/domain", 0, train_examples=300, test_examples=100).clients[-1]
    train, validation = ({pixels(e) for e in split} for split in (client.train, client.validation))
    assert len(validation) > 30
    assert not train & validation
    assert client.train[0].images[0].shape == (64, 64, 3)  # type: ignore[union-attr]


def test_answers_cannot_be_guessed_from_frequency() -> None:
    for name in MINI:
        for client in load_benchmark(name, 0, train_examples=200, test_examples=200).clients:
            choices = 2 if client.task == "nlvr2" or client.name == "logical" else 1
            assert majority_score(client) < (62 if choices == 2 else 45), client.name
    logical = load_benchmark("mini/function", 0, train_examples=200, test_examples=20).clients[2]
    counts = Counter(answer for e in logical.train for answer in e.answers)
    assert abs(counts["yes"] - counts["no"]) < 40


def test_text_only_baseline_learns_what_texts_tell_and_nothing_else() -> None:
    def client(rows: list[tuple[str, str]]) -> ClientData:
        examples = tuple(Example(str(n), (), text, {answer: 1.0}) for n, (text, answer) in enumerate(rows))
        return ClientData("c", "vqa", examples, (), examples, ("red", "dog"))

    told = client([("which colour", "red"), ("which animal", "dog")] * 8)
    assert text_only_score(told) == 100
    assert majority_score(told) == 50
    untold = client([("which", "red"), ("which", "dog")] * 8)
    assert text_only_score(untold) == 50


def test_unknown_benchmark_names_the_known_ones() -> None:
    with pytest.raises(BenchmarkError, match=r"unknown benchmark 'mini/dmain'; known: mini/domain"):
        load_benchmark("mini/dmain")
