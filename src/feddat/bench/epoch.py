"""``feddat bench epoch``: a whole local epoch from JPEG files on disk, compared with the published schedule.

*Cold*: the cache is empty, so the epoch decodes and resizes every image once and stores it there. *Warm*: the epoch
finds all images in the cache. The published schedule decodes each image three times in every epoch.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from feddat.bench.clock import hardware
from feddat.bench.folders import find_model, make_client, model_folder
from feddat.bench.sides import Side, load_side_model, side_config
from feddat.config import load_config
from feddat.devices import device_of
from feddat.precision import resolve_precision

#: Cases that are measured in turns: the schedule, and the state of its cache.
CASES = (("published", "none"), ("alternating", "cold"), ("alternating", "warm"), ("joint", "warm"), ("plain", "warm"))


def bench_epoch(
    folder: Path,
    model: str = "vilt-b32",
    device: str = "cpu",
    cycles: int = 3,
    examples: int = 64,
    batch: int | None = None,
    precision: str = "auto",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure whole epochs in turns; return the content of ``epoch.json``.

    Args:
        folder: folder for the model, pictures and cache.
        model: key of :data:`feddat.bench.folders.MODELS`.
        device: torch device.
        cycles: measured epochs of each case.
        examples: number of training examples of the client.
        batch: examples per step; default: the model's own.
        precision: precision of our own schedules.
        say: called with a short text before each measurement.
    """
    place = device_of(device)
    title, own = find_model(model).title, resolve_precision(precision, device)  # type: ignore[arg-type]
    settings: dict[str, Any] = {"train.batch_size": batch or find_model(model).batch, "adapter.peft": "bottleneck"}
    config = load_config(model=model_folder(model, folder / "models"), device=device, **settings)
    client = make_client(model, config.model, folder / "pictures" / f"{model}-epoch", examples)
    cache = folder / "cache"
    configs = {name: side_config(name, config.updated({"train.precision": own})) for name, _ in CASES}
    loaded = {
        True: load_side_model("published", configs["published"]),
        False: load_side_model("plain", configs["plain"]),
    }
    taken: dict[tuple[str, str], list[float]] = {case: [] for case in CASES}
    reading: dict[tuple[str, str], list[float]] = {case: [] for case in CASES}
    for cycle in range(cycles):
        for schedule, state in CASES:
            say(f"{title}: epoch {cycle + 1} of {cycles}, {schedule}, cache {state}")
            if state == "cold":
                shutil.rmtree(cache, ignore_errors=True)
            own_data = replace(client, encodings=None if schedule == "published" else cache)
            side = Side(schedule, configs[schedule], own_data, loaded[schedule == "published"])
            if schedule == "published":
                side.member.prepared("train")  # only its targets; every pass reads the images again
            started = time.perf_counter()
            side.member.prepared("train")
            prepared = time.perf_counter() - started
            for indices in torch.randperm(examples, generator=torch.Generator().manual_seed(cycle)).split(  # type: ignore[no-untyped-call]
                config.train.batch_size
            ):
                side.step(indices)
            if config.device != "cpu":
                torch.cuda.synchronize(config.device)
            taken[schedule, state].append(time.perf_counter() - started)
            reading[schedule, state].append(prepared + side.clock.seconds["inputs"])
    rows = [
        {
            "model": title,
            "schedule": schedule,
            "cache": state,
            "examples": examples,
            "seconds": taken[schedule, state],
            "reading": reading[schedule, state],
        }
        for schedule, state in CASES
    ]
    return {"kind": "epoch", "hardware": hardware(place), "cycles": cycles, "rows": rows}
