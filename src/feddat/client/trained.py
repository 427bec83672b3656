"""The trained parts of a model, without the frozen backbone, ready for export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from feddat.client.member import Member


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The adapters and heads that answer on one route.

    Attributes:
        route: the route's name.
        parts: weight and state (CPU) of each adapter on the route.
        added: site -> the product to add, times LoRA's scale, to the site's frozen weight.
        heads: the heads of the route, by the member's names for them; empty without a member.
        member: the member whose questions it answers; ``None``: only the parts that all members share.
    """

    route: str
    parts: Sequence[tuple[float, Mapping[str, Tensor]]]
    added: Mapping[str, Tensor] = field(default_factory=dict)
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    member: Member | None = None
