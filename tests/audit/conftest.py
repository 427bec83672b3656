"""Two clients whose answers can only be memorised, and a model small enough to memorise them quickly."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from feddat.cli import main
from feddat.config import load_config
from two_clients import files, write_world

ANSWERS = ("red", "blue", "green", "yes", "no", "circle")
SIZES = {"train": 32, "validation": 64, "test": 92}


@pytest.fixture(scope="session")
def noise(tmp_path_factory) -> Path:
    """Return a folder with a model and the files of clients ``ann`` and ``bob``: noise images with random answers."""

    def draw(generator, i):
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        answer = ANSWERS[generator.integers(len(ANSWERS))]
        return np.asarray(coarse.resize((32, 32), Image.Resampling.NEAREST)), answer

    return write_world(tmp_path_factory.mktemp("noise"), SIZES, draw)


@pytest.fixture
def settings(noise, tmp_path):
    """Return a function that makes settings of a run that memorises; its arguments override single settings."""
    torch.set_num_threads(1)
    values = {
        **{"model": str(noise / "model"), "benchmark": None, "clients": files(noise, SIZES)},
        **{"runs_dir": tmp_path / "runs", "name": "run", "method": "fedavg", "rounds": 4, "threads": 1},
        **{"adapter.reduction": 2, "train.epochs": 8, "train.batch_size": 8, "train.lr": 0.003},
    }
    return lambda **changes: load_config(None, None, **values | {k.replace("__", "."): v for k, v in changes.items()})


@pytest.fixture
def feddat(capsys):
    """Return a function that runs a command line in this process and returns its exit code, stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return end.value.code, re.sub(r"\x1b\[[0-9;]*m", "", told.out), told.err

    return run
