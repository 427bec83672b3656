"""Profile a run: seconds by phase, and traces of a few training steps and one evaluation by torch's profiler.

Phases are timed throughout. The profiler slows the code that it watches, so it records only two short periods, however
long the run is. Its traces open in Perfetto (ui.perfetto.dev) and in chrome://tracing.
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

from feddat.devices import device_of
from feddat.files import write_json
from feddat.phases import Phase, listening

#: Training steps before the profiler starts (to allocate memory and select kernels), and steps that it records.
SKIPPED, STEPS = 3, 5
#: Most operators listed per period.
OPERATORS = 12
#: Prefix of the phases' names in a trace.
_MARK = "feddat: "
#: Name of the phase for the profiler's own time.
_PROFILER = "profiler"


class Profile:
    """Profiles the code inside its ``with`` block, in this process.

    Attributes:
        seconds: phase -> its own seconds, without those of nested phases; ``profiler``: time of the profiler itself.
        calls: phase -> number of times it was entered.
        traces: ``training``, ``evaluation`` -> the profiler's recording, if there is one.

    Args:
        device: device of the computation. On a GPU, every phase waits for its work to finish; normal runs do not wait.

    Raises:
        ConfigError: this machine cannot use the device.
    """

    def __init__(self, device: str = "cpu") -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # else torch's profiler writes to standard error when it starts
        self._device = device_of(device)
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
        """Measure the time inside the block, see :class:`feddat.phases.Listener`."""
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
        """Return a row per phase: ``phase``, ``calls``, ``seconds``, ``share`` of the time without the profiler's."""
        total = sum(seconds for name, seconds in self.seconds.items() if name != _PROFILER)
        rows = []
        for name in (*get_args(Phase), _PROFILER):
            if seconds := self.seconds.get(name):
                share = None if name == _PROFILER else seconds / total
                rows.append({"phase": name, "calls": self.calls[name] or None, "seconds": seconds, "share": share})
        return rows

    def operators(self, stretch: str) -> list[dict[str, Any]]:
        """Return the operators with the most self time: ``name``, ``calls``, ``seconds``, ``share``.

        Seconds are GPU time on a GPU, else CPU time.

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
        """Write ``profile.json`` and the trace of each period to ``folder``; return the files.

        Raises:
            OSError: a file cannot be written.
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
        """Add the time since the last call to the current phase."""
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
