"""A client's own policy: what a server may ask of it. The policy is a local file that never leaves the client.

The server chooses the settings of a run. With some settings, a single update reveals a picture and its question: one
step on one example, with all weights trained and an optimizer that passes gradients through unchanged. A client takes
part only in runs that its policy allows. docs/security.md explains every key.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from feddat.config.privacy import Level
from feddat.config.sections import Section
from feddat.kinds import KINDS

#: The smallest and the largest allowed value of a number.
Bounds: TypeAlias = tuple[float, float]
Split: TypeAlias = Literal["train", "validation", "test"]
Count: TypeAlias = Annotated[int, Field(ge=0)]

#: Every numeric setting of a run that reaches a client -> its bounds, unless the client sets others. AdamW hides the
#: size of a gradient unless the gradient is small compared with ``train.eps``; then an update *is* the gradient. The
#: bounds of eps, and of settings that can make a loss or a gradient tiny, make that harder. They do not prevent it: a
#: server that chooses the adapter's numbers can still do it (docs/audit.md).
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
    "privacy.colluders": (1, 1e6),
    "privacy.noise_seed": (0, 2**63 - 1),
    "secure_aggregation.threshold": (0.5, 1),
    "secure_aggregation.min_clients": (3, 1e6),
    "secure_aggregation.bits": (8, 32),
    "secure_aggregation.clip": (1e-6, 1e6),
    "eval.every": (1, 1000),
    "eval.batch_size": (1, 4096),
    "eval.rank_top": (1, 4096),
}

#: Methods of this package that send only the adapter, as it is after a round.
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
    *("feddat-2", "fedavg-local", "fedlease", "hilora", "lora-fair"),
    *("fedsa-lora", "ffa-lora", "local", "head"),
)


class PolicyConfig(Section):
    """What a server may ask of this client."""

    approval: Literal["ask", "first-use"] = Field(
        "ask", description="ask: a run waits for `feddat deploy approve RUN`; first-use: its first settings are pinned"
    )
    methods: tuple[str, ...] = Field(
        METHODS, description="allowed methods, named as in `feddat list`, without variants"
    )
    kinds: tuple[str, ...] = Field(("bottleneck", "lora", "prompt", "head"), description="allowed kinds of adapter")
    parts: tuple[Literal["language", "vision", "projector"], ...] = Field(
        ("language",), description="parts of a decoder vision-language model that may get adapters"
    )
    sites: tuple[str, ...] = Field(
        (), description="allowed values of adapter.sites, matched exactly; empty: default sites only"
    )
    traps: tuple[Literal["frozen-local", "long-schedule", "moving-rest", "all"], ...] = Field(
        (), description="faults of the published code that a run may reproduce (train.trap), besides none"
    )
    shared_fusion: bool = Field(False, description="whether a trained fusion of two towers may be sent")
    privacy: Level = Field(
        "none",
        description="weakest privacy that a run may have. none: no privacy required; central: of whole clients, with "
        "noise from the server; client: of whole clients, with noise in shares; shared, all: privacy.scope of records",
    )
    epsilon: float = Field(
        8.0,
        gt=0,
        description="largest privacy.epsilon of a run, where privacy is required, or noise takes the place of guarded "
        "steps",
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="largest privacy.delta of a run, in the same cases")
    total_epsilon: float | None = Field(
        None,
        gt=0,
        description="where privacy is required: largest sum of privacy.epsilon over all runs; null: no limit",
    )
    total_delta: float | None = Field(
        None, gt=0, lt=1, description="where privacy is required: largest sum of privacy.delta over all runs"
    )
    secret_seeds: bool = Field(
        False, description="train with a seed that only this client knows, even if the run does not ask for it"
    )
    guarded_steps: bool = Field(
        True,
        description="train so that a server cannot read single pictures by its choice of the adapter's numbers "
        "(privacy.guarded_steps), even if the run does not ask for it; steps with noise for records are not guarded",
    )
    secure_aggregation: Literal["optional", "required"] = Field(
        "optional",
        description="required: send updates only through secure aggregation, with neighbours whose keys are certified",
    )
    max_parameters: Count = Field(50_000_000, description="most parameters that one update may contain")
    max_value: float = Field(
        1e4, gt=0, description="largest absolute value in an adapter or extra array that the server sends"
    )
    min_examples: Count = Field(64, description="fewest training examples that an update may be based on")
    min_questions: Count = Field(32, description="fewest questions that a score may be based on")
    score_splits: tuple[Split, ...] = Field(
        ("validation", "test"), description="splits that the client may be asked to score"
    )
    updates_a_day: Count = Field(150, description="most updates per day (UTC), summed over all runs")
    evaluations_a_day: Count = Field(150, description="most evaluations per day (UTC), summed over all runs")
    new_runs_a_day: Count = Field(10, description="first-use: most runs approved automatically per day (UTC)")
    train_examples: int | None = Field(None, ge=1, description="cap on training examples; the run's cap is ignored")
    validation_examples: int | None = Field(
        None, ge=1, description="cap on validation examples; the run's cap is ignored"
    )
    test_examples: int | None = Field(None, ge=1, description="cap on test examples; the run's cap is ignored")
    data_seed: int = Field(0, ge=0, description="seed for sampling under these caps; the run's seed is ignored")
    bounds: dict[str, Bounds] = Field(
        BOUNDS, description="setting: [smallest, largest]; settings left out keep their default bounds"
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

    @model_validator(mode="after")
    def _a_total_of_what_is_required(self) -> PolicyConfig:
        totals = {"total_epsilon": self.total_epsilon, "total_delta": self.total_delta}
        if self.privacy == "none":
            if named := [key for key, value in totals.items() if value is not None]:
                raise ValueError(f"{named[0]}: runs without privacy have no total; set privacy to a level")
        elif self.approval == "first-use" and self.total_epsilon is None:
            raise ValueError(
                f"approval: first-use with privacy {self.privacy} lets a server begin runs without end, whose epsilon "
                "adds up; set total_epsilon, or approval: ask"
            )
        return self

    def outside(self, key: str, value: object) -> str | None:
        """Return a message if a number is outside the bounds of its setting, else ``None``.

        Values that are not numbers (``None``, or one of the words that the setting accepts) count as within.
        """
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, bool) or not isinstance(one, int | float):
                continue
            least, most = self.bounds[key]
            if math.isnan(one) or not least <= one <= most:
                return f"{key} is {one:g}, expected {least:g} to {most:g}"
        return None


def _pair(key: str, pair: Any) -> Bounds:
    """Return the pair as two floats in ascending order; YAML 1.1 parses some numbers, such as 1e-6, as text."""
    try:
        least, most = (float(end) for end in pair)
    except (TypeError, ValueError):
        raise ValueError(f"{key}: expected [least, most], got {pair!r}") from None
    if isinstance(pair, str) or not least <= most:
        raise ValueError(f"{key}: expected [least, most], got {pair!r}")
    return least, most
