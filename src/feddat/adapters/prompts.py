"""Soft prompts: a few trained tokens beside the words, and beside the image patches in models that see both together.

Lester, Al-Rfou, Constant 2021, arXiv 2104.08691; re-parametrised as in prefix tuning (Li and Liang 2021, arXiv
2101.00190, section 4.3). The tokens train, and so does a small network d -> d/4 -> d with tanh that they pass through.
:mod:`feddat.adapters.soft_prompt.entry` describes where the tokens enter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn

from feddat.adapters.base import ADAPTERS, TRAINED, Adapters, Route, check_adapter, single_adapter
from feddat.adapters.peft_form import PREFIX, PeftForm
from feddat.adapters.sites import PromptSite
from feddat.adapters.soft_prompt import SoftPromptConfig
from feddat.adapters.soft_prompt.entry import PromptEntry
from feddat.adapters.soft_prompt.model import CHILD, CONTAINER
from feddat.adapters.soft_prompt.prompt import Prompt


class SoftPrompts(Adapters):
    """Global, local and anchor prompts of one model.

    Args:
        model: the base model, on the device where it stays; its parameters are frozen.
        site: the place where the tokens enter.
        length: number of tokens per input.

    Attributes:
        model: the same model, with hooks.

    Raises:
        ValueError: the model does not have exactly one module for the site.
    """

    def __init__(self, model: nn.Module, site: PromptSite, length: int = 5) -> None:
        model.requires_grad_(False)
        self._active: str | None = None
        self._name = name = _find(model, site.stack)
        config: Any = model.config
        width, device = config.get_text_config().hidden_size, next(model.parameters()).device
        self._prompts = {
            adapter: nn.ModuleDict({kind: Prompt(length, width, device) for kind in site.inputs})
            for adapter in ADAPTERS
        }
        for adapter, prompts in self._prompts.items():
            prompts.requires_grad_(adapter in TRAINED)
        super().__init__(
            model, {adapter: dict(prompts.named_parameters()) for adapter, prompts in self._prompts.items()}
        )
        self.refresh_anchor()
        self._stack = model.get_submodule(name)
        self._config = SoftPromptConfig(
            target_modules=re.escape(name), tokens=length, inputs=list(site.inputs), causal=site.causal
        )
        around = model.get_submodule(name.rpartition(".")[0])
        PromptEntry(self._stack, around, len(site.inputs), site.causal, self._entering)
        self.route("global")

    @property
    def changed(self) -> list[nn.Module]:
        """The stack of layers into which the tokens enter."""
        return [self._stack]

    def route(self, route: Route) -> None:
        """Use one adapter's prompts in the following forward passes, or no prompts with ``none``.

        Raises:
            ValueError: there is no such route or adapter, or the route mixes or scales adapters.
        """
        self._active = single_adapter(route, "prompt")
        self.opened = route

    def initialise(self, generator: torch.Generator, adapter: str) -> None:
        """Draw one adapter's prompts again from a CPU generator; the values are the same on every device.

        Raises:
            ValueError: there is no such adapter.
        """
        check_adapter(adapter)
        for prompt in self._prompts[adapter].values():
            cast(Prompt, prompt).reset(generator)

    def peft_form(self) -> PeftForm:
        """Return the form of this package's own tuner (:mod:`feddat.adapters.soft_prompt`)."""
        place = f"{PREFIX}{self._name}.{CHILD}.{CONTAINER}."
        return PeftForm(self._config, {key: place + key for key in self.named("global")})

    def _entering(self) -> Iterable[nn.Module] | None:
        return None if self._active is None else self._prompts[self._active].values()


def _find(model: nn.Module, pattern: str) -> str:
    names: list[str] = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise ValueError(
            f"soft prompts need exactly one module that matches {pattern!r} in {type(model).__name__}; found {found}"
        )
    return names[0]
