"""Timing by phase, the machine's matrix-multiplication rate, and a description of its hardware."""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from feddat.adapters.int8_products import exact_product, pack
from feddat.workers import cores

#: Sides of the square matrices used to measure the rate; the fastest one counts.
SIDES = {"cpu": (256, 512, 1024), "cuda": (2048, 4096, 8192)}


class Clock:
    """Record the seconds spent in each phase; on a GPU, from when the GPU enters a phase until it leaves it."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @property
    def seconds(self) -> dict[str, float]:
        """Phase -> seconds since the last :meth:`reset`. Reading it waits for the GPU."""
        if self._events:
            torch.cuda.synchronize()
        for name, entered, left in self._events:
            self._seconds[name] += entered.elapsed_time(left) / 1000
        self._events.clear()
        return self._seconds

    def reset(self) -> None:
        """Forget all seconds."""
        self._events.clear()
        self._seconds.clear()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block towards a phase, without waiting for a GPU. Phases must not overlap."""
        if self._on_gpu:
            entered, left = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            entered.record()
            yield
            left.record()
            self._events.append((name, entered, left))
            return
        started = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - started


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished all its work; return at once on other devices."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rates(device: torch.device, dtype: torch.dtype, seconds: float = 0.05) -> dict[int, float]:
    """Return the FLOP/s of square matrix products, keyed by the side of the matrices.

    Args:
        device: device that computes.
        dtype: dtype of the matrices; int8 multiplies as a run with ``train.precision=int8`` does, on the CPU.
        seconds: approximate measuring time for each side.
    """
    rates = {}
    clock = Clock(device)
    for side in SIDES[device.type]:
        product = _product(side, device, dtype)
        product()
        clock.reset()
        count = 0
        while clock.seconds["product"] < seconds:
            with clock.phase("product"):
                product()
            count += 1
        rates[side] = 2 * side**3 * count / clock.seconds["product"]
    return rates


def _product(side: int, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Return a function that computes one product of square matrices."""
    if dtype == torch.int8:
        rows, weight = torch.randint(256, (side, side), dtype=torch.uint8), pack(torch.randn(side, side))
        return lambda: exact_product(rows, weight, torch.float32)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b


def hardware(device: torch.device) -> dict[str, str | int]:
    """Return a description of the hardware and software that a measurement runs on."""
    found: dict[str, str | int] = {
        "cpu": _cpu_name(),
        "cores": cores(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
