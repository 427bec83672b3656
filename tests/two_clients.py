"""Two clients with their own files: the files, settings for a quick run, and all numbers that a run writes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from feddat.config import RunConfig, load_config
from helpers import make_tiny_vilt

CLIENTS = ("ann", "bob")

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230)}
SIZES = {"train": 10, "validation": 3, "test": 6}


def write_world(
    root: Path,
    sizes: Mapping[str, int],
    draw: Callable[[np.random.Generator, int], tuple[NDArray[np.uint8], str]],
) -> Path:
    """Write a tiny ViLT and the files of two clients into ``root``; return ``root``.

    Args:
        root: an existing folder.
        sizes: number of questions by split.
        draw: returns the picture (32, 32, 3) and the answer of a split's i-th question.
    """
    make_tiny_vilt(root / "model")
    generator = np.random.default_rng(0)
    for client in CLIENTS:
        (root / client).mkdir()
        for split, size in sizes.items():
            lines = []
            for i in range(size):
                pixels, answer = draw(generator, i)
                Image.fromarray(pixels).save(root / client / f"{split}{i}.png")
                lines.append({"image": f"{split}{i}.png", "question": "what is the color ?", "answers": answer})
            (root / client / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def files(world: Path, sizes: Mapping[str, int] = SIZES) -> dict[str, dict[str, str]]:
    """Return the setting ``clients`` for the files that :func:`write_world` wrote."""
    return {client: {split: str(world / client / f"{split}.jsonl") for split in sizes} for client in CLIENTS}


def quick_config(world: Path, **values) -> RunConfig:
    """Return settings for a quick run of both clients; keyword values (``__`` for a dot) override them."""
    settings = {
        "name": "run",
        "model": str(world / "model"),
        "benchmark": None,
        "clients": files(world),
        "rounds": 2,
        "train.batch_size": 5,
        "train.lr": 0.01,
    }
    return load_config(None, None, **settings | {key.replace("__", "."): value for key, value in values.items()})


def numbers(folder: Path) -> dict:
    """Return everything that a run computed except times: states on disk as bytes, metrics, summary, predictions."""
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
