"""The privacy budget that a client has spent in one run, stored next to its personal state.

A round is recorded before it is trained, and the record is never undone. It stays if the round fails. It also stays if
the server returns to an earlier round, because the server can already have received that round's update.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from feddat.client.store import StoreError
from feddat.config.privacy import PrivacyConfig
from feddat.files import write_json
from feddat.privacy.accounting import Steps, epsilon_of, noise_for, steps_within


class BudgetError(RuntimeError):
    """A round would exceed the privacy budget; the message names the client, the budget and the steps spent."""


class Budget:
    """The ledger of one client in one run.

    Args:
        folder: folder of the client's personal state.
        client: the client's name.
        settings: the privacy that the run promises.
    """

    def __init__(self, folder: Path, client: str, settings: PrivacyConfig) -> None:
        self.file = folder / "privacy.json"
        self._client, self._settings = client, settings

    def spend(self, rate: float, releases: int, steps: int, planned: int) -> float:
        """Record a round before it is trained, and return the noise multiplier of its steps.

        Args:
            rate: probability with which a step samples each record.
            releases: noisy releases per step.
            steps: steps of this round.
            planned: steps of the whole run; they determine the noise if the settings do not.

        Raises:
            BudgetError: the round would exceed ε; nothing is written.
            StoreError: the ledger cannot be read or written.
        """
        epsilon, delta = self._settings.epsilon or 0.0, self._settings.delta
        spent = self.spent()
        chosen, enough = self._settings.noise_multiplier, 0.0
        if chosen is None:
            try:
                enough = noise_for(epsilon, delta, rate, releases, planned)
            except ValueError as error:
                raise BudgetError(f"client {self._client}: privacy: {error}") from None
        noise = chosen or (spent[-1].noise if spent else enough)
        after = _with(spent, Steps(rate, noise, releases, steps))
        # The noise was computed for all planned steps, so that many steps stay within the budget.
        known = chosen is None and len(after) == 1 and noise >= enough and after[0].count <= planned
        if not known and not _within(after, epsilon, delta):
            done = sum(part.count for part in spent)
            raise BudgetError(
                f"client {self._client}: privacy: training stops: {done} steps are done, and {steps} more would go "
                f"beyond epsilon {epsilon:g} (delta {delta:g}) with noise multiplier {noise:.3g}"
            )
        self._write(after)
        return noise

    def spent(self) -> list[Steps]:
        """Return all steps that were ever started.

        Raises:
            StoreError: the ledger cannot be read.
        """
        try:
            raw: Any = json.loads(self.file.read_text(encoding="utf-8"))
            return [Steps(**part) for part in raw["steps"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"client {self._client}: privacy: {self.file} cannot be read: {type(error).__name__}; the spent budget "
                "is unknown, so start a new run"
            ) from None

    def epsilon(self) -> float:
        """Return the ε spent so far, for the run's δ."""
        return epsilon_of(self.spent(), self._settings.delta)

    def _write(self, spent: list[Steps]) -> None:
        promised = self._settings.model_dump(mode="json", include={"epsilon", "delta", "clip", "scope"})
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, promised | {"steps": [asdict(part) for part in spent]})
        except OSError as error:
            raise StoreError(f"client {self._client}: cannot write {self.file}: {error.strerror or error}") from error


def _with(spent: list[Steps], more: Steps) -> list[Steps]:
    """Return steps with ``more`` added; they merge with the last entry if they differ only in number."""
    if spent and replace(spent[-1], count=more.count) == more:
        return [*spent[:-1], replace(more, count=spent[-1].count + more.count)]
    return [*spent, more]


def _within(spent: list[Steps], epsilon: float, delta: float) -> bool:
    """Return whether the steps stay within (ε, δ)."""
    if len(spent) > 1:
        return epsilon_of(spent, delta) <= epsilon
    (all_alike,) = spent
    return all_alike.count <= steps_within(epsilon, delta, all_alike.rate, all_alike.noise, all_alike.releases)
