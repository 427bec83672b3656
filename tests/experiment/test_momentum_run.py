"""Momentum distillation in a federation: where the copy is kept, what it follows, and what it changes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from feddat.config import ConfigError
from feddat.experiment import Experiment
from helpers import make_tiny_albef, make_tiny_vilt, sent_in


def test_the_copy_is_personal_and_follows_adapters_and_head(make_config, tmp_path):
    model = make_tiny_albef(tmp_path / "albef")
    config = json.loads((model / "config.json").read_text())
    # With dropout, the copy would draw masks.
    config["text_config"] |= {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    (model / "config.json").write_text(json.dumps(config))
    settings = {"model": str(model), "train__steps": 1, "momentum__decay": 0.75, "adapter__reduction": 2}
    runs = {}
    for name, alpha in (("plain", 0.0), ("taught", 1.0)):
        config = make_config(name=name, momentum__alpha=alpha, **settings)
        Experiment(config).run()
        runs[name] = config.run_dir
    sent = sent_in(runs["taught"], 1)
    kept = [load_file(runs["taught"] / "clients" / "ann" / f"round-000{n}.safetensors") for n in (1, 2)]

    plain = load_file(runs["plain"] / "clients" / "ann" / "round-0001.safetensors")
    momentum = {key.removeprefix("momentum."): key for key in kept[0] if key.startswith("momentum.")}
    assert momentum.keys() == {f"global.{key}" for key in sent} | {
        key for key in plain if key.startswith(("local.", "head"))
    }
    assert kept[0].keys() - momentum.values() == plain.keys()
    assert sent.keys() == sent_in(runs["plain"], 1).keys()

    # With one step per round, the copy moves before the step, towards what the last round left. Its global part moves
    # towards the mean of the clients.
    for name, key in momentum.items():
        left = sent[name.removeprefix("global.")] if name.startswith("global.") else kept[0][name]
        torch.testing.assert_close(kept[1][key], 0.75 * kept[0][key] + 0.25 * left)

    # In the very first step, the copy has no weight in the loss; later it has.
    losses = {}
    for name, folder in runs.items():
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses[name] = [line["metrics"]["task_dat"] for line in lines if line.get("split") == "train"]
    assert losses["taught"][:2] == losses["plain"][:2]
    assert all(a != b for a, b in zip(losses["taught"][2:], losses["plain"][2:], strict=True))


def test_a_model_that_classifies_has_no_use_for_it(make_config, tmp_path):
    config = make_config(model=str(make_tiny_vilt(tmp_path / "vilt")), momentum__alpha=0.4)
    with pytest.raises(ConfigError, match=r"momentum\.alpha: 0\.4, but on model .* no client writes its answers"):
        Experiment(config).run()
