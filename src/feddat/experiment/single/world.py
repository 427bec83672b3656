"""The world of a run, as hashes: its model, the processing of its inputs, and its clients' data.

A run that is resumed in a different world would give numbers that no uninterrupted run can give. The checkpoints
therefore contain the hashes. A client in a process of its own keeps the hashes of its data beside its personal state,
which nobody else sees.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from feddat.app.checkpoint import Checkpoints
from feddat.client.store import StoreError
from feddat.client.trainer import Participant
from feddat.config import RunConfig
from feddat.data.digest import data_hashes
from feddat.experiment.single.deciding import config_hash
from feddat.experiment.single.federation import Federation
from feddat.experiment.single.folder import ExperimentError, RunFolder
from feddat.experiment.single.foundation import Foundation
from feddat.files import write_json

log = logging.getLogger(__name__)

#: Part of the world -> its hash.
World: TypeAlias = dict[str, str]

#: Key of :attr:`Foundation.model` -> name of the part; ``settings`` is missing, since settings are compared directly.
_MODEL = {"weights": "model weights", "encoder": "tokenizer or image processor", "adapter": "sites of adapters"}
#: Name of the weights of runs with ``int8`` and ``int4``. Version 0.1.0 wrote a hash of the rounded weights under the
#: usual name. It depends on the device, so it is not compared.
_UNROUNDED = "model weights before rounding"
#: Settings that determine model and data.
_NAMED = {
    *("model", "weights", "fusion", "benchmark", "root", "clients", "train_examples", "test_examples", "split_clients"),
    *("data_seed", "validation_examples", "revisions", "pictures", "only_clients"),
}
#: Name of the file in a client's store.
_FILE = "data.json"


def model_world(foundation: Foundation) -> World:
    """Return the hashes of a run's model."""
    names = _MODEL | ({"weights": _UNROUNDED} if foundation.config.weights in ("int8", "int4") else {})
    return {name: foundation.model[part] for part, name in names.items()}


def whole_world(federation: Federation) -> World:
    """Return the hashes of a run's model and of all its clients' data."""
    return model_world(federation.foundation) | data_hashes(federation.data.values())


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names that both have with different hashes."""
    return [name for name, value in before.items() if now.get(name, value) != value]


def check_world(
    folder: RunFolder, config: RunConfig, world: Mapping[str, str], accept: bool = False, asked: bool = False
) -> list[str]:
    """Compare the world with that of a run's last checkpoint, and return the parts that have changed since.

    A checkpoint from a version that did not write hashes fits any world.

    Args:
        folder: folder of the run.
        config: the run as given.
        world: the world as far as this process knows it.
        accept: continue despite changes.
        asked: the run is opened only to answer questions, not to be resumed.

    Raises:
        ExperimentError: parts have changed and ``accept`` is off; the message names them.
    """
    round, before = Checkpoints(folder.checkpoints, config_hash(config)).world()
    if not (found := changed(before, world)):
        return []
    if not accept:
        way = ", or use the run anyway (--accept-changes)"
        if not asked:
            way = ", start again (--overwrite), or resume with a note in the summary: "
            way += shlex.join(["feddat", "run", "--resume", str(folder.path), "--accept-changes"])
        raise ExperimentError(
            f"run {folder.path}: changed since round {round}: {_some(found)}; restore the original{way}"
        )
    log.warning("run %s: continues after round %d despite changes to %s", folder.path, round, _some(found))
    return found


def check_client(participant: Participant, accept: bool = False) -> None:
    """Compare a client's data with the data at the start of its personal state; keep the hashes beside the state.

    Raises:
        StoreError: the data has changed and ``accept`` is off, or a file cannot be written.
    """
    store = participant.store
    if accept:
        store.accept()
    path, now = store.folder / _FILE, data_hashes(member.data for member in participant.members.values())
    before = _read(path)
    if before and store.rounds() and (found := changed(before, now)):
        if not accept:
            raise StoreError(
                f"client {store.client}: changed since the start of its personal state in {store.folder}: "
                f"{_some(found)}; restore the original, start a new run, or accept the changes (accept_changes)"
            )
        log.warning("client %s: continues despite changes to %s", store.client, _some(found))
    if before != now:
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, now)
        except OSError as error:
            raise StoreError(f"client {store.client}: cannot write {path}: {error.strerror or error}") from None


def in_short(world: Mapping[str, str]) -> World:
    """Return the hashes of the model and one hash of all data, for a summary."""
    names = {*_MODEL.values(), _UNROUNDED}
    rest = {name: value for name, value in world.items() if name not in names}
    short = {name: value for name, value in world.items() if name in names}
    return short | ({"data": _joined(rest)} if rest else {})


def other_than(finished: Mapping[str, str] | None, world: Mapping[str, str]) -> list[str]:
    """Return the names of a finished run's short hashes that differ in this world."""
    return changed(finished or {}, in_short(world))


def finished_worlds(runs: Mapping[str, RunConfig]) -> dict[str, World]:
    """Return for each run the short hashes of a finished run to compare it with, if there is one.

    Two runs are compared if their settings name the same model and the same data.
    """
    found: dict[str, World] = {}
    keys = {name: json.dumps(run.model_dump(mode="json", include=_NAMED), sort_keys=True) for name, run in runs.items()}
    for name, run in runs.items():
        try:
            summary = RunFolder(run.run_dir).summary() or {}
        except ExperimentError:  # a run that needs this summary fails for it; no other run does
            continue
        if "world" in summary:
            # The sites of adapters depend on the method.
            found.setdefault(keys[name], {k: v for k, v in summary["world"].items() if k != _MODEL["adapter"]})
    return {name: found[key] for name, key in keys.items() if key in found}


def _joined(hashes: Mapping[str, str]) -> str:
    return hashlib.blake2b(json.dumps(hashes, sort_keys=True).encode(), digest_size=8).hexdigest()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", and {len(names) - 8} more" if len(names) > 8 else "")


def _read(path: Path) -> World:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in content.items()} if isinstance(content, dict) else {}
