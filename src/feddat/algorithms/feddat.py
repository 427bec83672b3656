"""FedDAT: mutual knowledge distillation between the global adapter and the Dual-Adapter Teacher.

Chen, Zhang, Krompass, Gu, Tresp: "FedDAT: An Approach for Foundation Model Finetuning in Multi-Modal Heterogeneous
Federated Learning", AAAI 2024, arXiv 2308.12305.

    L_s   = (1−α) · task(z_s)   + α · KL_T(z_s ‖ z_dat)      trains the global adapter and the head
    L_dat = (1−β) · task(z_dat) + β · KL_T(z_dat ‖ z_s)      trains the local adapter and the head
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from feddat.algorithms.base import MAIN_HEAD, Algorithm, Learner, RoundContext, separate_heads
from feddat.algorithms.distillation import ramp
from feddat.algorithms.mixed_answers import MixedAnswers
from feddat.config import AlgorithmConfig, RunConfig


class FedDAT(Algorithm):
    """The published method, with both orders of a step (``algorithm.order``).

    As published, all routes share one personal head, and the dual teacher answers. With ``algorithm.heads=separate``,
    the global route has its own head; with ``algorithm.answer=mixture``, a client mixes both routes' answers.
    """

    name = "feddat"
    reads = ("order", "alpha", "beta", "temperature", "ramp_rounds", "heads", "answer")
    trains = ("global", "local")
    keeps = ("local", "anchor")
    routes: ClassVar[tuple[str, ...]] = ("dat", "local", "global")
    logs = ("loss", "task_global", "task_dat", "kl_global", "kl_dat")
    hides_gradients = True

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> FedDAT:
        """Return the method that answers as ``algorithm.answer`` says."""
        return MixedFedDAT() if config.algorithm.answer == "mixture" else self

    def heads(self, config: AlgorithmConfig) -> Mapping[str, str]:
        """Return the global route's own head if ``algorithm.heads`` asks for it."""
        return separate_heads(config)

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one pass of each kind on the global and on the DAT route."""
        return 2.0, 2.0

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take the two half steps of ``alternating`` or the single step of ``joint``.

        Returns:
            ``loss`` (L_s + L_dat) and its parts: ``task_global``, ``task_dat``, ``kl_global``, ``kl_dat``.
        """
        if context.config.order == "joint":
            return _joint(learner, context)
        return _alternating(learner, context)


class MixedFedDAT(MixedAnswers, FedDAT):
    """The same training; a client answers with a mixture of the dual teacher's and the global adapter's answers."""

    routes = ("mixed", "dat", "local", "global")
    mixes = ("dat", "global")


def _alternating(learner: Learner, context: RoundContext) -> dict[str, Tensor]:
    # The published order runs the DAT route twice: before the L_s step without gradient, and after it with gradient.
    # The L_s step moves only the global adapter and the head, which the DAT route's features do not depend on. One pass
    # therefore gives the features of both; only the head is applied again after the step. (With dropout in the model,
    # the two passes share one mask. The graphs of both routes are alive at the same time, as in `joint`.)
    dat_features = learner.features("dat")
    with torch.no_grad():
        z_dat = learner.logits(dat_features)

    z_s = learner.logits(learner.features("global"), _global_head(context))
    loss_s, task_s, kl_s = _objective(learner, z_s, z_dat, context.config.alpha, context)
    learner.update(loss_s)

    z_dat = learner.logits(dat_features)
    loss_dat, task_dat, kl_dat = _objective(learner, z_dat, z_s, context.config.beta, context)
    learner.update(loss_dat)
    return _log(loss_s + loss_dat, task_s, task_dat, kl_s, kl_dat)


def _joint(learner: Learner, context: RoundContext) -> dict[str, Tensor]:
    z_dat = learner.logits(learner.features("dat"))
    z_s = learner.logits(learner.features("global"), _global_head(context))
    loss_s, task_s, kl_s = _objective(learner, z_s, z_dat, context.config.alpha, context)
    loss_dat, task_dat, kl_dat = _objective(learner, z_dat, z_s, context.config.beta, context)
    loss = loss_s + loss_dat
    learner.update(loss)
    return _log(loss, task_s, task_dat, kl_s, kl_dat)


def _global_head(context: RoundContext) -> str:
    return separate_heads(context.config).get("global", MAIN_HEAD)


def _objective(
    learner: Learner, student: Tensor, teacher: Tensor, weight: float, context: RoundContext
) -> tuple[Tensor, Tensor, Tensor]:
    weight = ramp(weight, context.round, context.config.ramp_rounds)
    task = learner.task_loss(student)
    divergence = learner.distillation_loss(student, teacher, context.config.temperature)
    # With weight 0, the teacher is left out of the graph.
    loss = (1.0 - weight) * task + weight * divergence if weight else task
    return loss, task, divergence


def _log(loss: Tensor, task_global: Tensor, task_dat: Tensor, kl_global: Tensor, kl_dat: Tensor) -> dict[str, Tensor]:
    values = {
        "loss": loss,
        "task_global": task_global,
        "task_dat": task_dat,
        "kl_global": kl_global,
        "kl_dat": kl_dat,
    }
    return {name: value.detach() for name, value in values.items()}
