"""Settings of differential privacy: what a run promises, for single records or for whole clients (docs/privacy.md)."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from pydantic import Field

from feddat.config.sections import Section

#: What the promise is about: one record of a client, or everything that one client has.
Unit: TypeAlias = Literal["record", "client"]
#: Which part of a client's training is private: only what leads to the adapter that it sends, or everything.
Scope: TypeAlias = Literal["shared", "all"]
#: What a client can require of a run. ``central`` and ``client`` are about whole clients, ``shared`` and ``all`` about
#: records.
Level: TypeAlias = Literal["none", "central", "client", "shared", "all"]
LEVELS: tuple[Level, ...] = get_args(Level)
#: Level -> levels that accept only runs that it accepts too.
AT_LEAST: dict[Level, tuple[Level, ...]] = {
    "none": LEVELS,
    "central": ("central", "client"),
    "client": ("client",),
    "shared": ("shared", "all"),
    "all": ("all",),
}
#: What a client's personal state may have learned from, as it is noted with the state: ``none``: records, without noise
#: of records; ``client``: the same, in a run with unit ``client``; ``shared``, ``all``: the scope of records.
Promise: TypeAlias = Literal["none", "client", "shared", "all"]
#: What meets each level, for error messages.
MEETS: dict[Level, str] = {
    "none": "anything",
    "central": "privacy.unit=client",
    "client": "privacy.unit=client with secure_aggregation.enabled=true",
    "shared": "privacy.unit=record with privacy.scope=shared or all",
    "all": "privacy.unit=record with privacy.scope=all",
}


def keeps(state: str, promise: Promise) -> bool:
    """Return whether a run that makes ``promise`` may continue from a personal state that was trained with another.

    What learned without noise of records may not enter a run that promises something for records: the head or the local
    adapter would carry it into what is released. Privacy of clients needs no such rule (docs/privacy.md, lemma 5).
    """
    return {"all": state == "all", "shared": state in ("shared", "all")}.get(promise, True)


class PrivacyConfig(Section):
    """Differential privacy of records or of clients. It is off unless ``epsilon`` is set."""

    epsilon: float | None = Field(
        None, gt=0, description="largest ε of the whole run, for each record or each client (unit); default: off"
    )
    delta: float = Field(
        1e-5, gt=0, lt=1, description="δ that goes with it; keep it far below 1 / records, or 1 / clients"
    )
    unit: Unit = Field(
        "record",
        description="what is protected. record: each record of each client, by noise in its training; client: "
        "everything that one client has, by noise in the mean of the updates",
    )
    clip: float = Field(
        1.0, gt=0, description="largest L2 norm; unit record: of an example's gradient; unit client: of an update"
    )
    scope: Scope = Field(
        "all",
        description="unit record. all: everything that a client trains is private; shared: what leads to the adapter "
        "that it sends, while its local adapter and its own head learn without noise and stay",
    )
    noise_multiplier: float | None = Field(
        None,
        gt=0,
        description="standard deviation of the noise divided by clip; default: the smallest with which all planned "
        "steps (unit client: rounds) stay within epsilon",
    )
    participations: int | None = Field(
        None,
        ge=1,
        description="unit client: most rounds that one client takes part in, for runs that sample clients; default: "
        "all rounds",
    )
    colluders: int = Field(
        1,
        ge=0,
        description="unit client, noise in shares: number of clients whose noise does not count, because they may tell "
        "it to whoever attacks",
    )
    noise_seed: int | None = Field(
        None,
        ge=0,
        description="only for tests: whoever knows the seed can subtract the noise; default: the system draws it",
    )
    secret_seeds: bool = Field(
        False,
        description="each client draws its head, its local adapter, its batches and its dropout from a seed that only "
        "it knows, so that nobody else can repeat its training; also without epsilon",
    )
    guarded_steps: bool = Field(
        False,
        description="steps of AdamW that show neither the size of gradients nor changes by fewer than four pictures, "
        "against servers that choose an adapter to read single pictures; also without epsilon; train.eps has no effect",
    )

    @property
    def on(self) -> bool:
        """Whether the run promises anything."""
        return self.epsilon is not None

    @property
    def of_records(self) -> bool:
        """Whether the run promises something for each record."""
        return self.on and self.unit == "record"

    @property
    def of_clients(self) -> bool:
        """Whether the run promises something for each client."""
        return self.on and self.unit == "client"

    @property
    def promise(self) -> Promise:
        """What the personal state of a client in this run is trained with."""
        if not self.on:
            return "none"
        return self.scope if self.unit == "record" else "client"

    def meets(self, level: Level, sums: bool) -> bool:
        """Return whether the run promises at least ``level``; ``sums``: it has secure aggregation.

        ``central`` trusts the server to add the noise; ``client`` does not, so the noise must come in shares.
        """
        if level == "none":
            return True
        if level in ("central", "client"):
            return self.of_clients and (sums or level == "central")
        return self.of_records and (self.scope == "all" or level == "shared")
