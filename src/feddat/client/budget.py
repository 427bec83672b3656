"""What a client has spent of its privacy budget in one run, kept beside its personal state.

It is written before anything is released that it pays for. It is never taken back: not when the round fails, and not
when the server goes back to an earlier round, whose answer it may have had already. The file is sealed as states are,
so a ledger that was altered is refused. Where the seal key has a folder of its own, a copy is kept beside the key. A
ledger that was restored from a backup, or removed, has then spent less than its copy, and the copy counts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from feddat.client.store import LEDGER_FILE, PersonalStore, StoreError
from feddat.config.privacy import PrivacyConfig
from feddat.privacy.accounting import Steps, epsilon_of, noise_for, steps_within

log = logging.getLogger(__name__)


class BudgetError(RuntimeError):
    """A round would go beyond the privacy budget; the message names the client, the budget and what is spent."""


class Budget:
    """The ledger of one client in one run.

    Args:
        store: the client's personal state.
        settings: what is promised.
    """

    def __init__(self, store: PersonalStore, settings: PrivacyConfig) -> None:
        self._store, self._client, self._settings = store, store.client, settings

    def begin(self) -> None:
        """Begin the ledger if there is none, so that its loss shows even before anything is spent.

        Raises:
            StoreError: the ledger cannot be read or written, or is gone though there are states that it paid for.
        """
        if newest_ledger(self._store)[0] is None:
            self._write(self.spent())

    def spend(self, rate: float, releases: int, steps: int, planned: int) -> float:
        """Pay for a round of DP-SGD, and return the noise multiplier of its steps.

        Args:
            rate: probability with which each record is in a step's sample.
            releases: of each step.
            steps: of this round.
            planned: steps of the whole run; they decide the noise where the settings do not.

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
        # With the noise that was found for all planned steps, as many steps as planned are within the budget.
        known = chosen is None and len(after) == 1 and noise >= enough and after[0].count <= planned
        if not known:
            self._check(spent, after, "steps")
        self._write(after)
        return noise

    def check_round(self, noise: float) -> None:
        """See to it that the client can pay for one more round with noise in shares; begin the ledger.

        Raises:
            BudgetError: the round would go beyond ε, or beyond the rounds that a client takes part in.
            StoreError: the ledger cannot be read or written.
        """
        spent = self.spent()
        self._after_round(spent, noise)
        if not spent:
            self._write(spent)

    def spend_round(self, noise: float) -> None:
        """Pay for a round with noise in shares.

        Raises:
            BudgetError: as :meth:`check_round`; nothing is written.
            StoreError: the ledger cannot be read or written.
        """
        self._write(self._after_round(self.spent(), noise))

    def _after_round(self, spent: list[Steps], noise: float) -> list[Steps]:
        done, most = sum(part.count for part in spent), self._settings.participations
        if most is not None and done >= most:
            raise BudgetError(
                f"client {self._client}: privacy: training stops: it took part in {done} rounds, which is "
                "privacy.participations"
            )
        after = _with(spent, Steps(1.0, noise, 1, 1, concentrated=True))
        self._check(spent, after, "rounds")
        return after

    def _check(self, spent: list[Steps], after: list[Steps], what: str) -> None:
        epsilon, delta = self._settings.epsilon or 0.0, self._settings.delta
        if not within(after, epsilon, delta):
            done = sum(part.count for part in spent)
            more = sum(part.count for part in after) - done
            raise BudgetError(
                f"client {self._client}: privacy: training stops: {done} {what} are done, and {more} more would go "
                f"beyond epsilon {epsilon:g} (delta {delta:g}) with noise multiplier {after[-1].noise:.3g}"
            )

    def spent(self) -> list[Steps]:
        """Return all steps that were ever begun.

        Raises:
            StoreError: the ledger cannot be read, was altered, or is gone though there are states that it paid for.
        """
        path = self._store.folder / LEDGER_FILE
        found, older = newest_ledger(self._store)
        if older:
            log.warning(
                "client %s: privacy: %s has spent less than its copy beside the seal key, as after restoring an older "
                "backup; the copy counts",
                self._client,
                path,
            )
        if found is None:
            if self._store.rounds():
                raise StoreError(
                    f"client {self._client}: privacy: {path} is gone, though {self._store.folder} has states that it "
                    "paid for; what is spent is not known, so begin a new run"
                )
            return []
        try:
            return [Steps(**part) for part in found["steps"]]
        except (TypeError, KeyError) as error:
            raise StoreError(
                f"client {self._client}: privacy: {path} cannot be read: {type(error).__name__}; what is spent is not "
                "known, so begin a new run"
            ) from None

    def epsilon(self) -> float:
        """Return the ε that is spent, for the run's δ."""
        return epsilon_of(self.spent(), self._settings.delta)

    def _write(self, spent: list[Steps]) -> None:
        promised = self._settings.model_dump(
            mode="json", include={"epsilon", "delta", "clip", "scope"}, exclude_none=True
        )
        if self._settings.unit != "record":
            promised["unit"] = self._settings.unit
        self._store.write_record(LEDGER_FILE, promised | {"steps": [_plain(part) for part in spent]})


def newest_ledger(store: PersonalStore) -> tuple[dict[str, Any] | None, bool]:
    """Return a client's ledger or its copy beside the seal key, whichever has spent more; and whether it is the copy.

    Raises:
        StoreError: one of them cannot be read, or was altered.
    """
    ledger, copy = store.read_record(LEDGER_FILE), store.read_copy(LEDGER_FILE)
    older = copy is not None and (ledger is None or _count(copy) > _count(ledger))
    return (copy if older else ledger), older


def _count(ledger: Mapping[str, Any]) -> int:
    try:
        return sum(int(part["count"]) for part in ledger.get("steps", ()))
    except (TypeError, KeyError, ValueError):
        return 0  # `Budget.spent` refuses it


def within(spent: list[Steps], epsilon: float, delta: float) -> bool:
    """Return whether steps stay within (ε, δ)."""
    if len(spent) != 1:
        return epsilon_of(spent, delta) <= epsilon
    (alike,) = spent
    return alike.count <= steps_within(epsilon, delta, alike.rate, alike.noise, alike.releases, alike.concentrated)


def _with(spent: list[Steps], more: Steps) -> list[Steps]:
    """Return steps with some more, which are added to the last ones where they are alike."""
    if spent and replace(spent[-1], count=more.count) == more:
        return [*spent[:-1], replace(more, count=spent[-1].count + more.count)]
    return [*spent, more]


def _plain(part: Steps) -> dict[str, Any]:
    """Return steps as JSON holds them; what is at its default is left out."""
    found = asdict(part)
    if not part.concentrated:
        del found["concentrated"]
    return found
