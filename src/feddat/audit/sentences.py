"""Whole questions out of one message of LoRA's factors: words, and their order.

The rows of the gradient of LoRA's A are in the span of its layer's inputs (:mod:`feddat.audit.words`). A server that
alters the model makes the first layer's attention look back only: a token's state then depends on the words up to it,
and on no others. So a question is found word by word: a beginning is extended by each word of the vocabulary, and stays
if the state of its last token is in the span. A question is complete where the token for its end is.

Chen et al. (UTR, arXiv 2601.17533) order words by a search for consistency with the gradient. Petrov et al. ("DAGER",
NeurIPS 2024) extend beginnings in decoders, which look back by themselves; the altered attention makes it possible
here. LoRA is at the second product of the first layer's feed-forward block. A gradient has as many directions as that
product has outputs, which is the width d of a state. With more distinct beginnings than d in a message, nothing is
found. This is our own form of the attack.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from transformers import ViltModel

from feddat.audit.message import Kind, Message, Target, ask, received, unaltered
from feddat.audit.rouge import closest
from feddat.audit.words import factors, questions
from feddat.experiment.single.federation import Federation
from feddat.seeding import numpy_generator

Tokens: TypeAlias = tuple[int, ...]

#: A beginning stays if at most this share of its last token's input is outside the span.
OUTSIDE = 0.003
#: Directions of the gradient below this share of the strongest are rounding.
_NOISE = 1e-7
#: Factor on LoRA's A, so that its updates do not drown in its rounding; and standard deviation of B.
_INWARD, _OUTWARD = 1e-4, 1e-3
#: Largest number of beginnings of one length, and of those that are tried at a time.
_MOST, _CHUNK = 4096, 8192
#: How strongly attention is drawn away from later words; how much a token takes over from the words before it; and how
#: large positions are beside words.
_AWAY, _BEFORE, _POSITION = 60.0, 3.0, 2.0
_SITE = r"(.*\.)?encoder\.layer\.0\.output\.dense"


def attack(target: Target, batch: int, steps: int, kind: Kind, folder: Path) -> dict[str, Any]:
    """Return how many distinct questions come out of one message, and how close the rebuilt ones are to the true ones.

    ``rouge`` has ROUGE-1, -2 and -L of the closest rebuilt question, averaged over the true ones; ``rouge_guess`` has
    the same of as many of the attacker's own questions.
    """
    changes = {"adapter.rank": 768, "adapter.sites": _SITE}
    asked = ask(target, kind, batch, steps, changes, "lora")
    what = "questions, word by word: LoRA's gradients" + (", altered model" if kind == "obeys" else "")
    row: dict[str, Any] = {"what": what, "examples": asked.examples, "steps": asked.steps}
    if asked.refused is None and kind != "obeys":
        # Attention that looks both ways leaves no beginning to check.
        return row | {"recovered": 0, "of": 0, "refused": "not possible: it needs an altered model"}
    if asked.refused:
        return row | {"recovered": 0, "of": 0, "refused": asked.refused}

    def craft(federation: Federation, shared: dict[str, Tensor]) -> dict[str, Tensor]:
        return factors(shared, _INWARD, _OUTWARD, target.config.seed)

    alter = look_back if kind == "obeys" else unaltered
    with received(asked, folder, alter, craft) as message:
        encoder = message.federation.foundation.backbone.encoder
        start, *_, end = encoder.texts(["a"])[0]
        truths = [text for member in message.members for text in questions(message, member)]
        found = search(message, start, end)
        own = sorted({tuple(text[1:-1]) for text in encoder.texts([example.text for example in target.known])})
    generator = numpy_generator(target.config.seed, "audit", "questions")
    guess = [own[i] for i in generator.permutation(len(own))[: len(set(truths))]]
    return row | judged(found, truths) | {"rouge_guess": list(closest(guess, truths))}


def judged(found: Sequence[Tokens], truths: Sequence[Tokens]) -> dict[str, Any]:
    """Return how many distinct questions were rebuilt to the last word, of how many, how many are wrong, and ROUGE."""
    right = set(found) & set(truths)
    return {
        "recovered": len(right),
        "of": len(set(truths)),
        "wrong": len(set(found)) - len(right),
        "rouge": list(closest(sorted(set(found)), truths)),
    }


def look_back(vilt: ViltModel) -> None:
    """Make the first layer's attention see only the words up to a token, and all patches equal.

    The last numbers of a state mark its position. Every head reads them as query and key, so that what a word looks for
    is far from all later words and from pictures, and equally far from the words up to it.
    """
    embeddings, text, first = vilt.embeddings, vilt.embeddings.text_embeddings, cast(Any, vilt.encoder.layer[0])
    width, heads = vilt.config.hidden_size, vilt.config.num_attention_heads
    positions = width // heads - 1
    marks = width - positions - 2  # first of the marks: one per position, one of pictures and what is beyond, one at 0
    embeddings.patch_embeddings.projection.weight.zero_()
    cast(Any, embeddings.patch_embeddings.projection.bias).zero_()
    embeddings.position_embeddings.zero_()
    embeddings.cls_token.zero_()
    size = _POSITION * float(text.word_embeddings.weight.norm(dim=1).mean())
    text.word_embeddings.weight[:, marks:] = 0
    text.token_type_embeddings.weight.zero_()
    text.position_embeddings.weight.zero_()
    for place in range(len(text.position_embeddings.weight)):
        text.position_embeddings.weight[place, marks + min(place, positions)] = size
    kinds = embeddings.token_type_embeddings.weight
    kinds.zero_()
    kinds[1:, marks + positions] = float(width) ** 0.5
    for norm in (text.LayerNorm, first.layernorm_before):
        norm.weight.fill_(1)
        norm.bias.zero_()

    look, show = torch.zeros(positions + 1, width), torch.zeros(positions + 1, width)
    for place in range(positions + 1):
        show[place, marks + place] = 1
        show[place, -1] = -1  # a mark counts from the one that is always 0, since the norm has moved both
        if place < positions:
            look[place, marks : marks + place] = -1
            look[place, marks + positions] = -1  # pictures look only at pictures
        else:
            look[place, marks : marks + positions] = -1
        look[place, -1] = -look[place, :-1].sum()
    attention = first.attention.attention
    scale = _AWAY * (width // heads) ** 0.5 / _mark(text, marks) ** 2
    for linear, rows in ((attention.query, scale * look), (attention.key, show)):
        linear = getattr(linear, "base_layer", linear)
        linear.weight.copy_(rows.repeat(heads, 1))
        linear.bias.zero_()
    for linear, times in ((attention.value, 1.0), (first.attention.output.dense, _BEFORE)):
        linear = getattr(linear, "base_layer", linear)
        linear.weight.copy_(times * torch.eye(width))
        linear.bias.zero_()


def _mark(text: Any, marks: int) -> float:
    """Return the size of a word's mark after the first norms."""
    count = min(8, len(text.word_embeddings.weight))
    states = text(input_ids=torch.arange(count)[:, None], position_ids=torch.zeros(count, 1, dtype=torch.long))
    normed = torch.nn.functional.layer_norm(states, states.shape[-1:])
    return float((normed[..., marks] - normed[..., -1]).mean())


def search(message: Message, start: int, end: int) -> list[Tokens]:
    """Return the questions that a message's gradient has in its span, without the tokens at both ends."""
    (gradient,) = [value for key, value in message.update.items() if ".lora_A." in key]
    _, sizes, rows = torch.linalg.svd(gradient.double(), full_matrices=False)
    basis = rows[sizes > _NOISE * sizes[0]].float()
    if sizes[0] == 0 or len(basis) >= gradient.shape[1]:
        return []  # every direction: nothing is said
    vocabulary = torch.arange(message.vilt.config.vocab_size)
    longest = min(message.vilt.config.hidden_size // message.vilt.config.num_attention_heads - 1, 40)
    begun, done = [(start,)], list[Tokens]()
    while begun and len(begun[0]) < longest:
        tried = torch.cat(
            [torch.tensor(begun).repeat_interleave(len(vocabulary), 0), vocabulary.repeat(len(begun))[:, None]], 1
        )
        inside = torch.cat([_inside(message, part, basis) for part in tried.split(_CHUNK)])  # type: ignore[no-untyped-call]
        kept = tried[inside]
        done += [tuple(text[1:-1]) for text in kept[kept[:, -1] == end].tolist()]
        begun = [tuple(text) for text in kept[kept[:, -1] != end].tolist()][:_MOST]
    return done


@torch.no_grad()
def _inside(message: Message, texts: Tensor, basis: Tensor) -> Tensor:
    """Return of which beginnings (n, length) the last token's input of the adapted product is in the span: (n,)."""
    vilt = message.vilt
    first: Any = vilt.encoder.layer[0]
    states = vilt.embeddings.text_embeddings(input_ids=texts) + vilt.embeddings.token_type_embeddings.weight[0]
    states = first.attention(first.layernorm_before(states), None)[0] + states
    inputs = first.intermediate(first.layernorm_after(states[:, -1]))
    left = (inputs - inputs @ basis.T @ basis).norm(dim=-1)
    found: Tensor = left < OUTSIDE * inputs.norm(dim=-1)
    return found
