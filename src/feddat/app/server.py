"""The Flower ServerApp: run the rounds from the last checkpoint's state to the last round.

Flower's own ``Strategy.start`` always begins at round 1 and keeps no state. This module has its own loop over the same
Strategy hooks and the same Grid, so it runs in every Flower runtime.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp

from feddat.app import messages
from feddat.app.checkpoint import ServerState
from feddat.app.messages import Member
from feddat.app.polling import PollingGrid
from feddat.app.roster import FederationError
from feddat.app.strategy import AdapterStrategy
from feddat.config import EvalConfig

log = logging.getLogger(__name__)


def make_server_app(
    strategy: AdapterStrategy,
    state: ServerState,
    *,
    rounds: int,
    evaluation: EvalConfig,
    save: Callable[[ServerState], Any] = lambda state: None,
    notify: Callable[[dict[str, Any]], None] = lambda event: None,
    started: float | None = None,
    model: Mapping[str, str] | None = None,
    met: Callable[[Sequence[Member]], None] = lambda members: None,
) -> ServerApp:
    """Return the ServerApp.

    Args:
        strategy: samples clients and aggregates replies.
        state: the state to start from; updated in place.
        rounds: planned number of rounds; those up to ``state.round`` are not run again.
        evaluation: when to evaluate, and on which split.
        save: called after each round, after all of its events have gone to ``notify``.
        notify: receives plain event dictionaries.
        started: ``time.perf_counter()`` at the start of this part of the run; default: when the app starts.
        model: part of the model -> hash; clients with other hashes take no part.
        met: called once, before the first round, with the connected clients.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        loop = _Loop(grid, strategy, state, rounds, evaluation, notify, started, model or {})
        strategy.roster.meet(grid)
        met(list(strategy.roster.members.values()))
        for round in range(state.round + 1, rounds + 1):
            loop.run_round(round)
            save(state)

    return app


def splits_after(round: int, rounds: int, evaluation: EvalConfig) -> list[str]:
    """Return the splits to evaluate after a round: ``curve_split`` every ``every`` rounds, ``split`` after the last."""
    splits: list[str] = [evaluation.curve_split] if round % evaluation.every == 0 else []
    if round == rounds and evaluation.split not in splits:
        splits.append(evaluation.split)
    return splits


class _Loop:
    """Run consecutive rounds, and record their times and bytes."""

    def __init__(
        self,
        grid: Grid,
        strategy: AdapterStrategy,
        state: ServerState,
        rounds: int,
        evaluation: EvalConfig,
        notify: Callable[[dict[str, Any]], None],
        started: float | None,
        model: Mapping[str, str],
    ) -> None:
        self.grid, self.strategy, self.state = grid, strategy, state
        self.rounds, self.evaluation, self.notify, self.model = rounds, evaluation, notify, model
        self.begun = time.perf_counter()
        self.lap = self.begun if started is None else started
        self.first = state.round + 1
        strategy.intake.failed, strategy.intake.refused = state.failed, state.refused
        strategy.trained.update(state.trained)
        strategy.residual = state.residual
        strategy.exchange = partial(self._exchange, "train")
        if not state.round:
            state.shared = strategy.settle(state.shared)
        strategy.rule.start(state.shared, state.rule if state.round else None)
        if isinstance(grid, PollingGrid):
            grid.limit(messages.most_bytes(strategy.shapes, strategy.rule.expects, strategy.wire))

    def run_round(self, round: int) -> None:
        """Train, aggregate and evaluate; update the state."""
        state, strategy = self.state, self.strategy
        began = time.perf_counter()
        arrays, losses = self._train(round)
        scores = {}
        for split in splits_after(round, self.rounds, self.evaluation):
            means = self._evaluate(round, split, arrays)
            if means or strategy.kept_back:  # otherwise nobody has examples of this split
                scores[split] = means
            self._clock("evaluate")
        state.shared, state.rule = messages.to_tensors(arrays), strategy.rule.state
        state.residual = strategy.residual
        state.round, state.failed, state.trained = round, strategy.intake.failed, dict(strategy.trained)
        state.refused = strategy.intake.refused + strategy.roster.refused
        self.notify(
            {
                "event": "round",
                "round": round,
                "rounds": self.rounds,
                "metrics": dict(losses or {}),
                "scores": scores,
                "bytes": {way: sum(kind[way] for kind in state.bytes.values()) for way in ("up", "down")},
                "seconds": time.perf_counter() - began,
                "seconds_left": self._seconds_left(round),
            }
        )
        self._clock("other")

    def _train(self, round: int) -> tuple[ArrayRecord, MetricRecord | None]:
        """Return the new shared part and the mean losses.

        If too few clients trained because nodes disconnected, wait for the nodes and repeat the round. Clients discard
        what they kept of the first attempt: they start again from their state before the round.

        Raises:
            FederationError: too few clients are connected, or too few of the connected ones could train.
        """
        strategy = self.strategy
        while True:
            strategy.intake.rest(round)
            strategy.roster.refresh(self.grid, round)
            arrays = messages.to_arrays(self.state.shared)
            self._clock("other")
            config = messages.instruction_config(round, self.rounds, run=strategy.roster.run, model=self.model)
            asked = strategy.configure_train(round, arrays, config, self.grid)
            try:
                mean, losses = strategy.aggregate_train(round, self._exchange("train", asked))
            except FederationError as error:
                if not strategy.intake.gone:
                    raise
                log.warning("%s; waiting up to %.0f s, then the round begins again", error, strategy.roster.wait)
            else:
                return mean if mean is not None else arrays, losses
            finally:
                self._clock("train")

    def _evaluate(self, round: int, split: str, arrays: ArrayRecord) -> dict[str, float]:
        final = round == self.rounds and split == self.evaluation.split
        run = self.strategy.roster.run
        config = messages.instruction_config(round, self.rounds, split, final, run, self.model)
        asked = self.strategy.configure_evaluate(round, arrays, config, self.grid)
        mean = self.strategy.aggregate_evaluate(round, self._exchange("evaluate", asked))
        return {route: float(value) for route, value in (mean or {}).items()}  # type: ignore[arg-type]

    def _exchange(self, kind: str, asked: Sequence[Message]) -> Iterator[Message]:
        count = self.state.bytes[kind]
        count["down"] += sum(messages.wire_size(message) for message in asked)
        replies: Iterable[Message] = self.grid.send_and_receive(asked, timeout=self.strategy.deadline)
        for reply in replies:
            with suppress(Exception):  # a reply whose size cannot be computed is refused when it is read
                count["up"] += messages.wire_size(reply)
            answers = reply.metadata.reply_to_message_id
            if any(message.metadata.message_id == answers for message in asked):
                yield reply
            else:
                log.warning("ignoring a late reply of node %d to an earlier round", reply.metadata.src_node_id)
            del reply  # otherwise it stays in memory while waiting for the next one

    def _clock(self, spent_on: str) -> None:
        now = time.perf_counter()
        self.state.seconds[spent_on] += now - self.lap
        self.lap = now

    def _seconds_left(self, round: int) -> float:
        done = round - self.first + 1
        return (time.perf_counter() - self.begun) / done * (self.rounds - round)
