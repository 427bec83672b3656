"""``feddat bench wire``: bytes of one update in every format, and the time to pack and unpack it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from feddat.adapters.build import build_adapters
from feddat.app import messages, wire
from feddat.bench.clock import hardware
from feddat.bench.folders import find_model, model_folder
from feddat.config import WireConfig
from feddat.models.catalog import load_backbone

#: All wire formats.
FORMATS: tuple[str, ...] = get_args(WireConfig.model_fields["format"].annotation)


def bench_wire(
    folder: Path,
    models: Sequence[str] = ("vilt-mini", "vilt-b32"),
    cycles: int = 20,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Pack and unpack each model's bottleneck adapter in turns; return the content of ``wire.json``.

    Args:
        folder: folder for models.
        models: keys of :data:`feddat.bench.folders.MODELS`.
        cycles: repetitions of every row.
        say: called with a short text before each measurement.

    Raises:
        ConfigError: a model is unknown.
    """
    rows: list[dict[str, Any]] = []
    updates = {}
    for model in models:
        title = find_model(model).title
        say(f"{title}: loading")
        backbone = load_backbone(model_folder(model, folder / "models"))
        updates[model] = build_adapters(backbone.model).state("global")
        count = sum(value.numel() for value in updates[model].values())
        for name in FORMATS:
            cells = {"model": model, "title": title, "format": name, "parameters": count}
            rows.append({**cells, "encode": [], "decode": []})
    for cycle in range(cycles):
        say(f"turn {cycle + 1} of {cycles}")
        for row in rows:
            config = WireConfig(format=row["format"])
            started = time.perf_counter()
            record = messages.to_arrays(wire.pack(updates[row["model"]], config)[0])
            packed = time.perf_counter()
            wire.unpack({key: array.numpy() for key, array in record.items()}, config)
            row["decode"].append(time.perf_counter() - packed)
            row["encode"].append(packed - started)
            row["bytes"] = record.count_bytes()
    return {"kind": "wire", "hardware": hardware(torch.device("cpu")), "cycles": cycles, "rows": rows}
