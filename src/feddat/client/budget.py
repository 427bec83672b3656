"""What a client has spent of its privacy budget in one run, beside its personal state.

It is written down before a round is trained, and never taken back: not when the round fails, and not when the server
goes back to an earlier one, whose answer it may have had already.
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
    """A round would go beyond the privacy budget; the message names the client, the budget, and what is spent."""


class Budget:
    """The ledger of one client in one run.

    Args:
        folder: of the client's personal state.
        client: its name.
        settings: what is promised.
    """

    def __init__(self, folder: Path, client: str, settings: PrivacyConfig) -> None:
        self.file = folder / "privacy.json"
        self._client, self._settings = client, settings

    def spend(self, rate: float, releases: int, steps: int, planned: int) -> float:
        """Write down that a round is to be trained, and return the noise multiplier of its steps.

        Args:
            rate: with which each record is in a step.
            releases: of each step.
            steps: of this round.
            planned: steps of the whole run, which decide the noise where the settings do not.

        Raises:
            BudgetError: the round would go beyond ε; nothing is written.
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
        # With the noise that was found for all planned steps, so many are within the budget.
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
        """Return the steps that were ever begun.

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
                f"client {self._client}: privacy: {self.file} cannot be read: {type(error).__name__}; what is spent is "
                "not known, so begin a new run"
            ) from None

    def epsilon(self) -> float:
        """Return the ε that is spent, for the run's δ."""
        return epsilon_of(self.spent(), self._settings.delta)

    def _write(self, spent: list[Steps]) -> None:
        promised = self._settings.model_dump(mode="json", include={"epsilon", "delta", "clip", "scope"})
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, promised | {"steps": [asdict(part) for part in spent]})
        except OSError as error:
            raise StoreError(f"client {self._client}: cannot write {self.file}: {error.strerror or error}") from error


def _with(spent: list[Steps], more: Steps) -> list[Steps]:
    """Return steps with some more, which are added to the last ones where they are alike."""
    if spent and replace(spent[-1], count=more.count) == more:
        return [*spent[:-1], replace(more, count=spent[-1].count + more.count)]
    return [*spent, more]


def _within(spent: list[Steps], epsilon: float, delta: float) -> bool:
    """Tell whether steps stay within (ε, δ)."""
    if len(spent) > 1:
        return epsilon_of(spent, delta) <= epsilon
    (all_alike,) = spent
    return all_alike.count <= steps_within(epsilon, delta, all_alike.rate, all_alike.noise, all_alike.releases)
