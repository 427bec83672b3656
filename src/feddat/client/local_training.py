"""Local training of one client: batches, optimizer, schedule, and a check that losses and gradients are finite."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from feddat.adapters.base import Adapters
from feddat.algorithms.base import Algorithm, RoundContext
from feddat.client import returned
from feddat.client.batches import plan_batches
from feddat.client.captured import CapturedRoutes
from feddat.client.guarded import PICTURES, Guard, GuardedAdamW, most_batches
from feddat.client.learner import BatchLearner
from feddat.client.member import Member, Prepared
from feddat.client.momentum import MomentumCopy, rising
from feddat.client.optim import build_optimizer, set_learning_rate
from feddat.client.private_rules import private_adapters, private_heads, steps_are_guarded
from feddat.client.private_training import PrivateLearner, PrivateTurn, weights_apart
from feddat.client.traps import Traps
from feddat.config import RunConfig
from feddat.example import DataError, image_identity
from feddat.models.base import Backbone
from feddat.phases import phase
from feddat.seeding import derive

log = logging.getLogger(__name__)

#: Index of the example that runs through the model if a private sample is empty.
_STANDS_IN = torch.zeros(1, dtype=torch.long)
#: Share of changes undone by guarded steps that is worth a line in the log; honest adapters stay far below.
_MUCH = 0.5
#: Returns a member's split (by name) with the frozen part of the forward pass already computed, if that is kept.
Carry: TypeAlias = Callable[[str, Prepared, str], Prepared]

#: The batches of a turn: a member's name and the indices of examples.
Plan: TypeAlias = Sequence[tuple[str, Tensor]]


class TrainingError(RuntimeError):
    """Training cannot continue; the message names the client, the round and the step."""


class LocalTraining:
    """Trains the adapters and heads of one client in place (docs/method/feddat.md, "One round", step 2).

    Args:
        name: the client's name; keys the seeds.
        members: the members whose data it trains on, by name.
        config: the settings of the run.
        backbone: the frozen model, on its device.
        adapters: the adapters of that model.
        carry: applied to every split before its first batch, when the model is already in its training or evaluation
            mode.
        seed: returns the seed of batches and dropout.
        captured: recordings of passes on a GPU; ``None``: no pass is recorded.
    """

    def __init__(
        self,
        name: str,
        members: Mapping[str, Member],
        config: RunConfig,
        backbone: Backbone,
        adapters: Adapters,
        carry: Carry,
        seed: Callable[[], int],
        captured: CapturedRoutes | None = None,
    ) -> None:
        self.name = name
        self.members = members
        self.config = config
        self.backbone = backbone
        self.adapters = adapters
        self._carry = carry
        self._seed = seed
        self._captured = captured
        self._traps = Traps(config)
        self._said = False

    def run(
        self,
        algorithm: Algorithm,
        epochs: int,
        turn: str | int,
        context: RoundContext,
        steps: int | None = None,
        copy: MomentumCopy | None = None,
        private: PrivateTurn | None = None,
    ) -> tuple[dict[str, float], Mapping[str, Tensor]]:
        """Train every head and the adapters that ``algorithm`` trains, starting from their current values.

        Args:
            algorithm: the local objective.
            epochs: passes over the training examples.
            turn: the round, or another name for this turn of training; keys the seeds.
            context: the context of the round, with the client's state in it.
            steps: number of batches, in place of ``epochs``.
            copy: the teacher of momentum distillation; ``None``: there is none.
            private: makes the turn private and plans its batches; ``None``: the turn is not private.

        Returns:
            The metrics and the extra arrays that the algorithm sends. The metrics are the mean of every loss over the
            steps, ``examples``, ``steps``, ``seconds``, and the number of views that went ``forward`` and ``backward``
            through the backbone.

        Raises:
            TrainingError: a loss or gradient is not finite.
            DataError: there is nothing to train on.
        """
        started = time.perf_counter()
        prepared = {name: member.prepared("train") for name, member in self.members.items()}
        sizes = {name: part.size for name, part in prepared.items()}
        plan = self._plan(sizes, epochs, steps, turn, private)
        optimizer = self._optimizer(algorithm, self._traps.trained(algorithm, context.round), plan)
        learner = self._learner(algorithm, optimizer, copy, private)
        context.steps = len(plan)
        context.batches = sum(math.ceil(size / self.config.train.batch_size) for size in sizes.values())
        # If batches are secret, so is the assignment of dropout masks to examples.
        torch.manual_seed(
            derive(self._seed(), self.name, turn, "dropout") if private is None else private.source.seed()
        )
        self.backbone.model.train()
        for head in self._heads():
            head.train()
        prepared = {name: self._carry(name, part, "train") for name, part in prepared.items()}
        algorithm.begin(learner, context)
        with weights_apart(self.adapters, private is not None):
            table = self._steps(algorithm, learner, optimizer, plan, prepared, context)
        self.adapters.model.zero_grad(set_to_none=True)  # also of entries that do not train
        optimizer.zero_grad(set_to_none=True)
        self._check_finite(table, [*algorithm.logs, "gradient norm"], turn, stops=not self.config.privacy.on)
        metrics = dict(zip(algorithm.logs, table.mean(dim=0).tolist(), strict=False))
        if isinstance(optimizer, GuardedAdamW):
            self._undo(optimizer, turn)
        sent = returned.tensors(algorithm, algorithm.finish(learner, context), "finish")
        returned.tensors(algorithm, context.state, "context.state")
        if sent and steps_are_guarded(self.config):  # another package's method; those of this one are refused earlier
            raise TrainingError(
                f"client {self.name}: privacy.guarded_steps: {algorithm.name} sends arrays beside the adapter, which "
                "guarded steps do not cover"
            )
        metrics["examples"] = float(sum(sizes.values()))
        metrics["steps"] = float(len(plan))
        metrics |= {name: float(count) for name, count in learner.passes.items()}
        metrics["seconds"] = time.perf_counter() - started
        return metrics, sent

    def held_out(self) -> Iterator[tuple[Member, dict[str, Tensor], Tensor]]:
        """Yield the batches of every member's validation examples: the member, their inputs and their targets."""
        for name, member in self.members.items():
            part = member.prepared("validation")
            if not part.size:
                continue
            part = self._carry(name, part, "validation")
            for inputs, targets in member.batches(part, self.config.eval.batch_size):
                yield member, inputs, targets

    def _plan(
        self, sizes: Mapping[str, int], epochs: int, steps: int | None, turn: str | int, private: PrivateTurn | None
    ) -> Plan:
        """Return the turn's batches.

        Raises:
            DataError: there are none.
        """
        if private is not None:
            plan = [(name, indices) for name in sizes for indices in private.plan]
        else:
            even = steps_are_guarded(self.config)
            plan = plan_batches(sizes, epochs, self.config.train.batch_size, self._seed(), turn, steps, even=even)
        if not plan:
            raise DataError(f"client {self.name}: no training examples")
        return plan

    def _optimizer(self, algorithm: Algorithm, adapters: Iterable[str], plan: Plan) -> torch.optim.AdamW:
        """Return a new optimizer of the entries that train in these adapters, and of all heads."""
        named = [item for name in adapters for item in self.adapters.named(name).items()]
        return build_optimizer(
            [parameter for key, parameter in named if algorithm.trains_key(key)],
            self.config.train,
            [parameter for head in self._heads() for parameter in head.parameters() if parameter.requires_grad],
            self.config.head.lr,
            guard=self._guard(algorithm, plan) if steps_are_guarded(self.config) else None,
        )

    def _learner(
        self,
        algorithm: Algorithm,
        optimizer: torch.optim.Optimizer,
        copy: MomentumCopy | None,
        private: PrivateTurn | None,
    ) -> BatchLearner:
        """Return what the algorithm drives in this turn."""
        train = self.config.train
        if private is not None:
            return PrivateLearner(
                self.backbone,
                self.adapters,
                train.precision,
                optimizer,
                trains_key=algorithm.trains_key,
                turn=private,
                private=self._private(algorithm),
            )
        return BatchLearner(
            self.backbone,
            self.adapters,
            train.precision,
            optimizer,
            clip_norm=train.clip_norm,
            trains_key=algorithm.trains_key,
            zeroes_gradients=self._traps.zeroes_gradients,
            momentum=copy,
            captured=self._captured,
            held_out=self.held_out,
        )

    def _heads(self) -> list[nn.Module]:
        return [head for member in self.members.values() for head in member.heads.values()]

    def _steps(
        self,
        algorithm: Algorithm,
        learner: BatchLearner,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        prepared: Mapping[str, Prepared],
        context: RoundContext,
    ) -> Tensor:
        """Take the turn's steps.

        Returns:
            A table of (steps, logs + 1), float64: what the algorithm logs, and the norm of the gradient.
        """
        # Nothing is read back from the device inside the loop; the check for NaN waits until the end.
        losses: list[Tensor] = []
        for context.step, (name, indices) in enumerate(plan):
            member, part = self.members[name], prepared[name]
            set_learning_rate(
                optimizer, self.config.train.lr * self._traps.schedule(context.step, len(plan), algorithm)
            )
            drawn = len(indices)
            indices = indices if drawn else _STANDS_IN
            alpha = rising(self.config.momentum.alpha, context.step, len(plan), first=context.previous is None)
            learner.take(member, member.training_inputs(part, indices), part.targets_at(indices), alpha)
            if isinstance(learner, PrivateLearner):
                learner.drawn(drawn)
            values = returned.logged(algorithm, self._step(algorithm, learner, context))
            losses.append(torch.stack([*values.values(), learner.take_norm()]))
        return torch.stack(losses).double()

    @phase("forward")
    def _step(self, algorithm: Algorithm, learner: BatchLearner, context: RoundContext) -> dict[str, Tensor]:
        return algorithm.step(learner, context)

    def _guard(self, algorithm: Algorithm, plan: Plan) -> Guard:
        """Return what guarded steps protect in this plan.

        Raises:
            TrainingError: there are too few batches for any change.
        """
        named = self.adapters.named(algorithm.sends)
        leaving = [parameter for key, parameter in named.items() if algorithm.shares(key)]
        often = pictures = 0
        for name, member in self.members.items():
            batches = [indices.tolist() for owner, indices in plan if owner == name]
            examples = member.data.train
            often = max(often, most_batches(batches, [(index,) for index in range(len(examples))]))
            shown = [tuple(map(image_identity, each.images)) for each in examples]
            pictures = max(pictures, most_batches(batches, shown))
        guard = Guard(leaving, often, pictures)
        if (least := guard.needs(len(plan))) > len(plan):
            raise TrainingError(
                f"client {self.name}: privacy.guarded_steps: {len(plan)} steps change nothing: {PICTURES} batches of "
                f"different examples must agree ({least} steps); use smaller batches"
            )
        return guard

    def _undo(self, optimizer: GuardedAdamW, turn: str | int) -> None:
        """Undo changes that too few pictures made, and say so if it is much, or if one picture is too frequent."""
        shared = optimizer.guard.pictures
        if PICTURES * shared > (steps := optimizer.fewest_steps) and not self._said:
            self._said = True
            log.warning(
                "client %s: one picture is in %d batches of a round, so changes that fewer than %d pictures made can "
                "leave, if all %d steps made them (privacy.guarded_steps)",
                *(self.name, shared, PICTURES, steps),
            )
        if (share := optimizer.finish()) > _MUCH:
            log.warning(
                "client %s: round %s: %.0f %% of what moved did not stay changed, because too few batches moved it "
                "(privacy.guarded_steps); the received adapter may be made to read single pictures",
                self.name,
                turn,
                100 * share,
            )

    def _private(self, algorithm: Algorithm) -> dict[str, nn.Parameter]:
        """Return the parameters that learn only from noisy sums, by name."""
        found = {
            f"{name}.{key}": parameter
            for name in private_adapters(algorithm, self.config.privacy.scope)
            for key, parameter in self.adapters.named(name).items()
            if algorithm.trains_key(key)
        }
        heads = private_heads(algorithm, self.config)
        for member in self.members.values():
            for name, head in member.heads.items():
                if heads is None or name in heads:
                    named = head.named_parameters()
                    found |= {f"head.{name}.{key}": parameter for key, parameter in named if parameter.requires_grad}
        return found

    def _check_finite(self, table: Tensor, names: list[str], turn: str | int, stops: bool) -> None:
        bad = (~table.isfinite()).nonzero()
        if not len(bad):
            return
        step, column = bad[0].tolist()
        problem = (
            f"client {self.name}: round {turn}, step {step + 1} of {len(table)}: {names[column]} is "
            f"{table[step, column].item()}; lower train.lr"
        )
        if stops:
            raise TrainingError(f"{problem} or set train.clip_norm")
        log.warning("%s", problem)  # stopping would reveal something about the client's records to the server
