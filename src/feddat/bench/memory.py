"""How much memory something takes at its peak: of a fresh process, or on its GPU."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a module's function returns in a new process with as many threads as this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_call, torch.get_num_threads(), function, arguments).result()


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held since the peak was forgotten: by the process, or by torch on its GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)  # recordings hold what nothing else may use
    if _STATUS.is_file():
        line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak(device: torch.device) -> None:
    """Forget what importing and loading needed for a moment; outside Linux that stays in the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _STATUS.is_file():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5)


def _call(threads: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(threads)
    return function(*arguments)
