"""Whole runs, from the command line, on a tiny random model of each family: losses fall, the shared part travels."""

import json

import pytest
import torch
from safetensors.torch import load_file

from feddat.cli import main
from feddat.config import ConfigError, load_config
from feddat.experiment import Experiment
from tiny_folders import MAKERS, make_tiny_clip


def run(folder, family, *overrides):
    """Run three rounds on generated questions of several domains; return summary and metrics."""
    torch.set_num_threads(1)
    model = MAKERS[family](folder / "model")
    settings = {
        "runs_dir": folder,
        "name": "run",
        "model": model,
        "rounds": 3,
        "benchmark": "mini/domain",
        "train_examples": 16,
        "test_examples": 4,
        "train.batch_size": 8,
        "train.lr": 0.003,
        "eval.every": 3,
    }
    with pytest.raises(SystemExit) as stopped:
        main(["run", *(f"{key}={value}" for key, value in settings.items()), *overrides])
    assert stopped.value.code == 0
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "run" / "summary.json").read_text()), lines


@pytest.mark.parametrize(
    ("family", "overrides", "travels", "stays"),
    [
        ("vilt-bert", (r"adapter.sites='(.*\.)?layer\.\d+\.output'",), {"vilt", "bert"}, set()),
        ("clip", (), {"text_model", "vision_model"}, set()),
        (
            "clip",
            ("fusion.kind=transformer", "fusion.side=shared", "adapter.peft=lora"),
            {"text_model", "vision_model", "fusion"},
            set(),
        ),
        ("siglip", ("fusion.kind=transformer", "benchmark=mini/task"), {"text_model", "vision_model"}, {"head.fusion"}),
    ],
)
def test_a_family_learns_and_only_its_shared_part_travels(tmp_path, family, overrides, travels, stays):
    summary, lines = run(tmp_path, family, *overrides)
    losses = {}
    for line in lines:
        if line["split"] == "train":
            losses.setdefault(line["round"], []).append(line["metrics"]["loss"])
    assert sum(losses[3]) < sum(losses[1])

    checkpoints = [load_file(tmp_path / "run" / "checkpoints" / f"round-0000{n}.safetensors") for n in (2, 3)]
    assert {key.partition(".")[0] for key in checkpoints[1]} == travels
    assert any(not torch.equal(checkpoints[0][key], checkpoints[1][key]) for key in checkpoints[1])
    assert summary["parameters"]["communicated"] == sum(value.numel() for value in checkpoints[1].values())

    client = next(path for path in (tmp_path / "run" / "clients").iterdir() if path.is_dir())
    states = [load_file(path) for path in sorted(client.rglob("*.safetensors"))]
    kept = {key.partition("/")[0] for key in states[-1] if key.startswith("head")}
    assert kept == {"head"} | stays
    local = {key: value for key, value in states[-1].items() if key.startswith("local.")}
    assert {key.removeprefix("local.") for key in local} == set(checkpoints[1])
    assert any(not torch.equal(value, checkpoints[1][key.removeprefix("local.")]) for key, value in local.items())


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
    settings = {"model": str(make_tiny_clip(tmp_path / "model")), "fusion.kind": "transformer", "runs_dir": tmp_path}
    with pytest.raises(ConfigError, match=message):
        Experiment(load_config(**settings | {"train_examples": 4, "test_examples": 4} | values)).run()
