"""What one client does in a round: restore its personal state, train, store, answer (METHOD, "Round", steps 1 to 4).

All clients of a process share one frozen model with one set of adapters. Each turn first puts a client's own state into
them, so that a turn's result depends on its arguments, the client's store and the seed, never on who came before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from feddat.adapters.base import Adapters
from feddat.algorithms.base import Algorithm, RoundContext
from feddat.algorithms.local import Local
from feddat.algorithms.server import ServerPart
from feddat.client.batches import plan_batches
from feddat.client.learner import BatchLearner, autocast
from feddat.client.member import Member, Prepared
from feddat.client.momentum import MomentumCopy, rising
from feddat.client.optim import build_optimizer, set_learning_rate
from feddat.client.personal import averages, load_shared, pack, shared_state, trained, unpack
from feddat.client.prefixes import PrefixCache
from feddat.client.recent import Recent
from feddat.client.store import PersonalStore, State, StoreError
from feddat.client.traps import Traps
from feddat.config import AlgorithmConfig, RunConfig
from feddat.example import ClientData, DataError, Example
from feddat.models.base import Backbone, StagedBackbone
from feddat.phases import phase
from feddat.seeding import derive, torch_generator


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the client, the round and the step."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """What one round of local training gives.

    Attributes:
        shared: the global adapter, exactly what travels; ``None`` where the algorithm does not communicate.
        extras: the extra arrays that travel with it.
        examples: number of training examples, the weight of this client.
        metrics: the algorithm's losses, mean over steps, and ``examples``, ``steps``, ``seconds``.
    """

    shared: dict[str, Tensor] | None
    examples: int
    metrics: dict[str, float]
    extras: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Scores on one split.

    Attributes:
        scores: member -> route -> percent. The first route is the method's own answer. A member without examples in
            the split has no entry.
        examples: member -> number of examples in the split.
    """

    scores: dict[str, dict[str, float]]
    examples: dict[str, int]


def personalises(algorithm: Algorithm, settings: AlgorithmConfig) -> bool:
    """Return whether clients fine-tune the received adapter before the final evaluation (``personal_epochs``).

    Only algorithms whose one adapter travels do: the others have a personal one already.
    """
    return settings.personal_epochs > 0 and algorithm.communicates and "local" not in algorithm.trains


def evaluated_routes(algorithm: Algorithm, settings: AlgorithmConfig, final: bool = False) -> tuple[str, ...]:
    """Return the routes that an evaluation scores, the method's own answer first."""
    return ("local",) if final and personalises(algorithm, settings) else algorithm.routes


class Participant:
    """One client of the federation, or the one place that holds all data (``central``).

    Args:
        name: stable name; keys the personal store and the seeds.
        members: whose data it holds: itself, or every client for a centralised algorithm. Each has its own head.
        config: the run.
        backbone: the frozen model, on its device; shared by all clients of the process.
        adapters: global, local and anchor adapter over that model; shared likewise.
        algorithm: the local objective.
        store: personal state of this client.
        prefixes: keeps what is frozen of the forward pass, for all participants of the process; ``None``: nothing is.
        recent: says which participants of the process hold memory between their turns; ``None``: all do.
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
    ) -> None:
        self.name = name
        self.config = config
        self.backbone = backbone
        self.adapters = adapters
        self.algorithm = algorithm
        self.store = store
        self._prefixes = prefixes
        self._recent = recent
        if isinstance(backbone, StagedBackbone):
            backbone.stage(adapters.changed)
        self._device = next(backbone.model.parameters()).device
        extra_heads = dict.fromkeys(algorithm.heads(config.algorithm).values())
        self.members = {data.name: Member(data, config, backbone, self._device, extra_heads) for data in members}
        self._personal_store = PersonalStore(store.root, store.client, label="personal")
        self._averages: dict[str, Tensor] = {}  # of momentum distillation, in the state restored last

    def routes(self, final: bool = False) -> tuple[str, ...]:
        """Return the routes that :meth:`evaluate` scores, the method's own answer first."""
        return evaluated_routes(self.algorithm, self.config.algorithm, final)

    def release(self) -> None:
        """Let go of prepared data, prefixes and heads until the next turn."""
        if self._prefixes is not None:
            self._prefixes.drop(self.name)
        for member in self.members.values():
            member.release()

    def fit(
        self, shared: dict[str, Tensor] | None, round: int, extras: Mapping[str, Tensor] | None = None
    ) -> FitResult:
        """Train for one round and store the personal state under ``round``.

        Args:
            shared: the global adapter as received, as far as it travels; ``None`` for an algorithm that does not
                communicate.
            round: 1-based.
            extras: the extra arrays received with it.

        Raises:
            TrainingError: a loss or gradient is not finite; nothing is stored.
            StoreError: the personal state cannot be read or written.
            DataError: there is nothing to train on.
        """
        with self.store.held():
            context = self._restore(shared, round, extras, training=True)
            self.adapters.refresh_anchor()  # the stored one is that of the last round
            copy = self._momentum_copy()
            metrics, sent = self._train(
                self.algorithm, self.config.train.epochs, round, context, self.config.train.steps, copy
            )
            kept = copy.state() if copy is not None else {}
            state = pack(self.algorithm, self.adapters, self.members, context.state, kept)
            self.store.save(round, state, self._meta(context.previous))
        return FitResult(
            shared=shared_state(self.algorithm, self.adapters) if self.algorithm.communicates else None,
            examples=int(metrics["examples"]),
            metrics=metrics,
            extras={key: value.detach().cpu() for key, value in sent.items()},
        )

    def evaluate(
        self,
        shared: dict[str, Tensor] | None,
        round: int,
        split: str,
        final: bool = False,
        extras: Mapping[str, Tensor] | None = None,
    ) -> EvalResult:
        """Score every route of :meth:`routes` on ``split`` with the state after ``round``.

        Args:
            shared: the global adapter aggregated in ``round``; ``None`` for an algorithm that does not communicate.
            round: the last round trained; 0 before training. A client that has never trained answers with its
                initial head and local adapter.
            split: ``validation``, ``test`` or ``train``.
            final: this is the evaluation after the last round. With ``algorithm.personal_epochs`` set, the received
                adapter and the head are then first fine-tuned here for so many epochs. The result is kept beside the
                personal state, used again by later calls, and never sent; its one route is ``local``.
            extras: the extra arrays received with the adapter.
        """
        answering, context = self._restore_for_answers(shared, round, final, extras)
        prepared = {name: member.prepared(split) for name, member in self.members.items()}
        scores = {
            name: self._scores(
                self.members[name], self._carried(name, part, split), self.routes(final), answering, context
            )
            for name, part in prepared.items()
            if part.size
        }
        return EvalResult(scores, {name: part.size for name, part in prepared.items()})

    def predict(
        self,
        shared: dict[str, Tensor] | None,
        round: int,
        member: str,
        examples: Sequence[Example],
        k: int = 5,
        final: bool = False,
        extras: Mapping[str, Tensor] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Return each example's ``k`` likeliest answers with probabilities, on the method's own route.

        The probabilities are a softmax over the logits; an answer written freely is the only one, with its own. VQA
        as classification trains independent scores, so there they order and weigh the answers for display, and are not
        calibrated.

        Raises:
            ValueError: no member has this name.
        """
        if member not in self.members:
            raise ValueError(f"client {self.name}: no member {member!r}; expected one of {', '.join(self.members)}")
        if not examples:
            return []
        answering, context = self._restore_for_answers(shared, round, final, extras)
        owner = self.members[member]
        views = owner.encode_unseen(examples)
        learner = BatchLearner(self.backbone, self.adapters, self.config.train.precision)
        answers: list[list[tuple[str, float]]] = []
        with torch.inference_mode():
            for indices in torch.arange(len(examples)).split(self.config.eval.batch_size):  # type: ignore[no-untyped-call]
                learner.take(owner, owner.inputs(views, indices), torch.empty(0))
                logits = answering.answer(learner, self.routes(final)[0], context)
                if owner.generation is not None and owner.generation.written:
                    answers += [[written] for written in owner.generation.written]
                    continue
                top = logits.softmax(dim=-1).topk(min(k, logits.shape[1]))
                for index, values, classes in zip(
                    indices.tolist(), top.values.tolist(), top.indices.tolist(), strict=True
                ):
                    names = examples[index].choices or owner.task.classes
                    answers.append([(names[c], value) for c, value in zip(classes, values, strict=True)])
        return answers

    def _train(
        self,
        algorithm: Algorithm,
        epochs: int,
        turn: str | int,
        context: RoundContext,
        steps: int | None = None,
        copy: MomentumCopy | None = None,
    ) -> tuple[dict[str, float], Mapping[str, Tensor]]:
        """Train what ``algorithm`` trains, and every head, from where they stand; return metrics and extra arrays."""
        started = time.perf_counter()
        config = self.config.train
        prepared = {name: member.prepared("train") for name, member in self.members.items()}
        plan = plan_batches(
            {name: part.size for name, part in prepared.items()},
            epochs,
            config.batch_size,
            self.config.seed,
            turn,
            steps,
        )
        if not plan:
            raise DataError(f"client {self.name}: no training examples")
        traps = Traps(self.config)
        named = [item for name in traps.trained(algorithm, context.round) for item in self.adapters.named(name).items()]
        parameters = [parameter for key, parameter in named if algorithm.trains_key(key)]
        heads = [head for member in self.members.values() for head in member.heads.values()]
        optimizer = build_optimizer(
            parameters,
            config,
            [parameter for head in heads for parameter in head.parameters() if parameter.requires_grad],
            self.config.head.lr,
        )
        learner = BatchLearner(
            self.backbone,
            self.adapters,
            config.precision,
            optimizer,
            config.clip_norm,
            algorithm.trains_key,
            traps.zeroes_gradients,
            copy,
        )
        context.steps = len(plan)
        torch.manual_seed(derive(self.config.seed, self.name, turn, "dropout"))
        self.backbone.model.train()
        for head in heads:
            head.train()
        prepared = {name: self._carried(name, part, "train") for name, part in prepared.items()}
        algorithm.begin(learner, context)

        # Nothing is read back from the device inside the loop; the check for NaN waits until the end.
        log: list[Tensor] = []
        keys: list[str] = []
        for context.step, (name, indices) in enumerate(plan):
            member, part = self.members[name], prepared[name]
            set_learning_rate(optimizer, config.lr * traps.schedule(context.step, len(plan), algorithm))
            targets = part.targets[indices.to(part.targets.device)]
            alpha = rising(self.config.momentum.alpha, context.step, len(plan), first=context.previous is None)
            learner.take(member, member.training_inputs(part, indices), targets, alpha)
            values = self._step(algorithm, learner, context)
            keys = list(values)
            log.append(torch.stack([*values.values(), learner.take_norm()]))
        self.adapters.model.zero_grad(set_to_none=True)  # of entries that rest, too
        optimizer.zero_grad(set_to_none=True)
        table = torch.stack(log).double()
        self._check_finite(table, [*keys, "gradient norm"], turn)
        metrics = dict(zip(keys, table.mean(dim=0).tolist(), strict=False))
        sent = algorithm.finish(learner, context)
        metrics["examples"] = float(sum(part.size for part in prepared.values()))
        metrics["steps"] = float(len(plan))
        metrics["seconds"] = time.perf_counter() - started
        return metrics, sent

    @phase("forward")
    def _step(self, algorithm: Algorithm, learner: BatchLearner, context: RoundContext) -> dict[str, Tensor]:
        return algorithm.step(learner, context)

    def _momentum_copy(self) -> MomentumCopy | None:
        """Return the teacher of momentum distillation as this client left it; ``None`` where there is none."""
        if self.config.momentum.alpha == 0 or not any(member.generation for member in self.members.values()):
            return None
        parameters = trained(self.algorithm, self.adapters, self.members)
        try:
            return MomentumCopy(parameters, self.config.momentum.decay, self._averages)
        except ValueError as error:
            raise StoreError(f"client {self.name}: personal state does not fit: {error}") from None

    def _check_finite(self, table: Tensor, names: list[str], turn: str | int) -> None:
        bad = (~table.isfinite()).nonzero()
        if len(bad):
            step, column = bad[0].tolist()
            raise TrainingError(
                f"client {self.name}: round {turn}, step {step + 1} of {len(table)}: {names[column]} is "
                f"{table[step, column].item()}; lower train.lr or set train.clip_norm"
            )

    @phase("evaluation")
    def _scores(
        self, member: Member, part: Prepared, routes: Sequence[str], algorithm: Algorithm, context: RoundContext
    ) -> dict[str, float]:
        """Return the mean score of each route, in percent; batch by batch, so that routes share what they can."""
        learner = BatchLearner(self.backbone, self.adapters, self.config.train.precision)
        scores: dict[str, list[Tensor]] = {route: [] for route in routes}
        with torch.inference_mode():
            for indices in torch.arange(part.size).split(self.config.eval.batch_size):  # type: ignore[no-untyped-call]
                targets = part.targets[indices.to(part.targets.device)]
                learner.take(member, member.inputs(part.views, indices), targets)
                for route in routes:
                    scores[route].append(member.task.scores(algorithm.answer(learner, route, context), targets))
        return {route: 100.0 * torch.cat(found).double().mean().item() for route, found in scores.items()}

    @phase("prefix")
    def _carried(self, member: str, part: Prepared, split: str) -> Prepared:
        """Return a split whose frozen part of the forward pass is done, if that is kept; the model's mode is set."""
        if self._prefixes is None or not isinstance(self.backbone, StagedBackbone) or not part.size:
            return part
        with autocast(self._device, self.config.train.precision):
            views = self._prefixes.views((self.name, member, split), part.views, self.backbone, self._device)
        return replace(part, views=views)

    def _restore_for_answers(
        self, shared: dict[str, Tensor] | None, round: int, final: bool, extras: Mapping[str, Tensor] | None
    ) -> tuple[Algorithm, RoundContext]:
        """Put this client's state after ``round`` into the model; return which algorithm answers, and its context."""
        answering, context = self.algorithm, self._restore(shared, round + 1, extras, training=False)
        if shared is not None and final and personalises(self.algorithm, self.config.algorithm):
            answering = Local()
            self._personalise(context, round)
        if shared is not None and self.config.eval.anchor == "newest":
            self.adapters.refresh_anchor()
        self.backbone.model.eval()
        for member in self.members.values():
            for head in member.heads.values():
                head.eval()
        return answering, context

    def _personalise(self, context: RoundContext, round: int) -> None:
        """Fine-tune the received adapter, as the local one, and the head; or load what an earlier call made."""
        state = self._personal_store.read(round)
        if state is not None:
            self._load_personal(Local(), state)
            return
        self.adapters.copy("global", "local")
        self._train(Local(), self.config.algorithm.personal_epochs, "personal", context)
        with self._personal_store.held():
            self._personal_store.save(round, pack(Local(), self.adapters, self.members, {}), self._meta(None))

    @phase("checkpoints")
    def _restore(
        self, shared: dict[str, Tensor] | None, round: int, extras: Mapping[str, Tensor] | None, training: bool
    ) -> RoundContext:
        """Put this client's state before ``round`` and what it received into the shared model.

        Args:
            shared: the global adapter, as far as it travels.
            round: that is to be trained, or the one after the round that is evaluated.
            extras: the extra arrays received.
            training: whether the round is to be trained.
        """
        if self._recent is not None:
            self._recent.turn(self)
        if self.algorithm.communicates and shared is None:
            raise ValueError(f"client {self.name}: {self.algorithm.name} needs the global adapter and got none")
        # What does not travel starts the same everywhere; all of it, where nothing does.
        self.adapters.initialise(torch_generator(self.config.seed, "server", "adapter"), "global")
        if shared is not None:
            load_shared(self.algorithm, self.adapters, shared)
        self.adapters.refresh_anchor()
        self.adapters.initialise(torch_generator(self.config.seed, self.name, "local"), "local")
        context = RoundContext(round, self.config.rounds, self.config.algorithm)
        self._check_extras(extras or {}, shared or {}, training)
        context.received = {key: value.to(self._device) for key, value in (extras or {}).items()}
        self.adapters.shift(self.algorithm.shift(context))
        stored = self.store.load(round)
        self._averages = averages(stored[1]) if stored is not None else {}
        if stored is None:
            for member in self.members.values():
                member.reset_heads()
        else:
            own = self._load_personal(self.algorithm, stored)
            context.state = {key: value.to(self._device) for key, value in own.items()}
            context.previous = stored[0]
        return context

    def _check_extras(self, extras: Mapping[str, Tensor], shared: Mapping[str, Tensor], training: bool) -> None:
        """Refuse extra arrays that are not those that the algorithm's server sends."""
        server = self.algorithm.server or ServerPart()
        sent = (server.sends if training else server.answers)(server.start(shared))
        expected = {key: value.shape for key, value in sent.items()}
        found = {key: value.shape for key, value in extras.items()}
        for key in sorted(found.keys() | expected.keys()):
            if found.get(key) != expected.get(key):
                raise ValueError(
                    f"client {self.name}: extra array {key}: got {_shape(found.get(key))}, "
                    f"{self.algorithm.name} expects {_shape(expected.get(key))}"
                )

    def _load_personal(self, algorithm: Algorithm, state: State) -> dict[str, Tensor]:
        round, tensors, meta = state
        if meta.get("algorithm") != self.algorithm.name or meta.get("classes") != self._classes():
            raise StoreError(
                f"client {self.name}: personal state of round {round} in {self.store.folder} belongs to another "
                "method, task or answer list; start a new run"
            )
        try:
            return unpack(algorithm, self.adapters, self.members, tensors)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise StoreError(f"client {self.name}: personal state of round {round} does not fit: {reason}") from error

    def _meta(self, previous: int | None) -> dict[str, object]:
        return {"algorithm": self.algorithm.name, "classes": self._classes(), "previous": previous}

    def _classes(self) -> dict[str, str]:
        return {name: member.digest() for name, member in self.members.items()}


def _shape(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else f"shape {tuple(shape)}"
