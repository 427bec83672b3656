"""Clients of one federation share a backbone but answer in different ways: by classes, by ranking or in free text."""

import json

import pytest
import torch
from safetensors.torch import load_file

from feddat.client.member import answering
from feddat.config import ConfigError, EvalConfig, RunConfig
from feddat.example import ClientData, DataError
from feddat.experiment import Experiment
from helpers import make_tiny_albef, make_tiny_blip, make_tiny_vilt


def with_answers(config, **ways):
    """Return the configuration with the ways in which these clients answer."""
    clients = {name: spec | {"answers": ways[name]} if name in ways else spec for name, spec in config.clients.items()}
    return config.updated({"clients": clients})


def heads(folder, client):
    state = load_file(sorted((folder / "clients" / client).glob("round-*.safetensors"))[-1])
    return {key: value for key, value in state.items() if key.startswith("head")}


@pytest.mark.parametrize(("make", "way"), [(make_tiny_albef, "rank"), (make_tiny_blip, "generate")])
def test_one_client_classifies_and_another_writes(make_config, tmp_path, make, way):
    model = str(make(tmp_path / "model"))
    settings = {"model": model, "adapter__sites": r"(.*\.)?layer\.\d+\.output", "adapter__reduction": 2, "rounds": 3}
    config = with_answers(make_config(**settings), ann="classes", bob=way)
    summary = Experiment(config).run()
    folder = config.run_dir
    assert summary["clients"].keys() == {"ann", "bob"}

    classifier, vocabulary = heads(folder, "ann"), heads(folder, "bob")
    assert {len(value) for key, value in classifier.items() if key.endswith("3.bias")} == {3}  # three colours
    assert max(len(value) for value in vocabulary.values()) > 80  # word pieces

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for client in ("ann", "bob"):
        losses = [x["metrics"]["loss"] for x in lines if x.get("split") == "train" and x["client"] == client]
        assert losses[-1] < losses[0]

    # At the client that classifies, the decoder's adapters do not change: no gradient, no decay.
    kept = [load_file(folder / "clients" / "ann" / f"round-000{n}.safetensors") for n in (2, 3)]
    local = {key for key in kept[0] if key.startswith("local.")}
    rest = {key for key in local if torch.equal(kept[0][key], kept[1][key])}
    assert rest == {key for key in local if "decoder" in key} != set()

    samples = json.loads((folder / "predictions.json").read_text())
    assert {client: {len(x["top"]) for x in samples if x["client"] == client} for client in ("ann", "bob")} == {
        "ann": {3},
        "bob": {1 if way == "generate" else 3},
    }


def test_tasks_with_classes_of_their_own_run_beside_written_answers(make_config, tmp_path):
    config = make_config(model=str(make_tiny_albef(tmp_path / "model")), rounds=1, train_examples=8, test_examples=2)
    config = config.updated({"clients": None, "benchmark": "mini/task"})
    summary = Experiment(config).run()
    assert summary["clients"].keys() == {"vqa", "nlvr2", "snli-ve", "vcr"}
    heads_of = {client: heads(config.run_dir, client) for client in summary["clients"]}
    sizes = {client: max(len(value) for value in state.values()) for client, state in heads_of.items()}
    assert sizes["vqa"] > 80  # word pieces of the vocabulary
    assert sizes["snli-ve"] == 64  # hidden units


class Reads:
    """A backbone that can only write answers."""

    name = "m"
    encoder = model = feature_dim = family = first_token_counts = None

    def nothing(self, *arguments):
        raise AssertionError

    encode = features = word_head = save = answer_tokens = answer_text = answer_head = read = decode = nothing


class ReadsAndPools(Reads):
    """A backbone that can write and classify."""

    question_features = Reads.nothing


class Pools:
    """A backbone that can only classify."""

    name = "m"


@pytest.mark.parametrize(
    ("backbone", "task", "own", "run", "expected"),
    [
        (ReadsAndPools, "vqa", None, "rank", "rank"),
        (ReadsAndPools, "vqa", None, "classes", "classes"),
        (ReadsAndPools, "vqa", "generate", "classes", "generate"),
        (ReadsAndPools, "nlvr2", None, "rank", "classes"),
        (ReadsAndPools, "nlvr2", "rank", "rank", "answers: rank, but task nlvr2 has only classes"),
        (Reads, "vqa", None, "generate", "generate"),
        (Reads, "vqa", "classes", "rank", "model m only writes"),
        (Reads, "nlvr2", None, "rank", "model m only writes answers; expected task vqa"),
        (Pools, "vqa", None, "rank", "classes"),
        (Pools, "vqa", "classes", "rank", "classes"),
        (Pools, "vqa", "generate", "rank", "client c: answers: generate, but model m has only classes"),
    ],
)
def test_how_a_client_answers(backbone, task, own, run, expected):
    data, config = ClientData("c", task, (), (), (), answering=own), RunConfig(eval=EvalConfig(answers=run))
    if " " in expected:
        with pytest.raises(DataError, match=expected):
            answering(data, config, backbone())
    else:
        assert answering(data, config, backbone()) == expected


def test_an_unknown_way_is_named(make_config):
    with pytest.raises(DataError, match="client 'ann': answers: expected classes, rank, generate, got 'sing'"):
        Experiment(with_answers(make_config(), ann="sing")).run()


def test_all_clients_share_one_backbone(make_config, tmp_path):
    config = make_config(rounds=1)
    other = str(make_tiny_vilt(tmp_path / "other", words=["more"]))
    clients = {"ann": config.clients["ann"] | {"model": config.model}, "bob": config.clients["bob"]}
    Experiment(config.updated({"clients": clients})).run()
    assert Experiment.open(config.run_dir).config.model == config.model
    with pytest.raises(ConfigError, match=r"clients\.ann\.model: .*other.*all clients of a federation share one"):
        config.updated({"clients": clients | {"ann": config.clients["ann"] | {"model": other}}})
