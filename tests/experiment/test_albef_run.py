"""A whole federation on a model that writes its answers: a small random ALBEF."""

import json

import torch
from safetensors.torch import load_file

from feddat.experiment import Experiment
from feddat.models.albef.model import VocabularyHead
from helpers import make_tiny_albef, tiny_albef_config

SITES, ADAPTER = 2 + 4 + 2, (32 * 16 + 16) + (16 * 32 + 32)  # one per layer; width 32, inside 16


def test_feddat_trains_albef_and_only_the_global_adapter_travels(make_config, tmp_path):
    config = make_config(model=str(make_tiny_albef(tmp_path / "albef")), rounds=3, adapter__reduction=2)
    summary = Experiment(config).run()
    folder = config.run_dir
    head = sum(p.numel() for p in VocabularyHead(tiny_albef_config().text_config).parameters())
    assert summary["parameters"]["communicated"] == SITES * ADAPTER
    assert summary["parameters"]["trainable"] == 2 * SITES * ADAPTER + head

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [x["metrics"]["loss"] for x in lines if x["split"] == "train"]
    assert len(losses) == 6
    assert sum(losses[4:]) < 0.8 * sum(losses[:2])

    sent = [load_file(folder / "checkpoints" / f"round-0000{n}.safetensors") for n in (2, 3)]
    kept = [load_file(folder / "clients" / "ann" / f"round-000{n}.safetensors") for n in (2, 3)]
    for earlier, later in (sent, kept):
        assert earlier.keys() == later.keys()
        moved = [not torch.equal(earlier[key], later[key]) for key in earlier]
        assert all(moved)
    assert any("decoder.weight" in key for key in kept[0])
    assert not any("decoder.weight" in key for key in sent[0])

    samples = json.loads((folder / "predictions.json").read_text())
    assert {answer for sample in samples for answer, _ in sample["top"]} == {"red", "green", "blue"}
