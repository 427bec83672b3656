"""Passes through a route as CUDA graphs, recorded once for each shape and replayed from then on.

A forward and backward pass of ViLT-B/32 is some 1,500 kernels. At the usual batch sizes, a CPU takes longer to launch
them one by one than a GPU takes to run them. A recording (``torch.cuda.make_graphed_callables``) launches the forward
or the backward pass in microseconds and gives the same numbers.

A recording covers the pass from the prefix (:meth:`feddat.models.base.StagedBackbone.prefix`) to the pooled features.
To keep the number of shapes small, padded batches are padded further, to a multiple of :data:`TOKENS`. Everything else
runs as usual: heads and losses, dropout, routes with weights of their own, models that write their answers, and rare
shapes.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feddat.adapters.base import ROUTES, TRAINED, Adapters, Route
from feddat.models.base import StagedBackbone
from feddat.models.stages import MASK, STATES, drops_out

#: The number of tokens of a padded batch is a multiple of this.
TOKENS = 16
#: A shape is recorded when it occurs for the third time; the last batch of a round occurs once.
_COMES = 3
#: Most recordings that are kept; each holds the activations of a pass.
_LIMIT = 24
#: Share of the GPU's memory that must be free for a new recording.
_FREE = 0.3

_log = logging.getLogger("feddat.client")


class CapturedRoutes:
    """Recordings of one model's routes, for all participants of a process.

    Adapters must be loaded in place, as :class:`feddat.adapters.base.Adapters` does.

    Args:
        backbone: a staged backbone on a GPU, already divided.
        adapters: the adapters of that backbone.
        precision: ``fp32``, or ``bf16`` for autocast.
    """

    def __init__(self, backbone: StagedBackbone, adapters: Adapters, precision: str) -> None:
        self._backbone = backbone
        self._adapters = adapters
        self._precision = precision
        self._seen: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, Callable[..., Tensor] | None] = {}
        # Recordings of one route never run at the same time, so they can share memory.
        self._pools: dict[Hashable, Any] = {}
        self._running: set[Hashable] = set()

    def begin(self) -> None:
        """Begin a new batch; no backward pass of the previous batch may follow."""
        self._running.clear()

    def features(self, route: Route, inputs: dict[str, Tensor]) -> Tensor | None:
        """Return a batch's features (N, d) on a route, or ``None`` if they must be computed as usual.

        Args:
            route: the route, already opened.
            inputs: the batch's prefix.
        """
        if not isinstance(route, str) or not inputs.keys() <= {STATES, MASK} or not inputs:
            return None
        way = (route, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        if way in self._running:  # a second pass of the batch would overwrite what the first backward pass needs
            return None
        given = _padded(inputs)
        key = (
            *way,
            self._backbone.model.training,
            *((name, value.shape, value.dtype) for name, value in given.items()),
        )
        if key not in self._recorded:
            self._seen[key] += 1
            if self._seen[key] < _COMES:
                return None
            self._recorded[key] = self._record(way, given)
        recorded = self._recorded[key]
        if recorded is None:
            return None
        if torch.is_grad_enabled():
            self._running.add(way)
        return recorded(*given.values()).clone()  # the next replay of the route overwrites its output

    def _record(self, way: tuple[str, bool, bool], inputs: dict[str, Tensor]) -> Callable[..., Tensor] | None:
        """Return a function that replays a pass of these shapes, or ``None`` if the pass cannot be recorded."""
        free, whole = torch.cuda.mem_get_info()
        free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        enough = sum(one is not None for one in self._recorded.values()) < _LIMIT and free > _FREE * whole
        if not enough or drops_out(self._backbone.model):
            return None
        route, trains, _ = way
        named = [p for name in ROUTES[route] if name in TRAINED for p in self._adapters.parameters(name)]
        weights = [parameter for parameter in named if trains and parameter.requires_grad]
        one_pass = _Pass(self._backbone, self._adapters.model, list(inputs), weights, self._precision)
        pool = self._pools.setdefault(way, torch.cuda.graph_pool_handle())
        try:
            with warnings.catch_warnings():  # it warms up on one stream, records on another, and warns about that
                warnings.filterwarnings("ignore", message=".*AccumulateGrad")
                replay: Any = torch.cuda.make_graphed_callables(one_pass, one_pass.samples(inputs), pool=pool)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            _log.warning("route %s cannot be recorded as a CUDA graph and runs without one: %s", route, reason)
            return None
        return lambda *given: replay(*given, *weights)


class _Pass:
    """One pass from a prefix to the features, as a function of the prefix and the weights that have gradients.

    The pass is recorded with other parameters over the same memory. The autograd state of a recording then belongs to
    those parameters and to the stream of the recording; the adapters' own parameters stay untouched.

    Args:
        backbone: a staged backbone, already divided.
        model: the model with the adapters.
        names: names of a prefix's tensors.
        weights: parameters of ``model`` that have gradients.
        precision: ``fp32``, or ``bf16`` for autocast.
    """

    def __init__(
        self,
        backbone: StagedBackbone,
        model: nn.Module,
        names: list[str],
        weights: list[nn.Parameter],
        precision: str,
    ) -> None:
        self._backbone = backbone
        self._names = names
        self._bf16 = precision == "bf16"
        self._weights = weights
        index = {id(weight): place for place, weight in enumerate(weights)}
        self._places = [
            (module._parameters, name, index[id(parameter)])
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if id(parameter) in index
        ]

    def samples(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the sample arguments for the recording."""
        return *(value.clone() for value in inputs.values()), *(nn.Parameter(w.detach()) for w in self._weights)

    def __call__(self, *given: Any) -> Tensor:
        """Return the features (N, d).

        Args:
            given: the prefix's tensors, then the weights that replace the model's own.
        """
        inputs, weights = given[: len(self._names)], given[len(self._names) :]
        for parameters, name, place in self._places:
            parameters[name] = weights[place]
        try:
            # Autocast's cache is off because it would hold tensors of the recording.
            with torch.autocast("cuda", torch.bfloat16, enabled=self._bf16, cache_enabled=False):
                return self._backbone.features(dict(zip(self._names, inputs, strict=True)))
        finally:
            for parameters, name, place in self._places:
                parameters[name] = self._weights[place]


def _padded(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a prefix whose padding, if there is any, is extended to a multiple of :data:`TOKENS`."""
    if MASK not in inputs:
        return inputs
    more = -inputs[MASK].shape[-1] % TOKENS
    return {STATES: F.pad(inputs[STATES], (0, 0, 0, more)), MASK: F.pad(inputs[MASK], (0, more))} if more else inputs
