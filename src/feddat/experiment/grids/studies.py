"""Studies: how the scores depend on one setting; each point of a curve is an ordinary run.

A study over a setting makes one comparison per value; a study over rounds reads the curves of one comparison. Either
way the runs are kept, resumed and computed in parallel like those of any comparison. The study itself is a file
(``study.json``) that the report draws.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from feddat.benchmarks import is_generated
from feddat.config import ConfigError, RunConfig
from feddat.experiment.grids.comparison import Plan, compare_each, labelled
from feddat.experiment.grids.reach import CAPS, Reach, find_reach
from feddat.experiment.grids.record import RunRecord
from feddat.experiment.grids.tuning import check_varied, parse_values
from feddat.experiment.single.client_data import client_sizes
from feddat.experiment.single.counts import local_steps
from feddat.experiment.single.events import Progress
from feddat.experiment.single.folder import ExperimentError, RunFolder, disk_errors
from feddat.report.tables import own_route
from feddat.report.traffic import taking_part


@dataclass(frozen=True, slots=True)
class Study:
    """The varied setting, and the horizontal axis of the plot.

    Attributes:
        name: name of the study; for a study from the command line, the configuration key.
        description: description in one line.
        axis: label of the horizontal axis.
        values: values of the points; if empty, one comparison is drawn over its rounds.
        keys: configuration keys that are set to a point's value.
        methods: methods to compare by default.
        over: horizontal axis: ``value``, the point's value; ``steps``, all local steps that a client took; ``planned``,
            the local steps that the point's value plans for all rounds, although some methods take a different number
            for equal compute.
        by_route: draw one series per route (DAT, local, global), not only the method's own route.
        reach: which points the clients reach (:meth:`fitted`), if the study varies the number of their examples.
    """

    name: str
    description: str
    axis: str
    values: tuple[Any, ...] = ()
    keys: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("feddat", "fedavg", "local")
    over: Literal["value", "steps", "planned"] = "value"
    by_route: bool = False
    reach: Reach | None = None

    @classmethod
    def parse(cls, text: str) -> Study:
        """Read ``NAME`` or ``NAME=V1,V2,...``, where the name is one of :data:`STUDIES` or a configuration key.

        Raises:
            ConfigError: the name is unknown, a key has no values, or the study sets it itself.
        """
        name, given, _ = text.partition("=")
        known = STUDIES.get(name)
        if known is not None and not given:
            return known
        if not given:
            raise ConfigError(
                f"study {name!r}: expected one of {', '.join(STUDIES)}, or KEY=V1,V2,... with a configuration key"
            )
        _, values = parse_values(text)
        check_varied(f"study {text!r}", [name])
        if known is not None and known.keys:
            return replace(known, values=values)
        return cls(name, f"scores against {name}", axis=name, values=values, keys=(name,))

    @property
    def points(self) -> dict[str, Any]:
        """The values by label, which names a folder; a study over rounds has one point with an empty label."""
        return {_label(value): value for value in self.values} or {"": None}

    def fitted(self, config: RunConfig) -> Study:
        """Return the study without points that ask for more examples than any client has; others stay as they are.

        Clients with fewer examples than a point asks for use all of theirs. :attr:`reach` says which points that are.

        Args:
            config: settings of all points.

        Raises:
            ConfigError: no point is left.
            BenchmarkError: the benchmark is unknown.
            DataError: the clients' data cannot be read.
        """
        key = next((key for key in self.keys if key in CAPS), None)
        if self.reach is not None or key is None:
            return self
        reach = find_reach(self.name, key, self.values, config)
        return replace(self, values=reach.values, reach=reach)

    def plans(
        self,
        config: RunConfig,
        methods: Sequence[str],
        seeds: Sequence[int],
        tuning: Mapping[str, Any] | None = None,
        equal_steps: int | None = None,
    ) -> dict[str, Plan]:
        """Return the comparison of each point by its label.

        Args:
            config: settings of all points; the study is scored on its ``eval.split``.
            methods: see :class:`~feddat.experiment.grids.comparison.Plan`.
            seeds: see :class:`~feddat.experiment.grids.comparison.Plan`.
            tuning: see :class:`~feddat.experiment.grids.comparison.Plan`.
            equal_steps: choose each point's local steps per round so that a client takes about this many in total
                (:func:`with_steps`).

        Raises:
            ConfigError: a key is unknown, a value is invalid, two settings contradict each other, or no client has as
                many examples as any point asks for.
            DataError: for a study over the number of examples: the clients' data cannot be read.
        """
        if chosen := set(self.keys).intersection(tuning["keys"] if tuning is not None else ()):
            raise ConfigError(f"study {self.name}: varies {min(chosen)}, so a search cannot choose it per method")
        if equal_steps is not None and (self.over != "value" or "rounds" in self.keys):
            raise ConfigError(f"study {self.name}: varies the number of local steps, which --equal-steps would undo")
        if not self.values and config.privacy.on:
            raise ConfigError(f"study {self.name}: with privacy, clients send no scores during a run; study a setting")
        folder = config.runs_dir / study_name(self, config)
        if self.values:
            place = {"runs_dir": folder}
            points = {
                label: config.updated(dict.fromkeys(self.keys, value) | place | {"name": label})
                for label, value in self.fitted(config).points.items()
            }
        else:
            points = {"": config.updated({"name": folder.name, "eval.curve_split": config.eval.split})}
        if equal_steps is not None:
            points = {label: with_steps(point, equal_steps) for label, point in points.items()}
        return {label: Plan(point, methods, seeds, tuning) for label, point in points.items()}


#: The studies by name.
STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "examples",
            "number of training examples per client",
            "training examples per client",
            (50, 100, 200, 400, 800, 1600),
            ("train_examples",),
        ),
        Study(
            "steps",
            "how long clients train with the same data and number of rounds: local epochs per round",
            "local steps per client",
            (1, 2, 4, 8),
            ("train.epochs",),
            over="steps",
        ),
        Study(
            "length",
            "how long clients train with the same data and number of rounds: local steps per round, up to whole epochs",
            "local steps per client",
            (2, 5, 10, 23, 40, None),
            ("train.steps",),
            methods=("feddat", "feddat-mild", "fedavg", "fedavg-2x", "local"),
            over="planned",
        ),
        Study("rounds", "learning curves, with the same data and local epochs", "round"),
        Study("routes", "learning curves of each route: DAT, local, global", "round", by_route=True),
        Study(
            "clients",
            "number of clients that share the same examples",
            "clients that share one client's examples",
            (1, 2, 4, 8),
            ("split_clients",),
        ),
        Study(
            "distillation",
            "how strongly the two adapters teach each other: alpha = beta",
            "weight of distillation",
            (0.0, 0.1, 0.25, 0.5, 0.75, 0.9),
            ("algorithm.alpha", "algorithm.beta"),
            methods=("feddat",),
        ),
        Study(
            "temperature",
            "temperature of the distillation",
            "temperature",
            (1.0, 2.0, 3.0, 5.0, 8.0),
            ("algorithm.temperature",),
            methods=("feddat",),
        ),
        Study(
            "width",
            "how much the adapters reduce the width of the model",
            "reduction of the width",
            (1, 2, 4, 8, 16, 32),
            ("adapter.reduction",),
        ),
        Study(
            "server",
            "the server's aggregation rule",
            "server rule",
            ("mean", "fedavgm", "fedadam", "fedyogi", "fedmedian", "fedtrimmedavg"),
            ("server.rule",),
            methods=("feddat", "fedavg"),
        ),
        Study(
            "epsilon",
            "what differential privacy of records costs: the largest epsilon of a run (none: no privacy)",
            "epsilon",
            (1.0, 3.0, 8.0, None),
            ("privacy.epsilon",),
            methods=("feddat-one-way", "feddat", "fedavg", "local"),
        ),
        Study(
            "traps",
            "the cost of the faults in the published code",
            "fault reproduced",
            ("none", "frozen-local", "long-schedule", "moving-rest", "all"),
            ("train.trap",),
            methods=("feddat",),
        ),
    )
}


def study_name(study: Study, config: RunConfig) -> str:
    """Return the name of the study's folder in ``runs_dir``."""
    return config.name or f"study-{study.name}-{config.source_name}"


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    """Return the configuration with local steps per round such that a client takes about ``steps`` in total on average.

    There is at least one step per round. A step is one batch, however many optimizer steps a method makes for it.
    """
    return config.updated({"train.steps": max(1, round(steps / (config.rounds * config.server.fraction)))})


def run_study(
    study: Study,
    plans: Mapping[str, Plan],
    jobs: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    record: RunRecord | None = None,
) -> dict[str, Any]:
    """Run the comparisons of a study (:meth:`Study.plans`), and write ``study.json``, its table and its plot.

    As in a comparison, finished runs are kept, interrupted runs are resumed, and ``record`` saves runs. A study over
    rounds draws only runs whose folders are on this machine.

    Returns:
        The content of ``study.json``: ``study``, ``description``, ``axis``, ``rows`` (heading of the points), ``curve``
        (whether the points are rounds), ``by_route``, ``split``, ``benchmark``, ``model``, ``tuning``, ``failed``
        (run -> reason), ``short`` (label of a point -> client -> its number of examples, if the point asks for more),
        ``notes`` (sentences about these and about points left out), and ``records``, one for each run, point and route:
        ``method``, ``route``, ``seed``, ``point`` (label), ``x`` (a number, or ``None`` if the values are not numbers),
        ``score`` (mean over clients), ``clients`` (name -> score), ``rounds``, ``steps`` (all local steps of a client),
        ``bytes`` (``up`` and ``down`` for one client's training in one round), ``measured``
        (:meth:`~feddat.experiment.grids.record.RunRecord.measured`).

    Raises:
        ExperimentError: no run succeeded; the message says why the first failed. Or no run has scores to draw.
    """
    comparisons = compare_each(plans, jobs, progress, overwrite, record)
    config = next(iter(plans.values())).config
    study = study.fitted(config)
    epochs = _epoch_steps(config) if study.over == "planned" and None in study.values else None
    folder = RunFolder(config.run_dir if not study.values else config.runs_dir)
    result = {
        "study": study.name,
        "description": study.description,
        "axis": study.axis,
        "rows": ", ".join(study.keys) if study.over == "steps" else study.axis,
        "curve": not study.values,
        "by_route": study.by_route,
        "split": config.eval.split,
        "benchmark": config.benchmark,
        "model": config.model,
        "tuning": next(iter(plans.values())).tuning,
        "failed": {
            labelled(label, run): reason
            for label, comparison in comparisons.items()
            for run, reason in comparison["failed"].items()
        },
        "short": {} if study.reach is None else {_label(value): dict(few) for value, few in study.reach.short.items()},
        "notes": [] if study.reach is None else list(study.reach.notes),
        "records": [
            entry
            for label, value in study.points.items()
            for entry in _records(study, plans[label], comparisons[label], label, value, record, epochs)
        ],
    }
    from feddat.report.study import whole_runs, write_study

    result = whole_runs(result)
    if not result["records"]:
        raise ExperimentError(f"study {folder.path}: no run has scores of all its clients by round on this machine")
    folder.write_json(folder.path / "study.json", result)
    with disk_errors(folder.path):
        write_study(folder.path)
    return result


def _records(
    study: Study,
    plan: Plan,
    comparison: Mapping[str, Any],
    label: str,
    value: Any,
    record: RunRecord | None,
    epochs: float | None,
) -> Iterator[dict[str, Any]]:
    runs = {(run.method, run.seed): run for run in plan.runs().values()}
    for summary in comparison["runs"]:
        run = runs[summary["method"], summary["seed"]]
        lines = [] if study.values else RunFolder(run.run_dir).read_metrics()
        shares = len(taking_part(summary)) * summary["rounds"] * plan.config.server.fraction
        sent = {way: round(summary["bytes"]["train"][way] / shares) for way in ("up", "down")}
        own = own_route(next(iter(summary["clients"].values())))
        points: dict[tuple[int, str], dict[str, float]] = defaultdict(dict)
        if study.values:
            for client, scores in summary["clients"].items():
                for route, score in scores.items():
                    points[summary["rounds"], route][client] = score
        else:
            for line in lines:
                if "score" in line and line["split"] == plan.config.eval.split:
                    points[line["round"], line["route"]][line["client"]] = line["score"]
        for (number, route), scores in points.items():
            if (route != own and not study.by_route) or scores.keys() != summary["clients"].keys():
                continue
            done = summary.get("steps", 0) if study.values else local_steps(lines, number)
            x = _place(study, epochs if value is None else value, done, plan.config.rounds) if study.values else number
            yield {
                "method": summary["method"],
                "route": route,
                "seed": summary["seed"],
                "point": f"{x:g}" if study.over == "planned" else label if study.values else str(number),
                "x": x if isinstance(x, int | float) and not isinstance(x, bool) else None,
                "score": statistics.fmean(scores.values()),
                "clients": scores,
                "rounds": number,
                "steps": done,
                "bytes": sent,
                "measured": record.measured(run) if record is not None and study.values else {},
            }


def _place(study: Study, value: Any, done: float, rounds: int) -> Any:
    """Return the position of a point on the horizontal axis."""
    if study.over == "steps" or (study.over == "planned" and value is None):
        return done
    return value * rounds if study.over == "planned" else value


def _epoch_steps(config: RunConfig) -> float | None:
    """Return the local steps of the whole epochs in a round, as a mean over clients; ``None`` without a cap."""
    if config.train_examples is None:
        return None
    sizes: Collection[int] = [config.train_examples]
    if config.benchmark is None or not is_generated(config.benchmark):
        sizes = client_sizes(config, "train").values()
    parts = config.split_clients
    sizes = [len(range(part, size, parts)) for size in sizes for part in range(parts)]
    return config.train.epochs * statistics.mean(math.ceil(size / config.train.batch_size) for size in sizes)


def _label(value: Any) -> str:
    """Return a value as the name of a folder."""
    return "none" if value is None else str(value).replace("/", "-")
