"""Suites: whole grids of federations, methods and seeds, with their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feddat.algorithms import ALGORITHMS
from feddat.benchmarks import list_benchmarks
from feddat.config import ConfigError, RunConfig
from feddat.experiment.grids.comparison import Plan, compare_each
from feddat.experiment.grids.record import RunRecord
from feddat.experiment.grids.tuning import Search, search_each
from feddat.experiment.single.events import Progress
from feddat.experiment.single.folder import RunFolder, disk_errors
from feddat.experiment.single.methods import SERVER_RULES

#: The rows of the tables of FedDAT's paper (AAAI 2024, arXiv 2308.12305).
PAPER_ROWS = (
    "head",
    *("fedavg-norm", "fedavg-bias", "fedavg-prompt", "fedavg-lora", "fedavg", "fedavg-full"),
    *("local", "feddat", "central"),
)
#: The rows of comparisons on real medical data, ordered by what they train and send.
MEDICAL_ROWS = ("feddat", "fedavg", "local", "head")
#: The rows that decide whether FedDAT pays off: three variants of it, and the methods that it has to beat.
DECIDING_ROWS = (
    *("feddat", "feddat-mild", "feddat-heads"),
    *("fedavg", "fedavg-2x", "local", "local-2x", "feddpa", "central"),
)
#: The rows of the comparison at the published scale; the deciding rows come first.
PUBLISHED_ROWS = (
    *DECIDING_ROWS,
    *("fedavg-ft", "ditto", "apfl", "fedalt", "fedsa-lora", "fedex-lora", "feddyn"),
    *("head", "fedavg-norm", "fedavg-bias", "fedavg-prompt", "fedavg-lora", "fedavg-full"),
)
ALL_ROWS = tuple(
    dict.fromkeys((*PAPER_ROWS, *ALGORITHMS.own, "feddat-mild", "feddat-lora", "fedavg-2x", *SERVER_RULES))
)
_KINDS = ("domain", "scene", "function", "task")
_MINI_V1 = tuple(f"mini-v1/{kind}" for kind in _KINDS)
_MINI = tuple(f"mini/{kind}" for kind in (*_KINDS, "convention"))


@dataclass(frozen=True, slots=True)
class Suite:
    """A grid of federations and methods.

    Attributes:
        name: name of the suite.
        description: description in one line.
        benchmarks: the federations.
        methods: the rows of its tables.
    """

    name: str
    description: str
    benchmarks: tuple[str, ...]
    methods: tuple[str, ...]

    def configs(self, config: RunConfig) -> dict[str, RunConfig]:
        """Return the settings of each federation's comparison, by the name of its folder.

        Raises:
            ConfigError: a benchmark is not in the catalog, or the settings have their own `clients`.
        """
        if config.clients is not None:
            raise ConfigError(
                f"suite {self.name}: its federations are {', '.join(self.benchmarks)}; leave out `clients`"
            )
        if unknown := [name for name in self.benchmarks if name not in list_benchmarks()]:
            raise ConfigError(f"suite {self.name}: unknown benchmark {', '.join(unknown)}; see `feddat list`")
        place = {"runs_dir": config.runs_dir / (config.name or f"suite-{self.name}")}
        labels = {name.replace("/", "-"): name for name in self.benchmarks}
        return {label: config.updated(place | {"name": label, "benchmark": name}) for label, name in labels.items()}


#: The suites by name.
SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("paper", "the paper's federations and rows", tuple(f"paper/{kind}" for kind in _KINDS), PAPER_ROWS),
        Suite("mini", "the mini federations, the paper's rows", _MINI, PAPER_ROWS),
        Suite("deciding", "the mini federations, the rows that decide whether FedDAT pays off", _MINI, DECIDING_ROWS),
        Suite(
            "published",
            "the mini federations, the rows of the comparison at the published scale",
            _MINI,
            PUBLISHED_ROWS,
        ),
        Suite(
            "rivals",
            "the mini federations, every algorithm with its own settings",
            _MINI,
            ALGORITHMS.own,
        ),
        Suite(
            "all",
            "the mini federations, every algorithm, the kinds of adapter, seven server rules, three variants",
            _MINI,
            ALL_ROWS,
        ),
        Suite(
            "medical",
            "medical data from the Hub: three datasets, four modalities, five hospitals",
            ("medical/small", "medical/modality", "medical/sites"),
            MEDICAL_ROWS,
        ),
        Suite("mini-v1", "the mini federations of earlier results, the paper's rows", _MINI_V1, PAPER_ROWS),
        Suite("all-v1", "the mini federations of earlier results, the rows of all", _MINI_V1, ALL_ROWS),
    )
}


def find_suite(name: str) -> Suite:
    """Return the suite of this name.

    Raises:
        ConfigError: there is no such suite.
    """
    if name not in SUITES:
        raise ConfigError(f"suite {name!r}: unknown; suites are {', '.join(SUITES)}")
    return SUITES[name]


def tune_suite(
    configs: Mapping[str, RunConfig],
    methods: Sequence[str],
    wanted: Search,
    on: str | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    record: RunRecord | None = None,
) -> dict[str, dict[str, Any]]:
    """Choose one setting per method for every federation of a suite (:meth:`Suite.configs`), on validation data.

    Args:
        configs: settings by the name of the federation's folder.
        methods: methods to choose for.
        wanted: settings and candidates.
        on: benchmark whose choice is used for all federations; default: each has its own search.
        jobs: number of worker processes.
        progress: receives the events of the search runs.
        overwrite: start every run from scratch.
        record: see :func:`~feddat.experiment.grids.comparison.compare`.

    Returns:
        The result of :meth:`~feddat.experiment.grids.tuning.Search.choose` for each federation.

    Raises:
        ConfigError: ``on`` is not a benchmark of the suite.
        ExperimentError: all runs of a method failed.
    """
    searched = searched_configs(configs, on)
    chosen = search_each(searched, methods, wanted, jobs, progress, overwrite, record)
    return {label: chosen.get(label) or next(iter(chosen.values())) for label in configs}


def searched_configs(configs: Mapping[str, RunConfig], on: str | None) -> dict[str, RunConfig]:
    """Return the settings of the federations to search on: all, or only that of benchmark ``on``.

    Raises:
        ConfigError: ``on`` is not a benchmark of the suite.
    """
    searched = {label: config for label, config in configs.items() if on in (None, config.benchmark)}
    if not searched:
        known = ", ".join(str(config.benchmark) for config in configs.values())
        raise ConfigError(f"no federation {on!r} in the suite to choose settings on; its federations are {known}")
    return searched


def run_suite(
    suite: Suite,
    plans: Mapping[str, Plan],
    jobs: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    record: RunRecord | None = None,
) -> dict[str, Any]:
    """Run the comparisons of a suite, one per federation, and write ``suite.json``, its tables and its page.

    As in a comparison, finished runs are kept and interrupted runs are resumed.

    Args:
        suite: the suite.
        plans: the comparison of each federation, by the name of its folder.
        jobs: number of worker processes.
        progress: receives the events of the runs.
        overwrite: start every run from scratch.
        record: see :func:`~feddat.experiment.grids.comparison.compare`.

    Returns:
        The content of ``suite.json``: ``suite``, ``description``, ``folders`` (benchmark -> folder), ``failed``
        (run -> reason).

    Raises:
        ConfigError: a method is unknown.
        ExperimentError: no run succeeded; the message says why the first failed.
    """
    comparisons = compare_each(plans, jobs, progress, overwrite, record)
    folder = RunFolder(next(iter(plans.values())).config.runs_dir)
    result = {
        "suite": suite.name,
        "description": suite.description,
        "folders": {plan.config.benchmark: label for label, plan in plans.items()},
        "failed": {
            f"{label}/{run}": reason
            for label, comparison in comparisons.items()
            for run, reason in comparison["failed"].items()
        },
    }
    folder.write_json(folder.path / "suite.json", result)
    from feddat.report.suite import write_suite

    with disk_errors(folder.path):
        write_suite(folder.path)
    return result
