"""One client's part in secure sums, from message to message, with the protocol's state on its own disk.

| file in the client's folder | holds | until |
| --- | --- | --- |
| ``sum-channel.json`` | this client's key of the run, and the others' keys, each with its owner proven | the next run |
| ``sum.json`` | secrets of the current attempt (:class:`~feddat.privacy.secure_sum.client.ClientSum`) | its end |
| ``sum.f32`` | the update to mask, float32, not rounded yet | it is masked |
| ``sums.json`` | of every round whose sum this client helped to open: whose updates were in it | the next run |

Every state is on the disk before the answer that goes with it leaves, and from ``share`` on it is flushed. So a client
that is killed and asked again, even after a power cut, makes no mask twice and reveals nothing new. ``sums.json`` is
sealed, and where the seal key has a folder of its own a copy is beside the key. What either of them says counts, so a
restored backup forgets no sum. Losing one of the other files costs one attempt.

A client that helped to open a round's sum opens no other of that round. It takes part in another attempt at the round
only if this attempt has all clients of that sum, and no more clients than the attempt that opened it. Otherwise a
server could open the round again with one client less, and find that client's update by subtraction. The proof is in
docs/secure-aggregation.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray
from torch import Tensor

from feddat.client.client_level import NoiseShares
from feddat.client.store import SUMS_FILE, PersonalStore, StoreError
from feddat.files import whole_file
from feddat.phases import phase
from feddat.privacy.secure_sum.client import ClientSum
from feddat.privacy.secure_sum.errors import SumError
from feddat.privacy.secure_sum.identity import Identity
from feddat.privacy.secure_sum.masks import KEY_BYTES, public_bytes
from feddat.privacy.secure_sum.terms import NO_COMMITMENT, Offer, Rules, Terms

log = logging.getLogger(__name__)

_CHANNEL, _STATE, _UPDATE = "sum-channel.json", "sum.json", "sum.f32"
_OPENED = "this round's sum was opened before, over other clients, and is not opened again"
#: Key of what rounding and clipping left of earlier updates.
_LEFT = "left"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Opened:
    """A sum that a client helped to open.

    Attributes:
        names: of the clients whose updates are in it, sorted.
        clients: number of clients in the attempt.
    """

    names: tuple[str, ...]
    clients: int

    def allows(self, names: Collection[str]) -> bool:
        """Return whether a client that helped to open this sum takes part in another attempt at its round.

        ``names``: the clients in the attempt. If they include this sum's, and are no more than in the attempt that
        opened it, then each of two groups has more than half of them: those who know of this sum, and those who would
        open another one. So one client is in both, and opens no other sum.
        """
        return set(self.names) <= set(names) and len(names) <= self.clients


class SecureMember:
    """One client in the sums of its runs.

    Args:
        store: the client's own state.
        rules: of the run's sums.
        identity: the client's certificate; ``None``: it has none, and trusts the keys that the server passes on.
        noise: the client's noise, where clients add noise in shares; ``None``: they add none.
    """

    def __init__(
        self, store: PersonalStore, rules: Rules, identity: Identity | None = None, noise: NoiseShares | None = None
    ) -> None:
        self.store, self.rules, self.identity, self.noise = store, rules, identity, noise

    def offer(
        self, run: str, round: int, shared: Mapping[str, Tensor], received: Mapping[str, Tensor], told: bytes
    ) -> bytes:
        """Begin an attempt with a trained adapter, and return the client's offer as bytes.

        Args:
            run: id of the run.
            round: of the update.
            shared: the trained adapter, as far as it travels.
            received: the adapter that training began with.
            told: hash of all that the server sent for this training, 32 bytes; it must be the same for all clients.
        """
        update = flat({key: value.detach().to("cpu", torch.float32) - received[key] for key, value in shared.items()})
        with self.store.held():
            channel = self._channel(run)
            state = ClientSum(self.store.client)
            self._write(_STATE, {"run": run, "round": round, "told": told.hex(), "sum": state.to_json()})
            self._write_bytes(_UPDATE, update.tobytes())
            made = state.offer(channel)
        credential = b"" if self.identity is None else self.identity.credential(run, made.channel)
        return made.channel + made.mask + made.commitment + credential

    def share(
        self,
        run: str,
        round: int,
        names: Sequence[str],
        masks: bytes,
        fresh: Mapping[str, bytes],
    ) -> bytes:
        """Return sealed shares for the other clients.

        Args:
            run, round: of the attempt.
            names: of all clients in it, sorted.
            masks: keys of the other clients' masks, in this order.
            fresh: name -> key of the run and credential, of clients that this one may not have been shown yet.

        Raises:
            SumError: a client is not who the server says, the terms are not acceptable, or this client helped to open
                another sum of this round.
        """
        others = [name for name in names if name != self.store.client]
        if len(masks) != len(others) * KEY_BYTES:
            raise SumError(f"{len(masks)} bytes of keys, expected {len(others) * KEY_BYTES} for {len(others)} others")

        def take(state: ClientSum, channel: X25519PrivateKey) -> bytes:
            self._check_again(run, round, names)
            channels = self._shown(run, fresh, names) | {self.store.client: public_bytes(channel)}
            if unknown := [name for name in names if name not in channels]:
                raise SumError(f"no key of this run is known of {', '.join(unknown[:5])}")
            keys = {name: masks[KEY_BYTES * at : KEY_BYTES * (at + 1)] for at, name in enumerate(others)}
            keys[self.store.client] = state.offer(channel).mask
            offers = tuple(Offer(channels[name], keys[name], NO_COMMITMENT) for name in names)
            size = self._update().size
            return state.share(Terms(run, round, size, self.rules, self._told(), tuple(names), offers), channel)

        return self._step(run, round, take)

    def mask(self, run: str, round: int, sharers: bytes, sealed: bytes) -> tuple[NDArray[np.uint8], bytes]:
        """Return the masked update and a bitmap of the clients whose shares could be opened.

        What rounding and clipping leave of the update is kept for the next one. With noise in shares, nothing is left
        for the next one, and the client pays for the update first.

        Raises:
            SumError: as :meth:`~feddat.privacy.secure_sum.client.ClientSum.mask`.
            BudgetError: the update would go beyond the client's privacy budget.
        """
        residuals = self.store.beside("residual")

        def with_noise(state: ClientSum, channel: X25519PrivateKey) -> tuple[NDArray[np.uint8], bytes]:
            assert self.noise is not None
            packed, _ = state.mask(sharers, sealed, self._update(), channel, self.noise.pay(round))
            return packed, state.opened

        def take(state: ClientSum, channel: X25519PrivateKey) -> tuple[NDArray[np.uint8], bytes]:
            update = self._update()
            before, kept, _ = residuals.load(round) or (None, {}, {})
            if _LEFT in kept and kept[_LEFT].shape == update.shape:
                update = update + kept[_LEFT].numpy()
            packed, left = state.mask(sharers, sealed, update, channel)
            residuals.save(round, {_LEFT: torch.from_numpy(left)}, {"previous": before})
            clipped = float((np.abs(update) > self.rules.clip).mean()) if update.size else 0.0
            log.info("client %s, round %d: %.2g %% of its numbers were clipped", state.name, round, 100 * clipped)
            return packed, state.opened

        answer = self._step(run, round, take if self.noise is None else with_noise)
        self._path(_UPDATE).unlink(missing_ok=True)
        return answer

    def agree(self, run: str, round: int, survivors: bytes) -> bytes:
        """Return tags on the set of clients in the sum.

        Raises:
            SumError: as :meth:`~feddat.privacy.secure_sum.client.ClientSum.agree`; or this client already helped to
                open this round's sum over other clients.
        """

        def take(state: ClientSum, channel: X25519PrivateKey) -> bytes:
            tags = state.agree(survivors, channel)
            self._check_same(run, round, state.survivors)
            return tags

        return self._step(run, round, take)

    def reveal(self, run: str, round: int, witnesses: bytes, tags: bytes) -> bytes:
        """Return the shares that open the sum, and forget the attempt.

        Raises:
            SumError: as :meth:`~feddat.privacy.secure_sum.client.ClientSum.reveal`.
        """

        def take(state: ClientSum, channel: X25519PrivateKey) -> bytes:
            shares = state.reveal(witnesses, tags, channel)
            self._check_same(run, round, state.survivors)
            assert state.terms is not None
            if (opened := self._opened(run)).get(round) is None:
                opened[round] = Opened(state.survivors, state.terms.clients)
                rounds = {str(round): asdict(found) for round, found in opened.items()}
                self.store.write_record(SUMS_FILE, {"run": run, "rounds": rounds})
            return shares

        shares = self._step(run, round, take)
        self._path(_STATE).unlink(missing_ok=True)
        return shares

    @phase("messages")
    def _step(self, run: str, round: int, take: Callable[[ClientSum, X25519PrivateKey], Answer]) -> Answer:
        """Take a step of the current attempt; its state is on the disk when the answer is returned."""
        with self.store.held():
            found = self._read(_STATE)
            if found is None or (found["run"], found["round"]) != (run, round):
                raise SumError(
                    f"this client has nothing to add to the sum of round {round}: it has not trained, or anew"
                )
            state, channel = ClientSum.from_json(found["sum"]), self._channel(run)
            try:
                return take(state, channel)
            finally:  # a step that fails is not taken again either, nor is one before a power cut
                self._write(_STATE, found | {"sum": state.to_json()}, flushed=True)

    def _channel(self, run: str) -> X25519PrivateKey:
        """Return this client's key pair of a run; make it at the run's first message."""
        found = self._read(_CHANNEL)
        if found is None or found["run"] != run:
            key = X25519PrivateKey.generate()
            self._write(_CHANNEL, {"run": run, "own": key.private_bytes_raw().hex(), "others": {}})
            return key
        return X25519PrivateKey.from_private_bytes(bytes.fromhex(found["own"]))

    def _shown(self, run: str, fresh: Mapping[str, bytes], names: Sequence[str]) -> dict[str, bytes]:
        """Return the other clients' keys of a run, the new ones included; each is checked once.

        Raises:
            IdentityError: a new key does not prove whose it is; or the certificate of one of ``names`` was revoked.
        """
        found = self._read(_CHANNEL) or {}
        serials = found.setdefault("serials", {})  # a file of an earlier version has none
        for name, shown in fresh.items():
            channel, credential = shown[:KEY_BYTES], shown[KEY_BYTES:]
            if self.identity is not None and name != self.store.client:
                serials[name] = self.identity.check(run, name, channel, credential)
            found["others"][name] = channel.hex()
        if fresh:
            self._write(_CHANNEL, found)
        for name in names:
            if self.identity is not None and name in serials:
                self.identity.check_valid(name, serials[name])
        return {name: bytes.fromhex(channel) for name, channel in found["others"].items()}

    def _opened(self, run: str) -> dict[int, Opened]:
        """Return round -> its sum, for the sums that this client helped to open.

        Raises:
            StoreError: the record of them cannot be read, or was altered.
        """
        found, older = opened_sums(self.store, run)
        if older:
            log.warning(
                "client %s: secure sums: %s lacks sums that its copy beside the seal key has, as after restoring an "
                "older backup; the copy counts",
                self.store.client,
                self._path(SUMS_FILE),
            )
        return found

    def _check_again(self, run: str, round: int, names: Sequence[str]) -> None:
        """Refuse an attempt at a round whose sum was opened, unless only the same clients' sum can come of it.

        Raises:
            SumError: clients of that sum are missing, or there are more clients than in the attempt that opened it.
        """
        before = self._opened(run).get(round)
        if before is not None and not before.allows(names):
            raise SumError(_OPENED)

    def _check_same(self, run: str, round: int, names: tuple[str, ...]) -> None:
        before = self._opened(run).get(round)
        if before is not None and before.names != names:
            raise SumError(_OPENED)

    def _told(self) -> bytes:
        """Return the hash of what this client received for the current attempt."""
        return bytes.fromhex((self._read(_STATE) or {}).get("told", ""))

    def _update(self) -> NDArray[np.float32]:
        try:
            return np.frombuffer(self._path(_UPDATE).read_bytes(), np.float32)
        except (OSError, ValueError) as error:
            raise SumError(f"the update that was to be summed is gone: {error}") from None

    def _path(self, name: str) -> Path:
        return self.store.folder / name

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads(self._path(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"client {self.store.client}: {self._path(name)} cannot be read: {error}") from None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def _write(self, name: str, value: Mapping[str, Any], flushed: bool = False) -> None:
        self._write_bytes(name, json.dumps(value).encode(), flushed)

    def _write_bytes(self, name: str, content: bytes, flushed: bool = False) -> None:
        """Write a file that only this user can read, whole or not at all; ``flushed``: even in a power cut."""
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, sync=flushed) as temporary:
                temporary.touch(mode=0o600)
                temporary.write_bytes(content)
        except OSError as error:
            raise StoreError(f"client {self.store.client}: cannot write {path}: {error.strerror or error}") from None


def opened_sums(store: PersonalStore, run: str) -> tuple[dict[int, Opened], bool]:
    """Return round -> its sum, for the sums that a client helped to open; and whether its own record lacks any of them.

    Raises:
        StoreError: the record or its copy cannot be read, or was altered.
    """
    record, copy = (_rounds(store, found, run) for found in (store.read_record(SUMS_FILE), store.read_copy(SUMS_FILE)))
    return copy | record, not copy.keys() <= record.keys()


def _rounds(store: PersonalStore, found: Mapping[str, Any] | None, run: str) -> dict[int, Opened]:
    if found is None or found.get("run") != run:
        return {}
    try:
        # A text is from an earlier version, which did not keep the names: that round is not opened again.
        return {
            int(round): Opened((), 0) if isinstance(one, str) else Opened(tuple(one["names"]), one["clients"])
            for round, one in found["rounds"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"client {store.client}: secure sums: {store.folder / SUMS_FILE} cannot be read: {type(error).__name__}; "
            "what was opened is not known, so begin a new run"
        ) from None


def flat(values: Mapping[str, Tensor]) -> NDArray[np.float32]:
    """Return tensors as one vector, float32 (N,), in the order of their keys: the same on both sides."""
    parts = [values[key].reshape(-1).numpy() for key in sorted(values)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
