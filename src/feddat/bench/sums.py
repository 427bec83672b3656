"""``feddat bench sums``: bytes and CPU seconds of a round with secure aggregation, beside a round of int8 updates."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from feddat.bench.clock import hardware
from feddat.bench.folders import find_model, model_folder
from feddat.config import load_config
from feddat.experiment.single.foundation import load_foundation
from feddat.experiment.single.methods import resolve
from feddat.experiment.sum_rounds import measure_rounds
from feddat.privacy.secure_sum.terms import Rules

#: Percentages of clients that drop out after sharing their keys, when the others have masked their updates.
LOST = (0, 20, 40)
#: Bits of a number in the ring: 12 is the default of a run, and noise in shares takes 16.
BITS = (12, 16)


def bench_sums(
    folder: Path,
    counts: Sequence[int] = (5, 20, 100),
    models: Sequence[str] = ("vilt-mini",),
    cycles: int = 3,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure rounds of every size with every share of dropouts, in turns; return the content of ``sums.json``.

    Args:
        folder: folder for models and the clients' states.
        counts: numbers of clients.
        models: keys of :data:`feddat.bench.folders.MODELS`; each gets the adapter of a run with default settings.
        cycles: repetitions of every row.
        say: called with a short text before each measurement.

    Raises:
        ConfigError: a model is unknown.
    """
    rows: list[dict[str, Any]] = []
    shapes = {}
    for model in models:
        title = find_model(model).title
        say(f"{title}: loading")
        settings = load_config(None, None, model=str(model_folder(model, folder / "models")))
        shapes[model] = load_foundation(resolve(settings)).shared_shapes()
        count = sum(math.prod(shape) for shape in shapes[model].values())
        for clients in counts:
            cells = {"model": model, "title": title, "parameters": count, "clients": clients}
            ways = [{"way": "int8", "lost": 0}]
            ways += [{"way": "sums", "bits": size, "lost": percent} for size in BITS for percent in LOST]
            rows += [cells | way | {"server": [], "client": []} for way in ways]
    for cycle in range(cycles):
        for row in rows:
            name = "int8" if row["way"] == "int8" else f"sums of {row['bits']} bits"
            say(f"{row['clients']} clients, {name}, {row['lost']} % gone, turn {cycle + 1} of {cycles}")
            place = folder / "sums"
            shutil.rmtree(place, ignore_errors=True)
            rules = None if row["way"] == "int8" else Rules(bits=row["bits"])
            gone = row["clients"] * row["lost"] // 100
            found = measure_rounds(place, shapes[row["model"]], row["clients"], gone, rules)
            row["server"].append(found.server)
            row["client"].append(found.client)
            row["up"], row["down"] = found.up // row["clients"], found.down // row["clients"]
    return {"kind": "sums", "hardware": hardware(torch.device("cpu")), "cycles": cycles, "rows": rows}
