"""The same search for every method: one setting, a list of values, chosen on validation data.

Each method runs once with each value, under a seed of its own that no reported run has, and is scored on the
validation split; the test split is never looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddat.config import ConfigError, RunConfig, parse_scalar
from feddat.experiment.comparison import comparison_name, labelled, run_all
from feddat.experiment.events import Progress
from feddat.experiment.folder import ExperimentError, RunFolder

#: Seed of every search run.
TUNING_SEED = 10_000


@dataclass(frozen=True, slots=True)
class Search:
    """One setting to choose.

    Attributes:
        key: dotted configuration key, for example ``train.lr``.
        values: candidates.
    """

    key: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> Search:
        """Read ``KEY=V1,V2,...``.

        Raises:
            ConfigError: there is no key or no value.
        """
        key, _, values = text.partition("=")
        candidates = tuple(parse_scalar(value) for value in values.split(",") if value)
        if not key or not candidates:
            raise ConfigError(f"search {text!r}: expected KEY=V1,V2,..., for example train.lr=1e-3,3e-3")
        return cls(key, candidates)

    def runs(self, config: RunConfig, methods: Sequence[str]) -> dict[str, RunConfig]:
        """Return the search runs by name, every method with every value; they lie in ``tuning/`` of the comparison.

        Raises:
            ConfigError: the key is unknown or a value does not fit.
        """
        runs = {}
        for method in methods:
            for value in self.values:
                name = f"{method}-{self.key.rpartition('.')[2]}-{value}"
                changes = {"method": method, "seed": TUNING_SEED, "name": name, "eval.split": "validation"}
                folder = config.runs_dir / comparison_name(config) / "tuning"
                runs[name] = config.updated({**changes, "runs_dir": folder, self.key: value})
        return runs

    def choose(self, runs: dict[str, RunConfig], results: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Return ``{"key", "benchmark", "seed", "scores": method -> value -> score, "best": method -> value}``.

        Raises:
            ExperimentError: all runs of a method failed.
        """
        scores: dict[str, dict[str, float]] = {}
        best: dict[str, Any] = {}
        for name, run in runs.items():
            value = run.value(self.key)
            if name not in results:
                continue
            score = results[name]["mean"]
            method = scores.setdefault(run.method, {})
            if not method or score > max(method.values()):
                best[run.method] = value
            method[str(value)] = score
        missing = {run.method for run in runs.values()} - best.keys()
        if missing:
            raise ExperimentError(f"search over {self.key}: no run of {', '.join(sorted(missing))} succeeded")
        source = next(iter(runs.values())).benchmark
        return {"key": self.key, "benchmark": source, "seed": TUNING_SEED, "scores": scores, "best": best}


def read_tuning(path: Path, methods: Sequence[str]) -> dict[str, Any]:
    """Read what an earlier search chose, from its ``tuning.json``.

    Raises:
        ConfigError: the file is no such thing, or a method has no value in it.
    """
    try:
        chosen: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = [method for method in methods if method not in chosen["best"]]
        chosen["key"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not the tuning.json of a search ({error})") from None
    if missing:
        raise ConfigError(f"{path}: no value of {chosen['key']} for {', '.join(missing)}")
    return chosen


def search(
    config: RunConfig,
    methods: Sequence[str],
    wanted: Search,
    jobs: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run the search, write ``tuning.json`` beside its runs, and return what it holds (:meth:`Search.choose`).

    Finished runs are kept and half-done ones go on, as in a comparison (:func:`~feddat.experiment.comparison.compare`,
    which takes the result).
    """
    return search_each({"": config}, methods, wanted, jobs, progress, overwrite)[""]


def search_each(
    configs: Mapping[str, RunConfig],
    methods: Sequence[str],
    wanted: Search,
    jobs: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> dict[str, dict[str, Any]]:
    """Do the same search for several comparisons with one set of workers; return what was chosen by label.

    The runs' names in events are those of :func:`trials`.
    """
    results, _ = run_all(trials(configs, methods, wanted), jobs, progress, overwrite)
    chosen = {}
    for label, config in configs.items():
        runs = wanted.runs(config, methods)
        found = {name: results[key] for name in runs if (key := labelled(label, name)) in results}
        chosen[label] = wanted.choose(runs, found)
        folder = RunFolder(next(iter(runs.values())).runs_dir)
        folder.write_json(folder.path / "tuning.json", chosen[label])
    return chosen


def trials(configs: Mapping[str, RunConfig], methods: Sequence[str], wanted: Search) -> dict[str, RunConfig]:
    """Return the runs of :func:`search_each` by ``LABEL/NAME``; an empty label leaves ``NAME``."""
    return {
        labelled(label, name): run
        for label, config in configs.items()
        for name, run in wanted.runs(config, methods).items()
    }
