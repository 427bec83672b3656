"""Functions that fresh worker processes can import."""

import os
import time
from pathlib import Path

import torch

from feddat.config import ConfigError


def work(argument, emit):
    emit(
        {"event": "begin", "pid": os.getpid(), "threads": torch.get_num_threads(), "omp": os.environ["OMP_NUM_THREADS"]}
    )
    if argument == "refuse":
        raise ConfigError("train.lr: too\nhigh")
    if argument == "stumble":
        raise ZeroDivisionError("by nought")
    if argument == "die":
        os._exit(9)
    return argument * 2


def meet(argument, emit):
    folder, mine, other = argument
    Path(folder, mine).touch()
    deadline = time.monotonic() + 300
    while not Path(folder, other).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return Path(folder, other).exists()


def sleep(folder, emit):
    Path(folder, f"pid{os.getpid()}").touch()
    time.sleep(600)
