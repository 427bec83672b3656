"""Personal state on the client's own disk: one safetensors file per round, written completely or not at all.

Flower's context is lost when a node restarts. State that a client must not lose is therefore stored here, keyed by the
client's name. Each file is sealed (:mod:`feddat.seals`), and an altered file is refused. States of earlier versions
have no seals. They are accepted until the client seals its first file, and are sealed together with it.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open
from torch import Tensor

from feddat.client_names import name_problem
from feddat.config.privacy import Promise, keeps
from feddat.files import locked
from feddat.phases import phase
from feddat.seals import BLANK, SEAL, Seal, SealError
from feddat.tensorfile import write_tensors

log = logging.getLogger(__name__)

#: Number of rounds kept: the newest, and the one before it in case the server resumes one round back.
KEEP = 2
#: Seconds to wait for another process that uses the same client's state.
PATIENCE = 10.0

#: File of the seal key in a client's folder, unless the key is kept elsewhere.
KEY_FILE = ".seal.key"
#: In a client's folder: what it has spent of its privacy budget, and the secure sums that it helped to open.
LEDGER_FILE, SUMS_FILE = "privacy.json", "sums.json"
#: Ending of the ledger's copy, beside a seal key that is in a folder of its own.
COPY_ENDING = ".spent.json"
#: File -> its copy there, named after the key. The copy of sums outlives the removal of all files ``RUN.*``.
_COPIES = {LEDGER_FILE: "{}" + COPY_ENDING, SUMS_FILE: ".{}.sums.json"}
#: File -> what it is about, and what is not known without it, for messages.
_ABOUT = {LEDGER_FILE: ("privacy", "what is spent"), SUMS_FILE: ("secure sums", "what was opened")}
#: Metadata key of what the run that wrote a state promised about records.
PROMISE = "privacy"

#: Round, tensors by name, and metadata.
State: TypeAlias = tuple[int, dict[str, Tensor], dict[str, Any]]


class StoreError(RuntimeError):
    """Personal state cannot be written, is missing or was altered; the message names the client and the path."""


class PersonalStore:
    """The personal states of one client, below ``root/client/``."""

    def __init__(
        self, root: Path, client: str, label: str = "round", key: Path | None = None, promise: Promise = "none"
    ) -> None:
        """Open the store; nothing is written before the first :meth:`save`.

        Args:
            root: folder of the stores of all clients.
            client: stable client name; used as a folder name.
            label: first part of the file names, so that two kinds of state can share a folder.
            key: file of the key that seals the states; default: a file in the client's folder.
            promise: what the run promises about records. It is noted with each state, and a state that does not keep it
                is refused.

        Raises:
            StoreError: the client's name cannot be used as a folder name.
        """
        if problem := name_problem(client):
            raise StoreError(f"client {client!r}: {problem}")
        self.client = client
        self.root = Path(root)
        self.folder = self.root / client
        self.label = label
        self.promise: Promise = promise
        self.seal = Seal(key or self.folder / KEY_FILE)

    def beside(self, label: str) -> PersonalStore:
        """Return the store for another kind of state of the same client."""
        return PersonalStore(self.root, self.client, label, self.seal.file, self.promise)

    def seed(self, seed: int) -> int:
        """Return the client's own seed for a run with this seed: the same in every turn, and known only here.

        Raises:
            StoreError: the key that it is derived from cannot be used, or is missing although there are states.
        """
        try:
            if not self.seal.exists and self.rounds():
                raise SealError(f"{self.seal.file} is missing, but it determines the client's seed")
            return self.seal.seed(self.client, seed)
        except (OSError, SealError) as error:
            raise StoreError(f"client {self.client}: privacy.secret_seeds: {error}") from None

    @phase("checkpoints")
    def save(self, round: int, tensors: dict[str, Tensor], meta: dict[str, Any] | None = None) -> None:
        """Write the state after ``round``; then delete all states except the newest two, and any of later rounds.

        The file gets its name only when it is complete on disk; until then the previous state stays. States of later
        rounds are deleted because the run was rewound.

        Raises:
            StoreError: the state cannot be written (disk full, read-only, ...); the previous state is intact.
        """
        metadata = {"round": str(round), "client": self.client, "meta": json.dumps(meta or {})}
        metadata[PROMISE] = self.promise
        path = self._path(round)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # A process killed between write and rename leaves its temporary file; the next save deletes it.
            for stale in self.folder.glob(f".{self.label}-*.tmp"):
                stale.unlink(missing_ok=True)
            self._begin_seals()
            self._write(path, tensors, metadata)
        except OSError as error:
            raise StoreError(
                f"client {self.client}: cannot write personal state {path}: {error.strerror or error}; "
                "the previous state is intact"
            ) from error
        kept = sorted((r for r in self.rounds() if r <= round), reverse=True)[:KEEP]
        for old in self.rounds():
            if old not in kept:
                self._path(old).unlink(missing_ok=True)

    @phase("checkpoints")
    def load(self, before_round: int) -> State | None:
        """Return the newest readable state of a round earlier than ``before_round``, or ``None`` if there is none.

        An unreadable file is skipped with a logged warning, and the state before it is used.

        Raises:
            StoreError: only states of later rounds are left and an earlier one existed; or the state to use was
                altered.
        """
        for round in sorted(self.rounds(), reverse=True):
            if round < before_round and (state := self.read(round)) is not None:
                return state
        later = [r for r in sorted(self.rounds()) if r >= before_round]
        state = self.read(later[0]) if later else None
        if state is not None and state[2].get("previous") is not None:
            raise StoreError(
                f"client {self.client}: personal state before round {before_round} is gone; {self.folder} holds "
                f"only rounds {', '.join(str(r) for r in later)}; resume from a later round or start a new run"
            )
        return None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing this client's states inside the block.

        A process that lost its server may still be in a turn when the run continues elsewhere. If another process
        holds the states, wait for it up to :data:`PATIENCE` seconds.

        Raises:
            StoreError: another process holds the states for too long, or the folder cannot be created.
        """
        deadline = time.monotonic() + PATIENCE
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(self.folder))
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise StoreError(
                            f"client {self.client}: another process is using its personal state in {self.folder}"
                        ) from None
                    time.sleep(0.05)
                except OSError as error:
                    raise StoreError(
                        f"client {self.client}: cannot use {self.folder}: {error.strerror or error}"
                    ) from error
            yield

    def read(self, round: int) -> State | None:
        """Return the state of exactly ``round``, or ``None`` if it is missing or unreadable (logged).

        Raises:
            StoreError: the state is readable, but was altered after it was written, or was trained without the noise
                that the run promises.
        """
        path = self._path(round)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                meta = json.loads(header["meta"])
                if int(header["round"]) != round or header["client"] != self.client:
                    raise ValueError(f"it is client {header['client']!r}'s state of round {header['round']}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            sealed = self.seal.check(path)
        except SealError as error:
            raise StoreError(
                f"client {self.client}: personal state {path}: {error}; restore the original file, remove the file, "
                "or accept it (accept_changes)"
            ) from None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            log.warning("client %s: personal state %s is unreadable and is skipped: %s", self.client, path, error)
            return None
        self._check_promise(path, header)
        if not sealed:
            log.warning("client %s: personal state %s has no seal: it is from an earlier version", self.client, path)
        return round, tensors, meta

    def _check_promise(self, path: Path, header: Mapping[str, str]) -> None:
        """Refuse a state that was trained without the noise that the run promises.

        Raises:
            StoreError: it was; a state of an earlier version, which had no privacy, says nothing.
        """
        found = header.get(PROMISE, "none")
        if not keeps(found, self.promise):
            how = f"with privacy.scope={found}" if found == "shared" else "without noise of records"
            raise StoreError(
                f"client {self.client}: privacy: personal state {path} was trained {how}, but this run promises "
                f"privacy.scope={self.promise}; begin a new run"
            )

    def read_record(self, name: str) -> dict[str, Any] | None:
        """Return what the client must not forget, :data:`LEDGER_FILE` or :data:`SUMS_FILE`; ``None`` if there is none.

        Raises:
            StoreError: it cannot be read, or was altered after it was written.
        """
        return self._read_record(self.folder / name, name)

    def read_copy(self, name: str) -> dict[str, Any] | None:
        """Return a record's copy beside the seal key, which outlives the client's folder; ``None`` if there is none.

        Raises:
            StoreError: as :meth:`read_record`.
        """
        return None if (path := self._copy(name)) is None else self._read_record(path, name)

    def write_record(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a record, sealed, flushed, and whole or not at all; then its copy.

        Raises:
            StoreError: the disk refuses.
        """
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._begin_seals()
            self.seal.write_values(path, values, name)
            if (copy := self._copy(name)) is not None:
                path = copy
                self.seal.write_values(path, values, name)
        except OSError as error:
            raise StoreError(f"client {self.client}: cannot write {path}: {error.strerror or error}") from error

    def _copy(self, name: str) -> Path | None:
        """Return the path of a record's copy; ``None`` if the seal key is beside the states, where a copy is idle."""
        apart = self.seal.file.parent.resolve() != self.folder.resolve()
        return self.seal.file.with_name(_COPIES[name].format(self.seal.file.stem)) if apart else None

    def _read_record(self, path: Path, name: str) -> dict[str, Any] | None:
        about, unknown = _ABOUT[name]
        where = f"client {self.client}: {about}: {path}"
        try:
            found, sealed = self.seal.read_values(path, name, self._needs_seal(name))
            if not sealed:
                log.warning("%s has no seal: it is of an earlier version", where)
        except FileNotFoundError:
            return None
        except SealError as error:
            accepted = ", or accept it (accept_changes)" if path.parent == self.folder else ""
            raise StoreError(f"{where}: {error}; put back what was there, begin a new run{accepted}") from None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{where} cannot be read: {type(error).__name__}; {unknown} is not known, so begin a new run"
            ) from None
        return found

    def _needs_seal(self, name: str) -> bool:
        """Return whether a record without a seal is refused where there is a key.

        Earlier versions did not seal the record of sums though there was a key; then there is no copy of it either.
        """
        return name != SUMS_FILE or ((copy := self._copy(name)) is not None and copy.exists())

    def accept(self) -> None:
        """Seal all states of this client again even if they were altered; log a warning for each file sealed.

        Raises:
            StoreError: a file cannot be read or written.
        """
        try:
            self._seal_all("was altered or had no seal; it is accepted and sealed again", altered=True)
        except OSError as error:
            raise StoreError(f"client {self.client}: cannot seal {self.folder}: {error.strerror or error}") from error

    def _begin_seals(self) -> None:
        if not self.seal.exists:
            self._seal_all("is from an earlier version without seals; it is sealed now", altered=False)

    def _seal_all(self, told: str, altered: bool) -> None:
        """Seal the client's states of all kinds without a seal and, with ``altered``, those whose seal is wrong."""
        # All files are checked before the first is sealed: from then on, a missing seal counts as an alteration.
        found = {name: self.seal.values_to_seal(self.folder / name, name, altered) for name in _COPIES}
        records = {name: values for name, values in found.items() if values is not None}
        for path in [path for path in sorted(self.folder.glob("*.safetensors")) if not self._is_settled(path, altered)]:
            try:
                with safe_open(path, framework="pt") as file:
                    metadata = file.metadata() or {}
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            except SafetensorError:
                continue  # `read` reports it
            self._write(path, tensors, metadata)
            log.warning("client %s: personal state %s %s", self.client, path, told)
        for name, record in records.items():
            self.seal.write_values(self.folder / name, record, name)
            log.warning("client %s: %s: %s %s", self.client, _ABOUT[name][0], self.folder / name, told)

    def _is_settled(self, path: Path, altered: bool) -> bool:
        try:
            return self.seal.check(path)
        except SealError:
            return not altered

    def _write(self, path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        write_tensors(path, tensors, metadata | {SEAL: BLANK}, lambda temporary: self.seal.put(temporary, path.name))

    def rounds(self) -> list[int]:
        """Return the rounds that have a file, readable or not, in ascending order."""
        pattern = re.compile(rf"{re.escape(self.label)}-(\d+)\.safetensors")
        if not self.folder.is_dir():
            return []
        return sorted(int(m[1]) for entry in self.folder.iterdir() if (m := pattern.fullmatch(entry.name)))

    def _path(self, round: int) -> Path:
        return self.folder / f"{self.label}-{round:04d}.safetensors"


def promise_of(path: Path) -> str:
    """Return what the run that wrote a state promised about records; ``none`` for an unreadable state."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get(PROMISE, "none"))
    except (OSError, SafetensorError):
        return "none"
