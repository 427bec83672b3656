"""Whole runs from the command line on a small random model of each family, except decoders.

Losses fall, both adapters change, only the shared part travels, and the trained model answers.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from feddat.cli import main
from feddat.config import ConfigError, load_config
from feddat.experiment import Experiment, load_clients
from feddat.models.catalog import DECODERS, FAMILIES
from feddat.models.tiny import make_tiny
from feddat.models.tiny.settings import SIZES
from helpers import sent_in

ROUNDS = 3
EVERYWHERE = r"adapter.sites='(.*\.)?layer\.\d+\.output'"
#: Name, which starts with the family -> settings, first parts of the names that travel, prefixes of the personal heads.
RUNS = {
    "vilt": ((), {"encoder"}, {"head"}),
    "vilt-bert, adapters in both": ((EVERYWHERE,), {"vilt", "bert"}, {"head"}),
    "blip": ((), {"text_encoder"}, {"head"}),
    "albef": ((), {"vision", "text_encoder", "text_decoder"}, {"head"}),
    "clip": ((), {"text_model", "vision_model"}, {"head"}),
    "clip, shared fusion, LoRA": (
        ("fusion.kind=transformer", "fusion.side=shared", "adapter.peft=lora"),
        {"text_model", "vision_model", "fusion"},
        {"head"},
    ),
    "siglip": ((), {"text_model", "vision_model"}, {"head"}),
    "siglip, personal fusion, other tasks": (
        ("fusion.kind=transformer", "benchmark=mini/task"),
        {"text_model", "vision_model"},
        {"head", "head.fusion"},
    ),
}


def call(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 0


def parameters(path, prefix):
    """Return the parameters in a file whose names start with ``prefix``, by the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in load_file(path).items() if key.startswith(prefix)}


def moved(earlier, later):
    """Return whether every tensor has changed."""
    assert earlier.keys() == later.keys()
    return [key for key in earlier if torch.equal(earlier[key], later[key])] == []


def test_every_family_runs():
    # Decoders are in test_decoder_runs.py.
    assert {name.partition(",")[0] for name in RUNS} == FAMILIES.keys() - set(DECODERS)


@pytest.mark.parametrize("name", RUNS)
def test_a_family_learns_answers_and_only_its_shared_part_travels(name, tmp_path, capsys):
    overrides, travels, stays = RUNS[name]
    torch.set_num_threads(1)
    model = make_tiny(name.partition(",")[0], tmp_path / "model", SIZES["unit"])
    settings = {
        "runs_dir": tmp_path,
        "name": "run",
        "model": model,
        "rounds": ROUNDS,
        "benchmark": "mini/domain",
        "train_examples": 16,
        "test_examples": 4,
        "train.batch_size": 8,
        "train.lr": 0.003,
        "adapter.reduction": 2,  # a smaller adapter has so few units that possibly none is active
        "eval.every": ROUNDS,
    }
    call("run", *(f"{key}={value}" for key, value in settings.items()), *overrides)
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())

    losses = {1: 0.0, ROUNDS: 0.0}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        if line.get("split") == "train" and line["round"] in losses:
            losses[line["round"]] += line["metrics"]["loss"]
    assert losses[ROUNDS] < losses[1]

    sent = [sent_in(run, n) for n in (2, 3)]
    assert {key.partition(".")[0] for key in sent[1]} == travels
    assert moved(*sent)
    count = sum(value.numel() for value in sent[1].values())
    assert summary["parameters"]["communicated"] == count
    messages = ROUNDS * len(summary["clients"])
    assert 4 * count < summary["bytes"]["up"] / messages < 4 * count + 400 * len(sent[1]) + 5_000

    client = next(iter(summary["clients"]))
    kept = [run / "clients" / client / f"round-000{n}.safetensors" for n in (2, 3)]
    assert moved(*(parameters(path, "local.") for path in kept))
    own = parameters(kept[1], "local.")
    assert own.keys() == sent[1].keys()
    assert not any(torch.equal(own[key], sent[1][key]) for key in own)
    assert {key.partition("/")[0] for key in load_file(kept[1]) if key.startswith("head")} == stays
    assert moved(*(parameters(path, "head") for path in kept))

    data = next(data for data in load_clients(Experiment.open(run).settings) if data.name == client)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "black.png")
    pictures = ["--image", str(tmp_path / "black.png")] * len(data.test[0].images)
    choices = [word for choice in data.test[0].choices for word in ("--choice", choice)]
    capsys.readouterr()
    call("predict", "--run", str(run), "--client", client, *pictures, "--question", data.test[0].text, *choices)
    said = [line.partition("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert len(said) == min(5, len(data.answers or said))
    assert set(said) <= set(data.answers or said)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "fedrep"}, "fusion.side: personal, but fedrep trains heads on fixed features"),
        ({"head.lr": 0}, "head.lr: 0, but a personal fusion trains at the head's rate"),
        (
            {"adapter.peft": "prompt", "method": "fedavg", "fusion.side": "shared"},
            "kind 'prompt' does not train fusion",
        ),
        ({"model": "vilt-mini"}, "fusion: model vilt-mini has one stream"),
    ],
)
def test_settings_that_would_leave_a_fusion_untrained_are_refused(tmp_path, values, message):
    settings = {
        "model": str(make_tiny("clip", tmp_path / "model", SIZES["unit"])),
        "fusion.kind": "transformer",
        "runs_dir": tmp_path,
    }
    with pytest.raises(ConfigError, match=message):
        Experiment(load_config(**settings | {"train_examples": 4, "test_examples": 4} | values)).run()
