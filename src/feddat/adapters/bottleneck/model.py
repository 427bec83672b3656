"""The PEFT tuner that wraps every site of a model in a :class:`BottleneckLayer`."""

from __future__ import annotations

from typing import Any, cast

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from feddat.adapters.bottleneck.config import BottleneckConfig
from feddat.adapters.bottleneck.layer import BottleneckLayer, merge_error
from feddat.adapters.sites import default_sites


class BottleneckModel(BaseTuner):
    """A model with bottleneck adapters, created by ``peft.get_peft_model(model, BottleneckConfig())``.

    Raises:
        ValueError: ``target_modules`` is not set, and the model's type has no default sites.
    """

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        peft_config = cast(BottleneckConfig, peft_config)
        if peft_config.target_modules is None:
            peft_config.target_modules = default_sites(model_config.get("model_type")).bottleneck
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
        config = cast(BottleneckConfig, peft_config)
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, config)
            return
        layer = BottleneckLayer(target, adapter_name, config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own version expects sites with a weight. Here, adapters are already created on the right device.
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise merge_error()
