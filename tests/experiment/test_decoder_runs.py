"""Tiny decoder vision-language models in whole federations, from the command line to a prediction."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from feddat.cli import main
from feddat.config import ConfigError, load_config
from feddat.experiment import Experiment
from feddat.experiment.single.federation import load_federation
from feddat.models.base import ModelError
from feddat.models.catalog import DECODERS
from feddat.models.tiny import make_tiny
from feddat.models.tiny.settings import SIZES
from helpers import sent_in

ROUNDS = 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: make_tiny(family, root / family, SIZES["unit"]) for family in DECODERS}


def command(*words):
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, words)])
    assert stopped.value.code == 0


def run(folder, model, *overrides):
    settings = {
        "runs_dir": folder, "name": "run", "model": model, "rounds": ROUNDS, "benchmark": "mini/domain",
        "train_examples": 8, "test_examples": 2, "train.batch_size": 8, "train.lr": 0.01, "eval.every": ROUNDS,
        "eval.rank_top": 8, "threads": 1,
    }  # fmt: skip
    command("run", *(f"{key}={value}" for key, value in settings.items()), *overrides)
    return folder / "run"


#: Family -> settings of a run, first parts of the names of the parameters that travel.
RUNS = {
    "smolvlm": ((), {"model.text_model"}),
    "idefics3": (("adapter.parts=[language, vision]",), {"model.text_model", "model.vision_model"}),
    "qwen2_vl": (("adapter.peft=lora",), {"model.language_model"}),
    "qwen2_5_vl": (
        (
            "adapter.peft=lora",
            "adapter.parts=[language, vision, projector]",
            "train.checkpointing=true",
            "weights=int8",
        ),
        {"model.language_model", "model.visual"},
    ),
    "qwen3_vl": (
        ("adapter.parts=[language, vision]", "algorithm.order=joint"),
        {"model.language_model", "model.visual"},
    ),
    "paligemma": (("eval.answers=generate", "algorithm.order=joint", "weights=bf16"), {"model.language_model"}),
    "llava": (("adapter.parts=[language, projector]",), {"model.language_model", "model.multi_modal_projector"}),
}


def test_every_decoder_runs():
    assert RUNS.keys() == set(DECODERS)


@pytest.mark.parametrize("family", RUNS)
def test_a_family_learns_and_only_its_shared_part_travels(tmp_path, folders, family):
    overrides, travels = RUNS[family]
    folder = run(tmp_path, folders[family], *overrides)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {
        (line["client"], line["round"]): line["metrics"]["loss"] for line in lines if line.get("split") == "train"
    }
    for client in {client for client, _ in losses}:
        assert losses[client, ROUNDS] < losses[client, 1]

    checkpoints = [sent_in(folder, n) for n in (2, 3)]
    assert {".".join(key.split(".")[:2]) for key in checkpoints[1]} == travels
    assert any(not torch.equal(checkpoints[0][key], checkpoints[1][key]) for key in checkpoints[1])
    summary = json.loads((folder / "summary.json").read_text())
    shared = sum(value.numel() for value in checkpoints[1].values())
    assert summary["parameters"]["communicated"] == shared
    assert summary["parameters"]["trainable"] == 2 * shared  # the vocabulary head does not train
    for client in (path for path in (folder / "clients").iterdir() if path.is_dir()):
        kept = load_file(sorted(client.glob("round-*.safetensors"))[-1])
        assert {key.partition(".")[0] for key in kept} == {"local", "anchor"}
        assert any(not torch.equal(kept[f"local.{key}"], value) for key, value in checkpoints[1].items())

        assert all(value.dtype == torch.float32 for value in kept.values())

    question = tmp_path / "question.png"
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(question)
    command("predict", "--run", folder, "--client", client.name, "--image", question, "--question", "is it red?")
    experiment = Experiment.open(folder)
    data = load_federation(experiment.settings, experiment.folder.clients).data[client.name]
    (top,) = experiment.predict(client.name, data.test[:1], k=3)
    if "eval.answers=generate" in overrides:
        assert len(top) == 1
    else:
        assert len(top) == 3 and {answer for answer, _ in top} <= set(data.answers)


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        (
            {"method": "fedrep"},
            ConfigError,
            "only the head trains, but the vocabulary head of model .* does not",
        ),
        ({"method": "head"}, ConfigError, "only the head trains"),
        ({"method": "moon"}, ConfigError, "answers are written"),
        ({"weights": "int8", "adapter.peft": "full", "method": "fedavg"}, ConfigError, "peft full trains the model's"),
        ({"weights": "int8", "adapter.peft": "lora", "method": "fedex-lora"}, ConfigError, "adds to the model's own"),
        ({"adapter.parts": ["language"], "adapter.sites": "x", "adapter.peft": "lora"}, ConfigError, "no"),
        ({"adapter.parts": ["vision"], "adapter.sites": ".*mlp"}, ConfigError, "give only one of them"),
        ({"weights": "bf16", "model": "vilt-mini"}, ModelError, r"weights: bf16 is only for decoder"),
        ({"adapter.parts": ["vision"], "model": "vilt-mini"}, ConfigError, "has no part 'vision'"),
        ({"adapter.parts": ["vision"], "adapter.peft": "full", "method": "fedavg"}, ConfigError, "cannot be chosen"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, folders, values, error, said):
    settings = {"model": str(folders["smolvlm"]), "method": "feddat", "train_examples": 2, "test_examples": 2}
    config = load_config(**settings | {"adapter.peft": "bottleneck"} | values)
    with pytest.raises(error, match=said):
        load_federation(config, tmp_path)
