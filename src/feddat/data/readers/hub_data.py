"""Datasets of the Hub as a client's data: fetch the files that a client names, and replace their names by paths.

``format: hf`` with ``root: owner/name@revision`` reads the Parquet files of the splits that are used; other formats
take the files that they need from the repository. ``hf://datasets/owner/name@revision/FILE`` can replace a file or,
under ``images``, a folder. Only the files in use are fetched, into the library's cache; nothing is unpacked.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feddat.data.readers.shards import find_shards, used_splits
from feddat.example import SPLITS, DataError
from feddat.hub import SCHEME, Address, HubError, Repository, fetch, look_up, names_data, parse_address

log = logging.getLogger(__name__)

#: The revision to which the Hub itself converts datasets of any form, as Parquet.
CONVERTED = "refs/convert/parquet"
#: Format -> patterns of the files that it reads from a repository; other formats take all files.
WANTED: Mapping[str, Sequence[str]] = {
    "slake": ("*.json", "imgs.zip", "imgs/*"),
    "pmc-vqa": ("*.csv", "images*.zip", "images/*"),
}
#: Key under which :func:`at_hand` passes on Parquet files; users cannot set it.
SHARDS = "shards of the Hub"
#: Keys of a client's specification that may name files on the Hub.
_FILES = (*SPLITS, "images")


def data_address(text: Any, form: str | None) -> Address | None:
    """Return the Hub dataset that a client's specification names; ``None`` if it names a path.

    Raises:
        DataError: the name begins with ``hf://`` but is not a valid address.
    """
    if not isinstance(text, str) or (not text.startswith(SCHEME) and Path(text).expanduser().exists()):
        return None
    try:
        if not names_data(text, form):
            return None
        return parse_address(text, "dataset")
    except HubError as error:
        raise DataError(str(error)) from None


def pin_data(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a client's specification with its Hub datasets pinned to their current commits.

    Raises:
        DataError: a dataset is not available.
    """
    return {key: _pinned(key, value, spec) for key, value in spec.items()}


def pin_dataset(address: Address, form: str = "hf") -> Address:
    """Return a dataset pinned to its current commit; with ``hf``, to the commit of its Parquet files.

    Raises:
        DataError: the dataset is not available.
    """
    if address.pinned:
        return address
    commit = (_repository if form == "hf" else _look_up)(address).address.revision
    assert commit is not None
    return address.at(commit)


def at_hand(client: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Fetch the Hub files that a client uses, and return its specification with their paths instead of their names.

    The key :data:`SHARDS` of the result holds Parquet files: split -> paths.

    Raises:
        DataError: a dataset is not available or lacks the split; names the client.
    """
    found = dict(spec)
    try:
        if form := spec.get("format"):
            if (address := data_address(spec.get("root"), str(form))) is not None:
                found |= _root(address, str(form), spec)
            return found
        for key in _FILES:
            if (address := data_address(spec.get(key), None)) is not None:
                found[key] = _file(address, key)
    except DataError as error:
        raise DataError(f"client {client!r}: {error}") from None
    return found


def fetch_shards(address: Address, splits: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Fetch the Parquet files of splits and return their paths.

    Raises:
        DataError: the dataset is not available or lacks a split.
    """
    repository = _repository(address)
    known = find_shards(repository.files, repository.configs, address.path)
    for split in splits:
        if split not in known:
            have = ", ".join(known) or "none"
            raise DataError(f"{address}: no split {split!r} in Parquet files; splits are {have}")
    wanted = [path for split in splits for path in known[split]]
    folder = _fetch(repository.address, wanted)
    return {split: tuple(folder / path for path in known[split]) for split in splits}


def fetch_files(address: Address, wanted: Sequence[str]) -> Path:
    """Fetch the files of a dataset that match patterns and return their folder.

    Raises:
        DataError: the files are not available.
    """
    return _fetch(address, wanted)


def _root(address: Address, form: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    if form != "hf":
        folder = _fetch(address, WANTED.get(form, ("*",)))
        return {"root": str(folder / address.path)}
    repository = _repository(address)
    named = {split: str(spec[split]) for split in SPLITS if spec.get(split) is not None}
    splits = used_splits(find_shards(repository.files, repository.configs, address.path), named)
    shards = fetch_shards(address, list(dict.fromkeys(splits.values())))
    folder = next(iter(shards.values()))[0].parent
    return {"root": str(folder), SHARDS: shards} | splits


def _file(address: Address, key: str) -> str:
    if not address.path:
        raise DataError(f"{key}: {address}: expected a file, {SCHEME}datasets/owner/name@revision/FILE")
    folder = _fetch(address, [address.path, f"{address.path.rstrip('/')}/*"])
    path = folder / address.path
    if not path.exists():
        raise DataError(f"{key}: {address}: no such file in the repository")
    return str(path)


def _pinned(key: str, value: Any, spec: Mapping[str, Any]) -> Any:
    form = spec.get("format")
    named = key == "root" if form else key in _FILES
    address = data_address(value, form) if named else None
    if address is None or address.pinned:
        return value
    return str(pin_dataset(address, str(form)))


def _repository(address: Address) -> Repository:
    """Return a repository with Parquet files: the named revision, or the Hub's own conversion of it."""
    found = _look_up(address)
    if address.revision is None and not find_shards(found.files, found.configs, address.path):
        converted = Address("dataset", address.name, CONVERTED, address.path)
        try:
            other = look_up(converted)
        except HubError:
            raise DataError(
                f"{address}: no Parquet files, and the Hub has converted none; if its files have a known format "
                "(`feddat list`), set format to its name"
            ) from None
        log.info("%s: no Parquet files; using the Hub's own conversion (%s)", address, CONVERTED)
        return other
    return found


def _look_up(address: Address) -> Repository:
    try:
        return look_up(address)
    except HubError as error:
        raise DataError(_or_folder(address, error)) from None


def _fetch(address: Address, wanted: Sequence[str]) -> Path:
    try:
        # Fetch the card too; it states the licence.
        return fetch(address, [*map(_escaped, wanted), "README.md"])[0]
    except HubError as error:
        raise DataError(_or_folder(address, error)) from None


def _or_folder(address: Address, error: HubError) -> str:
    """Return the message for a name that may have been meant as a folder."""
    missing = "no such dataset" in str(error)
    return f"{error}; there is no folder {address.name} either" if missing else str(error)


def _escaped(pattern: str) -> str:
    return pattern.replace("[", "[[]")
