"""``feddat bench clients``: memory and time of federations of ever more clients in one process.

Every client has a few questions about JPEG files. All have the same ones, so that nothing but their number grows. The
model is tiny: its size does not depend on them.
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

#: Training examples, and test examples, of a client.
EXAMPLES = 8


def bench_clients(
    folder: Path,
    counts: Sequence[int] = (1, 10, 100, 1000),
    cycles: int = 1,
    method: str = "feddat",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run a federation of each size in a fresh process; return what ``clients.json`` holds.

    Args:
        folder: where pictures and runs are made.
        counts: numbers of clients; the first is what the others are compared with.
        cycles: runs of each, in turns.
        method: of the runs.
        say: told what is measured.
    """
    model, table = small_world(folder, "clients", EXAMPLES)
    rows: list[dict[str, Any]] = [{"clients": count, "seconds": [], "memory": {}} for count in counts]
    for cycle in range(cycles):
        for row in rows:
            say(f"{row['clients']} clients, run {cycle + 1} of {cycles}")
            found = in_fresh_process(_run, folder, model, table, row["clients"], method)
            row["seconds"].append(found.pop("seconds"))
            row["memory"] = {key: max(value, row["memory"].get(key, 0)) for key, value in found.items()}
    return {"kind": "clients", "hardware": hardware(torch.device("cpu")), "cycles": cycles, "rows": rows}


def small_world(folder: Path, name: str, examples: int) -> tuple[Path, Path]:
    """Write a tiny model with random weights, where there is none yet, and questions for it; return where they are."""
    model = folder / "models" / "tiny-vilt"
    if not model.is_dir():
        make_tiny("vilt", model, parse_settings(["size=unit"]))
    encoder: Any = load_encoder(str(model))
    words = sorted(word for word in encoder.tokenizer.get_vocab() if word.isalnum())
    pictures = folder / "pictures" / name
    return model, write_table(write_client(pictures, "bench", 32, words, 4, examples), pictures)


def write_table(client: ClientData, pictures: Path) -> Path:
    """Write a client's examples beside their pictures, as own data is given; return the file."""
    lines = [
        json.dumps({"image": Path(str(example.images[0])).name, "question": example.text, "answers": answer})
        for example in client.train
        for answer in [max(example.answers, key=lambda one: example.answers[one])]
    ]
    table = pictures / "examples.jsonl"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def own_data(table: Path, count: int) -> dict[str, dict[str, str]]:
    """Return the settings of so many clients, all with the examples of one file."""
    spec = {"train": str(table), "test": str(table), "images": str(table.parent)}
    return {f"client-{index:04}": spec for index in range(count)}


def _run(folder: Path, model: Path, table: Path, count: int, method: str) -> dict[str, Any]:
    """Return seconds per client-round, and memory before and at the peak of a run of one round."""
    device = torch.device("cpu")
    _federate(folder, model, table, 1, method)  # what libraries and the first passes take is not the clients'
    forget_peak(device)
    loaded = peak_memory(device)
    taken = _federate(folder, model, table, count, method)
    return {"seconds": taken / count, "loaded": loaded, "peak": peak_memory(device)}


def _federate(folder: Path, model: Path, table: Path, count: int, method: str) -> float:
    config = federation(folder, model, table, f"clients-{count}", count, method, data_cache=folder / "cache")
    summary = Experiment(config).run(overwrite=True)
    return float(summary["seconds_in"]["train"])


def federation(
    folder: Path,
    model: Path,
    table: Path,
    name: str,
    count: int,
    method: str,
    overrides: Sequence[str] = (),
    **more: Any,
) -> RunConfig:
    """Return the settings of a run of so many clients in a folder, of one round unless ``overrides`` say otherwise."""
    values: dict[str, Any] = {
        "benchmark": None,
        "clients": own_data(table, count),
        "method": method,
        "model": str(model),
    }
    values |= {"name": name, "runs_dir": folder / "runs", "rounds": 1}
    values |= {"threads": torch.get_num_threads()} | more
    return load_config(None, list(overrides), **values)
