"""The PEFT tuner that adds soft prompts to a stack of layers."""

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

#: Name of the child module of the stack that holds the prompts; the stack itself keeps its name and its attributes.
CHILD = "prompting"
#: Name, in that module, of the container of each adapter's prompts.
CONTAINER = "prompt_adapters"


class SoftPromptLayer(nn.Module, BaseTunerLayer):
    """The prompts of one stack, with one set per adapter; at most one adapter is active.

    Args:
        stack: the module around all transformer layers.
        around: the module that contains the stack.
        config: the configuration of the first adapter.
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
        """Remove the hooks from the stack."""
        self._entry.remove()

    def _entering(self) -> Iterable[nn.Module] | None:
        names = [] if self.disable_adapters else [n for n in self.active_adapters if n in self.prompt_adapters]
        if len(names) > 1:
            raise ValueError(f"soft prompts {', '.join(names)} cannot be active together; activate only one adapter")
        return cast(nn.ModuleDict, self.prompt_adapters[names[0]]).values() if names else None


class SoftPromptModel(BaseTuner):
    """A model with soft prompts, created by ``peft.get_peft_model(model, SoftPromptConfig(target_modules=...))``.

    Raises:
        ValueError: ``target_modules`` is not set.
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
        # PEFT's own version expects only one name after the adapter's name.
        return key.replace(f"{CONTAINER}.{adapter_name}.", f"{CONTAINER}.")

    def unload(self) -> torch.nn.Module:
        """Remove all prompts and return the original model."""
        for module in list(self.model.modules()):
            layer = getattr(module, CHILD, None)
            if isinstance(layer, SoftPromptLayer):
                layer.remove()
                delattr(module, CHILD)
        return cast(nn.Module, self.model)

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError("soft prompts are inputs and cannot be merged into weights; use unload()")
