"""Made-up run and comparison folders, so that reports are tested without training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

CLIENTS = ("art", "photo", "abstract", "phone", "scene")
LEVEL = {"feddat": 66.0, "fedavg": 58.0, "local": 55.0, "head": 41.0}
ROUTES = {"feddat": ("dat", "local", "global")}
QUESTIONS = (("What colour is the ball?", "red"), ("Is there a <b>dog</b>?", "no"), ("How many stars?", "3"))


def summary(method: str, seed: int = 0, shift: float = 0.0) -> dict[str, Any]:
    """Return a summary with own-answer scores of LEVEL + client index + seed + shift."""
    routes = ROUTES.get(method, ("score",))
    clients = {
        client: {route: LEVEL[method] + place + seed + shift - 3 * r for r, route in enumerate(routes)}
        for place, client in enumerate(CLIENTS)
    }
    travels = 150_000 if method in ("feddat", "fedavg") else 0
    return {
        "method": method,
        "peft": "bottleneck",
        "model": "vilt-mini",
        "benchmark": "mini/domain",
        "seed": seed,
        "rounds": 10,
        "clients": clients,
        "mean": sum(scores[routes[0]] for scores in clients.values()) / len(clients),
        "parameters": {"total": 9_000_000, "trainable": 450_000, "communicated": travels},
        "bytes": {"up": travels * 200, "down": travels * 400},
        "seconds": 187.0,
    }


def make_run(folder: Path, method: str = "feddat", seed: int = 0) -> Path:
    """Write a run folder and return it."""
    pictures = folder / "predictions"
    pictures.mkdir(parents=True)
    content = summary(method, seed)
    (folder / "summary.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(f"method: {method}\nseed: {seed}\nbenchmark: mini/domain\n")
    lines = []
    for number in range(1, 11):
        for client, scores in content["clients"].items():
            for route, final in scores.items():
                wobble = 2.0 * math.sin(number * 1.7 + seed + len(client))
                score = final - 35 * math.exp(-number / 3) + wobble
                line = {"round": number, "client": client, "route": route, "split": "validation", "score": score}
                lines.append(json.dumps(line | {"examples": 50}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    predictions = []
    for place, client in enumerate(CLIENTS):
        for number, (question, truth) in enumerate(QUESTIONS):
            picture = Image.new("RGB", (96, 96), (235, 236 - 20 * place, 220))
            ImageDraw.Draw(picture).ellipse((20, 20 + 8 * number, 70, 70), fill=(200, 40 * number, 40 * place))
            name = f"{client}-{number}.png"
            picture.save(pictures / name)
            right = (number + place + len(method)) % 3 > 0
            predictions.append(
                {
                    "client": client,
                    "id": str(number),
                    "images": [f"predictions/{name}"],
                    "question": question,
                    "truth": truth,
                    "top": [[truth if right else "blue", 0.72], ["green", 0.11]],
                    "score": 1.0 if right else 0.0,
                }
            )
    (folder / "predictions.json").write_text(json.dumps(predictions))
    return folder


def make_comparison(folder: Path, methods: tuple[str, ...] = tuple(LEVEL), seeds: int = 3) -> Path:
    """Write a comparison folder with its runs and return it."""
    runs = [make_run(folder / f"{method}-s{seed}", method, seed) for method in methods for seed in range(seeds)]
    listed = [json.loads((run / "summary.json").read_text()) for run in runs]
    (folder / "comparison.json").write_text(json.dumps({"runs": listed}))
    return folder
