"""The published schedule of FedDAT: the baseline for measurements and the reference for tests of our schedule.

One step has three forward and two backward passes. Each forward pass decodes, resizes and tokenises its batch again.
The model is the original one of transformers: it picks patches at random and uses eager attention and float32. The
mistakes of the published code (:mod:`feddat.client.traps`) are left out, because they cost no time.

Chen et al., "FedDAT", AAAI 2024, arXiv 2308.12305.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.vilt.modeling_vilt import ViltEmbeddings, ViltSelfAttention

from feddat.algorithms.base import Learner, RoundContext
from feddat.models.base import Backbone
from feddat.models.vilt.backbone import ViltBackbone
from feddat.models.vilt.fast import FastViltEmbeddings, FastViltSelfAttention


def published_step(learner: Learner, context: RoundContext) -> dict[str, Tensor]:
    """Take one step of FedDAT in three forward and two backward passes; return its losses."""
    config = context.config
    with torch.no_grad():
        z_dat = learner.logits(learner.features("dat"))
    z_s = learner.logits(learner.features("global"))
    task, divergence = learner.task_loss(z_s), learner.distillation_loss(z_s, z_dat, config.temperature)
    loss_s = (1 - config.alpha) * task + config.alpha * divergence
    learner.update(loss_s)

    z_dat = learner.logits(learner.features("dat"))
    task, divergence = learner.task_loss(z_dat), learner.distillation_loss(z_dat, z_s, config.temperature)
    loss_dat = (1 - config.beta) * task + config.beta * divergence
    learner.update(loss_dat)
    return {"loss": (loss_s + loss_dat).detach()}


_STOCK: dict[type, type] = {FastViltEmbeddings: ViltEmbeddings, FastViltSelfAttention: ViltSelfAttention}


class StockVilt(ViltBackbone):
    """ViLT that runs the complete forward pass of transformers on every route."""

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the pooled first token, shape (views, feature_dim)."""
        device = inputs["input_ids"].device
        pooled: Tensor = self.model(**{key: value.to(device) for key, value in inputs.items()}).pooler_output
        return pooled


def make_stock(backbone: Backbone) -> Backbone:
    """Replace our faster code in a backbone, in place, by that of transformers; weights and results stay the same.

    ViLT gets back its original embeddings, attention and complete forward pass. Every model gets eager attention.
    """
    module: Any
    for module in backbone.model.modules():
        module.__class__ = _STOCK.get(type(module), type(module))
        config: Any = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation"):
            config._attn_implementation = "eager"
    if type(backbone) is ViltBackbone:
        backbone.__class__ = StockVilt
    return backbone


def stock_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.AdamW:
    """Return a new AdamW in torch's default implementation, with the same parameters and settings."""
    groups = [
        {key: group[key] for key in ("params", "lr", "betas", "eps", "weight_decay")}
        for group in optimizer.param_groups
    ]
    return torch.optim.AdamW(groups)
