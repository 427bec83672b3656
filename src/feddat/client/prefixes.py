"""Hidden states below the first adapter, kept in memory for all rounds so that frozen layers run only once.

The rows of a split are always computed in the same groups, whatever the batches. The numbers therefore depend neither
on what was kept nor on the round in which a run was resumed. States that do not fit are computed in every batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from feddat.models.base import EncodedViews, StagedBackbone
from feddat.models.stages import MASK, STATES

#: Number of rows that are computed together.
GROUP = 64


class PrefixViews:
    """Views whose batches are prefixes (:meth:`feddat.models.base.StagedBackbone.prefix`), stored without padding.

    Args:
        states: the states of each view, (tokens, d), without masked tokens.
    """

    def __init__(self, states: Sequence[Tensor]) -> None:
        self._states = list(states)
        self._lengths = torch.tensor([len(row) for row in states])

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self._states)

    def batch(self, indices: Sequence[int] | Tensor, device: torch.device) -> dict[str, Tensor]:
        """Return the prefix of the views at ``indices``: states (N, tokens, d), and a mask if their lengths differ."""
        index = torch.as_tensor(indices)
        rows, lengths = [self._states[i] for i in index.tolist()], self._lengths[index]
        if bool((lengths == lengths[0]).all()):
            return {STATES: torch.stack(rows)}
        states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(states.shape[1]) < lengths[:, None]
        return {STATES: states, MASK: mask[:, None, None, :].to(device, non_blocking=True)}


class PrefixCache:
    """Prefixes of the splits of several clients within one memory budget; the least recently used make room.

    Args:
        limit: the budget in bytes; a single split that takes more is not kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple[str, ...], tuple[PrefixViews, int]] = OrderedDict()
        self._refused: set[tuple[str, ...]] = set()

    def views(
        self, key: tuple[str, ...], views: EncodedViews, backbone: StagedBackbone, device: torch.device
    ) -> EncodedViews:
        """Return the prefixes of some views, or the views themselves if their prefixes cannot be kept.

        Args:
            key: owner and split of the views; the same key always means the same views.
            views: the prepared views.
            backbone: a staged backbone, already divided, in the mode (training or not) and autocast of the batches.
            device: the backbone's device.
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
        """Drop every entry with a key that begins with ``owner``."""
        for key in [key for key in self._kept if key[0] == owner]:
            del self._kept[key]

    @torch.no_grad()
    def _states(self, views: EncodedViews, backbone: StagedBackbone, device: torch.device) -> list[Tensor] | None:
        """Return the states of each view's prefix, or ``None`` if they are too large or are not a sequence."""
        kept: list[Tensor] = []
        for group in torch.arange(len(views)).split(GROUP):  # type: ignore[no-untyped-call]
            prefix = backbone.prefix(views.batch(group, device))
            if not prefix.keys() <= {STATES, MASK}:
                return None
            states = prefix[STATES]  # kept on the device that uses them
            if states[0].nbytes * len(views) > 2 * self._limit:  # an early estimate: half of it can be padding
                return None
            if MASK in prefix:
                kept += [row[mask].clone() for row, mask in zip(states, prefix[MASK][:, 0, 0], strict=True)]
            else:
                kept += [row.clone() for row in states]
            if sum(row.nbytes for row in kept) > self._limit:
                return None
        return kept
