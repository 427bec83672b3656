"""One client's part of a round: restore its personal state, train, store, answer (docs/method/feddat.md).

All clients of a process share one frozen model with one set of adapters. Each turn first loads the client's own state
into them. The result of a turn therefore depends only on its arguments, the client's store and the seed, never on the
clients before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from feddat.adapters.base import Adapters
from feddat.algorithms.base import Algorithm, RoundContext
from feddat.algorithms.local import Local
from feddat.client.answering import Answering
from feddat.client.captured import CapturedRoutes
from feddat.client.client_level import NoiseShares, clipped_update
from feddat.client.learner import BatchLearner, autocast
from feddat.client.local_training import LocalTraining
from feddat.client.member import Member, Prepared
from feddat.client.personal import shared_state
from feddat.client.prefixes import PrefixCache
from feddat.client.private_rules import check_model
from feddat.client.private_training import PrivateTurn, open_turn
from feddat.client.received import Received
from feddat.client.recent import Recent
from feddat.client.state import ClientState
from feddat.client.store import PersonalStore
from feddat.client.trained import TrainedModel
from feddat.config import AlgorithmConfig, RunConfig
from feddat.example import SPLITS, ClientData, Example
from feddat.models.base import Backbone, StagedBackbone
from feddat.phases import phase


@dataclass(frozen=True, slots=True)
class FitResult:
    """The result of one round of local training.

    Attributes:
        shared: the entries of the global adapter that travel; ``None`` if the algorithm does not communicate.
        extras: the extra arrays that travel with it.
        examples: number of training examples, the weight of this client.
        metrics: the algorithm's losses (mean over steps), ``examples``, ``steps``, ``seconds``, and the views that
            went ``forward`` and ``backward`` through the backbone.
    """

    shared: dict[str, Tensor] | None
    examples: int
    metrics: dict[str, float]
    extras: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Scores on one split.

    Attributes:
        scores: member -> route -> percent; the first route gives the method's own answer. A member without examples
            in the split has no entry.
        examples: member -> number of examples in the split.
    """

    scores: dict[str, dict[str, float]]
    examples: dict[str, int]


def personalises(algorithm: Algorithm, settings: AlgorithmConfig) -> bool:
    """Return whether clients fine-tune the received adapter before the final evaluation (``personal_epochs``).

    Only algorithms with a single adapter that travels do; all others already have a personal adapter.
    """
    return settings.personal_epochs > 0 and algorithm.communicates and "local" not in algorithm.trains


def evaluated_routes(algorithm: Algorithm, settings: AlgorithmConfig, final: bool = False) -> tuple[str, ...]:
    """Return the routes that an evaluation scores; the first one gives the method's own answer."""
    return ("local",) if final and personalises(algorithm, settings) else algorithm.routes


class Participant:
    """One client of the federation, or the single participant that holds all data (``central``).

    Args:
        name: stable name; keys the personal store and the seeds, which only this client knows with
            ``privacy.secret_seeds``.
        members: the data that it holds: its own, or every client's for a centralised algorithm. Each member has its
            own head.
        config: the settings of the run.
        backbone: the frozen model, on its device; shared by all clients of the process.
        adapters: the global, local and anchor adapters of that model; also shared.
        algorithm: the local objective.
        store: the personal state of this client.
        prefixes: keeps the frozen part of the forward pass for all participants of the process; ``None``: nothing is
            kept.
        recent: decides which participants of the process hold memory between turns; ``None``: all do.
        captured: recordings of passes on a GPU, for all participants of the process; ``None``: there are none.
        starts: initial states of adapters by name; adapters without one are drawn at random.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[ClientData],
        config: RunConfig,
        backbone: Backbone,
        adapters: Adapters,
        algorithm: Algorithm,
        store: PersonalStore,
        prefixes: PrefixCache | None = None,
        recent: Recent | None = None,
        captured: CapturedRoutes | None = None,
        starts: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.config = config
        self.backbone = backbone
        self.adapters = adapters
        self.algorithm = algorithm
        self.store = store
        self._prefixes = prefixes
        self._recent = recent
        self._captured = captured
        if isinstance(backbone, StagedBackbone):
            # If only heads train, no route has an adapter, and the whole model needs to run only once.
            backbone.stage(adapters.changed if algorithm.trains else ())
        self._pictures_read = False
        self._device = next(backbone.model.parameters()).device
        extra_heads = dict.fromkeys(algorithm.heads(config.algorithm).values())
        self.members = {
            data.name: Member(data, config, backbone, self._device, extra_heads, self._seed) for data in members
        }
        check_model(config, backbone, any(member.generation for member in self.members.values()))
        self._state = ClientState(
            name, self.members, config, algorithm, adapters, store, self._device, self._seed, starts
        )
        self._training = LocalTraining(
            name, self.members, config, backbone, adapters, self._carried, self._seed, captured
        )

    def _seed(self) -> int:
        """Return the seed of all that this client draws itself. Nothing is written before its first turn."""
        return self.store.seed(self.config.seed) if self.config.privacy.secret_seeds else self.config.seed

    def routes(self, final: bool = False) -> tuple[str, ...]:
        """Return the routes that :meth:`evaluate` scores; the first one gives the method's own answer."""
        return evaluated_routes(self.algorithm, self.config.algorithm, final)

    def kept(self) -> int:
        """Return the newest round with a stored state of this client; 0 if there is none."""
        return max(self.store.rounds(), default=0)

    def release(self) -> None:
        """Release prepared data, prefixes and heads until the next turn."""
        if self._prefixes is not None:
            self._prefixes.drop(self.name)
        for member in self.members.values():
            member.release()

    def fit(
        self, shared: dict[str, Tensor] | None, round: int, extras: Mapping[str, Tensor] | None = None
    ) -> FitResult:
        """Train for one round and store the personal state under ``round``.

        Args:
            shared: the received entries of the global adapter; ``None`` for an algorithm that does not communicate.
            round: the round, 1-based.
            extras: the extra arrays received with the adapter.

        Raises:
            TrainingError: a loss or gradient is not finite; nothing is stored.
            BudgetError: the round would exceed the privacy budget; nothing is trained.
            StoreError: the personal state cannot be read or written.
            DataError: there are no training examples, or a picture of any split cannot be read.
        """
        with self.store.held():
            self._read_pictures()
            context = self._restore(shared, round, extras, training=True)
            self.adapters.refresh_anchor()  # the stored anchor is from the last round
            copy = self._state.momentum_copy() if self._distils_momentum() else None
            if self.config.privacy.of_clients and self.config.secure_aggregation.enabled:
                NoiseShares(self.config, self.store).check()
            private = self._private_turn(round)
            metrics, sent = self._training.run(
                self.algorithm, self.config.train.epochs, round, context, self.config.train.steps, copy, private
            )
            self._state.save(round, context, copy.state() if copy is not None else {})
        sent_adapter = None
        if self.algorithm.communicates and shared is not None:
            sent_adapter = clipped_update(shared_state(self.algorithm, self.adapters), shared, self.config)
        return FitResult(
            shared=sent_adapter,
            examples=int(metrics["examples"]),
            metrics=metrics,
            extras={key: value.detach().cpu() for key, value in sent.items()},
        )

    def evaluate(self, received: Received, split: str) -> EvalResult:
        """Score every route of :meth:`routes` on ``split`` (``validation``, ``test`` or ``train``).

        A client that has never trained answers with its initial head and local adapter. In the final state, if
        ``algorithm.personal_epochs`` is set, it first fine-tunes the received adapter and the head for that many
        epochs. The result is stored next to the personal state, reused by later calls, and never sent; its only route
        is ``local``.
        """
        answering = self.answering(received)
        prepared = {name: member.prepared(split) for name, member in self.members.items()}
        routes = self.routes(received.final)
        scores = {
            name: answering.scores(self.members[name], self._carried(name, part, split), routes)
            for name, part in prepared.items()
            if part.size
        }
        return EvalResult(scores, {name: part.size for name, part in prepared.items()})

    def example_scores(self, received: Received, split: str) -> dict[str, list[float]]:
        """Return the score of every example of a split by member, in percent, on the method's own route.

        These scores stay on this machine; only the means of :meth:`evaluate` travel.
        """
        answering = self.answering(received)
        route = self.routes(received.final)[0]
        return {
            name: answering.example_scores(member, self._carried(name, member.prepared(split), split), route)
            for name, member in self.members.items()
        }

    def predict(
        self, received: Received, member: str, examples: Sequence[Example], k: int = 5
    ) -> list[list[tuple[str, float]]]:
        """Return the ``k`` likeliest answers of each example with probabilities, on the method's own route.

        The probabilities are a softmax over the logits. A freely written answer is returned alone, with its own
        probability. VQA as classification trains independent scores; its probabilities only rank and weigh answers
        for display and are not calibrated.

        Raises:
            ValueError: no member has this name.
        """
        self._check_member(member)
        if not examples:
            return []
        answering = self.answering(received)
        return answering.likeliest(self.members[member], examples, self.routes(received.final)[0], k)

    def trained(self, received: Received, member: str, route: str | None = None) -> TrainedModel:
        """Return the trained parts that answer a member's questions on a route; default: the method's own.

        Raises:
            ValueError: no member has this name, the route does not exist, or it weighs adapters or answers anew for
                each question.
        """
        self._check_member(member)
        routes = self.routes(received.final)
        route = routes[0] if route is None else route
        if route not in routes:
            raise ValueError(f"route {route!r}: {self.algorithm.name} answers on {', '.join(routes)}")
        return self.answering(received).trained(self.adapters, self.members[member], route)

    def _read_pictures(self) -> None:
        """Read the pictures of all splits before the first training, so that a bad one does not end a long run late.

        Only files are read here: pixels in memory cannot be bad, and cost time to prepare.
        """
        if self._pictures_read:
            return
        if self._recent is not None:
            self._recent.turn(self)
        for member in self.members.values():
            for split in SPLITS:
                images = (image for example in member.data.split(split) for image in example.images)
                if any(isinstance(image, Path | bytes) for image in images):
                    member.prepared(split)
        self._pictures_read = True

    def _check_member(self, member: str) -> None:
        if member not in self.members:
            raise ValueError(f"client {self.name}: no member {member!r}; expected one of {', '.join(self.members)}")

    def _private_turn(self, round: int) -> PrivateTurn | None:
        """Charge a round to the privacy budget; return ``None`` if the run promises nothing for records."""
        if not self.config.privacy.of_records:
            return None
        records = sum(len(member.data.train) for member in self.members.values())
        return open_turn(self.config, self.store, records, round)

    def _distils_momentum(self) -> bool:
        return self.config.momentum.alpha != 0 and any(member.generation for member in self.members.values())

    def _restore(
        self, shared: dict[str, Tensor] | None, round: int, extras: Mapping[str, Tensor] | None, training: bool
    ) -> RoundContext:
        if self._recent is not None:
            self._recent.turn(self)
        return self._state.restore(shared, round, extras, training)

    @phase("prefix")
    def _carried(self, member: str, part: Prepared, split: str) -> Prepared:
        """Return a split with the frozen part of its forward pass computed, if that is kept.

        The model must already be in its training or evaluation mode.
        """
        if self._prefixes is None or not isinstance(self.backbone, StagedBackbone) or not part.size:
            return part
        if not self.algorithm.trains:
            self.adapters.route("none")  # the kept features must not include adapters
        with autocast(self._device, self.config.train.precision):
            views = self._prefixes.views((self.name, member, split), part.views, self.backbone, self._device)
        return replace(part, views=views)

    def answering(self, received: Received) -> Answering:
        """Load this client's state into the model; the returned object is valid until the next turn."""
        shared, round = received.shared, received.round
        algorithm, context = self.algorithm, self._restore(shared, round + 1, received.extras, training=False)
        learner = BatchLearner(
            self.backbone,
            self.adapters,
            self.config.train.precision,
            captured=self._captured,
            held_out=self._training.held_out,
        )
        if shared is not None and received.final and personalises(self.algorithm, self.config.algorithm):
            self.algorithm.prepare(learner, context)  # fine-tuning starts from the adapter that would answer
            algorithm = Local()
            self._personalise(context, round)
        if shared is not None and self.config.eval.anchor == "newest":
            self.adapters.refresh_anchor()
        self.backbone.model.eval()
        for member in self.members.values():
            for head in member.heads.values():
                head.eval()
        algorithm.prepare(learner, context)
        return Answering(learner, algorithm, context, self.config.eval.batch_size)

    def _personalise(self, context: RoundContext, round: int) -> None:
        """Fine-tune the received adapter (as the local one) and the head, or load the result of an earlier call."""
        if self._state.load_personalised(round):
            return
        self.adapters.copy("global", "local")
        self._training.run(Local(), self.config.algorithm.personal_epochs, "personal", context)
        self._state.save_personalised(round)
