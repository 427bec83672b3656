"""Patches of pictures out of one message, by adapters whose rows are bins.

After Sami et al., "Gradient Inversion Attacks on Parameter-Efficient Fine-Tuning" (PEFTLeak), CVPR 2025, arXiv
2506.04453, with the bins of Fowl et al., "Robbing the Fed", ICLR 2022. The server makes all layers except the last pass
tokens on unchanged, so that every adapter reads the embeddings. All rows of an adapter's W_down measure the same value,
v·h, and their biases are thresholds in ascending order. Neighbouring rows differ only in the tokens between two
thresholds. All columns of W_up are the same vector, so that a token gives every row the same gradient, s. Then

    ΔW_down[i] − ΔW_down[i+1] = Σ s h,   Δb_down[i] − Δb_down[i+1] = Σ s,   over the tokens in bin i,

and if there is one token in the bin, the quotient is its embedding. This is our own form of the attack, for the
adapters here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ViltModel

from feddat.audit.message import Message, embedded, of, received, refusal, settings, unaltered, vilt_of
from feddat.config import RunConfig
from feddat.example import ClientData, Example
from feddat.experiment.single.federation import Federation
from feddat.seeding import torch_generator

#: A patch counts as rebuilt up to this distance from the true embedding, as a share of its norm.
CLOSE = 0.05
#: Size of W_up: small, so that one adapter does not change what the next one reads.
_UP = 1e-4
#: A bin is empty if its bias moved less than this share of the largest move.
_EMPTY = 1e-6
_DOWN, _BIAS, _OUT = "bottleneck_down.weight", "bottleneck_down.bias", "bottleneck_up.weight"


def attack(
    config: RunConfig, data: ClientData, known: list[Example], batch: int, steps: int, allowed: bool, folder: Path
) -> dict[str, Any]:
    """Return how many patches of a client's pictures come out of one message.

    Args:
        config: the run's.
        data: the client's.
        known: the attacker's own examples, by which it chooses thresholds.
        batch: examples per step.
        steps: of the round.
        allowed: the client keeps to its default policy, so that the model and the optimizer's limits are unchanged.
        folder: for the client's state.
    """
    examples = data.train[: batch * steps]
    asked = settings(config, batch, steps, {"adapter.peft": "bottleneck", "adapter.reduction": 2}, allowed)
    row: dict[str, Any] = {
        "what": "pictures: altered model, adapters as bins (PEFTLeak)" if not allowed else "pictures: adapters as bins",
        **{"examples": len(examples), "steps": steps},
    }
    if allowed and (reason := refusal(asked, len(examples))):
        return row | {"recovered": 0, "of": 0, "refused": reason}

    def craft(federation: Federation, shared: dict[str, Tensor]) -> dict[str, Tensor]:
        return bins(shared, _tokens(federation, known).flatten(0, 1), config.seed)

    with received(asked, of(data, examples), folder, unaltered if allowed else pass_on, craft) as message:
        truth = _patches(message)
        found = rebuilt(message.update)
    return row | {"recovered": matched(found, truth), "of": len(truth)}


def pass_on(vilt: ViltModel) -> None:
    """Make all layers except the last return their input."""
    layers: list[Any] = list(vilt.encoder.layer)
    for layer in layers[:-1]:
        output = getattr(layer.output, "base_layer", layer.output)
        for linear in (layer.attention.output.dense, output.dense):
            linear.weight.zero_()
            linear.bias.zero_()


def bins(shared: dict[str, Tensor], tokens: Tensor, seed: int) -> dict[str, Tensor]:
    """Return a shared part whose adapters are bins over the measured values of tokens (n, d), each with its own range.

    The last adapter is left unchanged, because only the first token goes through it.
    """
    generator = torch_generator(seed, "audit", "bins")
    width = tokens.shape[1]
    direction = torch.randn(width, generator=generator)
    direction /= direction.norm()
    outward = torch.randn(width, generator=generator)
    sites = sorted({key.removesuffix(_DOWN) for key in shared if key.endswith(_DOWN)})[:-1]
    rows = shared[sites[0] + _BIAS].numel()
    measured = tokens @ direction
    # Neighbouring adapters share a threshold, so that no bin falls between them.
    cuts = torch.quantile(measured, torch.linspace(0, 1, len(sites) * (rows - 1) + 1).clamp(1e-4, 1))
    crafted = dict(shared)
    for place, site in enumerate(sites):
        crafted[site + _DOWN] = direction.expand(rows, -1).clone()
        crafted[site + _BIAS] = -cuts[place * (rows - 1) : place * (rows - 1) + rows]
        crafted[site + _OUT] = _UP * outward[:, None].expand(-1, rows).clone()
    return crafted


def rebuilt(update: dict[str, Tensor]) -> Tensor:
    """Return the quotient of every bin that is not empty, (m, d)."""
    found = []
    sites = sorted({key.removesuffix(_DOWN) for key in update if key.endswith(_DOWN)})[:-1]
    for site in sites:
        rows = update[site + _DOWN].double().diff(dim=0)
        weights = update[site + _BIAS].double().diff()
        full = weights.abs() > _EMPTY * update[site + _BIAS].abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        found.append(rows[full] / weights[full, None])
    return torch.cat(found)


def matched(found: Tensor, truth: Tensor) -> int:
    """Return how many true embeddings (n, d) are close to one of those that were found (m, d)."""
    if not len(found):
        return 0
    distance = torch.cdist(truth.double(), found.double().nan_to_num(0, 0, 0)).min(dim=1).values
    return int((distance < CLOSE * truth.double().norm(dim=1)).sum())


def _tokens(federation: Federation, examples: list[Example]) -> Tensor:
    (participant,) = federation.participants.values()
    (member,) = participant.members.values()
    views = member.encode_unseen(examples)
    inputs = member.inputs(views, torch.arange(len(examples)))
    return embedded(vilt_of(federation.foundation.backbone.model), inputs)


def _patches(message: Message) -> Tensor:
    """Return the embeddings of the pictures' patches, (n, d)."""
    (participant,) = message.federation.participants.values()
    (member,) = participant.members.values()
    inputs = member.inputs(member.prepared("train").views, torch.arange(len(message.examples)))
    states = embedded(vilt_of(message.federation.foundation.backbone.model), inputs)
    words = inputs["input_ids"].shape[1]
    return states[:, words + 1 :].flatten(0, 1)  # the picture's own first token follows the words
