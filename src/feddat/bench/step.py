"""``feddat bench step``: what one step of local training costs under each schedule."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from feddat.bench.clock import hardware, matmul_rates
from feddat.bench.folders import MODELS, find_model, make_client, model_folder
from feddat.bench.memory import forget_peak, in_fresh_process, peak_memory
from feddat.bench.sides import PHASES, SCHEDULES, Side, load_side_model
from feddat.config import ConfigError, RunConfig, load_config
from feddat.precision import resolve_precision

#: Told what is measured next, in a few words.
Say = Callable[[str], None]


def bench_step(
    folder: Path,
    models: Sequence[str] = tuple(MODELS),
    schedules: Sequence[str] = tuple(SCHEDULES),
    device: str = "cpu",
    cycles: int = 7,
    batch: int | None = None,
    precision: str = "auto",
    memory: bool = True,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Measure steps of every schedule on every model, in turns; return what ``step.json`` holds.

    Args:
        folder: where model folders and pictures are made; what is there is used again.
        models: keys of :data:`feddat.bench.folders.MODELS`.
        schedules: keys of :data:`feddat.bench.sides.SCHEDULES`; ``published`` is always float32.
        device: torch device.
        cycles: measured steps per schedule, after one that is not.
        batch: examples per step; default: the model's.
        precision: of our own schedules.
        memory: whether to measure peak memory too, in a fresh process per schedule.
        say: told what is measured.

    Raises:
        ConfigError: there is no such model or schedule.
    """
    for name in schedules:
        if name not in SCHEDULES:
            raise ConfigError(f"schedule {name!r}: not one that is measured; expected {', '.join(SCHEDULES)}")
    own = resolve_precision(precision, device)  # type: ignore[arg-type]
    rows = []
    for model in models:
        config = _config(model, folder, device, batch)
        rows += _measure(model, config, folder, schedules, cycles, own, say)
        if memory:
            for row in rows[-len(schedules) :]:
                say(f"{MODELS[model].title}: memory of {row['schedule']}")
                row["memory"] = in_fresh_process(_peak, row["schedule"], model, config, folder, row["precision"])
    return {"kind": "step", "hardware": hardware(torch.device(device)), "cycles": cycles, "rows": rows}


def _config(model: str, folder: Path, device: str, batch: int | None) -> RunConfig:
    size = batch or find_model(model).batch
    settings: dict[str, Any] = {"train.batch_size": size, "adapter.peft": "bottleneck"}
    return load_config(model=model_folder(model, folder / "models"), device=device, **settings)


def _client(model: str, config: RunConfig, folder: Path) -> Any:
    return make_client(model, config.model, folder / "pictures" / model, 2 * config.train.batch_size)


def _sides(model: str, config: RunConfig, folder: Path, schedules: Sequence[str], own: str) -> dict[str, Side]:
    """Return a side per schedule; ours share one model, whose adapters they train in turns."""
    client = _client(model, config, folder)
    loaded: dict[bool, Any] = {}
    sides = {}
    for schedule in schedules:
        published = schedule == "published"
        settings = config.updated({"train.precision": "fp32" if published else own})
        if published not in loaded:
            loaded[published] = load_side_model(schedule, settings)
        sides[schedule] = Side(schedule, settings, client, loaded[published])
    return sides


def _batches(config: RunConfig) -> list[torch.Tensor]:
    return list(torch.arange(2 * config.train.batch_size).split(config.train.batch_size))  # type: ignore[no-untyped-call]


def _measure(
    model: str, config: RunConfig, folder: Path, schedules: Sequence[str], cycles: int, own: str, say: Say
) -> list[dict[str, Any]]:
    title = MODELS[model].title
    say(f"{title}: loading")
    sides = _sides(model, config, folder, schedules, own)
    batches = _batches(config)
    device = torch.device(config.device)
    flops = {}
    for schedule, side in sides.items():
        say(f"{title}: first step of {schedule}")
        with FlopCounterMode(display=False) as counter:
            side.step(batches[0])
        flops[schedule] = counter.get_total_flops()
    seconds: dict[str, list[float]] = {schedule: [] for schedule in schedules}
    phases: dict[str, list[dict[str, float]]] = {schedule: [] for schedule in schedules}
    rates: dict[torch.dtype, list[dict[int, float]]] = {}
    for cycle, indices in zip(range(cycles), itertools.cycle(batches), strict=False):
        for schedule, side in sides.items():
            say(f"{title}: {schedule}, step {cycle + 1} of {cycles}")
            side.clock.reset()
            started = time.perf_counter()
            side.step(indices)
            _wait(device)
            seconds[schedule].append(time.perf_counter() - started)
            phases[schedule].append(dict(side.clock.seconds))
        for dtype in {torch.float32, torch.bfloat16 if own == "bf16" else torch.float32}:
            rates.setdefault(dtype, []).append(matmul_rates(device, dtype))
    rate = {dtype: max(statistics.median(r[s] for r in found) for s in found[0]) for dtype, found in rates.items()}
    rows = []
    for schedule in schedules:
        precision = "fp32" if schedule == "published" else own
        rows.append(
            {
                "model": title,
                "schedule": schedule,
                "precision": precision,
                "batch": config.train.batch_size,
                "seconds": seconds[schedule],
                "phases": {p: statistics.median(found.get(p, 0.0) for found in phases[schedule]) for p in PHASES},
                "flops": flops[schedule],
                "matmul_rate": rate[torch.bfloat16 if precision == "bf16" else torch.float32],
            }
        )
    return rows


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(schedule: str, model: str, config: RunConfig, folder: Path, precision: str) -> dict[str, int]:
    """Return the bytes that two steps of one schedule need: once all is loaded, and at the peak."""
    device = torch.device(config.device)
    side = _sides(model, config, folder, [schedule], precision)[schedule]
    side.member.prepared("train")
    forget_peak(device)
    loaded = peak_memory(device)
    for indices in _batches(config):
        side.step(indices)
    return {"loaded": loaded, "peak": peak_memory(device)}
