"""One audit: takes a run, and returns what its attackers find out as a dictionary for JSON."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from feddat.audit.canaries import as_candidates, bounds, make_canaries, with_canaries
from feddat.audit.candidates import draw_candidates
from feddat.audit.errors import AuditError
from feddat.audit.membership import VIEWS, Say, attack, attacked_rounds, summarise
from feddat.audit.promise import stated
from feddat.audit.properties import infer
from feddat.audit.reconstruction import reconstruct
from feddat.audit.replay import Trace, replay, same_as
from feddat.example import ClientData
from feddat.experiment.single.methods import title
from feddat.experiment.single.run import Experiment

#: δ for a run that states none.
DELTA = 1e-5


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts and sizes of an audit.

    Attributes:
        views: attackers, of :data:`~feddat.audit.membership.VIEWS`.
        examples: largest number of members per client, and of non-members.
        rounds: largest number of attacked rounds: the first, the last, and some between.
        canaries: canaries per client, in a second run; 0: none.
        reconstruction: whether to attack messages to a dishonest server.
        matching: steps of each reconstruction by gradient matching; 0: none.
        properties: shadow clients that show how answers and kinds of question leak; 0: none.
        seed: of every choice that the attackers make.
    """

    views: tuple[str, ...] = ("server", "sum")
    examples: int = 200
    rounds: int = 5
    canaries: int = 40
    reconstruction: bool = True
    matching: int = 200
    properties: int = 40
    seed: int = 0


def audit(experiment: Experiment, plan: Plan, say: Say = lambda what, done, total: None) -> dict[str, Any]:
    """Repeat an experiment under the eyes of its attackers, and return what they find.

    Args:
        experiment: a finished run, or settings of a future one; its folder is only read.
        plan: parts and sizes of the audit.
        say: receives what is being done, how much of it is done, and of how much.

    Raises:
        AuditError: the run cannot be attacked in this way.
        DataError, ConfigError, ModelError, ExperimentError: as for :meth:`Experiment.run`.
    """
    if unknown := [view for view in plan.views if view not in VIEWS]:
        raise AuditError(f"view {unknown[0]!r}: expected some of {', '.join(VIEWS)}")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="feddat-audit-") as place:
        trace = replay(experiment, Path(place) / "run", _events(say, "run, watched by its server"))
        clients = trace.federation.data
        candidates, spare = draw_candidates(experiment.settings, clients, plan.examples, plan.canaries, plan.seed)
        attacker = partial(attack, experiment.settings, views=plan.views, rounds=plan.rounds)
        found = attacker(trace, candidates, folder=Path(place) / "shadow", say=_named(say, "membership"))
        result: dict[str, Any] = {
            "run": _about(experiment, trace),
            "plan": asdict(plan) | {"views": list(plan.views)},
            "attacked_rounds": attacked_rounds(trace.rounds, plan.rounds),
            "unused": sorted({one.source for one in candidates.values()}),
            "membership": summarise(found, plan.seed),
        }
        if plan.properties:
            shadows = Path(place) / "properties"
            told = infer(experiment.settings, trace, candidates, plan.properties, plan.seed, shadows, say)
            result |= {} if told is None else {"properties": told}
        if plan.canaries:
            canaries = make_canaries(clients, spare, plan.seed)

            def change(data: Sequence[ClientData]) -> list[ClientData]:
                return with_canaries(data, canaries)

            again = replay(experiment, Path(place) / "canaries", _events(say, "run with canaries"), change)
            asked = as_candidates(candidates, canaries)
            scores = attacker(again, asked, folder=Path(place) / "shadow-canaries", say=_named(say, "canaries"))
            result["canaries"] = bounds(scores, stated(experiment.settings)["delta"] or DELTA)
        if plan.reconstruction:
            config = experiment.settings
            messages = Path(place) / "messages"
            result["reconstruction"] = reconstruct(config, clients, candidates, plan.matching, messages, say)
    result["stated"] = stated(experiment.settings)
    result["seconds"] = time.perf_counter() - started
    return result


def _about(experiment: Experiment, trace: Trace) -> dict[str, Any]:
    config = experiment.config
    return {
        "method": config.method,
        "title": title(config),
        "model": config.model,
        "peft": experiment.settings.adapter.peft,
        "source": config.benchmark or "own data",
        "seed": config.seed,
        "secret_seeds": config.privacy.secret_seeds,
        "rounds": config.rounds,
        "clients": {name: len(data.train) for name, data in trace.federation.data.items()},
        # A repetition draws new noise for privacy.
        "repeated": None if config.privacy.on else same_as(experiment, trace),
    }


def _named(say: Say, name: str) -> Say:
    return lambda what, done, total: say(name, done, total)


def _events(say: Say, what: str) -> Callable[[dict[str, Any]], None]:
    def take(event: Mapping[str, Any]) -> None:
        if event["event"] in ("start", "round"):
            say(what, int(event["round"]), int(event["rounds"]))

    return take
