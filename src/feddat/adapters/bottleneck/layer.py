"""The layer that wraps one site and adds the active adapters' contributions to it.

The three kinds of site of FedDAT's adapter (docs/method/feddat.md, "The adapter") need only two formulas. Pre-LN layers
and decoder-only language models share one, because they differ only in the module that is the site:

- ``output``: y ← y + Σ sᵢ·Aᵢ(y). In pre-LN layers, the site is the module whose output y includes the feed-forward
  residual (ViLT's output module; the whole layer of ViT and CLIP). In decoder-only models, it is the MLP, before its
  residual is added.
- ``post_ln`` (BERT): u = dropout(dense(x)); v = LN(u + input); y ← LN(u + Σ sᵢ·Aᵢ(v) + input), with the site's own LN.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional

from feddat.adapters.bottleneck.config import BottleneckConfig

#: An adapter at a site: W_down (d / r, d), b_down, W_up (d, d / r), b_up.
Weights: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
#: A function of an output and adapter weights, and these weights.
Pure: TypeAlias = tuple[Callable[..., Tensor], Sequence[Tensor]]


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """One site with its adapters.

    Adapter weights are float32 for any dtype of the base. The input is cast to float32, and the contribution is cast
    back.

    Args:
        base_layer: the site.
        adapter_name: name of the first adapter.
        config: that adapter's configuration.

    Raises:
        ValueError: the site's output width cannot be determined, or ``placement`` does not fit the site.

    Attributes:
        apart: whether every product uses the adapters' own weights, for callers that observe each use of a weight; if
            not, :meth:`pure` can round the weights and join them with those of other sites.
    """

    apart = False
    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("scaling",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.width = output_width(base_layer)
        self.placement = resolve_placement(base_layer, config.placement)
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.scaling: dict[str, float | Tensor] = {}
        self.init_std: dict[str, float] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter: str | list[str] = adapter_name
        # This is a hook before all others instead of code in `forward`: transformers records hidden states by hooks on
        # the layer's class, and these must see the adapted output.
        self._hook = None
        if self.placement == "output":
            self._hook = base_layer.register_forward_hook(self._after_base, prepend=True)
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Create (or replace) the named adapter, freshly initialised.

        Raises:
            ValueError: the site's other adapters have another placement, or the placement does not fit the site.
        """
        placement = resolve_placement(self.base_layer, config.placement)
        if placement != self.placement:
            raise ValueError(
                f"adapter {adapter_name!r}: placement {placement!r} differs from placement {self.placement!r} of the "
                "other adapters at this site"
            )
        inner = config.count * max(1, self.width // config.reduction)
        device = next(self.base_layer.parameters()).device
        self.bottleneck_down[adapter_name] = nn.Linear(self.width, inner, device=device, dtype=torch.float32)
        self.bottleneck_up[adapter_name] = nn.Linear(inner, self.width, device=device, dtype=torch.float32)
        self.scaling[adapter_name] = 1.0
        self.init_std[adapter_name] = config.init_std
        self.reset_adapter(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @torch.no_grad()
    def reset_adapter(self, adapter_name: str, generator: torch.Generator | None = None) -> None:
        """Draw the named adapter's weights again from N(0, init_std²) and set its biases to 0.

        Numbers are drawn on the CPU so that they do not depend on the device; ``generator`` must be a CPU generator.
        """
        for linear in self._linears(adapter_name):
            if linear.weight.is_meta:
                continue
            std = self.init_std[adapter_name]
            linear.weight.copy_(torch.empty(linear.weight.shape).normal_(0.0, std, generator=generator))
            linear.bias.zero_()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the site's output with the active adapters' contributions."""
        if self.placement == "post_ln":
            return self._post_ln(*args, **kwargs)
        return self.base_layer(*args, **kwargs)

    @property
    def adds_to_output(self) -> bool:
        """Whether the adapters only read the site's output and add to it."""
        return self.placement == "output"

    def adapt(self, output: Tensor) -> Tensor:
        """Return an output of the bare site with the active adapters' contributions, as :meth:`forward` does."""
        contribution = self._contribution(output)
        return output if contribution is None else output + contribution

    @staticmethod
    def pure(sites: Sequence[BottleneckLayer], dtype: torch.dtype) -> list[Pure]:
        """Return :meth:`adapt` of several sites on the current route as stateless functions with weights in one dtype.

        The adapters of a site become a single adapter; its inner width is the sum of theirs. The weights of sites with
        equal shapes are joined and rounded together, because on a GPU one small operation takes as long as one large
        operation.

        Args:
            sites: layers whose adapters only add to the output.
            dtype: dtype of outputs and weights.
        """
        if any(site.apart for site in sites):
            return [(site._as_it_is, ()) for site in sites]
        alike: dict[Any, list[int]] = {}
        active = [site._active() for site in sites]
        for place, (weights, scales) in enumerate(active):
            shapes = [tensor.shape for one in weights for tensor in one]
            alike.setdefault((*shapes, *(id(s) if isinstance(s, Tensor) else s for s in scales)), []).append(place)
        found: dict[int, Pure] = {}
        for places in alike.values():
            together = [active[place] for place in places]
            per_row = any(isinstance(scale, Tensor) and scale.ndim for scale in together[0][1])
            function, join = (_adapted_by_row, _beside) if per_row else (_adapted, joined)
            found |= {place: (function, own) for place, own in zip(places, join(together, dtype), strict=True)}
        return [found[place] for place in range(len(sites))]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raise :func:`merge_error`."""
        raise merge_error()

    def unmerge(self) -> None:
        """Do nothing, because nothing is ever merged."""

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return the original site without the wrapper."""
        if merge:
            raise merge_error()
        if self._hook is not None:
            self._hook.remove()
        return self.base_layer

    def _after_base(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = self.adapt(hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def _post_ln(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        site: Any = self.base_layer
        update = site.dropout(site.dense(hidden_states))
        normed: Tensor = site.LayerNorm(update + input_tensor)
        contribution = self._contribution(normed)
        if contribution is None:
            return normed
        adapted: Tensor = site.LayerNorm(update + contribution + input_tensor)
        return adapted

    def _linears(self, name: str) -> tuple[nn.Linear, nn.Linear]:
        return cast(nn.Linear, self.bottleneck_down[name]), cast(nn.Linear, self.bottleneck_up[name])

    def _contribution(self, hidden: Tensor) -> Tensor | None:
        """Return Σ sᵢ·Aᵢ(hidden) over the active adapters, like ``hidden``, or ``None`` if none is active."""
        if self.disable_adapters:
            return None
        weights, scales = self._active()
        return contribution(hidden, weights, scales) if weights else None

    def _as_it_is(self, output: Tensor, weights: Sequence[Tensor]) -> Tensor:
        return self.adapt(output)

    def _active(self) -> tuple[list[Weights], list[float | Tensor]]:
        names = [] if self.disable_adapters else [n for n in self.active_adapters if n in self.bottleneck_down]
        pairs = [self._linears(name) for name in names]
        weights: list[Weights] = [(down.weight, down.bias, up.weight, up.bias) for down, up in pairs]
        return weights, [self.scaling[name] for name in names]


def contribution(hidden: Tensor, weights: Sequence[Weights], scales: Sequence[float | Tensor]) -> Tensor:
    """Return Σ sᵢ·Aᵢ(hidden) over one adapter or more, with the shape and dtype of ``hidden``."""
    total: Tensor | None = None
    for (down, down_bias, up, up_bias), scale in zip(weights, scales, strict=True):
        inner = functional.relu(functional.linear(hidden.to(down.dtype), down, down_bias))
        part = functional.linear(inner, up, up_bias)
        if isinstance(scale, Tensor) or scale != 1.0:
            part = part * scale
        total = part if total is None else total + part
    assert total is not None
    return total.to(hidden.dtype)


def joined(
    active: Sequence[tuple[list[Weights], list[float | Tensor]]], dtype: torch.dtype
) -> Sequence[Sequence[Tensor]]:
    """Return, per site, the weights of one adapter that equals the sum of the site's; empty if none is active.

    Args:
        active: weights and scales per site; all sites have equal shapes and equal scalar scales.
        dtype: dtype of the result.
    """
    scales = active[0][1]
    if not scales:
        return [()] * len(active)

    def stacked(index: int) -> list[Tensor]:
        """Return, per adapter, one kind of weight of all sites, (sites, ...)."""
        return [torch.stack([weights[adapter][index] for weights, _ in active]) for adapter in range(len(scales))]

    def scaled(index: int) -> list[Tensor]:
        plain = zip(stacked(index), scales, strict=True)
        return [part * s if isinstance(s, Tensor) or s != 1.0 else part for part, s in plain]

    parts = (
        torch.cat(stacked(0), dim=1),
        torch.cat(stacked(1), dim=1),
        torch.cat(scaled(2), dim=2),
        torch.stack(scaled(3)).sum(dim=0),
    )
    return list(zip(*(part.to(dtype).unbind() for part in parts), strict=True))


def _beside(
    active: Sequence[tuple[list[Weights], list[float | Tensor]]], dtype: torch.dtype
) -> Sequence[Sequence[Tensor]]:
    """Return, per site, each adapter's scale and weights, adapter by adapter; scales can be per row."""
    device = active[0][0][0][0].device
    found: list[list[Tensor]] = [[] for _ in active]
    for adapter, scale in enumerate(active[0][1]):
        of_rows = torch.as_tensor(scale, dtype=dtype, device=device)
        for own, weights in zip(found, joined([([w[adapter]], [1.0]) for w, _ in active], dtype), strict=True):
            own += [of_rows, *weights]
    return found


def _adapted(output: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return output + _through(output, *weights) if weights else output


def _adapted_by_row(output: Tensor, weights: Sequence[Tensor]) -> Tensor:
    adapters = [weights[start : start + 5] for start in range(0, len(weights), 5)]
    return output + sum(scale * _through(output, *own) for scale, *own in adapters)


def _through(output: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor) -> Tensor:
    return functional.linear(functional.relu(functional.linear(output, down, down_bias)), up, up_bias)


def merge_error() -> NotImplementedError:
    """Return the error for every attempt to merge."""
    return NotImplementedError(
        "bottleneck adapters cannot be merged into the base weights (ReLU makes them non-linear); "
        "use unload() for the base model without adapters"
    )


def output_width(module: nn.Module) -> int:
    """Return the width of ``module``'s output, taken from its last linear layer in order of registration.

    Raises:
        ValueError: the module has no linear layer.
    """
    widths = [child.out_features for child in module.modules() if isinstance(child, nn.Linear)]
    if not widths:
        raise ValueError(f"adapter site {type(module).__name__}: has no linear layer to take the output width from")
    return widths[-1]


def resolve_placement(module: nn.Module, placement: str) -> str:
    """Return ``"output"`` or ``"post_ln"`` for a site.

    Raises:
        ValueError: ``post_ln`` is requested, but the module lacks what the formula needs.
    """
    takes_input = list(inspect.signature(module.forward).parameters)[:2] == ["hidden_states", "input_tensor"]
    fits_post_ln = takes_input and all(hasattr(module, name) for name in ("dense", "dropout", "LayerNorm"))
    if placement == "auto":
        return "post_ln" if fits_post_ln else "output"
    if placement == "post_ln" and not fits_post_ln:
        raise ValueError(
            f"adapter site {type(module).__name__}: placement 'post_ln' needs a module with dense, dropout, LayerNorm "
            "and forward(hidden_states, input_tensor)"
        )
    return placement
