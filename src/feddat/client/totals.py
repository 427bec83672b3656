"""What all runs on a client's data have promised together, kept beside the states and not in any run's folder.

Whoever sees what several runs release learns at most what the sums of their ε and δ allow (basic composition; Dwork,
Roth, "The Algorithmic Foundations of Differential Privacy", 2014, theorems 3.16 and B.1). A run counts from its first
training on, with the ε and δ that it promises, whether or not it spends them. A run that is repeated or resumed counts
once; if its promise was changed, with the largest.

There are two copies, sealed with a key of their own: with the approvals, and beside the key. The larger entry of each
run counts, so an old backup of one of them forgets nothing. Whatever is lost, no run trains as if nothing had been
spent: a copy without its key is refused, and so is a run that trained here and whose own ledger is gone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from feddat.client.budget import Budget, newest_ledger
from feddat.client.store import COPY_ENDING, LEDGER_FILE, PersonalStore, StoreError, promise_of
from feddat.config.policy import PolicyConfig
from feddat.config.privacy import PrivacyConfig, Unit
from feddat.files import locked
from feddat.seals import Seal, SealError

log = logging.getLogger(__name__)

#: File of the ledger, and name of its key. No run's id begins with a point.
TOTALS_FILE, TOTALS_KEY = "spent.json", ".total.key"
#: Relative error of sums of decimal numbers that is no excess.
_TOLERANCE = 1e-9

#: Run -> unit -> (ε, δ).
Runs: TypeAlias = dict[str, dict[str, tuple[float, float]]]


class TotalError(RuntimeError):
    """A run would take a client beyond its total budget; the message names the totals."""


@dataclass(frozen=True)
class Spent:
    """What runs of one unit have promised together.

    Attributes:
        epsilon: sum of their ε.
        delta: sum of their δ.
        runs: their number.
    """

    epsilon: float
    delta: float
    runs: int

    def __str__(self) -> str:
        runs = f"{self.runs} run{'s'[: self.runs != 1]}"
        return f"ε {self.epsilon:.4g}, δ {self.delta:.4g} in {runs}"


class Totals:
    """The ledger of one client over all its runs.

    Args:
        client: the client's name.
        state: folder of the client's states, with one folder per run.
        seals: folder of the keys that seal them.
    """

    def __init__(self, client: str, state: Path, seals: Path) -> None:
        self._client, self._state, self._seals = client, state, seals
        self.file = state / ".policy" / TOTALS_FILE
        self._seal = Seal(seals / TOTALS_KEY)
        self._copy = self._seal.file.with_suffix(COPY_ENDING)

    def check(self, run: str, privacy: PrivacyConfig, policy: PolicyConfig) -> None:
        """See to it that a run is within the client's total budget; write nothing.

        Raises:
            TotalError: it is not.
            StoreError: the ledger cannot be read, was altered, or is gone; or the run trained here and its own is gone.
        """
        if privacy.on:
            runs = self.runs()
            if run in runs:
                self._check_ledger(run)
            self._with(runs, run, privacy, policy)

    def grant(self, run: str, privacy: PrivacyConfig, policy: PolicyConfig) -> None:
        """Count a run that is about to train, and begin its own ledger; a run without privacy counts nothing.

        Raises:
            TotalError: it would exceed the client's total budget; nothing is written.
            StoreError: as :meth:`check`; or a ledger cannot be written.
        """
        if not privacy.on:
            return
        try:
            with locked(self.file.parent, wait=True):
                before = self.runs()
                after = self._with(before, run, privacy, policy)
                if run in before:
                    self._check_ledger(run)
                else:  # first, so that a run that is counted has one
                    Budget(self._store(run), privacy).begin()
                if after != before or not (self.file.is_file() and self._copy.is_file()):
                    values = {"runs": {name: {u: list(pair) for u, pair in own.items()} for name, own in after.items()}}
                    for path in (self._copy, self.file):
                        self._seal.write_values(path, values, TOTALS_FILE)
        except (OSError, SealError) as error:
            raise StoreError(f"client {self._client}: privacy: cannot write {self.file}: {error}") from error

    def spent(self) -> dict[Unit, Spent]:
        """Return what all runs have promised together, by unit; units without runs are left out.

        Raises:
            StoreError: the ledger cannot be read, was altered, or is gone.
        """
        return _sums(self.runs())

    def plain_runs(self) -> list[str]:
        """Return the runs that trained here without privacy, as far as their states are still here."""
        known = self.runs()
        found = {path.parent.parent.name for path in self._state.glob(f"*/{self._client}/round-*.safetensors")}
        return sorted(found - known.keys())

    def runs(self) -> Runs:
        """Return what each run has promised.

        Raises:
            StoreError: the ledger cannot be read, was altered, or is gone though its key is there; or the key is gone.
        """
        if not self._seal.exists:
            if left := [path for path in (self.file, self._copy) if path.exists()]:
                raise StoreError(
                    f"client {self._client}: privacy: {left[0]} says what earlier runs have spent, but its key "
                    f"{self._seal.file} is gone; restore the key, or remove {' and '.join(map(str, left))} to begin "
                    "with what the runs' own ledgers say"
                )
            return self._before()
        copies = {path: self._read(path) for path in (self.file, self._copy)}
        if not (good := [found for found in copies.values() if found is not None]):
            raise StoreError(
                f"client {self._client}: privacy: neither {self.file} nor {self._copy} can be read, so what earlier "
                f"runs have spent is not known; restore one of them, or remove {self._seal.file} and "
                "what is left of them to begin with what the runs' own ledgers say"
            )
        merged: Runs = {}
        for found in good:
            for run, own in found.items():
                for unit, pair in own.items():
                    _enter(merged, run, unit, pair)
        return merged

    def _with(self, runs: Runs, run: str, privacy: PrivacyConfig, policy: PolicyConfig) -> Runs:
        """Return the runs and one more, if they are within the total budget."""
        after = {name: dict(own) for name, own in runs.items()}
        _enter(after, run, privacy.unit, (privacy.epsilon or 0.0, privacy.delta))
        total = _sums(after)[privacy.unit]
        limits = {
            "total_epsilon": (total.epsilon, policy.total_epsilon),
            "total_delta": (total.delta, policy.total_delta),
        }
        for key, (found, most) in limits.items():
            if most is not None and found > most * (1 + _TOLERANCE):
                others = {name: own for name, own in runs.items() if name != run}
                spent = _sums(others).get(privacy.unit, Spent(0.0, 0.0, 0))
                raise TotalError(
                    f"policy.{key}: {most:g}; spent so far: {spent}, and run {run} would add ε {privacy.epsilon:g}, "
                    f"δ {privacy.delta:g}"
                )
        return after

    def _read(self, path: Path) -> Runs | None:
        """Return a copy of the ledger; ``None`` if it is missing or torn.

        Raises:
            StoreError: it was altered after it was written.
        """
        try:
            found, sealed = self._seal.read_values(path, TOTALS_FILE, required=False)
            if not sealed:
                raise ValueError("not a sealed JSON object")
            return {
                run: {unit: (float(pair[0]), float(pair[1])) for unit, pair in own.items()}
                for run, own in found["runs"].items()
            }
        except SealError as error:
            raise StoreError(
                f"client {self._client}: privacy: {path}: {error}; restore the original, or remove it: the other copy "
                "then counts"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("client %s: privacy: %s cannot be read: %s", self._client, path, type(error).__name__)
            return None

    def _before(self) -> Runs:
        """Return the promises in the runs' own ledgers, where there is no ledger of all yet.

        Raises:
            StoreError: the ledger of a run that trained with privacy is gone, was altered or cannot be read.
        """
        states = list(self._state.glob(f"*/{self._client}/round-*.safetensors"))
        ledgers = self._state.glob(f"*/{self._client}/{LEDGER_FILE}")
        copies = {path.name.removesuffix(COPY_ENDING) for path in self._seals.glob(f"[!.]*{COPY_ENDING}")}
        found: Runs = {}
        for run in sorted({path.parent.parent.name for path in (*states, *ledgers)} | copies):
            try:
                ledger, _ = newest_ledger(self._store(run))
            except StoreError as error:
                raise StoreError(f"{error}; or remove the files of run {run}, which then no longer counts") from None
            if ledger is not None:
                pair = (_number(ledger, "epsilon"), _number(ledger, "delta"))
                _enter(found, run, str(ledger.get("unit", "record")), pair)
            elif any(promise_of(path) != "none" for path in states if path.parent.parent.name == run):
                raise StoreError(
                    f"client {self._client}: privacy: run {run} trained here with privacy, but its ledger "
                    f"{self._store(run).folder / LEDGER_FILE} is gone; restore it, or remove the files of run {run}, "
                    "which then no longer counts"
                )
        return found

    def _store(self, run: str) -> PersonalStore:
        return PersonalStore(self._state / run, self._client, key=self._seals / f"{run}.key")

    def _check_ledger(self, run: str) -> None:
        """Refuse a run that has been counted, and of which nothing is left that says how much of it was spent.

        Where only states are left, :class:`Budget` refuses to spend.

        Raises:
            StoreError: its ledger and the copy are gone, or cannot be read.
        """
        store = self._store(run)
        if newest_ledger(store)[0] is None and not store.rounds():
            raise StoreError(
                f"client {self._client}: privacy: run {run} trained here before, but its ledger "
                f"{store.folder / LEDGER_FILE} is gone, so what it has spent is not known; restore it, or begin a new "
                "run"
            )


def _number(ledger: Mapping[str, Any], key: str) -> float:
    value = ledger.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def _enter(runs: Runs, run: str, unit: str, pair: tuple[float, float]) -> None:
    """Enter a run's promise; an entry that it has already only grows."""
    before = runs.setdefault(run, {}).get(unit, (0.0, 0.0))
    runs[run][unit] = (max(before[0], pair[0]), max(before[1], pair[1]))


def _sums(runs: Runs) -> dict[Unit, Spent]:
    units: tuple[Unit, ...] = ("record", "client")
    pairs = {unit: [own[unit] for own in runs.values() if unit in own] for unit in units}
    return {
        unit: Spent(math.fsum(e for e, _ in own), math.fsum(d for _, d in own), len(own))
        for unit, own in pairs.items()
        if own
    }
