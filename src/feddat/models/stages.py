"""Shared parts of backbones that split their forward pass (:class:`feddat.models.base.StagedBackbone`)."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

#: Keys of a prefix that is one sequence of states: the states (N, tokens, d), and their mask, bool (N, 1, 1, tokens),
#: true where to attend. The mask is absent if nothing is padded.
STATES, MASK = "prefix_states", "prefix_mask"


def is_changed(module: nn.Module, changed: Collection[nn.Module]) -> bool:
    """Return whether routes change a module or any module inside it."""
    ids = {id(one) for one in changed}
    return any(id(inner) in ids for inner in module.modules())


def drops_out(model: nn.Module) -> bool:
    """Return whether dropout is active in a model: a dropout layer is in training mode and its rate is not zero."""
    return any(module.training and module.p > 0 for module in model.modules() if isinstance(module, nn.Dropout))
