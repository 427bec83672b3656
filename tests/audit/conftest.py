"""Two clients whose answers can be learnt by heart alone, and a model that is too small to do it by halves."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from feddat.cli import main
from feddat.config import load_config
from helpers import make_tiny_vilt

ANSWERS = ("red", "blue", "green", "yes", "no", "circle")
SIZES = {"train": 32, "validation": 64, "test": 92}


@pytest.fixture(scope="session")
def noise(tmp_path_factory) -> Path:
    """A folder with a model, and the files of clients ``ann`` and ``bob``: noise beside answers drawn by lot."""
    root = tmp_path_factory.mktemp("noise")
    make_tiny_vilt(root / "model")
    generator = np.random.default_rng(0)
    for client in ("ann", "bob"):
        (root / client).mkdir()
        for split, size in SIZES.items():
            lines = []
            for i in range(size):
                coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((32, 32), Image.Resampling.NEAREST).save(
                    root / client / f"{split}{i}.png"
                )
                answer = ANSWERS[generator.integers(len(ANSWERS))]
                lines.append({"image": f"{split}{i}.png", "question": "what is the color ?", "answers": answer})
            (root / client / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture
def settings(noise, tmp_path):
    """Return settings of a run that learns by heart; changes are put on top."""
    torch.set_num_threads(1)
    clients = {c: {split: str(noise / c / f"{split}.jsonl") for split in SIZES} for c in ("ann", "bob")}
    values = {
        **{"model": str(noise / "model"), "benchmark": None, "clients": clients, "runs_dir": tmp_path / "runs"},
        **{"name": "run", "method": "fedavg", "rounds": 2, "threads": 1, "adapter.reduction": 2},
        **{"train.epochs": 16, "train.batch_size": 8, "train.lr": 0.02},
    }
    return lambda **changes: load_config(None, None, **values | {k.replace("__", "."): v for k, v in changes.items()})


@pytest.fixture
def feddat(capsys, monkeypatch):
    """Run a command line in this process; return its exit code and what it said."""
    for name, value in (("propagate", True), ("handlers", [])):  # of which the command line has its own
        monkeypatch.setattr(logging.getLogger("feddat"), name, value)

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return end.value.code, re.sub(r"\x1b\[[0-9;]*m", "", told.out), told.err

    return run
