"""Aggregation rules: the mean, with an algorithm's own server part, or one of Flower's strategies.

The mean (equal weights as published, or weights by number of examples) folds replies into running sums as they arrive.
Every other rule is Flower's own implementation; it receives replies that have already been checked, and needs all of
them at once. A rule's state (momenta, control variates) is part of the server's checkpoints.
"""

from __future__ import annotations

import gc
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
)
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from feddat.algorithms import Algorithm
from feddat.algorithms.server import Gathered, ServerPart, Shapes
from feddat.app.messages import MetricValues, TrainReply, as_tensor, to_arrays
from feddat.config import AlgorithmConfig, ConfigError, RunConfig, ServerConfig, Sharing, shares_less

#: ``server.rule`` -> Flower's strategy.
FLOWER: dict[str, type[FedAvg]] = {
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    "bulyan": Bulyan,
    "qfedavg": QFedAvg,
}
#: Options of Flower's strategies that users cannot set: FedDAT does the sampling and defines the records, and functions
#: cannot be written in YAML.
_NOT_OPTIONS = {*inspect.signature(FedAvg.__init__).parameters, "selection_rule", "train_loss_key"}
_LOSS, _WEIGHT = "train_loss", "num-examples"
#: Rules that weigh clients by their training losses.
_READS_LOSSES = frozenset({"qfedavg"})
#: Attributes of Flower's strategies that carry over from round to round.
_MOMENTA = ("m_t", "v_t", "momentum_vector")


class RunningMean:
    """A weighted mean of dictionaries of arrays, added one at a time. It holds only one sum per key, in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._weights: dict[str, float] = {}

    def add(self, values: Mapping[str, ArrayLike], weight: float = 1.0) -> None:
        """Add one dictionary."""
        for key, value in values.items():
            term = np.multiply(value, weight, dtype=np.float64)
            if key in self._sums:
                self._sums[key] += term
            else:
                self._sums[key] = term
            self._weights[key] = self._weights.get(key, 0.0) + weight

    def value(self) -> dict[str, NDArray[np.float64]]:
        """Return the mean so far; for each key, over the dictionaries that had it."""
        return {key: total / self._weights[key] for key, total in self._sums.items()}

    def taken(self) -> dict[str, Tensor]:
        """Return :meth:`value` as float32 tensors, and release each sum as soon as its mean is computed."""
        return {key: _tensor(self._sums.pop(key) / self._weights.pop(key)) for key in list(self._sums)}


class RuleError(ValueError):
    """A rule cannot aggregate the available replies; the message says why."""


class Rule(ABC):
    """How the server makes the shared part of the next round; one object serves one run.

    Attributes:
        state: what the next round needs, as float32 CPU tensors.
        expects: shapes of the extra arrays of every reply.
        reads_losses: whether every reply must have a training loss.
        apart: whether each client gets its own extra arrays (:meth:`for_client`).
    """

    state: dict[str, Tensor]
    expects: Shapes
    reads_losses: bool = False
    apart: bool = False

    @abstractmethod
    def start(self, shared: Mapping[str, Tensor], state: Mapping[str, Tensor] | None) -> None:
        """Begin a run with its first shared part, or continue with the state after an earlier round."""

    @abstractmethod
    def open(self, round: int, shared: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Begin a round in which the server sends out ``shared``; return the extra arrays to send with it."""

    def answers(self) -> Mapping[str, Tensor]:
        """Return the extra arrays to send with the shared part for an evaluation."""
        return {}

    def for_client(self, client: str, training: bool) -> Mapping[str, Tensor]:
        """Return the extra arrays for one client's training, or its evaluation; used only with :attr:`apart`."""
        return {}

    @abstractmethod
    def add(self, reply: TrainReply, weight: float, client: str = "") -> None:
        """Take one client's reply. Replies are added in the order of client names."""

    @abstractmethod
    def close(self, clients: int) -> dict[str, Tensor]:
        """End the round; return the new shared part, float32.

        Args:
            clients: number of all clients, sampled or not.

        Raises:
            RuleError: this rule needs more replies.
        """


class MeanRule(Rule):
    """The mean of all replies, passed to the algorithm's server part."""

    def __init__(self, part: ServerPart | None = None, config: AlgorithmConfig | None = None) -> None:
        self._part, self._config = part or ServerPart(), config or AlgorithmConfig()
        self.apart = self._part.apart

    def start(self, shared: Mapping[str, Tensor], state: Mapping[str, Tensor] | None) -> None:
        """Begin with the server part's initial state, or continue from ``state``."""
        self.state = self._part.start(shared) if state is None else dict(state)
        self.expects = self._part.expects(shared)

    def open(self, round: int, shared: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Begin with empty sums."""
        self._sent = shared
        self._shared, self._extras, self._replies = RunningMean(), RunningMean(), 0
        self._each: dict[str, Mapping[str, Tensor]] = {}
        return self._part.sends(self.state)

    def answers(self) -> Mapping[str, Tensor]:
        """Return the server part's extra arrays for evaluation."""
        return self._part.answers(self.state)

    def for_client(self, client: str, training: bool) -> Mapping[str, Tensor]:
        """Return the server part's extra arrays for one client."""
        return self._part.sends_to(self.state, client) if training else self._part.answers_to(self.state, client)

    def add(self, reply: TrainReply, weight: float, client: str = "") -> None:
        """Add one reply to the sums."""
        self._replies += 1
        if self.apart:
            self._each[client] = {
                key: as_tensor(np.array(value)) for part in (reply.shared, reply.extras) for key, value in part.items()
            }
        self._shared.add(reply.shared, weight)
        self._extras.add(reply.extras, weight)
        folded = self._part.folds({key: as_tensor(value) for key, value in reply.shared.items()})
        self._extras.add({key: value.numpy() for key, value in folded.items()}, weight)

    def add_mean(self, shared: Mapping[str, NDArray[np.float32]], replies: int) -> None:
        """Add the mean of ``replies`` replies that are not known individually."""
        self._replies += replies
        self._shared.add(shared, replies)

    def close(self, clients: int) -> dict[str, Tensor]:
        """Return the server part's result for the mean; by default, the mean itself."""
        gathered = Gathered(self._shared.taken(), self._extras.taken(), self._replies, clients, self._each)
        self.state, shared = self._part.finish(self.state, self._sent, gathered, self._config)
        return shared


class FlowerRule(Rule):
    """One of Flower's strategies, used only for its aggregation.

    Args:
        name: key in :data:`FLOWER`.
        options: keyword arguments of the strategy.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._name, self._options = name, dict(options)
        with _quiet():
            self._strategy = FLOWER[name](weighted_by_key=_WEIGHT, **options)
        # With a fraction of 0, `configure_train` records the arrays but samples no clients, so it needs no grid.
        self._strategy.fraction_train = 0.0
        self.expects = {}
        self.reads_losses = name in _READS_LOSSES

    def start(self, shared: Mapping[str, Tensor], state: Mapping[str, Tensor] | None) -> None:
        """Begin without momenta, or restore the strategy's momenta: when a run resumes or a round is undone."""
        self.state = dict(state or {})
        for name in _MOMENTA:
            if hasattr(self._strategy, name):
                setattr(self._strategy, name, None)
            found = {key.removeprefix(f"{name}/"): value.numpy() for key, value in self.state.items()
                     if key.startswith(f"{name}/")}  # fmt: skip
            if found:
                # FedAvgM's momentum is a list in the order of the shared part.
                setattr(self._strategy, name, found if name != "momentum_vector" else [found[key] for key in shared])

    def open(self, round: int, shared: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Let the strategy record what the server sends out."""
        self._round, self._keys = round, list(shared)
        self._replies: list[Message] = []
        if hasattr(self._strategy, "current_arrays"):
            self._strategy.current_arrays = None  # FedAvgM would keep its own copy, which a resumed run does not have
        arrays = to_arrays(shared)
        with _quiet():
            self._strategy.configure_train(round, arrays, ConfigRecord(), cast(Grid, None))
        return {}

    def add(self, reply: TrainReply, weight: float, client: str = "") -> None:
        """Keep one reply for the end of the round."""
        arrays = to_arrays(reply.shared)
        metrics: MetricValues = {_WEIGHT: weight}
        if self.reads_losses:
            metrics[_LOSS] = reply.metrics["loss"]
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)})
        self._replies.append(Message(content, 0, MessageType.TRAIN))

    def close(self, clients: int) -> dict[str, Tensor]:
        """Let the strategy aggregate, and copy its momenta.

        Raises:
            RuleError: there are too few replies for the strategy, or it returned no aggregate.
        """
        check_count(self._name, self._options, len(self._replies))
        with _quiet(), _nothing_to_collect():
            arrays, _ = self._strategy.aggregate_train(self._round, self._replies)
        self._replies = []
        if arrays is None:
            raise RuleError(f"server.rule {self._name} returned no aggregate")
        self.state = {
            f"{name}/{key}": torch.from_numpy(np.array(value, dtype=np.float32))
            for name in _MOMENTA
            for key, value in self._items(getattr(self._strategy, name, None))
        }
        new = {key: array.numpy() for key, array in arrays.items()}
        return {key: _tensor(new[key]) for key in self._keys}

    def _items(self, momentum: Any) -> list[tuple[str, NDArray[Any]]]:
        if momentum is None:
            return []
        return list(momentum.items() if isinstance(momentum, dict) else zip(self._keys, momentum, strict=True))


def make_rule(config: RunConfig, algorithm: Algorithm, replies: int) -> Rule:
    """Return the rule of a run.

    Args:
        config: the run.
        algorithm: its local objective.
        replies: number of clients that train in each round.

    Raises:
        ConfigError: the rule, its options, the algorithm and the number of clients do not fit together; says why.
    """
    check_rule(config, algorithm)
    name = config.server.rule
    if name == "mean":
        return MeanRule(algorithm.server, config.algorithm)
    options = _options(config)
    try:
        check_count(name, options, replies)
        return FlowerRule(name, options)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_rule(config: RunConfig, algorithm: Algorithm) -> None:
    """Refuse a rule, options, algorithm and metric sharing that do not fit together, as far as known before the run.

    Raises:
        ConfigError: names the key and says why.
    """
    name, options = config.server.rule, config.server.options
    if shares_less(config.share_metrics, least := needed_sharing(config.server)):
        raise ConfigError(
            f"share_metrics: {config.share_metrics}, but {_reads(config.server)}; share at least {least}, or change "
            "that setting"
        )
    if name == "mean":
        if options:
            raise ConfigError(f"server.options: rule mean has no options (got {', '.join(options)})")
        return
    if not algorithm.communicates:
        raise ConfigError(f"server.rule: {name} aggregates adapters, but method {algorithm.name} sends none")
    if algorithm.server is not None:
        raise ConfigError(f"server.rule: method {algorithm.name} has its own aggregation and works only with mean")
    _options(config)


def needed_sharing(server: ServerConfig) -> Sharing:
    """Return the least that clients must share of their metrics for the server to do its work."""
    if server.rule in _READS_LOSSES:
        return "scores"
    return "counts" if server.weighting == "examples" else "none"


def _reads(server: ServerConfig) -> str:
    """Return which setting needs which of the clients' metrics, as a phrase."""
    if server.rule in _READS_LOSSES:
        return f"server.rule {server.rule} weighs clients by their training losses"
    return f"server.weighting {server.weighting} weighs clients by their numbers of examples"


def check_count(rule: str, options: Mapping[str, Any], replies: int) -> None:
    """Refuse a number of replies that is too small for a rule.

    Sources: Krum needs n >= 2f + 3 (Blanchard et al., NeurIPS 2017), Bulyan n >= 4f + 3 (El Mhamdi et al., ICML 2018).

    Raises:
        RuleError: says how many are needed.
    """
    malicious = int(options.get("num_malicious_nodes", 0))
    least = {"krum": 2 * malicious + 3, "multikrum": 2 * malicious + 3, "bulyan": 4 * malicious + 3}.get(rule, 1)
    if replies < least:
        raise RuleError(
            f"server.rule {rule} with num_malicious_nodes={malicious} needs the replies of at least {least} clients "
            f"in a round; there are {replies}"
        )
    if rule == "multikrum" and int(options.get("num_nodes_to_select", 1)) > replies - malicious:
        raise RuleError(f"server.options: num_nodes_to_select must be at most {replies - malicious} of {replies}")
    if rule == "fedtrimmedavg" and int(float(options.get("beta", 0.2)) * replies) < 1:
        raise RuleError(
            f"server.rule fedtrimmedavg trims no reply: beta must be at least 1/{replies} with {replies} replies"
        )


def _options(config: RunConfig) -> dict[str, Any]:
    """Return the strategy's keyword arguments, checked against its signature."""
    rule = config.server.rule
    parameters = inspect.signature(FLOWER[rule].__init__).parameters
    known = {name: found for name, found in parameters.items() if name not in _NOT_OPTIONS}
    options: dict[str, Any] = {}
    for name, value in config.server.options.items():
        if name not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise ConfigError(f"server.options.{name}: unknown to rule {rule}; {has}")
        try:
            options[name] = TypeAdapter(known[name].annotation).validate_python(value)
        except ValidationError as error:
            raise ConfigError(f"server.options.{name}: {error.errors()[0]['msg']} (got {value!r})") from None
    if rule == "qfedavg":
        options = {"client_learning_rate": config.train.lr, "train_loss_key": _LOSS} | options
    return options


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


@contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """Exclude existing objects from garbage collection inside the block.

    Bulyan and q-FedAvg collect garbage once per reply and scan every object of the process: seconds per round.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log of Flower's strategies inside the block; the run reports the same in its own way."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
