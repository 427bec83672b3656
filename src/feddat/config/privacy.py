"""What a run promises about single records of its clients (docs/privacy.md)."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from pydantic import Field

from feddat.config.sections import Section

#: What of a client is private: only what leads to what it sends, or everything that it trains.
Scope: TypeAlias = Literal["shared", "all"]
#: What a client can require of a run, least first.
Level: TypeAlias = Literal["none", "shared", "all"]
LEVELS: tuple[Level, ...] = get_args(Level)


class PrivacyConfig(Section):
    """Record-level differential privacy at every client: off unless ``epsilon`` is set."""

    epsilon: float | None = Field(
        None, gt=0, description="ε that no client goes beyond in the whole run, for each of its records; default: off"
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="δ that belongs to it; far below 1 / records of a client")
    clip: float = Field(1.0, gt=0, description="norm that each example's gradient is clipped to")
    scope: Scope = Field(
        "all",
        description="all: everything that a client trains is private; shared: what leads to the adapter that it sends, "
        "while its local adapter and its own head learn without noise and stay",
    )
    noise_multiplier: float | None = Field(
        None, gt=0, description="noise by clip; default: the least with which all planned steps stay within epsilon"
    )
    noise_seed: int | None = Field(
        None, ge=0, description="for tests alone: who knows it can take the noise away; default: drawn by the system"
    )

    @property
    def on(self) -> bool:
        """Whether anything is promised."""
        return self.epsilon is not None
