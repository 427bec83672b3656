"""The Flower Strategy: sample clients, write their instructions, and check and aggregate their replies.

Replies are checked and passed to the aggregation rule in the order of client names (:mod:`feddat.app.intake`). The
strategy checks the rule's result before it becomes the global adapter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from feddat.algorithms.server import Shapes
from feddat.app import messages
from feddat.app.client_level import Participations
from feddat.app.held import HeldReplies
from feddat.app.intake import Intake
from feddat.app.judge import Judge, Measures, as_arrays, norm
from feddat.app.limits import Limits
from feddat.app.messages import Member, ReplyError, TrainReply
from feddat.app.roster import FederationError, Roster
from feddat.app.rules import Rule, RuleError, RunningMean
from feddat.app.updates import UpdateStatistics
from feddat.app.wire import settle
from feddat.config import WireConfig
from feddat.one_line import one_line
from feddat.seeding import numpy_generator

log = logging.getLogger(__name__)

#: Seconds between the deadline of an answer and the expiry of its message; must exceed the skew of the clocks.
SKEW_SECONDS = 300.0
#: Receives plain event dictionaries.
Notify = Callable[[dict[str, Any]], None]


class AdapterStrategy(Strategy):
    """Aggregate the global adapters of the clients sampled for each round, with an aggregation rule.

    Attributes:
        roster: which node is which client.
        intake: takes in the replies, and counts those that cannot be used.
        scores: member -> route -> percent, from the latest evaluation.
        kept_back: members that have scores in the latest evaluation but do not share them.
        trained: client -> last round whose training it has answered.
        logs: keys of the training metrics that clients report.
        logs_below_zero: whether any of these can be below 0.
        wire: how the shared part travels.
        residual: what the global adapter has lost to compression so far; the next one makes up for it.
        participations: with privacy of clients, how often each takes part; ``None``: no limit.
    """

    def __init__(
        self,
        *,
        seed: int,
        rule: Rule,
        shapes: Shapes,
        routes: Sequence[str],
        final_routes: Sequence[str] | None = None,
        fraction: float = 1.0,
        weighting: Literal["equal", "examples"] = "equal",
        wire: WireConfig = WireConfig(),
        notify: Notify = lambda event: None,
        roster: Roster | None = None,
        limits: Limits | None = None,
        judge: Judge | None = None,
        deadline: float | None = None,
        logs: Sequence[str] = ("loss",),
        logs_below_zero: bool = False,
        participations: Participations | None = None,
    ) -> None:
        self.seed, self.rule, self.shapes = seed, rule, dict(shapes)
        self.routes = {False: tuple(routes), True: tuple(final_routes or routes)}
        self.fraction, self.weighting, self._notify = fraction, weighting, notify
        self.wire, self.participations = wire, participations
        self.residual: dict[str, Tensor] = {}
        self.roster, self.limits, self.deadline = roster or Roster(), limits or Limits(), deadline
        self.judge = judge or Judge()
        self.logs, self.logs_below_zero = tuple(logs), logs_below_zero
        self.roster.notify = notify
        self.intake = Intake(self.roster, deadline, notify)
        self.trained: dict[str, int] = {}
        self.roster.trained = self.trained
        self.scores: dict[str, dict[str, float]] = {}
        self.kept_back: set[str] = set()
        self._split, self._final = "", False
        self._sent: dict[str, Tensor] = {}
        #: State of the rule before the round.
        self._rule_state: dict[str, Tensor] = {}
        #: Sends messages during a round's training, and yields the replies; set by the owner of the grid.
        self.exchange: Callable[[Sequence[Message]], Iterator[Message]] = lambda asked: iter(())

    def sample(self, round: int) -> list[int]:
        """Return the nodes that take part in a round: a fraction, at least one; depends only on seed and round.

        With privacy of clients, those that have no rounds left do not take part. Those that were late again and again
        do not either, unless too few would be left.

        Raises:
            FederationError: too few clients have rounds left.
        """
        nodes = list(self.roster.members)
        count = sample_size(self.fraction, len(nodes))
        if self.participations is not None:
            nodes = [node for node in nodes if self.participations.may(self.roster.members[node].name)]
            self.participations.check(len(nodes), self.roster.least)
        names = {node: self.roster.members[node].name for node in nodes}
        ready = [node for node in nodes if not self.intake.rests(names[node], round)]
        if len(ready) >= self.roster.least:
            nodes = ready
        else:
            self.intake.recall(names.values())
        count = min(count, len(nodes))
        chosen = numpy_generator(self.seed, round, "sample").choice(len(nodes), size=count, replace=False)
        return [nodes[index] for index in sorted(chosen)]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return the messages that ask the sampled clients to train."""
        self._sent = messages.to_tensors(arrays)
        self.intake.begin_round()
        self.limits.open(self._sent)
        self._rule_state = dict(self.rule.state)
        extras = self.rule.open(server_round, self._sent)
        return self._ask(MessageType.TRAIN, self.sample(server_round), server_round, arrays, config, extras)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new global adapter (empty if nothing is communicated) and the mean losses.

        If the rule's result cannot be a global adapter, keep the one that was sent out.

        Raises:
            FederationError: too few replies could be used, or too few for the rule although none was refused.
        """
        held, measured = HeldReplies(), list[Measures]()
        before = self.intake.refused

        def hold(member: Member, message: Message) -> None:
            with messages.checking(member.name):
                reply, measures = self._read(member, message, server_round)
            held.add(member, reply)
            self.trained[member.name] = server_round
            measured.append(measures)
            self._notify(
                {
                    "event": "fit",
                    "round": server_round,
                    "client": member.name,
                    "examples": reply.examples,
                    "metrics": reply.metrics,
                }
            )

        def outliers() -> dict[int, ReplyError]:
            found = self.judge.outliers(measured)
            return {place: ReplyError(measured[place].client, reason) for place, reason in found.items()}

        refused = self.intake.take(server_round, "train", replies, hold, outliers)
        losses, updates = RunningMean(), UpdateStatistics()
        for place, (member, reply) in enumerate(held.taken()):
            if place in refused:
                continue
            weight = float(reply.examples or 0) if self.weighting == "examples" else 1.0
            updates.add(reply.shared, self._sent)
            self.rule.add(reply, weight, member.name)
            losses.add(reply.metrics, weight)
        # With privacy of clients, what single updates are like leaves no more than the updates themselves.
        if self.participations is None and (found := updates.values()):
            self._notify({"event": "updates", "round": server_round, "updates": found})
        shared = self._closed(server_round, may_be_few=self.intake.refused > before)
        return messages.to_arrays(shared), MetricRecord({key: float(value) for key, value in losses.value().items()})

    def _read(self, member: Member, message: Message, round: int) -> tuple[TrainReply, Measures]:
        """Return a checked train reply and its measures.

        Raises:
            ReplyError: it cannot be used.
        """
        reply = messages.read_train_reply(
            message,
            member.name,
            round,
            self.shapes,
            self.rule.expects,
            self.wire,
            self._sent,
            member.sharing,
            self.logs,
            self.logs_below_zero,
        )
        measures = self.judge.measure(member.name, reply, self._sent)
        self.limits.check(member, reply, measures.update)
        if self.weighting == "examples" and reply.examples is None:
            raise ReplyError(member.name, "does not share its number of examples, but server.weighting needs it")
        if self.rule.reads_losses and "loss" not in reply.metrics:
            raise ReplyError(member.name, "does not share its training loss, but server.rule needs it")
        return reply, measures

    def _closed(self, round: int, may_be_few: bool) -> dict[str, Tensor]:
        """Return the new global adapter. If the rule fails, restore its state and return the adapter that was sent out.

        Args:
            round: the round.
            may_be_few: replies were refused, so having too few for the rule does not stop the run.

        Raises:
            FederationError: there are too few replies for the rule.
        """
        residual = self.residual
        try:
            shared = self.rule.close(clients=self.roster.size())
            self._check_output(shared)
            return self.settle(shared)
        except MemoryError:
            raise
        except Exception as error:  # A rule works on other parties' numbers and can be third-party code.
            if isinstance(error, RuleError) and not may_be_few:
                raise FederationError(f"round {round}: {error}") from None
            reason = one_line(f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else error)
        self.residual = residual
        return self._kept(round, reason)

    def _kept(self, round: int, reason: str) -> dict[str, Tensor]:
        """Restore the rule's state from before the round, report why, and return the adapter that was sent out."""
        self.rule.start(self._sent, self._rule_state)
        self.intake.refused += 1
        log.warning("round %d: the global adapter stays as it was: %s", round, reason)
        self._notify({"event": "kept", "round": round, "reason": reason})
        return self._sent

    def _check_output(self, shared: Mapping[str, Tensor]) -> None:
        """Check a rule's result and its state.

        Raises:
            ValueError: the result cannot be the global adapter of the next round.
        """
        name = type(self.rule).__name__
        if {key: tuple(value.shape) for key, value in shared.items()} != self.shapes:
            raise ValueError(f"{name} made tensors with other names or shapes")
        for key, value in [*shared.items(), *self.rule.state.items()]:
            if not torch.isfinite(value).all():
                raise ValueError(f"{name} made NaN or infinite values in {key}")
        if shared and (far := self.limits.too_far(norm(as_arrays(shared), as_arrays(self._sent)))):
            raise ValueError(f"{name} made an adapter {far} (server.max_update)")

    def settle(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a new global adapter as clients will receive it, and keep the residual.

        Raises:
            WireError: it has a number that cannot travel.
        """
        settled, self.residual = settle(shared, self.wire, self.residual)
        return settled

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return the messages that ask all clients to evaluate, except those that are late with training or gone.

        Clients that rest after they were late are asked for their final scores, too.
        """
        self._split, self._final = str(config["split"]), bool(config["final"])
        extras = self.rule.answers()
        away = self.intake.late | self.intake.gone
        nodes = [
            node
            for node, member in self.roster.members.items()
            if node not in away
            and not (member.name in self.roster.silent if self._final else self.intake.rests(member.name, server_round))
        ]
        return self._ask(MessageType.EVALUATE, nodes, server_round, arrays, config, extras)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return each route's mean score in percent, with equal weights, over the members that have examples.

        Raises:
            FederationError: no reply could be used.
        """
        self.scores, self.kept_back = {}, set()
        routes = self.routes[self._final]

        def fold(member: Member, message: Message) -> None:
            with messages.checking(member.name):
                reply = messages.read_evaluate_reply(message, member, server_round, routes)
            self.scores |= reply.scores
            for name in member.members:
                examples = reply.examples.get(name)
                if name not in reply.scores and examples != 0:
                    self.kept_back.add(name)
                self._notify(
                    {
                        "event": "eval",
                        "round": server_round,
                        "client": name,
                        "split": self._split,
                        "examples": examples,
                        "scores": reply.scores.get(name, {}),
                    }
                )

        self.intake.take(server_round, "evaluate", replies, fold)
        mean = RunningMean()
        for scores in self.scores.values():
            mean.add(scores)
        return MetricRecord({route: float(value) for route, value in mean.value().items()})

    def summary(self) -> None:
        """Log the strategy's settings."""
        log.info("%s of adapters: %s weights, fraction %s", type(self.rule).__name__, self.weighting, self.fraction)

    def _ask(
        self,
        kind: str,
        nodes: Sequence[int],
        round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        extras: Mapping[str, Tensor] | None = None,
    ) -> list[Message]:
        self.intake.asked = list(nodes)
        names = [self.roster.members[node].name for node in nodes]
        self._notify({"event": "asked", "round": round, "kind": kind, "clients": names})
        ttl = None if self.deadline is None else self.deadline + SKEW_SECONDS
        training = kind == MessageType.TRAIN
        content = messages.instruction_content(arrays, config, extras, self.wire)
        asked = []
        for node, name in zip(nodes, names, strict=True):
            if self.rule.apart:
                content = messages.instruction_content(arrays, config, self.rule.for_client(name, training), self.wire)
            own = messages.addressed(content, self.trained.get(name, 0))
            asked.append(Message(own, node, kind, group_id=str(round), ttl=ttl))
        return asked


def sample_size(fraction: float, clients: int) -> int:
    """Return how many clients take part in a round: a fraction of all, at least one."""
    return max(1, int(fraction * clients + 0.5))
