"""``feddat bench privacy``: the cost of per-example gradient clipping and noise in a step (docs/privacy.md)."""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from feddat.adapters.base import Adapters
from feddat.algorithms import ALGORITHMS, RoundContext
from feddat.bench.clock import hardware, wait_for
from feddat.bench.folders import find_model, make_client, model_folder
from feddat.bench.sides import load_side_model, side_config
from feddat.bench.step import Say
from feddat.client.learner import BatchLearner
from feddat.client.member import Member
from feddat.client.optim import build_optimizer
from feddat.client.private_rules import private_adapters, private_heads, releases
from feddat.client.private_training import PrivateLearner, PrivateTurn, weights_apart
from feddat.config import RunConfig, load_config
from feddat.devices import device_of
from feddat.models.base import Backbone
from feddat.precision import resolve_precision
from feddat.privacy.clipping import Clip
from feddat.privacy.noise import NoiseSource

#: Pairs of a schedule of :data:`feddat.bench.sides.SCHEDULES` and its changed settings.
MEASURED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("plain", {}),
    ("joint", {}),
    ("alternating", {}),
    ("alternating", {"privacy.scope": "shared", "algorithm.heads": "separate", "algorithm.alpha": 0.0}),
)


def bench_privacy(
    folder: Path,
    models: tuple[str, ...] = ("vilt-mini",),
    device: str = "cpu",
    cycles: int = 9,
    batch: int | None = None,
    precision: str = "auto",
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Measure steps with and without privacy in turns, on the same batches; return the content of ``privacy.json``.

    Args:
        folder: folder for models and pictures.
        models: keys of :data:`feddat.bench.folders.MODELS`.
        device: torch device.
        cycles: measured pairs of steps, after one warm-up pair.
        batch: examples per step; default: the model's own.
        precision: precision of matrix products.
        say: called with a short text before each measurement.
    """
    rows = []
    place, own = device_of(device), resolve_precision(precision, device)  # type: ignore[arg-type]
    for model in models:
        settings: dict[str, Any] = {
            "train.batch_size": batch or find_model(model).batch,
            "train.precision": own,
            "adapter.peft": "bottleneck",
            "runtime.cuda_graphs": False,
            "privacy.epsilon": 8.0,
        }
        base = load_config(model=model_folder(model, folder / "models"), device=device, **settings)
        size = base.train.batch_size
        client = make_client(model, base.model, folder / "pictures" / model, 2 * size)
        for schedule, changes in MEASURED:
            config = side_config(schedule, base).updated(changes)
            shared = load_side_model(schedule, config)
            member = Member(client, config, shared.backbone, place, _heads(config))
            step = _Steps(config, shared.backbone, shared.adapters, member)
            seconds: dict[bool, list[float]] = {False: [], True: []}
            halves = torch.arange(2 * size).split(size)  # type: ignore[no-untyped-call]
            for cycle, indices in zip(range(cycles + 1), itertools.cycle(halves), strict=False):
                say(f"{find_model(model).title}: {schedule}, {config.privacy.scope}, step {cycle} of {cycles}")
                for private in (cycle % 2 == 0, cycle % 2 == 1):  # they take turns at going first
                    taken = step(indices, private)
                    if cycle:
                        seconds[private].append(taken)
            rows.append(
                {
                    "model": find_model(model).title,
                    "schedule": schedule,
                    "scope": config.privacy.scope,
                    "releases": releases(config),
                    "batch": size,
                    "precision": own,
                    "private": step.private,
                    "plain_seconds": seconds[False],
                    "private_seconds": seconds[True],
                    "ratio": statistics.median(a / b for a, b in zip(seconds[True], seconds[False], strict=True)),
                }
            )
    return {"kind": "privacy", "hardware": hardware(place), "cycles": cycles, "rows": rows}


def _heads(config: RunConfig) -> dict[str, None]:
    return dict.fromkeys(ALGORITHMS[config.method].heads(config.algorithm).values())


class _Steps:
    """Plain and private steps of one algorithm on the same adapters.

    Attributes:
        private: count of numbers that one step releases.
    """

    def __init__(self, config: RunConfig, backbone: Backbone, adapters: Adapters, member: Member) -> None:
        self._config, self._adapters, self._member = config, adapters, member
        self._algorithm = ALGORITHMS[config.method]
        trained = [p for name in self._algorithm.trains for p in adapters.parameters(name)]
        heads = [p for head in member.heads.values() for p in head.parameters()]
        names = private_heads(self._algorithm, config)
        named: dict[str, nn.Parameter] = {
            f"{name}.{key}": p
            for name in private_adapters(self._algorithm, config.privacy.scope)
            for key, p in adapters.named(name).items()
        }
        for name, head in member.heads.items():
            if names is None or name in names:
                named |= {f"head.{name}.{key}": p for key, p in head.named_parameters()}
        self.private = sum(p.numel() for p in named.values())
        given = (backbone, adapters, config.train.precision)
        size = float(config.train.batch_size)
        clip = Clip.of_samples(config.privacy.clip, size)
        turn = PrivateTurn((), size, clip, 1.0, releases(config), NoiseSource.secure())
        self._learners = {
            False: BatchLearner(*given, build_optimizer(trained, config.train, heads)),
            True: PrivateLearner(*given, build_optimizer(trained, config.train, heads), turn=turn, private=named),
        }
        backbone.model.train()

    def __call__(self, indices: Tensor, private: bool) -> float:
        """Take one step on the training examples at ``indices``; return the seconds it took."""
        part, learner = self._member.prepared("train"), self._learners[private]
        with weights_apart(self._adapters, private):
            wait_for(self._member.device)
            started = time.perf_counter()
            targets = part.targets_at(indices)
            learner.take(self._member, self._member.training_inputs(part, indices), targets)
            if isinstance(learner, PrivateLearner):
                learner.drawn(len(indices))
            self._algorithm.step(learner, RoundContext(1, 1, self._config.algorithm))
            wait_for(self._member.device)
            taken = time.perf_counter() - started
        learner.take_norm()
        return taken
