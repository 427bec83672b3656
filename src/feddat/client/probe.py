"""Find the adapter sites that a client's training reaches, by backward passes over a few of its questions."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from feddat.adapters.base import Adapters
from feddat.client.generation import AnnotatedAnswers
from feddat.client.learner import BatchLearner
from feddat.client.member import Member
from feddat.example import DataError, Example
from feddat.models.base import Backbone
from feddat.models.generative import GenerativeBackbone

#: Most training examples to try while sites are still without a gradient: one question uses only a few of a layer's
#: experts.
EXAMPLES = 8


def unreached_sites(
    backbone: Backbone, adapters: Adapters, members: Iterable[Member], precision: str = "fp32"
) -> list[str]:
    """Return the sites of the global adapter that no gradient reaches, however the members answer.

    A module may not be on the path from inputs to features, or the model may use it without calling it. One member of
    each task and way of answering is tried. A member with unusable examples is skipped; it reports that itself.
    """
    left = list(adapters.sites)
    asked = set()
    for member in members:
        kind = (member.data.task, member.generation is None)
        if kind in asked:
            continue
        try:
            for example in member.data.train[:EXAMPLES]:
                if left:
                    _backward(backbone, adapters, member, example, precision)
                    asked.add(kind)
                    reached = _reached(adapters)
                    left = [site for site in left if site not in reached]
        except DataError:
            continue
        finally:
            adapters.model.zero_grad(set_to_none=True)
            member.release()
    return left if asked else []


def _backward(backbone: Backbone, adapters: Adapters, member: Member, example: Example, precision: str) -> None:
    """Run backward from a weighted sum of one example's features."""
    backbone.model.eval()  # dropout would draw random numbers
    first = torch.zeros(1, dtype=torch.long)
    inputs = member.inputs(member.encode_for_probe([example]), first)
    if member.generation is not None and isinstance(backbone, GenerativeBackbone):
        inputs |= AnnotatedAnswers([example], backbone).batch(first, member.device)
    learner = BatchLearner(backbone, adapters, precision)
    learner.take(member, inputs, first)
    features = learner.features("global").float()
    # The plain sum of a normalisation's outputs does not depend on its inputs.
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    if features.requires_grad:
        (features * weights.to(features.device)).sum().backward()  # type: ignore[no-untyped-call]


def _reached(adapters: Adapters) -> set[str]:
    """Return the sites with a gradient that is not zero."""
    sites = sorted(adapters.sites, key=len, reverse=True)  # sites can be nested: a key belongs to the innermost
    reached = set()
    for key, parameter in adapters.named("global").items():
        if parameter.grad is not None and bool(parameter.grad.any()):
            reached.add(next((site for site in sites if key == site or key.startswith(f"{site}.")), ""))
    return reached
