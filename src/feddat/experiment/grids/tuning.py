"""The same search for every method: a grid over one or more settings, whose best point is chosen on validation data.

Each method runs once at each point of the grid, with a seed that no reported run has, and is scored on the validation
split. The search never uses the test split.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddat.config import ConfigError, RunConfig, parse_scalar
from feddat.example import DataError
from feddat.experiment.grids.comparison import comparison_name, labelled, run_all
from feddat.experiment.grids.record import RunRecord
from feddat.experiment.single.events import Progress
from feddat.experiment.single.folder import ExperimentError, RunFolder
from feddat.experiment.single.methods import resolve
from feddat.experiment.single.portable import pinned
from feddat.report.folder import check_tuning, read_json
from feddat.report.means import CHOOSE_CLIENTS, all_clients, is_whole

log = logging.getLogger(__name__)

#: Seed of every search run.
TUNING_SEED = 10_000


def parse_values(text: str) -> tuple[str, tuple[Any, ...]]:
    """Read ``KEY=V1,V2,...``.

    Raises:
        ConfigError: there is no key or no value.
    """
    key, _, values = text.partition("=")
    candidates = tuple(parse_scalar(value) for value in values.split(",") if value)
    if not key or not candidates:
        raise ConfigError(f"search {text!r}: expected KEY=V1,V2,..., for example train.lr=1e-3,3e-3")
    return key, candidates


#: Settings that a grid gives each of its runs -> what to use instead. They can be neither studied nor searched for.
GIVEN = {
    "method": "use --methods NAME,NAME,...",
    "seed": "use --seeds",
    "name": "a run is named after what is varied",
    "runs_dir": "all runs go into one folder",
    "eval.split": "a search uses validation data, and a study the split of --split",
}


def check_varied(what: str, keys: Iterable[str]) -> None:
    """Check that a grid may vary some settings.

    Raises:
        ConfigError: it sets one of them itself; the message begins with ``what``.
    """
    if given := sorted(GIVEN.keys() & set(keys)):
        raise ConfigError(f"{what}: {given[0]} cannot be varied: {GIVEN[given[0]]}")


@dataclass(frozen=True, slots=True)
class Search:
    """Settings to choose together.

    Attributes:
        grid: dotted configuration key, for example ``train.lr`` -> candidates.
    """

    grid: Mapping[str, tuple[Any, ...]]

    @classmethod
    def parse(cls, text: str) -> Search:
        """Read one or more ``KEY=V1,V2,...`` with spaces between them.

        Raises:
            ConfigError: there is no key or no value, a key occurs twice, or the grid sets it itself.
        """
        pairs = [parse_values(part) for part in text.split() or [""]]
        keys = [key for key, _ in pairs]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ConfigError(f"search {text!r}: {twice[0]} occurs twice")
        check_varied(f"search {text!r}", keys)
        return cls(dict(pairs))

    @property
    def name(self) -> str:
        """The keys, for messages."""
        return " and ".join(self.grid)

    @property
    def points(self) -> dict[str, dict[str, Any]]:
        """The points of the grid (key -> value) by label: ``KEY=VALUE``, separated by spaces for several keys."""
        points = (dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values()))
        return {" ".join(f"{key}={value}" for key, value in point.items()): point for point in points}

    def runs(self, config: RunConfig, methods: Sequence[str]) -> dict[str, RunConfig]:
        """Return the search runs by name, every method at every point; their folder is ``tuning/`` in the comparison's.

        Raises:
            ConfigError: a key is unknown or a value is invalid.
        """
        if config.privacy.on:
            raise ConfigError(
                f"privacy: a search over {self.name} trains on the same records again and chooses by the clients' "
                "scores, which epsilon does not cover; give the values instead"
            )
        folder = config.runs_dir / comparison_name(config) / "tuning"
        runs = {}
        for method in methods:
            for label, point in self.points.items():
                name = _run_name(method, label)
                changes = {"method": method, "seed": TUNING_SEED, "name": name, "eval.split": "validation"}
                runs[name] = config.updated({**changes, "runs_dir": folder, **point})
        return runs

    def choose(
        self, methods: Sequence[str], results: Mapping[str, Mapping[str, Any]], benchmark: str | None
    ) -> dict[str, Any]:
        """Return the content of ``tuning.json``, from the summaries of :meth:`runs` by name.

        Its keys are ``keys``, ``benchmark``, ``seed``, ``scores`` (method -> point's label -> score in percent) and
        ``best`` (method -> key -> value). A point without the score of a client that others of the method have has no
        score.

        Raises:
            ExperimentError: all runs of a method failed, or none has scores of all clients.
        """
        scores: dict[str, dict[str, float]] = {}
        best: dict[str, dict[str, Any]] = {}
        for method in methods:
            names = {label: _run_name(method, label) for label in self.points}
            found = {label: results[name] for label, name in names.items() if name in results}
            if not found:
                raise ExperimentError(f"search over {self.name}: no run of {method} succeeded")
            scores[method] = {}
            for label, summary in found.items():
                peers = [other for known, other in found.items() if self._same_clients(label, known)]
                clients = all_clients(other["clients"] for other in peers)
                if is_whole(summary["clients"], clients):
                    scores[method][label] = summary["mean"]
                else:
                    lacks = ", ".join(client for client in clients if client not in summary["clients"])
                    log.warning("search: %s with %s has no score of %s, so it is not chosen", method, label, lacks)
            if not scores[method]:
                raise ExperimentError(f"search over {self.name}: no run of {method} has scores of all clients")
            best[method] = self.points[max(scores[method], key=scores[method].__getitem__)]
        return {"keys": list(self.grid), "benchmark": benchmark, "seed": TUNING_SEED, "scores": scores, "best": best}

    def _same_clients(self, label: str, other: str) -> bool:
        """Return whether two points have the same clients."""
        one, two = self.points[label], self.points[other]
        return all(one.get(key) == two.get(key) for key in CHOOSE_CLIENTS)


def _run_name(method: str, label: str) -> str:
    return f"{method}-{label}".replace(" ", "-")


def read_tuning(path: Path, methods: Sequence[str]) -> dict[str, Any]:
    """Read the result of an earlier search from its ``tuning.json``.

    Raises:
        ConfigError: a method is unknown, or the file is not the result of a search, has no values for a method or its
            algorithm, or chooses a setting that a grid sets itself.
    """
    try:
        chosen: dict[str, Any] = read_json(path)
        check_tuning(chosen, str(path))
    except DataError as error:
        raise ConfigError(f"{error}; expected the tuning.json of a search") from None
    found = {method for method, values in chosen["best"].items() if values}
    missing = [name for name in methods if found.isdisjoint((name, resolve(RunConfig(method=name)).method))]
    if missing:
        raise ConfigError(f"{path}: no value of {' and '.join(chosen['keys'])} for {', '.join(missing)}")
    check_varied(str(path), [key for values in chosen["best"].values() for key in values])
    return chosen


def search_each(
    configs: Mapping[str, RunConfig],
    methods: Sequence[str],
    wanted: Search,
    jobs: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    record: RunRecord | None = None,
) -> dict[str, dict[str, Any]]:
    """Make the same search for several comparisons with one pool of workers; return the results by label.

    Each result (:meth:`Search.choose`), which a comparison (:func:`~feddat.experiment.grids.comparison.compare`)
    accepts, is also in ``tuning.json`` beside the comparison's search runs. As in a comparison, finished runs are kept
    and interrupted runs are resumed. Events name the runs as :func:`trials` does.
    """
    configs = {label: pinned(config) for label, config in configs.items()}
    results, _ = run_all(trials(configs, methods, wanted), jobs, progress, overwrite, record)
    chosen = {}
    for label, config in configs.items():
        runs = wanted.runs(config, methods)
        found = {name: results[key] for name in runs if (key := labelled(label, name)) in results}
        chosen[label] = wanted.choose(methods, found, config.benchmark)
        folder = RunFolder(next(iter(runs.values())).runs_dir)
        folder.write_json(folder.path / "tuning.json", chosen[label])
    return chosen


def trials(configs: Mapping[str, RunConfig], methods: Sequence[str], wanted: Search) -> dict[str, RunConfig]:
    """Return the runs of :func:`search_each` by ``LABEL/NAME``, or ``NAME`` for an empty label."""
    return {
        labelled(label, name): run
        for label, config in configs.items()
        for name, run in wanted.runs(config, methods).items()
    }
