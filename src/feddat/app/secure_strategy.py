"""The strategy of a run with secure aggregation: five exchanges of messages give the sum of a round's updates.

A client that drops out before its keys or its shares have come was never in the sum. One that drops out before its
masked update has come is taken out of it. One that drops out later is in it. The sum is exact as long as more clients
than the threshold stay to the end. With fewer, nothing is opened: before the last exchange the round begins again, or
the run stops and can be resumed; in the last exchange the global adapter stays as it was, and the next round begins.
The server never has one client's update, so it neither compares updates nor weights them. It cannot see whose numbers
made a sum useless either: after two useless sums in a row the run stops, and its administrator decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from feddat.algorithms import Algorithm
from feddat.algorithms.server import needs_each
from feddat.app import messages, secure_messages
from feddat.app.messages import Member, ReplyError, TrainReply
from feddat.app.roster import FederationError
from feddat.app.rules import MeanRule, RunningMean
from feddat.app.strategy import SKEW_SECONDS, AdapterStrategy
from feddat.client.client_level import share_noise
from feddat.client.summing import flat
from feddat.config import ConfigError, RunConfig, ServerConfig
from feddat.privacy.secure_sum import fixed_point
from feddat.privacy.secure_sum.errors import SpoiledError, SumError
from feddat.privacy.secure_sum.server import ServerSum
from feddat.privacy.secure_sum.terms import Offer, Rules, Terms, plan_of

log = logging.getLogger(__name__)

_KEY = "secure_aggregation.enabled"
#: A run stops after so many sums in a row that gave no adapter.
_MOST_USELESS = 2
_RESUME = "everything up to here is kept, and the run can be resumed"


class SecureStrategy(AdapterStrategy):
    """Aggregate by secure sums.

    Args:
        sums: the rules of the run's sums.
        settings: those of :class:`AdapterStrategy`; the rule is a :class:`MeanRule`.
    """

    def __init__(self, *, sums: Rules, **settings: Any) -> None:
        super().__init__(**settings)
        self.sums = sums
        #: Client -> its key of the run and credential; client -> those that it was shown.
        self._known: dict[str, bytes] = {}
        self._shown: dict[str, dict[str, bytes]] = {}
        #: Client -> round whose sum it spoiled.
        self._spoiled: dict[str, int] = {}
        #: Round -> clients of its sum, for the latest rounds in a row whose sums gave no adapter.
        self._useless: dict[int, tuple[str, ...]] = {}
        #: Hash of what this round's clients train from.
        self._told = b""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return the messages that ask the sampled clients to train; keep the hash of what they receive.

        Raises:
            FederationError: the last two rounds' sums gave no adapter.
        """
        self._check_useful(server_round)
        asked = super().configure_train(server_round, arrays, config, grid)
        self._told = messages.hash_of(messages.read_instruction(asked[0])) if asked else b""
        return asked

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new global adapter, and the mean losses of the clients in it.

        Raises:
            FederationError: too few clients could do their part, and nothing of the sum was opened.
        """
        offers: dict[str, Offer] = {}
        told: dict[str, TrainReply] = {}

        def hold(member: Member, message: Message) -> None:
            with messages.checking(member.name):
                if (spoiled := self._spoiled.get(member.name)) is not None:
                    raise ReplyError(member.name, f"is left out: it sealed shares that open nothing in round {spoiled}")
                reply, offer, credential = secure_messages.read_offer(
                    message, member, server_round, self.logs, self.logs_below_zero
                )
                self.limits.check(member, reply, None)
            offers[member.name], told[member.name] = offer, reply
            self._known[member.name] = offer.channel + credential
            event = {"event": "fit", "round": server_round, "client": member.name}
            self._notify(event | {"examples": reply.examples, "metrics": reply.metrics})

        self.intake.take(server_round, "train", replies, hold)
        attempt = self._attempt(server_round, offers)
        self._share(server_round, attempt)
        self._mask(server_round, attempt)
        if self.participations is not None:  # each of them has paid when its masked update left
            self.participations.add(attempt.survivors)
        losses = RunningMean()
        for name in attempt.survivors:
            losses.add(told[name].metrics)
        metrics = MetricRecord({key: float(value) for key, value in losses.value().items()})
        try:
            attempt.check_ready()
        except SpoiledError as error:
            return self._without_sum(server_round, error), metrics
        self._agree(server_round, attempt)
        try:
            self._reveal(server_round, attempt)
            total = attempt.result()
        except (SumError, FederationError) as error:
            if not isinstance(error, SpoiledError):
                self._useless[server_round] = attempt.survivors
            return self._without_sum(server_round, error), metrics
        names = attempt.survivors
        log.info("round %d: the sum is of %d clients: %s", server_round, len(names), ", ".join(names))
        assert isinstance(self.rule, MeanRule)
        self.rule.add_mean(self._moved(total, attempt.terms, len(names)), len(names))
        shared = self._closed(server_round, may_be_few=False)
        if shared is self._sent:  # refused, for example as too far
            self._useless[server_round] = names
        else:
            self._useless.clear()
        return messages.to_arrays(shared), metrics

    def _check_useful(self, round: int) -> None:
        """Stop the run if the last two sums gave no adapter.

        It stops before the next round, not in the second one: clients open a round's sum again only for the same
        clients, so a resumed run must not have to repeat that round without one of them.

        Raises:
            FederationError: they gave none.
        """
        if len(self._useless) < _MOST_USELESS:
            return
        rounds = " and ".join(map(str, self._useless))
        both = ", ".join(sorted(set.intersection(*map(set, self._useless.values())))) or "none"
        raise FederationError(
            f"round {round}: the sums of rounds {rounds} gave no adapter: too few clients revealed their shares, or "
            f"one sends what is no update, and nobody can see which one (clients in both: {both}). Take those that you "
            f"suspect out of the run, for example with `feddat deploy revoke`; {_RESUME}"
        )

    def _without_sum(self, round: int, error: SumError | FederationError) -> ArrayRecord:
        """Return the adapter that was sent out, and leave out from now on the client that spoiled the sum, if any."""
        if isinstance(error, SpoiledError):
            self._spoiled[error.client] = round
        return messages.to_arrays(self._kept(round, str(error)))

    def _attempt(self, round: int, offers: Mapping[str, Offer]) -> ServerSum:
        names = tuple(sorted(offers))
        size = sum(int(np.prod(shape)) for shape in self.shapes.values())
        try:
            parts = tuple(offers[name] for name in names)
            terms = Terms(self.roster.run, round, size, self.sums, self._told, names, parts)
        except SumError as error:
            raise FederationError(f"round {round}: {error}; {_RESUME}") from None
        return ServerSum(terms)

    def _share(self, round: int, attempt: ServerSum) -> None:
        terms = attempt.terms
        fresh = {name: self._fresh(name, terms.names) for name in terms.names}

        def values(name: str) -> dict[str, Any]:
            return secure_messages.share_values(name, terms.names, terms.offers, fresh[name])

        def take(name: str, message: Message) -> None:
            try:
                attempt.add_sealed(name, secure_messages.read_bytes(message, name))
            except ReplyError:
                self._shown.pop(name, None)  # it may have lost what it was shown
                raise
            self._shown.setdefault(name, {}).update(fresh[name])

        self._exchange(round, "share", terms.names, values, take)
        self._check_enough(round, "share", attempt.sharers, attempt)

    def _fresh(self, name: str, names: Sequence[str]) -> dict[str, bytes]:
        """Return the other clients' keys of the run that a client has not been shown yet."""
        shown = self._shown.get(name, {})
        return {
            other: self._known[other] for other in names if other != name and shown.get(other) != self._known[other]
        }

    def _mask(self, round: int, attempt: ServerSum) -> None:
        terms = attempt.terms
        sharers = terms.bitmap(attempt.sharers)
        size = fixed_point.packed_size(terms.size, terms.rules.bits)

        def values(name: str) -> dict[str, Any]:
            return {"sharers": sharers, "sealed": attempt.sealed_for(name)}

        def take(name: str, message: Message) -> None:
            attempt.add_masked(name, *secure_messages.read_masked(message, name, size))

        self._exchange(round, "mask", attempt.sharers, values, take)
        self._check_enough(round, "mask", attempt.survivors, attempt)

    def _agree(self, round: int, attempt: ServerSum) -> None:
        survivors = attempt.terms.bitmap(attempt.survivors)

        def take(name: str, message: Message) -> None:
            attempt.add_tags(name, secure_messages.read_bytes(message, name))

        self._exchange(round, "agree", attempt.ready, lambda name: {"survivors": survivors}, take)
        self._check_enough(round, "agree", attempt.witnesses, attempt)

    def _reveal(self, round: int, attempt: ServerSum) -> None:
        witnesses = attempt.terms.bitmap(attempt.witnesses)

        def values(name: str) -> dict[str, Any]:
            return {"witnesses": witnesses, "tags": attempt.tags_for(name)}

        revealed: list[str] = []

        def take(name: str, message: Message) -> None:
            attempt.add_shares(name, secure_messages.read_bytes(message, name))
            revealed.append(name)

        self._exchange(round, "reveal", attempt.witnesses, values, take)
        if not attempt.enough(tuple(revealed)):
            raise FederationError(
                f"reveal: {len(revealed)} of {len(attempt.witnesses)} clients revealed their shares, "
                f"expected at least {attempt.terms.enough}"
            )

    def _exchange(
        self,
        round: int,
        step: str,
        names: Sequence[str],
        values: Callable[[str], Mapping[str, Any]],
        take: Callable[[str, Message], None],
    ) -> None:
        """Send a step's message to some clients, and take their answers in the order of names."""
        run = self.roster.run
        nodes = {node: member.name for node, member in self.roster.members.items() if member.name in names}
        self.intake.asked = [node for node in nodes if node not in self.intake.gone]
        ttl = None if self.deadline is None else self.deadline + SKEW_SECONDS
        asked = [
            Message(
                secure_messages.step_content(run, round, **values(nodes[node])),
                node,
                secure_messages.message_type(step),
                group_id=str(round),
                ttl=ttl,
            )
            for node in self.intake.asked
        ]

        def fold(member: Member, message: Message) -> None:
            with messages.checking(member.name):
                try:
                    take(member.name, message)
                except SumError as error:
                    raise ReplyError(member.name, str(error)) from None

        self.intake.take(round, step, self.exchange(asked), fold)

    def _check_enough(self, round: int, step: str, names: Sequence[str], attempt: ServerSum) -> None:
        enough = max(attempt.terms.enough, self.roster.least)
        if len(names) < enough:
            raise FederationError(
                f"round {round}, {step}: {len(names)} of {attempt.terms.clients} clients could do their part, expected "
                f"at least {enough}; no update of theirs can be seen; {_RESUME}"
            )

    def _moved(self, total: NDArray[np.int64], terms: Terms, clients: int) -> dict[str, NDArray[np.float32]]:
        """Return the adapter that was sent, plus the mean of the updates."""
        mean = fixed_point.mean(total, terms.step, clients)
        moved = (flat(self._sent).astype(np.float64) + mean).astype(np.float32)
        found: dict[str, NDArray[np.float32]] = {}
        begin = 0
        for key in sorted(self._sent):
            value = self._sent[key]
            found[key] = moved[begin : begin + value.numel()].reshape(value.shape)
            begin += value.numel()
        return {key: found[key] for key in self._sent}


def sum_rules(config: RunConfig, settings: str = "") -> Rules:
    """Return the rules of sums that a run's settings describe.

    Args:
        config: the run.
        settings: hash of all of its settings that clients share.

    Raises:
        ConfigError: no noise keeps the run within its privacy budget.
    """
    secure, privacy = config.secure_aggregation, config.privacy
    plain = Rules(secure.threshold, secure.min_clients, secure.bits, secure.clip, settings=settings)
    if not privacy.of_clients:
        return plain
    return replace(plain, norm=privacy.clip, noise=share_noise(config), colluders=privacy.colluders)


def uses_sums(config: RunConfig, algorithm: Algorithm) -> bool:
    """Return whether a run's updates travel in secure sums; a method without updates has none to sum."""
    return config.secure_aggregation.enabled and algorithm.communicates


def check_secure(config: RunConfig, algorithm: Algorithm, replies: int | None = None, size: int | None = None) -> None:
    """Refuse settings that need single updates, or updates that cannot be summed, with secure aggregation.

    Args:
        config: the run.
        algorithm: its local objective.
        replies: number of clients that train in each round, where it is known.
        size: numbers of an update, where it is known.

    Raises:
        ConfigError: names the key and says why.
    """
    secure, server = config.secure_aggregation, config.server
    if not uses_sums(config, algorithm):
        return
    if server.rule != "mean":
        raise ConfigError(f"{_KEY}: server.rule {server.rule} needs every client's own update; use mean")
    if server.weighting != "equal":
        raise ConfigError(f"{_KEY}: server.weighting {server.weighting} needs single updates; use equal")
    if server.max_outlier != ServerConfig.model_fields["max_outlier"].default:
        raise ConfigError(
            f"{_KEY}: server.max_outlier compares single updates, which the server does not see; leave it out"
        )
    if needs_each(algorithm.server):
        raise ConfigError(f"{_KEY}: method {algorithm.name} needs more from each client than its part in a sum")
    if replies is None:
        return
    if replies < secure.min_clients:
        raise ConfigError(
            f"{_KEY}: {replies} clients train in a round, expected at least {secure.min_clients}; the sum of fewer "
            "reveals too much about each"
        )
    if config.privacy.of_clients:
        if size is not None:
            try:
                plan_of(sum_rules(config), replies, size)
            except SumError as error:
                raise ConfigError(str(error)) from None
        return
    if (found := fixed_point.levels(replies, secure.bits)) < fixed_point.LEAST_LEVELS:
        raise ConfigError(
            f"secure_aggregation.bits: {secure.bits} give each of {replies} clients {found} levels on either side of "
            f"0, expected at least {fixed_point.LEAST_LEVELS}"
        )
