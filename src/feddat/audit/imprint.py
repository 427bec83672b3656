"""Patches of pictures out of one message, by adapters whose rows are bins.

After Sami et al., "Gradient Inversion Attacks on Parameter-Efficient Fine-Tuning" (PEFTLeak), CVPR 2025, arXiv
2506.04453, with the bins of Fowl et al., "Robbing the Fed", ICLR 2022. All rows of an adapter's W_down measure the same
value of a token's state h, v·h, and their biases are thresholds in ascending order. Neighbouring rows differ only in
the tokens between two thresholds. All columns of W_up are the same vector, so that a token gives every row the same
gradient, s. Then

    ΔW_down[i] − ΔW_down[i+1] = Σ s h,   Δb_down[i] − Δb_down[i+1] = Σ s,   over the tokens in bin i,

and if there is one token in the bin, the quotient is its state. Both sides are sums over tokens, so they hold for a sum
of several clients' updates as well: it is a larger batch. Bins need not hold all tokens. With fewer bins than tokens
they are as wide as one token each is expected in; of such bins, one in e holds exactly one.

An obeying client gets a model whose layers pass tokens on unchanged, and an optimizer that passes gradients on. A
client with a policy, or with the run's settings, keeps its model and AdamW, which divides every number of a gradient
by its own size. But the adapter is the server's, so it can make gradients so small that AdamW's ε outweighs them;
then steps are proportional to gradients. Small weights make those of the other factor small, and a huge bias in the
last adapter makes the derivative of the LayerNorm behind it small, and with it every gradient. Rows can also
measure a value each and be read by themselves: a row that only one patch enters gives its state as Δw / Δb. Where steps
hide the size of gradients (``privacy.guarded_steps``), the signs of Δw / Δb are left, and a regression on the
attacker's own patches tells which state has such signs. This is our own form of the attack.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ViltModel

from feddat.audit.message import Asked, Kind, Message, Target, ask, received, unaltered, vilt_of
from feddat.client.learner import autocast
from feddat.client.member import Member
from feddat.config import RunConfig
from feddat.experiment.single.federation import Federation
from feddat.seeding import torch_generator

#: A patch counts as rebuilt up to this distance from its true state, as a share of that state's distance from the
#: average patch: a correlation of 0.98. Distances from 0 would be too kind, since all states have much in common.
CLOSE = 0.2
#: A bin is empty if its bias moved less than this share of the largest move.
_EMPTY = 1e-6
#: Share of one bin's tokens that is left above the highest threshold.
_TOP = 0.3
#: Examples whose states are computed at a time.
_CHUNK = 64
_DOWN, _BIAS, _OUT, _ADDED = (f"bottleneck_{name}" for name in ("down.weight", "down.bias", "up.weight", "up.bias"))


@dataclass(frozen=True, slots=True)
class Size:
    """How large an attacker makes the numbers of an adapter.

    Attributes:
        down: norm of a row of W_down.
        up: of W_up.
        added: of the last adapter's output bias, as a multiple of the optimizer's lr / ε; 0: it stays.
        alone: 0: all rows of an adapter measure the same value, and are read by differences. Otherwise every row
            measures a value of its own, is expected to read this many patches, and is read by itself.
    """

    down: float
    up: float
    added: float
    alone: float = 0.0


#: W_up is small, so that one adapter does not change what the next one reads; so is W_down, since an update is added to
#: it, and must not drown in its rounding.
OBEYED = (Size(1e-3, 1e-4, 0.0),)
#: Against AdamW, the attacker tries each, and the best one counts.
TRIED = (
    *(Size(1e-3, 1e-3, 500.0), Size(1e-1, 1e-1, 500.0), Size(1.0, 1.0, 500.0)),
    *(Size(1e-3, 1e-3, 0.0), Size(1e-3, 1e-3, 500.0, 1.0), Size(1e-3, 1e-3, 0.0, 1.0), Size(1e-3, 1e-3, 0.0, 4.0)),
)


def attack(target: Target, batch: int, steps: int, kind: Kind, folder: Path) -> dict[str, Any]:
    """Return how many patches of clients' pictures come out of one message.

    ``recovered`` and ``of`` leave out patches to which one of the attacker's own is as close: plain backgrounds.

    Args:
        target: whom to attack.
        batch: examples per step.
        steps: of the round.
        kind: of client; one of the run has its own batches and steps.
        folder: for the clients' states.
    """
    width = 1 if kind == "obeys" else 2  # a policy's narrowest reduction
    asked = ask(target, kind, batch, steps, {"adapter.reduction": width}, "bottleneck")
    row: dict[str, Any] = {
        "what": "pictures: altered model, adapters as bins (PEFTLeak)"
        if kind == "obeys"
        else "pictures: adapters as bins",
        **{"examples": asked.examples, "steps": asked.steps},
    }
    if asked.refused:
        return row | {"recovered": 0, "of": 0, "refused": asked.refused}
    found: list[dict[str, int]] = []
    for place, size in enumerate(OBEYED if kind == "obeys" else TRIED):
        craft = partial(_crafted, target, asked, size)
        alter = pass_on if kind == "obeys" else unaltered
        with received(asked, folder / str(place), alter, craft) as message:
            found.append(counted(message, target, bool(size.alone)))
    return row | max(found, key=lambda one: one["recovered"])


def pass_on(vilt: ViltModel) -> None:
    """Make all layers except the last return their input."""
    layers: list[Any] = list(vilt.encoder.layer)
    for layer in layers[:-1]:
        output = getattr(layer.output, "base_layer", layer.output)
        for linear in (layer.attention.output.dense, output.dense):
            linear.weight.zero_()
            linear.bias.zero_()


def sites(shared: Mapping[str, Tensor]) -> dict[int, str]:
    """Return layer -> beginning of its adapter's keys, in ascending order, without the last.

    Only the first token goes through the last layer's adapter, because the answer depends on no other.
    """
    found = {}
    for key in shared:
        if key.endswith(_DOWN) and (layer := re.search(r"layer\.(\d+)\.", key)):
            found[int(layer[1])] = key.removesuffix(_DOWN)
    return dict(sorted(found.items())[:-1])


def bins(
    shared: dict[str, Tensor], seen: Mapping[int, Tensor], tokens: float, size: Size, seed: int
) -> dict[str, Tensor]:
    """Return a shared part whose adapters are bins over measured values, each with a direction of its own.

    The last adapter is left unchanged.

    Args:
        shared: the adapter that the run would begin with.
        seen: layer -> states of the attacker's own patches at its adapter, (n, d).
        tokens: expected number of patches behind the message.
        size: of the crafted numbers.
        seed: of the directions.
    """
    crafted = dict(shared)
    for layer, site in sites(shared).items():
        generator = torch_generator(seed, "audit", "bins", layer)
        rows, width = shared[site + _DOWN].shape
        common = torch.nn.functional.normalize(seen[layer].mean(dim=0), dim=0)
        direction, outward = torch.randn(width, generator=generator), torch.randn(width, generator=generator)
        # What all states have in common is left out, so that thresholds are small numbers with small rounding errors.
        direction = torch.nn.functional.normalize(direction - direction @ common * common, dim=0)
        measured = seen[layer] @ direction
        crafted[site + _OUT] = size.up * outward[:, None].expand(-1, rows).clone()
        crafted[site + _ADDED] = torch.zeros_like(shared[site + _ADDED])
        if size.alone:
            each = torch.randn(rows, width, generator=generator)
            each = torch.nn.functional.normalize(each - (each @ common)[:, None] * common, dim=1)
            above = torch.quantile(seen[layer] @ each.T, max(1 - size.alone / tokens, 0.0), dim=0)
            crafted[site + _DOWN], crafted[site + _BIAS] = size.down * each, -size.down * above
            continue
        share = min(1.0, rows / tokens)
        # The lowest row must be above all that is not counted, so the bins are at the upper end.
        cuts = torch.quantile(
            measured, torch.linspace(1 - share, 1 - min(_TOP / tokens, 0.5 / rows), rows).clamp(1e-4, 1)
        )
        crafted[site + _DOWN] = size.down * direction.expand(rows, -1).clone()
        crafted[site + _BIAS] = -size.down * cuts
    return crafted


def rebuilt(update: Mapping[str, Tensor], site: str) -> Tensor:
    """Return the quotient of every bin of a site that is not empty, (m, d); the last one is open above."""
    down, bias = update[site + _DOWN].double(), update[site + _BIAS].double()
    rows, weights = torch.cat([down.diff(dim=0), down[-1:]]), torch.cat([bias.diff(), bias[-1:]])
    full = weights.abs() > _EMPTY * bias.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return rows[full] / weights[full, None]


def alone(update: Mapping[str, Tensor], site: str, own: Tensor) -> Tensor:
    """Return two guesses for every row of a site that moved, (2 m, d), as if one patch had entered it.

    The first is Δw / Δb, and the second the state that its signs suggest.

    Args:
        update: what training added, by name.
        site: beginning of the adapter's keys.
        own: states of the attacker's own patches, (n, d).
    """
    down, bias = update[site + _DOWN].double(), update[site + _BIAS].double()
    rows = down[bias != 0] / bias[bias != 0, None]

    def signs(values: Tensor) -> Tensor:
        return torch.cat([values.sign(), torch.ones(len(values), 1, dtype=torch.float64)], dim=1)

    known = signs(own)
    gram = known.T @ known + torch.eye(known.shape[1], dtype=torch.float64)
    return torch.cat([rows, signs(rows) @ torch.linalg.solve(gram, known.T @ own.double())])


def near(truth: Tensor, found: Tensor, centre: Tensor) -> Tensor:
    """Return which true states (n, d) are close to one of those that were found (m, d): booleans (n,).

    Args:
        truth: (n, d).
        found: (m, d); NaN and infinite values count as 0.
        centre: the average state, (d,), from which distances count.
    """
    if not len(found):
        return torch.zeros(len(truth), dtype=torch.bool)
    distance = torch.cdist(truth.double(), found.double().nan_to_num(0, 0, 0)).min(dim=1).values
    found_near: Tensor = distance < CLOSE * (truth.double() - centre.double()).norm(dim=1)
    return found_near


def counted(message: Message, target: Target, by_themselves: bool = False) -> dict[str, int]:
    """Return how many patches were rebuilt, of how many that the attacker did not have anyway.

    Args:
        message: what the server sees.
        target: whom it attacks.
        by_themselves: whether every row is read by itself, instead of by differences.
    """
    own = _states(message.federation, message.members[0], target)
    rebuilt_there = {
        layer: alone(message.update, site, own[layer]) if by_themselves else rebuilt(message.update, site)
        for layer, site in sites(message.update).items()
    }
    recovered = total = 0
    precision = message.federation.foundation.config.train.precision
    for member in message.members:
        part = member.prepared("train")
        for indices in torch.arange(part.size).split(_CHUNK):  # type: ignore[no-untyped-call]
            states = states_at(message.vilt, member.inputs(part.views, indices), precision)
            hits, fresh = None, None
            for layer, found in rebuilt_there.items():
                truth, centre = patches(states[layer], member, part.views, indices), own[layer].mean(dim=0)
                there = ~near(truth, own[layer], centre)
                fresh = there if fresh is None else fresh
                hit = near(truth, found, centre) & there
                hits = hit if hits is None else hits | hit
            if hits is not None and fresh is not None:
                recovered, total = recovered + int((hits & fresh).sum()), total + int(fresh.sum())
    return {"recovered": recovered, "of": total}


def states_at(vilt: ViltModel, inputs: Mapping[str, Tensor], precision: str) -> dict[int, Tensor]:
    """Return layer -> the states that its adapter reads, (N, text + image tokens, d), float32."""
    found: dict[int, Tensor] = {}
    hooks = []
    layers: list[Any] = list(vilt.encoder.layer)
    for place, layer in enumerate(layers):
        base = getattr(layer.output, "base_layer", layer.output)

        def keep(module: Any, args: Any, output: Tensor, place: int = place) -> None:
            found[place] = output.detach().float()

        # The adapter is a hook as well, and changes the output.
        hooks.append(base.register_forward_hook(keep, prepend=True))
    training = vilt.training
    vilt.train(False)
    try:
        with torch.no_grad(), autocast(vilt.device, precision):
            embedded = vilt.embeddings(
                *(inputs["input_ids"], inputs["attention_mask"], None),
                *(inputs["pixel_values"], inputs["pixel_mask"], None, None, 1),
            )
            states, mask = embedded
            for layer in layers:
                states = layer(states, mask)[0]
    finally:
        vilt.train(training)
        for hook in hooks:
            hook.remove()
    return found


def patches(states: Tensor, member: Member, views: Any, indices: Tensor) -> Tensor:
    """Return the states (n, d) of the pictures' patches among all tokens' (N, tokens, d)."""
    words = member.inputs(views, indices)["input_ids"].shape[1]
    return states[:, words + 1 :].flatten(0, 1)  # the picture's own first token follows the words


def _states(federation: Federation, member: Member, target: Target) -> dict[int, Tensor]:
    """Return layer -> states of the attacker's own patches, (n, d)."""
    vilt = vilt_of(federation.foundation.backbone.model)
    federation.foundation.adapters.route("global")
    precision = federation.foundation.config.train.precision
    views, found = member.encode_unseen(target.known), dict[int, list[Tensor]]()
    for indices in torch.arange(len(target.known)).split(_CHUNK):  # type: ignore[no-untyped-call]
        for layer, states in states_at(vilt, member.inputs(views, indices), precision).items():
            found.setdefault(layer, []).append(patches(states, member, views, indices))
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def _crafted(
    target: Target, asked: Asked, size: Size, federation: Federation, shared: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the adapter that the server sends."""
    adapters = federation.foundation.adapters
    # What the adapters add is as good as nothing, so that no state depends on the bins.
    silent = {key: torch.zeros_like(value) if key.endswith((_OUT, _ADDED)) else value for key, value in shared.items()}
    adapters.load("global", adapters.state("global") | silent)
    (first, *_) = federation.participants.values()
    member = next(iter(first.members.values()))
    seen = _states(federation, member, target)
    count = len(next(iter(seen.values()))) / len(target.known)
    crafted = bins(shared, seen, count * asked.examples, size, target.config.seed)
    last = max((key for key in shared if key.endswith(_ADDED)), key=_layer)
    if size.added:
        generator = torch_generator(target.config.seed, "audit", "added")
        crafted[last] = _added(size, asked.config) * torch.randn(shared[last].shape, generator=generator)
    return crafted


def _added(size: Size, config: RunConfig) -> float:
    return size.added * config.train.lr / max(config.train.eps, 1e-12)


def _layer(key: str) -> int:
    found = re.search(r"layer\.(\d+)\.", key)
    return int(found[1]) if found else -1
