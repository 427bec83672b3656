"""The privacy guarantee of a run for single records of its clients (docs/privacy.md)."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from pydantic import Field

from feddat.config.sections import Section

#: Which training is private: only that of the modules a client sends, or all of it.
Scope: TypeAlias = Literal["shared", "all"]
#: The privacy that a client can require of a run, weakest first.
Level: TypeAlias = Literal["none", "shared", "all"]
LEVELS: tuple[Level, ...] = get_args(Level)


class PrivacyConfig(Section):
    """Record-level differential privacy at every client; off unless ``epsilon`` is set."""

    epsilon: float | None = Field(
        None, gt=0, description="ε that each client spends at most per record in the whole run; default: off"
    )
    delta: float = Field(
        1e-5, gt=0, lt=1, description="δ of the guarantee; keep it far below 1 / (records of a client)"
    )
    clip: float = Field(1.0, gt=0, description="norm to which each example's gradient is clipped")
    scope: Scope = Field(
        "all",
        description="all: everything a client trains is private; shared: only the training of the adapter it sends is, "
        "while its local adapter and its own head train without noise and never leave the client",
    )
    noise_multiplier: float | None = Field(
        None,
        gt=0,
        description="noise divided by clip; default: the smallest that keeps all planned steps within epsilon",
    )
    noise_seed: int | None = Field(
        None, ge=0, description="only for tests: anyone who knows it can remove the noise; default: drawn by the system"
    )

    @property
    def on(self) -> bool:
        """Whether differential privacy is on."""
        return self.epsilon is not None
