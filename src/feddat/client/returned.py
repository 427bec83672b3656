"""Check what a method's functions return, so that a mistake in a method of another package names the function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from feddat.algorithms.base import Algorithm


class MethodError(TypeError):
    """A method returned or kept something of another form than its interface says; the message names the function."""


def logged(algorithm: Algorithm, values: Any) -> dict[str, Tensor]:
    """Return what a step logs as detached scalars, in the order of :attr:`Algorithm.logs`.

    Raises:
        MethodError: it is no mapping with exactly these keys, or a value is no tensor with one number.
    """
    if not isinstance(values, Mapping) or set(values) != set(algorithm.logs):
        found = f"keys {', '.join(map(str, values)) or 'none'}" if isinstance(values, Mapping) else _kind(values)
        expected = f"a dict with exactly the keys in `logs` ({', '.join(algorithm.logs)})"
        raise MethodError(f"method {algorithm.name}: step: expected {expected}, got {found}")
    for key, value in values.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise MethodError(
                f"method {algorithm.name}: step: {key}: expected a tensor with one number, got {_kind(value)}"
            )
    return {key: values[key].detach().reshape(()) for key in algorithm.logs}


def tensors(algorithm: Algorithm, values: Any, what: str) -> Mapping[str, Tensor]:
    """Return a mapping from texts to tensors unchanged; ``what`` made or holds it, for messages.

    Raises:
        MethodError: it is something else.
    """
    if not isinstance(values, Mapping):
        raise MethodError(f"method {algorithm.name}: {what}: expected a dict of tensors, got {_kind(values)}")
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            expected = "expected tensors by name"
            raise MethodError(f"method {algorithm.name}: {what}: {key!r}: {expected}, got {_kind(value)}")
    return values


def scores(algorithm: Algorithm, values: Any, rows: int, route: str) -> Tensor:
    """Return the scores (N, C) of a batch with N = ``rows`` unchanged.

    Raises:
        MethodError: they are no tensor of this shape.
    """
    if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != rows:
        raise MethodError(
            f"method {algorithm.name}: answer on route {route}: expected a tensor of shape ({rows}, classes), "
            f"got {_kind(values)}"
        )
    return values


def _kind(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
