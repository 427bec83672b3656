"""A module without pretrained weights that trains whole, beside the adapters: a fusion on the shared side.

Like an adapter, it exists three times (global, local and anchor), and a route adds up the weighted outputs. There are
no pretrained weights to contribute to, so each of the three is a full copy.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from feddat.adapters.base import ADAPTERS, ROUTES


class WholeModule(nn.Module, BaseTunerLayer):
    """Three copies of a module in its place: y = Σ sᵢ·Fᵢ(x); with adapters off, the original module.

    Args:
        module: takes a tensor and returns a tensor with the same first dimension; its ``reset(generator)`` draws its
            weights again.
    """

    adapter_layer_names = ("whole",)
    other_param_names = ("scaling",)

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.whole = nn.ModuleDict({name: copy.deepcopy(module) for name in ADAPTERS})
        self.scaling: dict[str, float | Tensor] = dict.fromkeys(ADAPTERS, 1.0)
        # A list keeps it from being a submodule: the trained copies replace it, so its weights must not count.
        self._untrained = [module]
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter: str | list[str] = list(ROUTES["global"])

    def reset_adapter(self, adapter: str, generator: torch.Generator | None = None) -> None:
        """Draw one copy's weights again from a CPU generator."""
        copied: Any = self.whole[adapter]
        copied.reset(generator)

    def forward(self, states: Tensor) -> Tensor:
        """Return the weighted sum of the active copies' outputs."""
        if self.disable_adapters:
            untrained: Tensor = self._untrained[0](states)
            return untrained
        outputs = [self._scaled(name, self.whole[name](states)) for name in self.active_adapters]
        return torch.stack(outputs).sum(dim=0) if len(outputs) > 1 else outputs[0]

    def _scaled(self, adapter: str, output: Tensor) -> Tensor:
        scale = self.scaling[adapter]
        if isinstance(scale, Tensor):
            if scale.dim():  # (N, 1, 1), a weight per row
                scale = scale.reshape(-1, *[1] * (output.dim() - 1))
            return output * scale.to(output.dtype)
        return output if scale == 1.0 else output * scale


def whole_modules(model: nn.Module, pattern: str | None) -> list[str]:
    """Return the names of the modules that ``pattern`` matches fully."""
    return [] if pattern is None else [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]


def put_whole_modules(model: nn.Module, pattern: str | None) -> None:
    """Replace every module that ``pattern`` matches by a :class:`WholeModule`."""
    for name in whole_modules(model, pattern):
        model.set_submodule(name, WholeModule(model.get_submodule(name)))
