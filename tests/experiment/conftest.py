"""Two clients with files of their own and a tiny ViLT: what the tests of whole runs share."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from two_clients import COLOURS, SIZES, quick_config

from helpers import make_tiny_vilt


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder with a model and the files of two clients, ``ann`` and ``bob``."""
    root = tmp_path_factory.mktemp("world")
    make_tiny_vilt(root / "model")
    generator = np.random.default_rng(0)
    for client in ("ann", "bob"):
        (root / client).mkdir()
        for split, size in SIZES.items():
            lines = []
            for i in range(size):
                answer = list(COLOURS)[i % 3]
                pixels = np.clip(generator.normal(COLOURS[answer], 40, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / client / f"{split}{i}.png")
                lines.append({"image": f"{split}{i}.png", "question": "what is the color ?", "answers": answer})
            (root / client / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture
def make_config(world, tmp_path):
    """Settings of a quick run; keyword values (dots as ``__``) are put on top."""
    torch.set_num_threads(1)

    return partial(quick_config, world, runs_dir=tmp_path / "runs")
