"""The personal state that a client keeps between rounds, as named tensors.

| name | kept |
| --- | --- |
| ``local.KEY``, ``anchor.KEY`` | if the algorithm keeps that adapter |
| ``global.KEY`` | if that entry of the global adapter trains and does not travel |
| ``head/MEMBER/KEY`` | always: one head per owner of data |
| ``head.NAME/MEMBER/KEY`` | if a route has its own head |
| ``state.KEY`` | the algorithm's own tensors |
| ``momentum.NAME`` | with momentum distillation: the average of the parameter of that name |
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from torch import Tensor, nn

from feddat.adapters.base import Adapters
from feddat.algorithms.base import MAIN_HEAD, Algorithm
from feddat.client.member import Member


def shared_state(algorithm: Algorithm, adapters: Adapters) -> dict[str, Tensor]:
    """Return the entries of the global adapter that travel, as CPU copies."""
    named = adapters.named("global").items()
    return {key: value.detach().to("cpu", copy=True) for key, value in named if _travels(algorithm, key)}


def load_shared(algorithm: Algorithm, adapters: Adapters, shared: Mapping[str, Tensor]) -> None:
    """Load the entries that travelled into the global adapter; its other entries stay unchanged.

    Raises:
        ValueError: a key is missing or unexpected, or a shape differs; nothing is loaded.
    """
    _load_part(adapters, shared, [key for key in adapters.named("global") if _travels(algorithm, key)])


def trained(algorithm: Algorithm, adapters: Adapters, members: Mapping[str, Member]) -> dict[str, nn.Parameter]:
    """Return the parameters that a client trains, by the names that they have, or would have, in its store."""
    parameters = {
        f"{name}.{key}": parameter
        for name in algorithm.trains
        for key, parameter in adapters.named(name).items()
        if algorithm.trains_key(key)
    }
    for prefix, head in _heads(members.values()):
        parameters |= {prefix + key: parameter for key, parameter in head.named_parameters() if parameter.requires_grad}
    return parameters


def pack(
    algorithm: Algorithm,
    adapters: Adapters,
    members: Mapping[str, Member],
    state: Mapping[str, Tensor],
    averages: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return all tensors of a client that do not travel.

    ``state`` holds the algorithm's own tensors; ``averages`` holds the averages of momentum distillation, by the names
    of :func:`trained`.
    """
    tensors: dict[str, Tensor] = {}
    for name in algorithm.keeps:
        tensors |= {f"{name}.{key}": value for key, value in adapters.state(name).items()}
    if kept := _kept_of_global(algorithm, adapters):
        shared = adapters.state("global")
        tensors |= {f"global.{key}": shared[key] for key in kept}
    for prefix, head in _heads(members.values()):
        tensors |= {prefix + key: value for key, value in head.state_dict().items()}
    tensors |= {f"momentum.{name}": value for name, value in (averages or {}).items()}
    return tensors | {f"state.{key}": value for key, value in state.items()}


def unpack(
    algorithm: Algorithm, adapters: Adapters, members: Mapping[str, Member], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Load the tensors that :func:`pack` returned; return the algorithm's own tensors.

    Raises:
        ValueError, RuntimeError: a name or shape does not fit.
    """
    for name in algorithm.keeps:
        adapters.load(name, _below(f"{name}.", tensors))
    if kept := _kept_of_global(algorithm, adapters):
        _load_part(adapters, _below("global.", tensors), kept)
    for prefix, head in _heads(members.values()):
        head.load_state_dict(_below(prefix, tensors))
    return _below("state.", tensors)


def averages(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the averages of momentum distillation among the tensors of :func:`pack`; empty without it."""
    return _below("momentum.", tensors)


def _travels(algorithm: Algorithm, key: str) -> bool:
    return algorithm.communicates and algorithm.shares(key)


def _kept_of_global(algorithm: Algorithm, adapters: Adapters) -> list[str]:
    if "global" not in algorithm.trains:
        return []
    return [key for key in adapters.named("global") if algorithm.trains_key(key) and not _travels(algorithm, key)]


def _load_part(adapters: Adapters, part: Mapping[str, Tensor], keys: Collection[str]) -> None:
    """Copy the entries ``keys`` into the global adapter, and no others."""
    if unexpected := sorted(part.keys() - set(keys)):
        raise ValueError(f"global adapter: unexpected key {unexpected[0]!r}")
    others = {key: value for key, value in adapters.named("global").items() if key not in set(keys)}
    adapters.load("global", others | dict(part))


def _heads(members: Iterable[Member]) -> Iterator[tuple[str, nn.Module]]:
    for member in members:
        for name, head in member.heads.items():
            yield (f"head/{member.name}/" if name == MAIN_HEAD else f"head.{name}/{member.name}/"), head


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
