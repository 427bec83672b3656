"""The server's side of one run: the rounds over any Grid, and the summary of the results."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid
from httpx import HTTPError

from feddat.app.checkpoint import CheckpointError, Checkpoints, ServerState
from feddat.app.client_level import NoisyMean, Participations
from feddat.app.judge import Judge
from feddat.app.limits import Limits, check_message
from feddat.app.messages import Member
from feddat.app.roster import FederationError, Roster
from feddat.app.rules import Rule, make_rule
from feddat.app.secure_strategy import SecureStrategy, check_secure, sum_rules, uses_sums
from feddat.app.server import make_server_app
from feddat.app.strategy import AdapterStrategy, sample_size
from feddat.client.data_notes import Notes, sentence
from feddat.config import RunConfig
from feddat.data.readers.medical import KIND
from feddat.example import ClientData, Example
from feddat.experiment.single.counts import local_steps, passes, rounds_without_update
from feddat.experiment.single.deciding import config_hash
from feddat.experiment.single.events import Announcer
from feddat.experiment.single.federation import Federation
from feddat.experiment.single.folder import ExperimentError, RunFolder, disk_errors
from feddat.experiment.single.foundation import Foundation, answering_state, settings_hash
from feddat.experiment.single.methods import title
from feddat.experiment.single.samples import write_samples
from feddat.experiment.single.starting import Start, read_start
from feddat.experiment.single.world import in_short
from feddat.memory import free_memory

#: Most kinds of questions that are scored separately.
MOST_KINDS = 4


@dataclass
class Service:
    """One session of a run, from its last checkpoint to its end.

    Attributes:
        config: the run as given.
        folder: folder of the run.
        foundation: model, adapters and algorithm of the run.
        names: names of the participants, sorted.
        announcer: receives the events.
        wait: seconds to wait for clients that are not connected.
        resumes: whether the run in the folder is resumed.
        world: part of the world -> its hash, as far as this process knows.
        changes: accepted changes to the world since the last checkpoint.
        admitted: see :class:`~feddat.app.roster.Roster`.
    """

    config: RunConfig
    folder: RunFolder
    foundation: Foundation
    names: Sequence[str]
    announcer: Announcer
    wait: float
    resumes: bool = False
    world: Mapping[str, str] = field(default_factory=dict)
    changes: Sequence[str] = ()
    admitted: Callable[[], Mapping[str, bytes]] | None = None

    def __post_init__(self) -> None:
        """Choose the aggregation rule, and read the initial adapter.

        Raises:
            ConfigError: ``adapter.start`` cannot be used, the rule does not fit the algorithm or the number of clients,
                or messages are too large.
        """
        self.settings = self.foundation.config
        count = len(self.names) or len(self.admitted() if self.admitted is not None else ())
        replies = sample_size(self.settings.server.fraction, count)
        shapes = self.foundation.shared_shapes()
        size = sum(math.prod(shape) for shape in shapes.values())
        check_secure(self.settings, self.foundation.algorithm, replies, size)
        self._rule: Rule = make_rule(self.settings, self.foundation.algorithm, replies)
        check_message(
            shapes, self.foundation.extra_shapes(), self.settings.wire, self.settings.server, replies, free_memory()
        )
        self._start = self._read_start()
        self._order: list[str] = []
        self._parameters: dict[str, int] = {}
        self._not_shared: set[str] = set()

    def run(
        self, grid: Grid, started: float, order: Sequence[str], federation: Callable[[], Federation] | None
    ) -> dict[str, Any]:
        """Run the remaining rounds, write the folder's files except the report, and return the summary.

        Args:
            grid: carries the messages.
            started: ``time.perf_counter()`` when this process began to work on the run.
            order: the clients' names in the order of reports, as far as known.
            federation: returns the clients if their data is on this machine, to show some of their answers.

        Raises:
            ExperimentError: a file cannot be written, or the run cannot continue with the available clients.
        """
        self._order = list(order)
        try:
            state = self._rounds(grid, started)
        except (FederationError, CheckpointError) as error:
            raise ExperimentError(f"run {self.folder.path}: {error}") from error
        except HTTPError as error:
            reason = str(error).partition("\n")[0]
            raise ExperimentError(
                f"run {self.folder.path}: the SuperLink failed ({reason}); its disk may be full. Everything so far is "
                "kept, and the run can be resumed"
            ) from error
        kinds: dict[str, dict[str, float]] = {}
        here = None if federation is None else federation()
        if here is not None:
            self._show_answers(state, here)
            kinds = scores_by_kind(here, state, self.settings.eval.split)
        # With privacy, no scores are sent. A process that has all data can compute them itself.
        own = evaluate(here, state, self.settings.eval.split) if here and self.settings.privacy.on else {}
        summary = self._summary(state, own)
        # The same rule as for scores: data notes of clients that do not share scores are not shown.
        if here is not None and self.settings.share_metrics == "scores":
            summary["data"] = {
                client: {split: {"questions": found.questions} | found.counts() for split, found in splits.items()}
                for client, splits in here.notes.items()
            }
        if kinds:
            summary["kinds"] = kinds
        self.folder.write_json(self.folder.summary_file, summary)
        return summary

    def checkpoints(self) -> Checkpoints:
        """Return the run's checkpoints."""
        form = self.foundation.adapters.peft_form()
        return Checkpoints(self.folder.checkpoints, config_hash(self.config), form, self.settings.model)

    def _rounds(self, grid: Grid, started: float) -> ServerState:
        settings, foundation = self.settings, self.foundation
        checkpoints = self.checkpoints()
        state = checkpoints.latest() or self._beginning()
        state.world |= self.world
        if self.changes:
            state.changes.append({"round": state.round, "what": list(self.changes)})
        self.folder.cut_metrics(state.round)
        self.announcer.route_name = foundation.route_name
        sums = uses_sums(settings, foundation.algorithm)
        roster = self._roster(sums)
        app = make_server_app(
            self._strategy(state, roster, checkpoints, sums),
            state,
            rounds=settings.rounds,
            evaluation=settings.eval,
            save=checkpoints.save,
            notify=self.announcer,
            started=started,
            model=foundation.model,
            met=partial(self._met, state),
        )
        app(grid, Context(grid.run.run_id, 0, {}, RecordDict(), {}))
        self._note(roster.known.values())
        return state

    def _roster(self, sums: bool) -> Roster:
        settings = self.settings
        needed = settings.server.min_clients
        return Roster(
            self.folder.run_id(),
            self.names,
            max(needed, settings.secure_aggregation.min_clients) if sums else needed,
            self.wait,
            bound=settings.runtime.kind == "deployment",
            central=self.foundation.algorithm.centralised,
            admitted=self.admitted,
        )

    def _strategy(self, state: ServerState, roster: Roster, checkpoints: Checkpoints, sums: bool) -> AdapterStrategy:
        """Return the strategy; with privacy of clients and without secure sums, its rule adds the noise."""
        settings, foundation = self.settings, self.foundation
        server, privacy, algorithm = settings.server, settings.privacy, foundation.algorithm
        rule = self._rule
        participations = Participations(checkpoints, settings) if privacy.of_clients else None
        if participations is not None and not sums:
            rule = NoisyMean(algorithm.server, settings.algorithm, privacy.clip, participations, privacy.noise_seed)
        make: Callable[..., AdapterStrategy] = AdapterStrategy
        if sums:
            make = partial(SecureStrategy, sums=sum_rules(settings, settings_hash(settings)))
        return make(
            seed=settings.seed,
            rule=rule,
            shapes={key: tuple(value.shape) for key, value in state.shared.items()},
            routes=foundation.routes(final=False),
            final_routes=foundation.routes(final=True),
            fraction=server.fraction,
            weighting=server.weighting,
            wire=settings.wire,
            notify=self.announcer,
            roster=roster,
            limits=Limits(server.max_update, server.max_examples, server.agreed_examples, clipped=privacy.of_clients),
            judge=Judge(
                # With privacy of clients, no client's data decides whether another one's update counts.
                server.max_outlier if participations is None else math.inf,
                server.agreed_examples,
                same_steps=settings.train.steps is not None,
                losses=rule.reads_losses,
                examples=server.weighting == "examples",
            ),
            deadline=server.deadline,
            logs=algorithm.logs,
            logs_below_zero=algorithm.logs_below_zero,
            participations=participations,
        )

    def _read_start(self) -> Start | None:
        """Return the adapter to start from; ``None`` if it is random, or if the run has already begun."""
        folder = self.settings.adapter.start
        if folder is None or (self.resumes and self.checkpoints().latest() is not None):
            return None
        return read_start("adapter.start", folder, self.foundation.adapters, self.foundation.model["weights"])

    def _beginning(self) -> ServerState:
        if self._start is None:
            return ServerState(self.foundation.initial_shared())
        shared = dict(self._start.state) if self.foundation.algorithm.communicates else {}
        return ServerState(shared, start=self._start.digest)

    def _met(self, state: ServerState, members: Sequence[Member]) -> None:
        self._note(members)
        self.announcer.tell(
            event="start",
            name=self.config.run_name,
            method=self.config.method,
            title=title(self.config),
            folder=str(self.folder.path),
            clients=self._order,
            round=state.round,
            parameters=self._parameters,
        )

    def _note(self, members: Collection[Member]) -> None:
        """Record the members' clients, and the parameter counts of the member with the most."""
        found = dict.fromkeys([*self._order, *(name for member in members for name in member.members)])
        self._order = list(found)
        self._not_shared = {n for member in members if member.sharing != "scores" for n in member.members}
        counts = [dict(member.parameters) for member in members if member.parameters] or [self.foundation.count()]
        most = max(counts, key=lambda count: count.get("total", 0))
        if most.get("total", 0) > self._parameters.get("total", 0):
            self._parameters = most

    def _show_answers(self, state: ServerState, federation: Federation) -> None:
        started = time.perf_counter()
        folder, split = self.folder, self.settings.eval.split
        samples: list[dict[str, Any]] = []
        with disk_errors(folder.pictures):
            folder.pictures.mkdir(exist_ok=True)
            for data in federation.data.values():
                task = federation.owner(data.name).members[data.name].task
                samples += write_samples(data, task, split, partial(predict, federation, state), folder.pictures)
        folder.write_json(folder.predictions_file, samples)
        state.seconds["other"] += time.perf_counter() - started

    def _summary(self, state: ServerState, here: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """Return the summary, with scores from the metrics file, since a resumed run may have scored before.

        Args:
            state: state after the last round.
            here: scores computed on this machine, by client and route.
        """
        settings, foundation = self.settings, self.foundation
        clients: dict[str, dict[str, float]] = {name: dict(here.get(name, {})) for name in self._order}
        lines = self.folder.read_metrics()
        for line in lines:
            if "score" in line and line["round"] == settings.rounds and line["split"] == settings.eval.split:
                clients.setdefault(line["client"], {})[line["route"]] = line["score"]
        scored = {name: scores for name, scores in clients.items() if scores}
        own = foundation.route_name(foundation.routes(final=True)[0])
        return {
            "method": self.config.method,
            "title": title(self.config),
            "peft": settings.adapter.peft,
            "model": settings.model,
            "model_weights": foundation.model["weights"],
            "benchmark": settings.benchmark,
            "seed": settings.seed,
            "rounds": settings.rounds,
            "fraction": settings.server.fraction,
            "split": settings.eval.split,
            "clients": scored,
            "mean": statistics.fmean(scores[own] for scores in scored.values()) if scored else None,
            "parameters": self._parameters | {"received": foundation.received(state)},
            "steps": local_steps(lines),
            "passes": passes(lines),
            "bytes": {way: sum(kind[way] for kind in state.bytes.values()) for way in ("up", "down")} | state.bytes,
            "seconds": sum(state.seconds.values()),
            "seconds_in": state.seconds,
            "failed": state.failed,
            "refused": state.refused,
            **({"without_update": without} if (without := rounds_without_update(lines)) else {}),
            "missing": [name for name in clients if name not in scored],
            "not_shared": [name for name in clients if name in self._not_shared],
            "world": in_short(state.world),
            "changes": state.changes,
            **({"privacy": settings.privacy.model_dump(mode="json", exclude_none=True)} if settings.privacy.on else {}),
        } | ({"start": state.start} if state.start else {})


def tell_notes(notes: Mapping[str, Notes], announcer: Announcer) -> None:
    """Report the issues in the clients' data, with one event for each client and split."""
    for client, splits in notes.items():
        for split, found in splits.items():
            reason = sentence(client, split, found)
            counts = {"questions": found.questions} | found.counts()
            announcer.tell(event="data", client=client, split=split, reason=reason, grave=found.grave, **counts)


def predict(
    federation: Federation, state: ServerState, client: str, examples: Sequence[Example], k: int
) -> list[list[tuple[str, float]]]:
    """Return the ``k`` most likely answers to each example with probabilities, from a client's model in a state."""
    owner = federation.owner(client)
    return owner.predict(answering_state(federation.foundation, state, owner.name), client, examples, k)


def evaluate(federation: Federation, state: ServerState, split: str) -> dict[str, dict[str, float]]:
    """Return the scores of every client on a split in a state, percent by route; none for clients without it."""
    foundation = federation.foundation
    found: dict[str, dict[str, float]] = {}
    for participant in federation.participants.values():
        found |= participant.evaluate(answering_state(foundation, state, participant.name), split).scores
        participant.release()
    return {
        name: {foundation.route_name(route): score for route, score in found[name].items()}
        for name in federation.data
        if name in found
    }


def scores_by_kind(federation: Federation, state: ServerState, split: str) -> dict[str, dict[str, float]]:
    """Return the scores by kind of question on the method's own route: client -> kind -> percent.

    The kinds are those of the dataset (``answer_type``: open and closed, or yes/no, number, other). A client whose
    questions are all of one kind, or have no kind, has no entry.
    """
    found: dict[str, dict[str, float]] = {}
    for participant in federation.participants.values():
        kinds = {name: _kinds(federation.data[name], split) for name in participant.members}
        if not any(kinds.values()):
            continue
        received = answering_state(federation.foundation, state, participant.name)
        scores = participant.example_scores(received, split)
        participant.release()
        for name, places in kinds.items():
            if places:
                found[name] = {kind: statistics.fmean(scores[name][at] for at in here) for kind, here in places.items()}
    return {name: found[name] for name in federation.data if name in found}


def _kinds(data: ClientData, split: str) -> dict[str, list[int]]:
    """Return the indices of each kind's examples; empty for a single kind, or for more than :data:`MOST_KINDS`."""
    places: dict[str, list[int]] = {}
    for place, example in enumerate(data.split(split)):
        places.setdefault(str(example.meta.get(KIND, "")).strip().lower(), []).append(place)
    return dict(sorted(places.items())) if "" not in places and 1 < len(places) <= MOST_KINDS else {}
