"""What backbones that divide their forward pass share (:class:`feddat.models.base.StagedBackbone`)."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

#: Keys of a prefix that is one sequence of states: (N, tokens, d), the first token first; and its mask, bool
#: (N, 1, 1, tokens), true where to attend, absent where nothing is padded.
STATES, MASK = "prefix_states", "prefix_mask"


def is_changed(module: nn.Module, changed: Collection[nn.Module]) -> bool:
    """Return whether a module, or one inside it, is among those that routes change."""
    ids = {id(one) for one in changed}
    return any(id(inner) in ids for inner in module.modules())


def drops_out(model: nn.Module) -> bool:
    """Return whether dropout is at work in a model: it is in training mode and a rate is not zero."""
    return any(module.training and module.p > 0 for module in model.modules() if isinstance(module, nn.Dropout))
