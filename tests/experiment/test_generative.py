"""Whole runs of a tiny random BLIP, which ranks or writes answers, from the command line to predictions."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from feddat.cli import main
from feddat.config import ConfigError, load_config
from feddat.experiment import Experiment
from feddat.experiment.single.federation import load_federation
from feddat.seeding import torch_generator
from helpers import make_tiny_blip

ROUNDS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_blip(tmp_path_factory.mktemp("model") / "blip")


@pytest.fixture(scope="module")
def settings(model, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return {
        "model": str(model), "runs_dir": str(runs), "name": "blip", "benchmark": "mini/domain", "train_examples": 16,
        "test_examples": 6, "rounds": ROUNDS, "train.batch_size": 8, "train.lr": 3e-3, "train.warmup": 0,
        "adapter.reduction": 4, "eval.every": 3, "threads": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(settings):
    with pytest.raises(SystemExit) as stopped:
        main(["run", *(f"{key}={value}" for key, value in settings.items())])
    assert stopped.value.code == 0
    return Path(settings["runs_dir"]) / "blip"


def test_the_loss_falls(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {
        (line["client"], line["round"]): line["metrics"]["loss"] for line in lines if line.get("split") == "train"
    }
    for client in {client for client, _ in losses}:
        assert losses[client, ROUNDS] < 0.9 * losses[client, 1]


def test_the_adapters_move_and_only_the_shared_part_travels(run, settings):
    summary = json.loads((run / "summary.json").read_text())
    federation = load_federation(load_config(**settings, method="feddat", **{"adapter.peft": "bottleneck"}), run)
    start = federation.foundation.initial_shared()
    count = sum(value.numel() for value in start.values())
    head = next(iter(federation.participants.values())).members.popitem()[1].heads["main"]
    size = sum(p.numel() for p in head.parameters())
    assert summary["parameters"]["communicated"] == count
    assert summary["parameters"]["trainable"] == 2 * count + size
    for folder in (run / "clients").iterdir():
        kept = load_file(sorted(folder.glob("round-*.safetensors"))[-1])
        assert {name.split("/")[0].split(".")[0] for name in kept} == {"local", "anchor", "head"}
        federation.foundation.adapters.initialise(torch_generator(0, folder.name, "local"), "local")
        drawn = federation.foundation.adapters.state("local")
        assert all(not torch.equal(kept[f"local.{key}"], drawn[key]) for key in start)
        assert all(not torch.equal(kept[f"anchor.{key}"], value) for key, value in start.items())
        heads = [value for name, value in kept.items() if name.startswith("head/")]
        assert sum(value.numel() for value in heads) == size


def predict(experiment):
    client, data = next(iter(load_federation(experiment.settings, experiment.folder.clients).data.items()))
    return experiment.predict(client, data.test[:2], k=3), set(data.answers)


def test_answers_are_ranked(run):
    found, answers = predict(Experiment.open(run))
    assert all(len(row) == 3 and {answer for answer, _ in row} <= answers for row in found)


def test_answers_are_written(settings):
    values = {"name": "written", "rounds": 1, "train_examples": 4, "test_examples": 2, "eval.answers": "generate"}
    experiment = Experiment(load_config(**(settings | values)))
    assert 0 <= experiment.run()["mean"] <= 100
    assert all(len(row) == 1 and 0 < row[0][1] <= 1 for row in predict(experiment)[0])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": "moon"}, "moon compares pooled features, but on model .* answers are written"),
        ({"method": "head", "head.lr": 0}, "head.lr: 0, but head has steps"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, tmp_path, values, said):
    config = load_config(**(settings | {"adapter.peft": "bottleneck"} | values))
    with pytest.raises(ConfigError, match=said):
        load_federation(config, tmp_path)
