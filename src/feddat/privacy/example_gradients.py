"""Gradients of single examples without a loop, from the input of each linear layer and the gradient of its output.

The gradient of a linear layer's weight by one example is a sum over its tokens, Σₗ gₗ xₗᵀ. One forward and backward
pass over a batch gives every x and every g. They give each example's norm and the sum of the clipped gradients (Bu,
Wang, Zha, Karypis, "Differentially Private Optimization on Large Model at Small Cost", ICML 2023). A head, which sees
one vector of each example, needs no gradient for its norm: ‖Σₗ gₗ xₗᵀ‖² = Σₗₘ (xₗ·xₘ)(gₗ·gₘ) ("ghost norm", Li,
Tramèr, Liang, Hashimoto, ICLR 2022).

Backward passes must be of the *sum* of the examples' losses. With the mean, 1/N would enter every example's backward
pass, so that one more record changes how all others' gradients are rounded.

While it is open, :class:`ExampleGradients` sees every operation in any module. It takes over those that use one of its
parameters: linear layers, layer norms, and the bias of either. These parameters then get no gradient from autograd. If
one has a gradient after the backward pass, it was used in another way, and that is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from feddat.privacy.clipping import Clip, Formed, Unformed, factors, linear


class UnknownGradient(RuntimeError):
    """A parameter is used in a way that gives no gradients of single examples; the message names it."""


@dataclass
class _Parts:
    """The parts of one parameter's gradient, one entry per use; tensors have one or more rows per row of the batch.

    Attributes:
        inputs: x (R, ..., in) for a linear layer's weight; empty for a parameter that is added or multiplied by entry.
        gradients: g (R, ..., out), or (R, ..., d) times the factor of the parameter.
    """

    inputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)


class ExampleGradients(TorchFunctionMode):
    """Records the parts of single examples' gradients. Open it around forward passes.

    Args:
        named: name for error messages -> parameter.
    """

    def __init__(self, named: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._names = {id(parameter): name for name, parameter in named.items()}
        self._parameters = {id(parameter): parameter for parameter in named.values()}
        self._parts: dict[int, _Parts] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and record it if it uses one of the parameters."""
        kwargs = kwargs or {}
        taken = _TAKEN.get(func)
        if taken is None or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        return taken(self, *args, **kwargs)

    def clear(self) -> None:
        """Forget what was recorded."""
        self._parts.clear()

    def clipped_sums(self, clip: Clip, examples: int, counts: Tensor | None = None) -> dict[nn.Parameter, Tensor]:
        """Return Σᵢ wᵢ·gᵢ·min(1, C/‖gᵢ‖) by parameter, float64, of all backward passes since :meth:`clear`.

        gᵢ is the gradient of example i's own loss; the backward passes were of the sum over the examples. The norm is
        over all parameters together. One example moves the sum by at most C, rounding included. An example whose
        gradient is not finite adds nothing.

        Args:
            clip: C, and the number of examples that it holds for.
            examples: N, size of the batch; every tensor has the same number of rows for each example, in their order.
            counts: wᵢ (N,), 0 or 1; default: all 1.

        Raises:
            UnknownGradient: a parameter was used in a way that is not recorded.
        """
        # The noise follows the order of the parameters, not that of the backward pass.
        found = self._all(examples)
        if not found:
            return {}
        squared = torch.stack([one.squared(clip) for one in found.values()]).sum(dim=0)
        weights, finite = factors(squared, clip, counts), squared.isfinite()
        return {self._parameters[key]: one.weighted(weights, finite) for key, one in found.items()}

    def gradients(self, examples: int) -> dict[nn.Parameter, Tensor]:
        """Return gᵢ by parameter, (N, *shape), float32: what :meth:`clipped_sums` adds up, for whoever wants each one.

        Args:
            examples: N, of the batch whose summed loss went backward.

        Raises:
            UnknownGradient: a parameter was used in another way than those that are known.
        """
        return {
            self._parameters[key]: one.each().view(examples, *self._parameters[key].shape)
            for key, one in self._all(examples).items()
        }

    def _all(self, examples: int) -> dict[int, Formed | Unformed]:
        """Return the gradients by example of all used parameters, in the parameters' order."""
        self._check_uses()
        return {key: self._found(key, self._parts[key], examples) for key in self._parameters if key in self._parts}

    def _check_uses(self) -> None:
        for key, parameter in self._parameters.items():
            if parameter.grad is not None:
                raise UnknownGradient(f"{self._names[key]}: gradients of single examples are not known here")

    def _found(self, key: int, parts: _Parts, examples: int) -> Formed | Unformed:
        gradients = torch.cat([self._by_example(key, one, examples) for one in parts.gradients], dim=1)
        if not parts.inputs:
            return Formed(gradients.sum(dim=1))
        inputs = torch.cat([self._by_example(key, one, examples) for one in parts.inputs], dim=1)
        # Which of the two it is must not depend on the batch, such as on its longest text.
        vectors = all(one.dim() == 2 for one in parts.inputs)
        return Unformed(inputs, gradients) if vectors else linear(inputs, gradients)

    def _by_example(self, key: int, tensor: Tensor, examples: int) -> Tensor:
        """Return a tensor (R, ..., d) as float32 (N, tokens, d)."""
        if tensor.shape[0] % examples:
            raise UnknownGradient(f"{self._names[key]}: {tensor.shape[0]} rows of {examples} examples")
        return tensor.reshape(examples, -1, tensor.shape[-1]).float()

    def _own(self, parameter: Any) -> bool:
        return isinstance(parameter, Tensor) and id(parameter) in self._parameters

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not (self._own(weight) or self._own(bias)):
            return F.linear(x, weight, bias)
        output: Tensor = _LinearFunction.apply(x, weight, bias, self)  # type: ignore[no-untyped-call]
        return output

    def _layer_norm(
        self,
        x: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *rest: Any,
    ) -> Tensor:
        if not (self._own(weight) or self._own(bias)) or len(normalized_shape) != 1:
            return F.layer_norm(x, normalized_shape, weight, bias, eps)
        normed = F.layer_norm(x, normalized_shape, None, None, eps)
        output: Tensor = _ScaleFunction.apply(normed, weight, bias, self)  # type: ignore[no-untyped-call]
        return output

    def _conv2d(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **settings: Any) -> Tensor:
        if not self._own(bias) or self._own(weight):
            return F.conv2d(x, weight, bias, *rest, **settings)
        output = F.conv2d(x, weight, None, *rest, **settings).movedim(1, -1)
        biased: Tensor = _ScaleFunction.apply(output, None, bias, self)  # type: ignore[no-untyped-call]
        return biased.movedim(-1, 1)

    def note(self, parameter: Tensor | None, gradient: Tensor, input: Tensor | None = None) -> None:
        """Record one use of a parameter in the backward pass; ignore parameters that are not its own."""
        if parameter is None or not self._own(parameter):
            return
        parts = self._parts.setdefault(id(parameter), _Parts())
        parts.gradients.append(gradient)
        if input is not None:
            parts.inputs.append(input)


#: Operation -> the method that takes it over.
_TAKEN: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.linear: ExampleGradients._linear,
    F.layer_norm: ExampleGradients._layer_norm,
    F.conv2d: ExampleGradients._conv2d,
}


class _LinearFunction(torch.autograd.Function):
    """x Wᵀ + b; recorded parameters get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, record: ExampleGradients) -> Tensor:
        ctx.record, ctx.weight, ctx.bias = record, weight, bias
        ctx.save_for_backward(x)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        ctx.record.note(ctx.weight, gradient, x)
        ctx.record.note(ctx.bias, gradient)
        below = None
        if ctx.needs_input_grad[0]:
            below = (gradient @ ctx.weight.detach().to(gradient.dtype)).to(x.dtype)
        return below, None, None, None


class _ScaleFunction(torch.autograd.Function):
    """n · w + b for normalised n; recorded parameters get no gradient."""

    @staticmethod
    def forward(
        ctx: Any, normed: Tensor, weight: Tensor | None, bias: Tensor | None, record: ExampleGradients
    ) -> Tensor:
        ctx.record, ctx.weight, ctx.bias = record, weight, bias
        ctx.save_for_backward(normed)
        scaled = normed if weight is None else normed * weight.to(normed.dtype)
        return scaled.clone() if bias is None else scaled + bias.to(normed.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (normed,), (gradient,) = ctx.saved_tensors, gradients
        ctx.record.note(ctx.weight, gradient * normed)
        ctx.record.note(ctx.bias, gradient)
        below = gradient if ctx.weight is None else gradient * ctx.weight.detach().to(gradient.dtype)
        return below, None, None, None


def noisy(sums: Mapping[nn.Parameter, Tensor], noise: Tensor, divisor: float) -> None:
    """Set parameters' gradients to (sum + noise) / divisor: one release.

    Args:
        sums: parameter -> its sum, in the order of the noise.
        noise: float64 (entries of all sums together,), with its final standard deviation.
        divisor: the expected number of examples; the number in the sample is secret.
    """
    parts = noise.split([total.numel() for total in sums.values()])  # type: ignore[no-untyped-call]
    for (parameter, total), part in zip(sums.items(), parts, strict=True):
        noised = (total.double() + part.view_as(total)) / divisor
        parameter.grad = noised.to(parameter.dtype).view_as(parameter)


def entries(sums: Collection[Tensor]) -> int:
    """Return the number of entries in all tensors together."""
    return sum(total.numel() for total in sums)
