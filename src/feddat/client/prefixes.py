"""The states below the first adapter, kept in memory for all rounds: what is frozen need not be computed again.

A split's rows are always computed in the same groups, whatever batches ask for them, so that the numbers depend neither
on what was kept nor on where a run was resumed. What does not fit is computed in every batch, as if nothing were kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from feddat.models.base import EncodedViews, StagedBackbone
from feddat.models.stages import MASK, STATES

#: Rows that are computed together.
GROUP = 64


class PrefixViews:
    """Views whose batches are prefixes (:meth:`feddat.models.base.StagedBackbone.prefix`), without padding inside.

    Args:
        states: per view (tokens, d), without what the mask hides.
    """

    def __init__(self, states: Sequence[Tensor]) -> None:
        self._states = list(states)
        self._lengths = torch.tensor([len(row) for row in states])

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self._states)

    def batch(self, indices: Sequence[int] | Tensor, device: torch.device) -> dict[str, Tensor]:
        """Return the prefix of the views at ``indices``: states (N, tokens, d), and a mask where lengths differ."""
        index = torch.as_tensor(indices)
        rows, lengths = [self._states[i] for i in index.tolist()], self._lengths[index]
        if bool((lengths == lengths[0]).all()):
            return {STATES: torch.stack(rows)}
        states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(states.shape[1]) < lengths[:, None]
        return {STATES: states, MASK: mask[:, None, None, :].to(device, non_blocking=True)}


class PrefixCache:
    """Prefixes of several clients' splits within one budget; those not used for the longest time make room.

    Args:
        limit: bytes. A split that takes more alone is not kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple[str, ...], tuple[PrefixViews, int]] = OrderedDict()
        self._refused: set[tuple[str, ...]] = set()

    def views(
        self, key: tuple[str, ...], views: EncodedViews, backbone: StagedBackbone, device: torch.device
    ) -> EncodedViews:
        """Return the prefixes of some views, or the views themselves where there are none to keep.

        Args:
            key: whose they are, and of which split: views of one key are always the same.
            views: prepared once.
            backbone: divided, in the state (training or not) and autocast that batches are run in.
            device: the backbone's.
        """
        if key in self._refused:
            return views
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        states = self._states(views, backbone, device)
        if states is None:
            self._refused.add(key)
            return views
        size = sum(row.nbytes for row in states)
        while sum(other for _, other in self._kept.values()) + size > self._limit:
            self._kept.popitem(last=False)
        self._kept[key] = PrefixViews(states), size
        return self._kept[key][0]

    def drop(self, owner: str) -> None:
        """Let go of everything whose key begins with ``owner``."""
        for key in [key for key in self._kept if key[0] == owner]:
            del self._kept[key]

    @torch.no_grad()
    def _states(self, views: EncodedViews, backbone: StagedBackbone, device: torch.device) -> list[Tensor] | None:
        """Return per view what its prefix holds; ``None`` where that is too much, or is no sequence of states."""
        kept: list[Tensor] = []
        for group in torch.arange(len(views)).split(GROUP):  # type: ignore[no-untyped-call]
            prefix = backbone.prefix(views.batch(group, device))
            if not prefix.keys() <= {STATES, MASK}:
                return None
            states = prefix[STATES]  # kept where they are used
            if states[0].nbytes * len(views) > 2 * self._limit:  # a first look: padding may be half of it
                return None
            if MASK in prefix:
                kept += [row[mask].clone() for row, mask in zip(states, prefix[MASK][:, 0, 0], strict=True)]
            else:
                kept += [row.clone() for row in states]
            if sum(row.nbytes for row in kept) > self._limit:
                return None
        return kept
