"""What a client keeps for itself between rounds, as named tensors.

| name | kept |
| --- | --- |
| ``local.KEY``, ``anchor.KEY`` | where the local adapter trains |
| ``global.KEY`` | where the global adapter trains and does not travel |
| ``head/MEMBER/KEY`` | always: one head per owner of data |
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from feddat.adapters.base import Adapters
from feddat.algorithms.base import Algorithm
from feddat.client.member import Member


def pack(algorithm: Algorithm, adapters: Adapters, members: Mapping[str, Member]) -> dict[str, Tensor]:
    """Return everything trained by ``algorithm`` that does not travel."""
    tensors: dict[str, Tensor] = {}
    if "local" in algorithm.trains:
        for name in ("local", "anchor"):
            tensors |= {f"{name}.{key}": value for key, value in adapters.state(name).items()}
    if "global" in algorithm.trains and not algorithm.communicates:
        tensors |= {f"global.{key}": value for key, value in adapters.state("global").items()}
    for name, member in members.items():
        tensors |= {f"head/{name}/{key}": value for key, value in member.head.state_dict().items()}
    return tensors


def unpack(
    algorithm: Algorithm, adapters: Adapters, members: Mapping[str, Member], tensors: Mapping[str, Tensor]
) -> None:
    """Load what :func:`pack` returned.

    Raises:
        ValueError, RuntimeError: a name or shape does not fit.
    """
    if "local" in algorithm.trains:
        for name in ("local", "anchor"):
            adapters.load(name, _below(f"{name}.", tensors))
    if "global" in algorithm.trains and not algorithm.communicates:
        adapters.load("global", _below("global.", tensors))
    for name, member in members.items():
        member.head.load_state_dict(_below(f"head/{name}/", tensors))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
