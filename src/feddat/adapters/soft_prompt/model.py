"""The tuner: puts soft prompts beside a stack of layers, as PEFT asks a tuner to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from feddat.adapters.soft_prompt.config import SoftPromptConfig
from feddat.adapters.soft_prompt.entry import PromptEntry
from feddat.adapters.soft_prompt.prompt import Prompt

#: Name, in the stack, of the module that holds its prompts: the stack itself keeps its name and its attributes.
CHILD = "prompting"
#: Name, in that module, of what holds each adapter's.
CONTAINER = "prompt_adapters"


class SoftPromptLayer(nn.Module, BaseTunerLayer):
    """The prompts of one stack: one set of each adapter, of which one at most is active.

    Args:
        stack: the module around all transformer layers.
        around: the module that the stack is in.
        config: of the first adapter.
    """

    adapter_layer_names = (CONTAINER,)
    other_param_names = ()

    def __init__(self, stack: nn.Module, around: nn.Module, config: SoftPromptConfig) -> None:
        super().__init__()
        self.prompt_adapters = nn.ModuleDict()
        self._device = next(stack.parameters()).device
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter: str | list[str] = []
        self._entry = PromptEntry(stack, around, len(config.inputs), config.causal, self._entering)

    def update_layer(self, adapter_name: str, config: SoftPromptConfig, width: int) -> None:
        """Create (or replace) the named adapter, freshly initialised."""
        prompts = {kind: Prompt(config.tokens, width, self._device) for kind in config.inputs}
        self.prompt_adapters[adapter_name] = nn.ModuleDict(prompts)
        self._active_adapter = self._active_adapter or adapter_name
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def remove(self) -> None:
        """Take the hooks off the stack."""
        self._entry.remove()

    def _entering(self) -> Iterable[nn.Module] | None:
        names = [] if self.disable_adapters else [n for n in self.active_adapters if n in self.prompt_adapters]
        if len(names) > 1:
            raise ValueError(f"soft prompts {', '.join(names)} cannot be active together")
        return cast(nn.ModuleDict, self.prompt_adapters[names[0]]).values() if names else None


class SoftPromptModel(BaseTuner):
    """A model with soft prompts; made by ``peft.get_peft_model(model, SoftPromptConfig(target_modules=...))``.

    Raises:
        ValueError: no ``target_modules`` are given.
    """

    prefix = "prompt_"
    tuner_layer_cls = SoftPromptLayer

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        if cast(SoftPromptConfig, peft_config).target_modules is None:
            raise ValueError("soft prompts need target_modules: the module around all transformer layers")
        return peft_config

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        config, model = cast(SoftPromptConfig, peft_config), cast(Any, self.model)
        layer = getattr(target, CHILD, None)
        if not isinstance(layer, SoftPromptLayer):
            layer = SoftPromptLayer(target, parent, config)
            target.add_module(CHILD, layer)
        layer.update_layer(adapter_name, config, model.config.get_text_config().hidden_size)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # PEFT's own version expects one name behind the adapter's.
        return key.replace(f"{CONTAINER}.{adapter_name}.", f"{CONTAINER}.")

    def unload(self) -> torch.nn.Module:
        """Return the model as it was."""
        for module in list(self.model.modules()):
            layer = getattr(module, CHILD, None)
            if isinstance(layer, SoftPromptLayer):
                layer.remove()
                delattr(module, CHILD)
        return cast(nn.Module, self.model)

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError("soft prompts are inputs, which no weights can take the place of; use unload()")
