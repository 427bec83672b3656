"""What came of training, apart from the frozen model: what can be taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from feddat.client.member import Member


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What answers on one route.

    Attributes:
        route: its name.
        parts: weight and state (CPU) of each adapter on it.
        added: site -> what is added to its frozen weight, times LoRA's scale.
        heads: the heads that it answers with, by the names that a member has for them; none without a member.
        member: whose questions; ``None``: nobody's, the part that all have in common.
    """

    route: str
    parts: Sequence[tuple[float, Mapping[str, Tensor]]]
    added: Mapping[str, Tensor] = field(default_factory=dict)
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    member: Member | None = None
