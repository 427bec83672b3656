"""The words of a client's questions out of one message: by rows that moved, and by the span of LoRA's gradients.

*Rows*: if word embeddings train, the embeddings of words that are in no question do not move.

*Span*: the gradient of LoRA's A at a layer, Bᵀ Σ δ xᵀ, has its rows in the span of the layer's inputs x. In the first
layer the inputs are known functions of words, so the attacker can try each word. After Chen et al., "Reconstructing
Training Data from Adapter-based Federated Large Language Models" (UTR), arXiv 2601.17533, which goes on from unordered
words to sentences, and Petrov et al., "DAGER", NeurIPS 2024. A server that alters the model makes all patches equal and
removes positions, so that there are no more directions than words. This is our own form of UTR's first stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import ViltModel

from feddat.audit.errors import AuditError
from feddat.audit.message import Kind, Message, Target, ask, received, unaltered
from feddat.client.member import Member
from feddat.experiment.single.federation import Federation
from feddat.seeding import torch_generator

#: A word counts as present if at most this share of its input is outside the span.
OUTSIDE = 0.02
#: Directions of the gradient below this share of the strongest are rounding.
_NOISE = 1e-5
#: Number of tokens that every question has.
_EVERYWHERE = 2
_ROWS = "word_embeddings.weight"
#: Standard deviation of LoRA's B, which starts at 0 and then lets no gradient through to A; and a size of both factors
#: with which gradients stay far below AdamW's ε.
_OUTWARD, _FAINT = 0.01, 1e-7


def by_rows(target: Target, batch: int, steps: int, kind: Kind, folder: Path) -> dict[str, Any]:
    """Return how many distinct words come out of one message if the server has the whole model trained."""
    asked = ask(target, kind, batch, steps, {}, "full")
    row = {"what": "words: rows of word embeddings that moved", "examples": asked.examples, "steps": asked.steps}
    if asked.refused:
        return row | {"recovered": 0, "of": 0, "refused": asked.refused}

    def craft(federation: Federation, shared: dict[str, Tensor]) -> dict[str, Tensor]:
        return shared

    with received(asked, folder, unaltered, craft) as message:
        (key,) = [name for name in message.update if name.endswith(_ROWS)]
        moved = {int(row) for row in message.update[key].abs().sum(dim=1).nonzero()}
        return row | scored(moved, true_words(message), len(message.update[key]))


def by_span(target: Target, batch: int, steps: int, kind: Kind, folder: Path) -> dict[str, Any]:
    """Return how many distinct words come out of one message of LoRA's factors."""
    # The smallest learning rate that a policy allows: with tiny factors, AdamW then passes gradients on.
    changes = {"adapter.rank": 64} | ({"train.lr": 1e-6} if kind == "policy" else {})
    asked = ask(target, kind, batch, steps, changes, "lora")
    what = "words: span of LoRA's gradients" + (", altered model (UTR)" if kind == "obeys" else "")
    row: dict[str, Any] = {"what": what, "examples": asked.examples, "steps": asked.steps}
    if asked.refused:
        return row | {"recovered": 0, "of": 0, "refused": asked.refused}

    def craft(federation: Federation, shared: dict[str, Tensor]) -> dict[str, Tensor]:
        return factors(shared, *((1.0, _OUTWARD) if kind == "obeys" else (_FAINT, _FAINT)), target.config.seed)

    with received(asked, folder, words_alone if kind == "obeys" else unaltered, craft) as message:
        vilt = message.vilt
        rows = [value for key, value in message.update.items() if ".layer.0." in key and ".lora_A." in key]
        found = in_span(torch.cat(rows), first_inputs(vilt, positions=kind != "obeys")) if rows else set()
        return row | scored(found, true_words(message), vilt.config.vocab_size)


def factors(shared: Mapping[str, Tensor], inward: float, outward: float, seed: int) -> dict[str, Tensor]:
    """Return LoRA's factors for an attack: A times ``inward``, and B random of standard deviation ``outward``."""
    generator = torch_generator(seed, "audit", "span")
    return {
        key: outward * torch.randn(value.shape, generator=generator) if ".lora_B." in key else inward * value
        for key, value in shared.items()
    }


def words_alone(vilt: ViltModel) -> None:
    """Make all patches equal, and remove the positions of words."""
    embeddings = vilt.embeddings
    embeddings.patch_embeddings.projection.weight.zero_()
    embeddings.position_embeddings.zero_()
    embeddings.text_embeddings.position_embeddings.weight.zero_()


def first_inputs(vilt: ViltModel, positions: bool) -> Tensor:
    """Return the input of the first layer's products for every word: (vocabulary, 1, d), or one per position."""
    text, first = vilt.embeddings.text_embeddings, cast(Any, vilt.encoder.layer[0])
    size, longest = vilt.config.vocab_size, vilt.config.max_position_embeddings if positions else 1
    ids = torch.arange(size)
    found = []
    with torch.no_grad():
        kind = vilt.embeddings.token_type_embeddings.weight[0]
        for place in range(longest):
            states = text(input_ids=ids[:, None], position_ids=torch.full((size, 1), place))
            found.append(first.layernorm_before(states + kind))
    return torch.cat(found, dim=1)


def in_span(gradients: Tensor, inputs: Tensor) -> set[int]:
    """Return the words with an input (vocabulary, positions, d) in the row space of gradients (r, d).

    If the gradients reach every direction, every input is in their span. The result is then empty.
    """
    _, sizes, rows = torch.linalg.svd(gradients.double(), full_matrices=False)
    basis = rows[sizes > _NOISE * sizes[0]]
    if sizes[0] == 0 or len(basis) >= inputs.shape[-1]:
        return set()
    points = inputs.double()
    left = (points - points @ basis.T @ basis).norm(dim=-1) / points.norm(dim=-1)
    return {int(word) for word in (left.min(dim=1).values < OUTSIDE).nonzero()}


def true_words(message: Message) -> set[int]:
    """Return the tokens of the training questions."""
    words = [text for member in message.members for text in questions(message, member)]
    if not words:
        raise AuditError("reconstruction: there were no questions")
    return {token for text in words for token in text}


def questions(message: Message, member: Member) -> list[tuple[int, ...]]:
    """Return the tokens of a client's training questions, without those at both ends."""
    encoder = message.federation.foundation.backbone.encoder
    return [tuple(text[1:-1]) for text in encoder.texts([example.text for example in member.data.train])]


def scored(found: set[int], truth: set[int], vocabulary: int) -> dict[str, Any]:
    """Return how many true words were named, how many there are, how many were wrong, and the vocabulary's size."""
    wrong = max(0, len(found - truth) - _EVERYWHERE)
    return {"recovered": len(found & truth), "of": len(truth), "wrong": wrong, "vocabulary": vocabulary}
