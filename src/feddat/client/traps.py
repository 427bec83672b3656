"""Faults of the published code (docs/studies.md), reproduced on purpose to measure their cost: ``train.trap``.

| trap | effect |
| --- | --- |
| ``frozen-local`` | An evaluation leaves only the global adapter trainable in the server's model, which every later round copies. The first evaluation follows round 1, so from round 2 on the local adapter is in no optimizer. |
| ``long-schedule`` | Each round's schedule is planned for 15 epochs and advances with every optimizer step: twice per batch in FedDAT's alternating order, otherwise once. A round of one epoch is mostly warm-up. (Here, both half steps of a batch use the rate of the first.) |
| ``moving-rest`` | Gradients are zeroed, not dropped, so AdamW's momentum and weight decay also move the adapter that a half step should not train. |
| ``all`` | all three |

``frozen-local`` changes nothing in a method without a local adapter, and ``moving-rest`` nothing without half steps.
"""  # noqa: E501  (a row of a table is a line)

from __future__ import annotations

from feddat.algorithms.base import Algorithm
from feddat.client.optim import schedule
from feddat.config import RunConfig

#: Epochs that the published schedule is planned for.
PLANNED_EPOCHS = 15


class Traps:
    """The faults that one run reproduces and their effect on local training; by default there are none.

    Attributes:
        zeroes_gradients: whether gradients are zeroed instead of dropped.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self.zeroes_gradients = self._has("moving-rest")

    def trained(self, algorithm: Algorithm, round: int) -> tuple[str, ...]:
        """Return the names of the adapters that a round's optimizer trains."""
        if self._has("frozen-local") and round > 1 and "global" in algorithm.trains:
            return tuple(name for name in algorithm.trains if name != "local")
        return algorithm.trains

    def schedule(self, step: int, steps: int, algorithm: Algorithm) -> float:
        """Return the factor on the learning rate at ``step`` (0-based) of a round's ``steps``."""
        train = self._config.train
        if not self._has("long-schedule"):
            return schedule(step, steps, train.warmup, train.lr_schedule)
        alternates = algorithm.name == "feddat" and self._config.algorithm.order == "alternating"
        return schedule((1 + alternates) * step, PLANNED_EPOCHS * steps // train.epochs, train.warmup)

    def _has(self, trap: str) -> bool:
        return self._config.train.trap in (trap, "all")
