"""Where a run's time goes: seconds by phase, and torch profiler's traces of a few training steps and one evaluation.

Phases are timed throughout; the profiler, which slows what it watches, sees only two short stretches of however long a
run. Its traces open in Perfetto (ui.perfetto.dev) and in chrome://tracing.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from feddat.files import write_json
from feddat.phases import Phase, listening

#: Training steps before the profiler looks (memory is allocated, kernels are chosen), and so many that it sees.
SKIPPED, STEPS = 3, 5
#: Operators of a stretch that are listed.
OPERATORS = 12
#: Before the names of phases in a trace.
_MARK = "feddat: "
#: What the profiler itself takes; a run without it does not.
_PROFILER = "profiler"


class Profile:
    """Measures what runs inside its ``with`` block, in this process.

    Attributes:
        seconds: phase -> its own seconds, without those of phases within it; ``profiler``: the measuring's.
        calls: phase -> how often it was entered.
        traces: ``training``, ``evaluation`` -> what the profiler saw, where there was any.

    Args:
        device: that is computed on. On a GPU every phase ends when its work is done, which a run without this does not.
    """

    def __init__(self, device: str = "cpu") -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # else torch's profiler notes on standard error that it starts
        self._device = torch.device(device)
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.traces: dict[str, profile] = {}
        self._phases: list[str] = ["other"]
        self._steps = 0
        self._looking: str | None = None
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        self._resources.enter_context(listening(self))
        self._since = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()
        self._stop(self._looking)
        self._charge()

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Count the time inside the block, see :class:`feddat.phases.Listener`."""
        if name == "evaluation":
            self._stop("training")
            self._start("evaluation")
        elif name == "forward" and self._steps == SKIPPED:
            self._start("training")
        self._charge()
        self._phases.append(name)
        self.calls[name] += 1
        try:
            if self._looking is None:
                yield
            else:
                with record_function(_MARK + name):
                    yield
        finally:
            self._charge()
            self._phases.pop()
            if name == "forward":
                self._steps += 1
                if self._steps == SKIPPED + STEPS:
                    self._stop("training")
            elif name == "evaluation":
                self._stop("evaluation")

    def phases(self) -> list[dict[str, Any]]:
        """Return a row per phase: ``phase``, ``calls``, ``seconds``, ``share`` of all time but the profiler's."""
        total = sum(seconds for name, seconds in self.seconds.items() if name != _PROFILER)
        rows = []
        for name in (*get_args(Phase), _PROFILER):
            if seconds := self.seconds.get(name):
                share = None if name == _PROFILER else seconds / total
                rows.append({"phase": name, "calls": self.calls[name] or None, "seconds": seconds, "share": share})
        return rows

    def operators(self, stretch: str) -> list[dict[str, Any]]:
        """Return the operators with the most time of their own: ``name``, ``calls``, ``seconds``, ``share``.

        The seconds are the GPU's where there is one, else the processor's.

        Args:
            stretch: one of :attr:`traces`.
        """
        on_gpu = self._device.type == "cuda"
        found = []
        for event in self.traces[stretch].key_averages():
            seconds = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
            if seconds > 0 and not event.key.startswith(_MARK):
                found.append({"name": event.key, "calls": event.count, "seconds": seconds})
        total = sum(row["seconds"] for row in found)
        found.sort(key=lambda row: row["seconds"], reverse=True)
        return [row | {"share": row["seconds"] / total} for row in found[:OPERATORS]]

    def write(self, folder: Path) -> list[Path]:
        """Write ``profile.json`` and a trace of each stretch into ``folder``; return the files.

        Raises:
            OSError: the disk refuses.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tables = {"phases": self.phases(), "operators": {name: self.operators(name) for name in self.traces}}
        files = [folder / "profile.json"]
        write_json(files[0], {"device": str(self._device), "threads": torch.get_num_threads(), **tables})
        for name, trace in self.traces.items():
            files.append(folder / f"trace-{name}.json")
            trace.export_chrome_trace(str(files[-1]))
        return files

    def _charge(self) -> None:
        """Count the time since the last call towards the phase that is open."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[self._phases[-1]] += now - self._since
        self._since = now

    def _start(self, stretch: str) -> None:
        if stretch in self.traces or self._looking is not None:
            return
        self._charge()
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self._device.type == "cuda")
        self.traces[stretch] = profile(activities=activities)
        self.traces[stretch].start()
        self._looking = stretch
        self._charge_profiler()

    def _stop(self, stretch: str | None) -> None:
        if stretch is None or self._looking != stretch:
            return
        self._charge()
        self.traces[stretch].stop()
        self._looking = None
        self._charge_profiler()

    def _charge_profiler(self) -> None:
        now = time.perf_counter()
        self.seconds[_PROFILER] += now - self._since
        self._since = now
