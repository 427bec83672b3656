"""Peak memory of a fresh process, or of its GPU."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from feddat import memory
from feddat.memory import kernel_bytes


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a module-level function in a new process with as many threads as this one, and return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_call, torch.get_num_threads(), function, arguments).result()


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held since :func:`forget_peak`: by the process, or by torch on its GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)  # CUDA graphs hold memory that nothing else can use
    if (peak := kernel_bytes("/proc/self/status", "VmHWM")) is not None:
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak(device: torch.device) -> None:
    """Reset the peak, so that it leaves out imports and loading. On CPUs this works only on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        memory.forget_peak()


def _call(threads: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(threads)
    return function(*arguments)
