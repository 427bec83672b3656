"""Two clients with files of their own: what they hold, and everything that a run over them leaves."""

import json
from pathlib import Path

from safetensors.torch import load_file

from feddat.config import RunConfig, load_config

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230)}
SIZES = {"train": 10, "validation": 3, "test": 6}


def quick_config(world: Path, **values) -> RunConfig:
    """Settings of a quick run of both; keyword values (dots as ``__``) are put on top."""
    clients = {c: {split: str(world / c / f"{split}.jsonl") for split in SIZES} for c in ("ann", "bob")}
    settings = {
        "name": "run",
        "model": str(world / "model"),
        "benchmark": None,
        "clients": clients,
        "rounds": 2,
        "train.batch_size": 5,
        "train.lr": 0.01,
    }
    return load_config(None, None, **settings | {key.replace("__", "."): value for key, value in values.items()})


def numbers(folder: Path) -> dict:
    """Everything a run computed, without times: states on disk bit by bit, metrics, summary."""
    states = {
        str(path.relative_to(folder)): {key: value.numpy().tobytes() for key, value in load_file(path).items()}
        for path in sorted(folder.rglob("*.safetensors"))
    }
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.get("metrics", {}).pop("seconds", None)
    summary = json.loads((folder / "summary.json").read_text())
    del summary["seconds"], summary["seconds_in"]
    predictions = json.loads((folder / "predictions.json").read_text())
    return {"states": states, "metrics": lines, "summary": summary, "predictions": predictions}
