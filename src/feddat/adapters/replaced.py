"""Kinds that train some of the backbone's own weights: its norms, its biases, or all of them.

Each of the three adapters is a full set of values for the same parameters, which starts at the pretrained values. A
route puts one set into the model. It swaps parameter objects, not values: a graph built on one route keeps its
parameters when the next route is opened, and ``requires_grad`` never flips.

Sources: BitFit, Ben Zaken et al. 2021, arXiv 2106.10199 (biases); Zhao et al. 2023, arXiv 2312.11420 (norms, as in
PEFT's LN tuning, which supports neither biases nor whole models).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft import LNTuningConfig, LoraConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from feddat.adapters.base import ADAPTERS, TRAINED, Adapters, Route, check_adapter, single_adapter
from feddat.adapters.peft_form import PREFIX, PeftForm
from feddat.adapters.sites import matching

#: Tells whether a kind trains a parameter, given the module that owns it and its name there.
Choice = Callable[[nn.Module, str], bool]


def is_norm(module: nn.Module, name: str) -> bool:
    """Return whether a module is a norm; transformers defines its own RMSNorm class for each model that has one."""
    return isinstance(module, nn.LayerNorm | nn.RMSNorm) or type(module).__name__.endswith("RMSNorm")


def is_bias(module: nn.Module, name: str) -> bool:
    """Return whether a parameter is a bias term of a linear layer, a convolution or a norm."""
    return name.endswith("bias")


#: Kind, as in ``adapter.peft`` -> the choice of its parameters.
CHOICES: dict[str, Choice] = {
    "norm": is_norm,
    "bias": is_bias,
    "full": lambda module, name: True,
    "head": lambda module, name: False,
}


class ReplacedWeights(Adapters):
    """Three sets of values for chosen parameters of a model.

    Args:
        model: the base model, on the device where it stays; its own parameters are frozen.
        kind: key of :data:`CHOICES`.

    Attributes:
        model: the same model.

    Raises:
        ValueError: the model has no parameter of this kind.
    """

    def __init__(self, model: nn.Module, kind: str) -> None:
        model.requires_grad_(False)
        self._kind = kind
        self._pretrained, self._places = _choose(model, CHOICES[kind])
        if not self._pretrained and kind != "head":
            raise ValueError(f"{type(model).__name__} has no parameters of kind {kind!r}")
        super().__init__(
            model,
            {
                adapter: {
                    key: nn.Parameter(value.detach().clone(), requires_grad=adapter in TRAINED)
                    for key, value in self._pretrained.items()
                }
                for adapter in ADAPTERS
            },
        )
        self.route("global")

    @property
    def changed(self) -> list[nn.Module]:
        """The modules that own swapped parameters."""
        return list(dict.fromkeys(module for module, _, _ in self._places))

    def route(self, route: Route) -> None:
        """Use the values of one adapter in the following forward passes, or the pretrained ones with ``none``.

        Raises:
            ValueError: there is no such route or adapter, or the route mixes or scales adapters.
        """
        adapter = single_adapter(route, self._kind)
        values = self._pretrained if adapter is None else self._weights[adapter]
        for module, name, key in self._places:
            # Equivalent to assigning the attribute, but several times as fast because it skips the checks.
            module._parameters[name] = values[key]
        self.opened = route

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, adapter: str) -> None:
        """Reset one adapter to the pretrained values; the generator is not used.

        Raises:
            ValueError: there is no such adapter.
        """
        check_adapter(adapter)
        for key, weight in self._weights[adapter].items():
            weight.copy_(self._pretrained[key])

    def peft_form(self) -> PeftForm | None:
        """Return PEFT's form of norms (LN tuning) or biases (a LoRA adapter without sites, which can have biases).

        Return ``None`` for ``full``, because a whole model is not an adapter, and for ``head``, which trains nothing
        here.
        """
        keys = list(self._pretrained)
        if self._kind == "bias":
            config = LoraConfig(r=1, target_modules=DUMMY_TARGET_MODULES, bias="all")
            return PeftForm(config, {key: PREFIX + key for key in keys})
        if self._kind == "norm":
            owners = {key: key.rpartition(".") for key in keys}
            modules = list(dict.fromkeys(owner for owner, _, _ in owners.values()))
            target = matching([name for name, _ in self.model.named_modules()], modules)
            names = {key: f"{PREFIX}{owner}.ln_tuning_layers.{name}" for key, (owner, _, name) in owners.items()}
            return PeftForm(LNTuningConfig(target_modules=target), names)
        return None


def _vocabulary_head(model: nn.Module) -> nn.Module | None:
    """Return the vocabulary head of a model that writes, or ``None`` if it has none; this head never trains."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return head if isinstance(head, nn.Module) else None


def _choose(model: nn.Module, chosen: Choice) -> tuple[dict[str, nn.Parameter], list[tuple[nn.Module, str, str]]]:
    """Return the chosen parameters by key, and every (module, name there, key) that uses one.

    A parameter that several modules share has a single key, from the first of them.
    """
    found = [
        (f"{owner}.{name}" if owner else name, module, name, parameter)
        for owner, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
    ]
    words = _vocabulary_head(model)
    found = [place for place in found if place[1] is not words]
    wanted = {id(parameter) for _, module, name, parameter in found if chosen(module, name)}
    keys: dict[int, str] = {}
    parameters: dict[str, nn.Parameter] = {}
    places = []
    for path, module, name, parameter in found:
        if id(parameter) in wanted:
            key = keys.setdefault(id(parameter), path)
            parameters[key] = parameter
            places.append((module, name, key))
    return parameters, places
