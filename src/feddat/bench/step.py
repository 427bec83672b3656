"""``feddat bench step``: the cost of one step of local training under each schedule."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from feddat.adapters.int8_products import cannot_multiply
from feddat.bench.clock import hardware, matmul_rates, wait_for
from feddat.bench.folders import MODELS, find_model, make_client, model_folder
from feddat.bench.memory import forget_peak, in_fresh_process, peak_memory
from feddat.bench.sides import PHASES, SCHEDULES, Side, SideModel, default_schedules, load_side_model, side_config
from feddat.config import ConfigError, RunConfig, load_config
from feddat.devices import device_of
from feddat.precision import resolve_precision

#: Steps that are timed together. In a run, the GPU works on one step while the CPU launches the next.
STEPS = {"cuda": 4}
#: Precision -> dtype of its matrix products, if it is not float32.
DTYPES = {"bf16": torch.bfloat16, "int8": torch.int8}
#: Function that is called with a few words before each measurement.
Say = Callable[[str], None]


def bench_step(
    folder: Path,
    models: Sequence[str] = tuple(MODELS),
    schedules: Sequence[str] | None = None,
    device: str = "cpu",
    cycles: int = 7,
    batch: int | None = None,
    precision: str = "auto",
    memory: bool = True,
    graphs: bool = True,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Measure steps of every schedule on every model, in turns; return the content of ``step.json``.

    Args:
        folder: folder for models and pictures; existing ones are reused.
        models: keys of :data:`feddat.bench.folders.MODELS`.
        schedules: keys of :data:`feddat.bench.sides.SCHEDULES`; default: those that the device supports.
            ``published`` is always float32 (TF32 on a GPU).
        device: torch device.
        cycles: measured steps per schedule, after one warm-up step.
        batch: examples per step; default: the model's own.
        precision: precision of our own schedules.
        memory: whether to measure peak memory as well, in a fresh process per schedule.
        graphs: on a GPU, whether our schedules are recorded as CUDA graphs, as in a run.
        say: called with a short text before each measurement.

    Raises:
        ConfigError: a model or schedule is unknown, or the device does not support it.
    """
    schedules = default_schedules(device) if schedules is None else schedules
    for name in schedules:
        if name not in SCHEDULES:
            raise ConfigError(f"schedule {name!r}: unknown; expected one of {', '.join(SCHEDULES)}")
    place, own = device_of(device), resolve_precision(precision, device)  # type: ignore[arg-type]
    if "int8" in (own, *schedules) and (reason := cannot_multiply(device)) is not None:
        raise ConfigError(f"int8: {reason}")
    rows = []
    for model in models:
        config = _config(model, folder, device, batch, graphs)
        rows += _measure(model, config, folder, schedules, cycles, own, say)
        if memory:
            for row in rows[-len(schedules) :]:
                say(f"{find_model(model).title}: memory of {row['schedule']}")
                row["memory"] = in_fresh_process(_peak, row["schedule"], model, config, folder, own)
    return {"kind": "step", "hardware": hardware(place), "cycles": cycles, "rows": rows}


def _config(model: str, folder: Path, device: str, batch: int | None, graphs: bool) -> RunConfig:
    size = batch or find_model(model).batch
    settings: dict[str, Any] = {"train.batch_size": size, "adapter.peft": "bottleneck", "runtime.cuda_graphs": graphs}
    return load_config(model=model_folder(model, folder / "models"), device=device, **settings)


def _client(model: str, config: RunConfig, folder: Path) -> Any:
    return make_client(model, config.model, folder / "pictures" / model, 2 * config.train.batch_size)


def _sides(model: str, config: RunConfig, folder: Path, schedules: Sequence[str], own: str) -> dict[str, Side]:
    """Return a side per schedule; our schedules of one precision share a model and train its adapters in turns."""
    client = _client(model, config, folder)
    loaded: dict[tuple[bool, str], SideModel] = {}
    sides = {}
    for schedule in schedules:
        settings = side_config(schedule, config.updated({"train.precision": own}))
        kind = (schedule == "published", settings.train.precision)
        if kind not in loaded:
            loaded[kind] = load_side_model(schedule, settings)
        sides[schedule] = Side(schedule, settings, client, loaded[kind])
    return sides


def _batches(config: RunConfig) -> list[torch.Tensor]:
    return list(torch.arange(2 * config.train.batch_size).split(config.train.batch_size))  # type: ignore[no-untyped-call]


def _measure(
    model: str, config: RunConfig, folder: Path, schedules: Sequence[str], cycles: int, own: str, say: Say
) -> list[dict[str, Any]]:
    title = find_model(model).title
    say(f"{title}: loading")
    sides = _sides(model, config, folder, schedules, own)
    batches = _batches(config)
    device = torch.device(config.device)
    flops = {}
    for schedule, side in sides.items():
        say(f"{title}: first step of {schedule}")
        flops[schedule] = side.flops(batches[0])
    for schedule, side in sides.items() if device.type == "cuda" else ():
        say(f"{title}: recording {schedule}")
        for indices in batches * 3:  # a GPU records at the third pass
            side.step(indices)
    steps = STEPS.get(device.type, 1)
    seconds: dict[str, list[float]] = {schedule: [] for schedule in schedules}
    phases: dict[str, list[dict[str, float]]] = {schedule: [] for schedule in schedules}
    rates: dict[str, list[dict[int, float]]] = {}
    precisions: dict[str, str] = {schedule: side.precision for schedule, side in sides.items()}
    if device.type == "cuda" and "published" in precisions:
        precisions["published"] = "tf32"
    for cycle, indices in zip(range(cycles), itertools.cycle(batches), strict=False):
        for schedule, side in sides.items():
            say(f"{title}: {schedule}, step {cycle + 1} of {cycles}")
            side.clock.reset()
            wait_for(device)
            started = time.perf_counter()
            for _ in range(steps):
                side.step(indices)
            wait_for(device)
            seconds[schedule].append((time.perf_counter() - started) / steps)
            phases[schedule].append({phase: spent / steps for phase, spent in side.clock.seconds.items()})
        for precision in set(precisions.values()):
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            rates.setdefault(precision, []).append(matmul_rates(device, DTYPES.get(precision, torch.float32)))
    rate = {key: max(statistics.median(r[s] for r in found) for s in found[0]) for key, found in rates.items()}
    rows = []
    for schedule in schedules:
        precision = precisions[schedule]
        rows.append(
            {
                "model": title,
                "schedule": schedule,
                "precision": precision,
                "batch": config.train.batch_size,
                "seconds": seconds[schedule],
                "phases": {p: statistics.median(found.get(p, 0.0) for found in phases[schedule]) for p in PHASES},
                "flops": flops[schedule],
                "matmul_rate": rate[precision],
            }
        )
    return rows


def _peak(schedule: str, model: str, config: RunConfig, folder: Path, precision: str) -> dict[str, int]:
    """Return the bytes that a few steps of one schedule need: after loading, and at the peak."""
    device = torch.device(config.device)
    side = _sides(model, config, folder, [schedule], precision)[schedule]
    side.member.prepared("train")
    forget_peak(device)
    loaded = peak_memory(device)
    for indices in _batches(config) * (1 if device.type == "cpu" else 3):  # a GPU records at the third pass
        side.step(indices)
    return {"loaded": loaded, "peak": peak_memory(device)}
