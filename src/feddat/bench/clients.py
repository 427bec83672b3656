"""``feddat bench clients``: memory and time of federations with growing numbers of clients in one process.

Every client has a few questions about JPEG files. All clients have the same questions, so that only the number of
clients grows. The model is tiny, because its size does not depend on the number of clients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from feddat.bench.clock import hardware
from feddat.bench.folders import write_client
from feddat.bench.memory import forget_peak, in_fresh_process, peak_memory
from feddat.config import RunConfig, load_config
from feddat.example import ClientData
from feddat.experiment.single.run import Experiment
from feddat.models.catalog import load_encoder
from feddat.models.tiny import make_tiny
from feddat.models.tiny.settings import parse_settings

#: Training examples of a client, and also its test examples.
EXAMPLES = 8


def bench_clients(
    folder: Path,
    counts: Sequence[int] = (1, 10, 100, 1000),
    cycles: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run a federation of each size in a fresh process; return the content of ``clients.json``.

    Args:
        folder: folder for the model, pictures and runs.
        counts: numbers of clients; the others are compared with the first.
        cycles: runs of each size, in turns.
        say: called with a short text before each measurement.
    """
    model, table = small_world(folder, "clients", EXAMPLES)
    rows: list[dict[str, Any]] = [{"clients": count, "seconds": [], "memory": {}} for count in counts]
    for cycle in range(cycles):
        for row in rows:
            say(f"{row['clients']} clients, run {cycle + 1} of {cycles}")
            found = in_fresh_process(_run, folder, model, table, row["clients"])
            row["seconds"].append(found.pop("seconds"))
            row["memory"] = {key: max(value, row["memory"].get(key, 0)) for key, value in found.items()}
    return {"kind": "clients", "hardware": hardware(torch.device("cpu")), "cycles": cycles, "rows": rows}


def small_world(folder: Path, name: str, examples: int) -> tuple[Path, Path]:
    """Write a tiny model with random weights, unless it exists, and questions for it; return both paths."""
    model = folder / "models" / "tiny-vilt"
    if not model.is_dir():
        make_tiny("vilt", model, parse_settings(["size=unit"]))
    encoder: Any = load_encoder(str(model))
    words = sorted(word for word in encoder.tokenizer.get_vocab() if word.isalnum())
    pictures = folder / "pictures" / name
    return model, write_table(write_client(pictures, "bench", 32, words, 4, examples), pictures)


def write_table(client: ClientData, pictures: Path) -> Path:
    """Write a client's examples beside their pictures, in the format for a user's own data; return the file."""
    lines = [
        json.dumps({"image": Path(str(example.images[0])).name, "question": example.text, "answers": answer})
        for example in client.train
        for answer in [max(example.answers, key=lambda one: example.answers[one])]
    ]
    table = pictures / "examples.jsonl"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def own_data(table: Path, count: int) -> dict[str, dict[str, str]]:
    """Return the settings of ``count`` clients that all have the examples of one file."""
    spec = {"train": str(table), "test": str(table), "images": str(table.parent)}
    return {f"client-{index:04}": spec for index in range(count)}


def _run(folder: Path, model: Path, table: Path, count: int) -> dict[str, Any]:
    """Run one round; return the seconds per client-round, and the memory before it and at its peak."""
    device = torch.device("cpu")
    _federate(folder, model, table, 1)  # warm-up: libraries and first passes take memory that no client causes
    forget_peak(device)
    loaded = peak_memory(device)
    taken = _federate(folder, model, table, count)
    return {"seconds": taken / count, "loaded": loaded, "peak": peak_memory(device)}


def _federate(folder: Path, model: Path, table: Path, count: int) -> float:
    config = federation(folder, model, table, f"clients-{count}", count, data_cache=folder / "cache")
    summary = Experiment(config).run(overwrite=True)
    return float(summary["seconds_in"]["train"])


def federation(
    folder: Path,
    model: Path,
    table: Path,
    name: str,
    count: int,
    overrides: Sequence[str] = (),
    **more: Any,
) -> RunConfig:
    """Return the configuration of a run of ``count`` clients in a folder; it has one round unless overridden."""
    values: dict[str, Any] = {
        "benchmark": None,
        "clients": own_data(table, count),
        "model": str(model),
    }
    values |= {"name": name, "runs_dir": folder / "runs", "rounds": 1}
    values |= {"threads": torch.get_num_threads()} | more
    return load_config(None, list(overrides), **values)
