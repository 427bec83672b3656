"""A client's own policy: what a server may ask of it. It stands in the client's own file, and nothing in it leaves.

A server chooses the settings of a run, and with some settings one update gives a picture and its question away: one
step on one example, all weights trained, an optimizer that passes gradients on as they are. A client takes part in what
its policy allows and in nothing else. docs/security.md explains every key.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator

from feddat.config.privacy import Level
from feddat.config.sections import Section
from feddat.kinds import KINDS

#: The least and the most that a number may be.
Bounds: TypeAlias = tuple[float, float]
Split: TypeAlias = Literal["train", "validation", "test"]
Count: TypeAlias = Annotated[int, Field(ge=0)]

#: Every number among the settings of a run that reaches a client -> its bounds, unless the client sets others. AdamW
#: hides the size of a gradient unless the gradient is small beside ``train.eps``: then an update *is* the gradient.
#: Hence the bounds of eps, and of whatever can make a loss or a gradient tiny.
BOUNDS: dict[str, Bounds] = {
    "rounds": (1, 100),
    "seed": (0, 2**63 - 1),
    "cache_prefix": (0, 65_536),
    "keep_clients": (1, 1_000_000),
    "pictures.max_pixels": (1, 200_000_000),
    "pictures.frame": (1, 100_000),
    "adapter.reduction": (2, 1024),
    "adapter.rank": (1, 64),
    "adapter.alpha": (1, 256),
    "adapter.prompt_tokens": (1, 64),
    "adapter.layers": (1, 1000),
    "head.lr": (0, 100),
    "momentum.alpha": (0, 0.9),
    "momentum.decay": (0, 1),
    "algorithm.alpha": (0, 0.9),
    "algorithm.beta": (0, 0.9),
    "algorithm.temperature": (0.5, 20),
    "algorithm.ramp_rounds": (0, 1000),
    "algorithm.head_share": (0, 0.9),
    "algorithm.personal_layers": (1, 1000),
    "algorithm.instances": (1, 100),
    "algorithm.local_weight": (0, 0.9),
    "algorithm.personal_epochs": (0, 10),
    "algorithm.fedprox_mu": (0, 10),
    "algorithm.scaffold_lr": (0.01, 10),
    "algorithm.feddyn_alpha": (1e-4, 10),
    "algorithm.moon_mu": (0, 10),
    "algorithm.moon_temperature": (0.05, 10),
    "algorithm.ditto_lambda": (0, 10),
    "algorithm.apfl_alpha": (0, 0.9),
    "algorithm.pfedme_lambda": (0.1, 100),
    "algorithm.pfedme_steps": (1, 20),
    "algorithm.pfedme_lr": (1e-5, 0.1),
    "train.epochs": (1, 10),
    "train.steps": (4, 10_000),
    "train.batch_size": (8, 512),
    "train.lr": (1e-6, 0.01),
    "train.weight_decay": (0, 0.5),
    "train.betas": (0.5, 0.9999),
    "train.eps": (0, 1e-6),
    "train.warmup": (0, 1),
    "train.clip_norm": (0.01, 1e6),
    "privacy.epsilon": (0.01, 100),
    "privacy.delta": (0, 1e-3),
    "privacy.clip": (1e-4, 1e4),
    "privacy.noise_multiplier": (0.2, 1000),
    "privacy.participations": (1, 1e6),
    "privacy.colluders": (0, 1e6),
    "privacy.noise_seed": (0, 2**63 - 1),
    "secure_aggregation.threshold": (0.5, 1),
    "secure_aggregation.min_clients": (3, 1e6),
    "secure_aggregation.bits": (8, 32),
    "secure_aggregation.clip": (1e-6, 1e6),
    "eval.every": (1, 1000),
    "eval.batch_size": (1, 4096),
    "eval.rank_top": (1, 4096),
}

#: Methods of this package that send nothing but the adapter, as it is after a round.
METHODS = (
    *(
        "feddat",
        "fedavg",
        "fedprox",
        "feddyn",
        "moon",
        "ditto",
        "apfl",
        "pfedme",
        "fedrep",
        "fedper",
        "feddpa",
        "fedalt",
    ),
    *("feddat-2", "fedlease", "hilora", "lora-fair"),
    *("fedsa-lora", "ffa-lora", "local", "head"),
)


class PolicyConfig(Section):
    """What a server may ask of this client."""

    approval: Literal["ask", "first-use"] = Field(
        "ask", description="ask: a run waits for `feddat deploy approve RUN`; first-use: its first settings are pinned"
    )
    methods: tuple[str, ...] = Field(METHODS, description="methods, by the names of `feddat list`; no variants")
    kinds: tuple[str, ...] = Field(("bottleneck", "lora", "prompt", "head"), description="kinds of adapter")
    parts: tuple[Literal["language", "vision", "projector"], ...] = Field(
        ("language",), description="parts of a decoder vision-language model that may have adapters"
    )
    sites: tuple[str, ...] = Field((), description="what adapter.sites may be, word for word; none: default sites only")
    shared_fusion: bool = Field(False, description="whether a trained fusion of two towers may travel")
    privacy: Level = Field(
        "none",
        description="least privacy of a run. none: it need promise nothing; central: of whole clients, by noise of the "
        "server; client: of whole clients, by noise in shares; shared, all: of records, by privacy.scope",
    )
    epsilon: float = Field(8.0, gt=0, description="where privacy is required: the most privacy.epsilon of a run")
    delta: float = Field(1e-5, gt=0, lt=1, description="where privacy is required: the most privacy.delta of a run")
    secure_aggregation: Literal["optional", "required"] = Field(
        "optional", description="required: updates leave in secure sums alone, with neighbours whose keys are certified"
    )
    max_parameters: Count = Field(50_000_000, description="numbers that may travel in one update")
    min_examples: Count = Field(64, description="training examples that an update must come from, at the least")
    min_questions: Count = Field(32, description="questions that a score must come from, at the least")
    score_splits: tuple[Split, ...] = Field(("validation", "test"), description="splits that may be scored")
    updates_a_day: Count = Field(150, description="updates, of all runs together, per day (UTC)")
    evaluations_a_day: Count = Field(150, description="evaluations, of all runs together, per day (UTC)")
    new_runs_a_day: Count = Field(10, description="first-use: runs that are approved by themselves, per day (UTC)")
    train_examples: int | None = Field(None, ge=1, description="cap on training examples; never the run's")
    validation_examples: int | None = Field(None, ge=1, description="cap on validation examples; never the run's")
    test_examples: int | None = Field(None, ge=1, description="cap on test examples; never the run's")
    data_seed: int = Field(0, ge=0, description="seed by which these caps draw; never the run's")
    bounds: dict[str, Bounds] = Field(
        BOUNDS, description="setting: [least, most]; those that are left out keep their defaults"
    )

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [kind for kind in value if kind not in KINDS]:
            raise ValueError(f"unknown kind of adapter {unknown[0]!r}; kinds are {', '.join(KINDS)}")
        return value

    @field_validator("bounds", mode="before")
    @classmethod
    def _over_the_defaults(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        for key in value:
            if key not in BOUNDS:
                near = difflib.get_close_matches(str(key), BOUNDS, n=1)
                raise ValueError(f"{key!r} has no bounds" + (f"; did you mean {near[0]!r}?" if near else ""))
        return BOUNDS | {key: _pair(key, pair) for key, pair in value.items()}

    def outside(self, key: str, value: object) -> str | None:
        """Say how a number lies outside the bounds of its setting; ``None`` where it does not.

        Values that are no numbers (nothing, or a word among the few that the setting knows) are within.
        """
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, bool) or not isinstance(one, int | float):
                continue
            least, most = self.bounds[key]
            if math.isnan(one) or not least <= one <= most:
                return f"{key} is {one:g}, expected {least:g} to {most:g}"
        return None


def _pair(key: str, pair: Any) -> Bounds:
    """Return two numbers in order; YAML 1.1 takes some, such as 1e-6, for text."""
    try:
        least, most = (float(end) for end in pair)
    except (TypeError, ValueError):
        raise ValueError(f"{key}: expected [least, most], got {pair!r}") from None
    if isinstance(pair, str) or not least <= most:
        raise ValueError(f"{key}: expected [least, most], got {pair!r}")
    return least, most
