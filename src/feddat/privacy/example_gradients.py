"""Gradients of single examples without a loop, from the input of each linear layer and the gradient of its output.

The gradient of a linear layer's weight by one example is a sum over its tokens, Σₗ gₗ xₗᵀ. One forward and backward
pass over a batch gives every x and every g. They give each example's norm and the sum of the clipped gradients (Bu,
Wang, Zha, Karypis, "Differentially Private Optimization on Large Model at Small Cost", ICML 2023). A large layer with
few tokens needs no gradient for its norm: ‖Σₗ gₗ xₗᵀ‖² = Σₗₘ (xₗ·xₘ)(gₗ·gₘ) ("ghost norm", Li, Tramèr, Liang,
Hashimoto, ICLR 2022).

While it is open, :class:`ExampleGradients` sees every operation in any module. It takes over those that use one of its
parameters: linear layers, layer norms, and the bias of either. These parameters then get no gradient from autograd. If
one has a gradient after the backward pass, it was used in another way, and that is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

#: Examples are clipped to C·(1 − this), so that rounding in float64 does not take the sum's sensitivity above C. An
#: example moves a sum of N ≤ 10,000 by at most C, plus 2·N²·2⁻⁵³·C through the rounding of the others' sum.
MARGIN = 1e-7
#: Unit roundoff of float64.
_ROUNDOFF = 2.0**-53
#: Most bytes of the float64 copy of gradients that are added up at a time.
_BLOCK = 32 * 2**20


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

    def clipped_sums(self, clip: float, examples: int, counts: Tensor | None = None) -> dict[nn.Parameter, Tensor]:
        """Return Σᵢ wᵢ·gᵢ·min(1, C/‖gᵢ‖) by parameter, float64, of all backward passes since :meth:`clear`.

        gᵢ is the gradient of example i's own loss; the backward passes were of the mean over the examples. The norm
        is over all parameters together. What one example adds has a norm of at most C, rounding included
        (:data:`MARGIN`). An example whose gradient is not finite adds nothing.

        Args:
            clip: C.
            examples: N, size of the batch; every tensor has the same number of rows for each example, in their order.
            counts: wᵢ (N,), 0 or 1; default: all 1.

        Raises:
            UnknownGradient: a parameter was used in a way that is not recorded.
        """
        self._check_uses()
        # The noise follows the order of the parameters, not that of the backward pass.
        used = {key: self._parts[key] for key in self._parameters if key in self._parts}
        found = {key: self._found(key, parts, examples) for key, parts in used.items()}
        if not found:
            return {}
        norms = torch.stack([one.squared() for one in found.values()]).sum(dim=0).sqrt() * examples
        finite = norms.isfinite()
        most = clip * (1 - MARGIN)
        factors = torch.where(finite, most / norms.clamp(min=most), 0.0)
        if counts is not None:
            factors = factors * counts.to(factors)
        # The mean's gradient is 1/N of each example's own.
        return {self._parameters[key]: one.weighted(factors * examples, finite) for key, one in found.items()}

    def gradients(self, examples: int) -> dict[nn.Parameter, Tensor]:
        """Return gᵢ by parameter, (N, *shape), float32: what :meth:`clipped_sums` adds up, for whoever wants each one.

        Args:
            examples: N, of the batch whose mean loss went backward.

        Raises:
            UnknownGradient: a parameter was used in another way than those that are known.
        """
        self._check_uses()
        used = {key: self._parts[key] for key in self._parameters if key in self._parts}
        return {
            self._parameters[key]: self._found(key, parts, examples).each().view(examples, *self._parameters[key].shape)
            * examples
            for key, parts in used.items()
        }

    def _check_uses(self) -> None:
        for key, parameter in self._parameters.items():
            if parameter.grad is not None:
                raise UnknownGradient(f"{self._names[key]}: gradients of single examples are not known here")

    def _found(self, key: int, parts: _Parts, examples: int) -> _Linear | _Plain:
        gradients = torch.cat([self._by_example(key, one, examples) for one in parts.gradients], dim=1)
        if not parts.inputs:
            return _Plain(gradients.sum(dim=1))
        inputs = torch.cat([self._by_example(key, one, examples) for one in parts.inputs], dim=1)
        return _Linear(inputs, gradients)

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


@dataclass(frozen=True)
class _Plain:
    """Gradients (N, d) of a vector by example."""

    gradients: Tensor

    def each(self) -> Tensor:
        """Return each example's gradient, (N, d)."""
        return self.gradients

    def squared(self) -> Tensor:
        """Return each example's squared norm, (N,) float64."""
        return _squared(self.gradients)

    def weighted(self, factors: Tensor, finite: Tensor) -> Tensor:
        """Return the sum of all examples' gradients times their factors; gradients that are not finite count as 0."""
        return _weighted(self.gradients, factors, finite)


class _Linear:
    """Gradients of a weight (out, in) by example, as x (N, tokens, in) and g (N, tokens, out).

    The gradients are computed if that takes less work than comparing all tokens with each other.
    """

    def __init__(self, inputs: Tensor, gradients: Tensor) -> None:
        tokens, wide, out = inputs.shape[1], inputs.shape[2], gradients.shape[2]
        made = tokens * (wide + out) > wide * out
        self._made = gradients.transpose(1, 2) @ inputs if made else None
        self._inputs, self._gradients = (inputs, gradients) if made else (inputs.double(), gradients.double())

    def each(self) -> Tensor:
        """Return each example's gradient, (N, out, in) float32."""
        return (self._gradients.transpose(1, 2) @ self._inputs).float() if self._made is None else self._made

    def squared(self) -> Tensor:
        """Return an upper bound of each example's squared norm, (N,) float64.

        It is the squared norm to the last digits, unless an example's tokens cancel each other almost entirely.
        """
        if self._made is not None:
            return _squared(self._made)
        x, g = self._inputs, self._gradients
        alike = (x @ x.transpose(1, 2)) * (g @ g.transpose(1, 2))
        # |error| of the sum over pairs of tokens, and what the rounding of `weighted` adds: each at most
        # γₙ·(Σₗ‖xₗ‖‖gₗ‖)², where n is the number of roundings that one number goes through.
        examples, tokens = x.shape[:2]
        roundings = tokens * tokens + examples * tokens + x.shape[2] + g.shape[2] + 8
        size = (x.norm(dim=2) * g.norm(dim=2)).sum(dim=1)
        bound: Tensor = alike.sum(dim=(1, 2)).clamp(min=0.0) + 4 * roundings * _ROUNDOFF * size.square()
        return bound

    def weighted(self, factors: Tensor, finite: Tensor) -> Tensor:
        """Return the sum of all examples' gradients times their factors; gradients that are not finite count as 0."""
        if self._made is not None:
            return _weighted(self._made, factors, finite)
        hidden = ~finite[:, None, None]
        weighed = self._gradients.masked_fill(hidden, 0.0) * factors[:, None, None]
        total: Tensor = weighed.flatten(0, 1).T @ self._inputs.masked_fill(hidden, 0.0).flatten(0, 1)
        return total


def _blocks(gradients: Tensor) -> Iterator[slice]:
    """Yield slices of the examples whose float64 copies fit into a block."""
    at_a_time = max(1, _BLOCK // max(1, 8 * gradients[0].numel()))
    for begin in range(0, len(gradients), at_a_time):
        yield slice(begin, begin + at_a_time)


def _squared(gradients: Tensor) -> Tensor:
    """Return the squared norm of each example's gradient (N, ...) as (N,) float64."""
    return torch.cat([gradients[part].flatten(1).double().square().sum(dim=1) for part in _blocks(gradients)])


def _weighted(gradients: Tensor, factors: Tensor, finite: Tensor) -> Tensor:
    """Return Σᵢ fᵢ·gᵢ in float64 of gradients (N, ...) and factors (N,); examples that are not finite count as 0."""
    total = torch.zeros(gradients.shape[1:], dtype=torch.float64, device=gradients.device)
    for part in _blocks(gradients):
        rows = gradients[part].flatten(1)
        if not finite[part].all():
            rows = rows.masked_fill(~finite[part, None], 0.0)
        total += (factors[part] @ rows.double()).view_as(total)
    return total


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
