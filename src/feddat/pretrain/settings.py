"""Settings that determine the weights of a pretraining run, parsed from ``key=value`` arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self, get_args

from feddat.config import ConfigError
from feddat.data.mini.render import CANVAS
from feddat.precision import TrainingPrecision


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """Everything that determines the pretrained weights; the defaults are those for the ViLT.

    Attributes:
        steps: optimizer steps.
        batch_size: scenes per step, over all processes; a multiple of ``jobs``.
        parts: micro-batches per step and process; the texts of each have about equal length.
        lr: peak learning rate; linear warm-up over ``warmup`` steps, then cosine decay to a hundredth.
        simple_steps: number of first steps whose scenes hold only one or two objects.
        jobs: number of processes; they average their gradients in each step.
        hidden, layers, heads, patch: size of the model.
        seed: seed of weights and data.
    """

    family: ClassVar[str] = "vilt"
    #: Whole numbers that can be 0; all others are at least 1.
    from_zero: ClassVar[frozenset[str]] = frozenset({"warmup", "simple_steps", "seed"})

    steps: int = 6_000
    batch_size: int = 256
    parts: int = 3
    lr: float = 1.5e-3
    warmup: int = 300
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    simple_steps: int = 1_500
    jobs: int = 2
    hidden: int = 160
    layers: int = 5
    heads: int = 5
    patch: int = 16
    seed: int = 0
    precision: TrainingPrecision = "auto"
    every: int = 250
    loss_weights: dict[str, float] = field(
        default_factory=lambda: {
            "word": 1.0,
            "pooled": 1.0,
            "z": 1.0,
            "match": 1.0,
            "object": 0.5,
            "colour": 0.3,
            "mention_cell": 0.5,
            "mention_colour": 0.3,
        }
    )

    @classmethod
    def parse(cls, overrides: Sequence[str]) -> Self:
        """Return the defaults with ``key=value`` settings applied.

        Raises:
            ConfigError: a key is unknown, a value does not fit its type or is out of range, or two do not go together.
        """
        values: dict[str, Any] = {}
        types = {item.name: type(getattr(cls(), item.name)) for item in fields(cls)}
        for override in overrides:
            key, _, value = override.partition("=")
            if types.get(key) not in (int, float, str):
                known = ", ".join(name for name, kind in types.items() if kind in (int, float, str))
                raise ConfigError(f"unknown pretraining setting {override!r}; expected key=value with one of {known}")
            try:
                values[key] = types[key](value)
            except ValueError:
                raise ConfigError(f"{key}: expected {types[key].__name__}, got {value!r}") from None
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        """Raise ``ConfigError`` if a value is out of range, or if two do not go together."""
        for item in fields(self):
            value = getattr(self, item.name)
            least = 1 if isinstance(value, int) and item.name not in self.from_zero else 0
            if isinstance(value, int | float) and not least <= value < math.inf:
                raise ConfigError(f"{item.name}={value}: expected a number of at least {least}")
        if self.batch_size % self.jobs:
            raise ConfigError(f"batch_size={self.batch_size} is not a multiple of jobs={self.jobs}")
        if self.batch_size < self.parts * self.jobs:
            least = self.parts * self.jobs
            raise ConfigError(
                f"batch_size={self.batch_size}: expected at least {least}, parts={self.parts} * jobs={self.jobs}"
            )
        unit = math.lcm(self.heads, 4)  # position embeddings consist of four waves
        if self.hidden % unit:
            raise ConfigError(f"hidden={self.hidden}: expected a multiple of {unit}, to suit 4 and heads={self.heads}")
        if CANVAS % (2 * self.patch):  # read-outs need whole patches in each half
            raise ConfigError(f"patch={self.patch}: expected a divisor of {CANVAS // 2}, half the side of a picture")
        if self.precision not in get_args(TrainingPrecision):
            expected = ", ".join(get_args(TrainingPrecision))
            raise ConfigError(f"precision={self.precision}: expected one of {expected}")

    def values(self) -> Mapping[str, Any]:
        """Return the family and every setting, as the recipe file stores them."""
        return {"family": self.family} | asdict(self)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a 0-based step."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))

    def sizes(self, step: int) -> tuple[int, ...]:
        """Return the possible numbers of objects in the scenes of a step."""
        return (1, 2) if step < self.simple_steps else (1, 2, 3, 4)
