"""Answers of one client: scores on a split, and predictions for new examples.

The client's state must already be loaded into the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from feddat.adapters.base import Adapters
from feddat.algorithms.base import MAIN_HEAD, Algorithm, RoundContext
from feddat.client import returned
from feddat.client.generation import Generation
from feddat.client.learner import BatchLearner
from feddat.client.member import FUSION, Member, Prepared
from feddat.client.trained import TrainedModel
from feddat.example import Example
from feddat.phases import phase
from feddat.tasks.base import Task


class Answering:
    """Answers batch by batch with the state that is in the model now.

    Args:
        learner: runs the batches; needs no optimizer.
        algorithm: defines the routes.
        context: the context of the last finished round, with the client's state in it.
        batch_size: examples per batch.
    """

    def __init__(self, learner: BatchLearner, algorithm: Algorithm, context: RoundContext, batch_size: int) -> None:
        self._learner = learner
        self._algorithm = algorithm
        self._context = context
        self.batch_size = batch_size

    @phase("evaluation")
    def scores(self, member: Member, part: Prepared, routes: Sequence[str]) -> dict[str, float]:
        """Return the mean score of each route, in percent.

        Runs all routes on a batch before the next batch, so that the routes share computation where they can.
        """
        scores = self._scores(member, part, routes)
        return {route: 100.0 * torch.cat(found).double().mean().item() for route, found in scores.items()}

    @phase("evaluation")
    def example_scores(self, member: Member, part: Prepared, route: str) -> list[float]:
        """Return the score of each example on a route, in percent."""
        found = self._scores(member, part, [route])[route]
        return [100.0 * score for score in torch.cat(found).double().tolist()] if found else []

    @phase("evaluation")
    def example_losses(self, member: Member, part: Prepared, route: str) -> Tensor:
        """Return the loss of each example on a route, (N,), float64 on the CPU.

        Raises:
            ValueError: the member writes its answers; only classes have a loss per example.
        """
        if member.generation is not None:
            raise ValueError(
                f"client {member.name}: writes its answers; a loss per example needs a client that answers with classes"
            )
        found: list[Tensor] = [torch.empty(0)]
        with torch.inference_mode():
            for targets in self._batches(member, part):
                found.append(row_losses(member.task, self._logits(route, len(targets)), targets).cpu())
        return torch.cat(found).double().clone()

    def likeliest(
        self, member: Member, examples: Sequence[Example], route: str, k: int
    ) -> list[list[tuple[str, float]]]:
        """Return the ``k`` likeliest answers of each example with probabilities; just one if it writes freely."""
        views = member.encode_unseen(examples)
        answers: list[list[tuple[str, float]]] = []
        with torch.inference_mode():
            for indices in torch.arange(len(examples)).split(self.batch_size):  # type: ignore[no-untyped-call]
                self._learner.take(member, member.inputs(views, indices), torch.empty(0))
                logits = self._logits(route, len(indices))
                if member.generation is not None and member.generation.written:
                    answers += [[written] for written in self._written(member.generation, route, member.task.classes)]
                    continue
                # Of equal logits, the first comes first, as in scores; `topk` does not promise that.
                likeliest = logits.argsort(dim=-1, descending=True, stable=True)[:, :k]
                probabilities = logits.softmax(dim=-1).gather(1, likeliest)
                for index, values, classes in zip(
                    indices.tolist(), probabilities.tolist(), likeliest.tolist(), strict=True
                ):
                    names = examples[index].choices or member.task.classes
                    answers.append([(names[c], value) for c, value in zip(classes, values, strict=True)])
        return answers

    def exportable(self, routes: Sequence[str]) -> str:
        """Return the first of these routes that one model with fixed adapters answers, or else the first."""
        alone = (route for route in routes if self._algorithm.mixture(route, self._context) is not None)
        return next(alone, routes[0])

    def trained(self, adapters: Adapters, member: Member, route: str) -> TrainedModel:
        """Return copies of the adapters and heads that answer a member's questions on a route.

        Raises:
            ValueError: the route weighs adapters or answers anew for each question.
        """
        weights = self._algorithm.mixture(route, self._context)
        if weights is None:
            others = [name for name in self._algorithm.routes if self._algorithm.mixture(name, self._context)]
            raise ValueError(
                f"route {route!r} of {self._algorithm.name} weighs adapters or answers anew for each question; "
                "a single adapter cannot do that"
                + (f"; choose another route with --route: {', '.join(others)}" if others else "")
            )
        main = self._algorithm.heads(self._context.config).get(route, MAIN_HEAD)
        heads = {MAIN_HEAD: member.heads[main]} | {n: h for n, h in member.heads.items() if n == FUSION}
        return TrainedModel(
            route,
            [(float(weight), adapters.state(name)) for name, weight in weights.items()],
            {site: product.cpu() for site, product in self._algorithm.shift(self._context).items()},
            {name: copy.deepcopy(head).cpu() for name, head in heads.items()},
            member,
        )

    def _written(self, generation: Generation, route: str, classes: Sequence[str]) -> list[tuple[str, float]]:
        """Return the free answer to each question of the current batch, with its probability.

        Routes of a mixture can write different texts. As in scores, one of ``classes`` goes before any other text.
        """
        routes = self._algorithm.mixed_routes(route, self._context)
        if list(routes) == [route]:
            return generation.written
        found: list[dict[str, float]] = []
        for name, weight in routes.items():
            self._logits(name, len(generation.written))
            found = found or [{} for _ in generation.written]
            for probabilities, (text, probability) in zip(found, generation.written, strict=True):
                probabilities[text] = probabilities.get(text, 0.0) + weight * probability
        return [max(texts.items(), key=lambda item: (item[0] in classes, item[1])) for texts in found]

    def _batches(self, member: Member, part: Prepared) -> Iterator[Tensor]:
        """Make each batch of a split the learner's current one in turn, and yield its targets."""
        for inputs, targets in member.batches(part, self.batch_size):
            self._learner.take(member, inputs, targets)
            yield targets

    def _scores(self, member: Member, part: Prepared, routes: Sequence[str]) -> dict[str, list[Tensor]]:
        """Return the scores in [0, 1] of each batch's examples on each route."""
        scores: dict[str, list[Tensor]] = {route: [] for route in routes}
        with torch.inference_mode():
            for targets in self._batches(member, part):
                for route in routes:
                    scores[route].append(member.task.scores(self._logits(route, len(targets)), targets))
        return scores

    def _logits(self, route: str, rows: int) -> Tensor:
        return returned.scores(
            self._algorithm, self._algorithm.answer(self._learner, route, self._context), rows, route
        )


def row_losses(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the task's loss of each row of logits (N, C) on its own, (N,)."""
    return torch.stack([task.loss(logits[i : i + 1], targets[i : i + 1]) for i in range(len(logits))])
