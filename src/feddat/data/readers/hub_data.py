"""Datasets of the Hub as a client's data: what is named there is fetched, and its places become paths.

``format: hf`` with ``root: owner/name@revision`` reads the Parquet files of the splits that are used; other formats
take the files that they need of a repository. ``hf://datasets/owner/name@revision/FILE`` may stand for a file or, as
``images``, for a folder. Only what is used is fetched, into the library's cache; nothing is unpacked.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feddat.data.readers.shards import find_shards
from feddat.example import DataError
from feddat.hub import SCHEME, Address, HubError, Repository, fetch, look_up, names_data, parse_address

log = logging.getLogger(__name__)

#: The revision in which the Hub keeps datasets of any form as Parquet, made by itself.
CONVERTED = "refs/convert/parquet"
#: Format -> patterns of the files that it reads of a repository; others take all.
WANTED: Mapping[str, Sequence[str]] = {
    "slake": ("*.json", "imgs.zip", "imgs/*"),
    "pmc-vqa": ("*.csv", "images*.zip", "images/*"),
}
#: Key under which :func:`at_hand` hands on Parquet files; not one that a user may give.
SHARDS = "shards of the Hub"
#: Keys of a client's specification that may name files of the Hub.
_FILES = ("train", "validation", "test", "images")


def data_address(text: Any, form: str | None) -> Address | None:
    """Return the dataset of the Hub that a client's data is, in a format or its own files; ``None`` where it is a path.

    Raises:
        DataError: it begins with ``hf://`` and cannot be read.
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
    """Return a client's specification with the commits that its datasets of the Hub have now.

    Raises:
        DataError: a dataset cannot be had.
    """
    return {key: _pinned(key, value, spec) for key, value in spec.items()}


def pin_dataset(address: Address, form: str = "hf") -> Address:
    """Return a dataset at the commit that it has now: of its Parquet files, where it is read from those (``hf``).

    Raises:
        DataError: it cannot be had.
    """
    if address.pinned:
        return address
    commit = (_repository if form == "hf" else _look_up)(address).address.revision
    assert commit is not None
    return address.at(commit)


def at_hand(client: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a client's specification with paths in place of names on the Hub, after fetching what it uses.

    Parquet files come back under the key :data:`SHARDS`: split -> paths.

    Raises:
        DataError: a dataset cannot be had, or has no such split; names the client.
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
    """Return the Parquet files of splits, after fetching them.

    Raises:
        DataError: the dataset cannot be had, or has no such split.
    """
    repository = _repository(address)
    known = find_shards(repository, address.path)
    for split in splits:
        if split not in known:
            have = ", ".join(known) or "none"
            raise DataError(f"{address}: no split {split!r} in Parquet files; splits are {have}")
    wanted = [path for split in splits for path in known[split]]
    folder = _fetch(repository.address, wanted)
    return {split: tuple(folder / path for path in known[split]) for split in splits}


def dataset_size(address: Address, splits: Sequence[str] = (), wanted: Sequence[str] = ("*",)) -> tuple[int, str]:
    """Return how many bytes a dataset's files have, and its licence, as the Hub says.

    Args:
        address: of the dataset.
        splits: those of which Parquet files are counted; empty: files by pattern.
        wanted: the patterns.

    Raises:
        DataError: it cannot be had.
    """
    from fnmatch import fnmatchcase

    repository = _repository(address) if splits else _look_up(address)
    if splits:
        known = find_shards(repository, address.path)
        names = [path for split in splits for path in known.get(split, [])]
    else:
        names = [path for path in repository.files if any(fnmatchcase(path, pattern) for pattern in wanted)]
    return sum(repository.files[name] for name in names), repository.licence


def fetch_files(address: Address, wanted: Sequence[str]) -> Path:
    """Return the folder of a dataset's files by pattern, after fetching them.

    Raises:
        DataError: they cannot be had.
    """
    return _fetch(address, wanted)


def _root(address: Address, form: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    if form != "hf":
        folder = _fetch(address, WANTED.get(form, ("*",)))
        return {"root": str(folder / address.path)}
    known = find_shards(_repository(address), address.path)
    default = {"train": "train", "test": "test" if "test" in known or "validation" not in known else "validation"}
    if "validation" in known and default["test"] != "validation" and spec.get("validation") is None:
        default["validation"] = "validation"
    named = {split: str(spec[split]) for split in ("train", "validation", "test") if spec.get(split) is not None}
    splits = default | named
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
    """Return a repository with Parquet files: the one named, or what the Hub made of it."""
    found = _look_up(address)
    if address.revision is None and not find_shards(found, address.path):
        converted = Address("dataset", address.name, CONVERTED, address.path)
        try:
            other = look_up(converted)
        except HubError:
            raise DataError(
                f"{address}: no Parquet files, and the Hub has made none of it; if it is in the files of a known "
                "format (`feddat list`), name that as format"
            ) from None
        log.info("%s: no Parquet files; taking what the Hub made of it (%s)", address, CONVERTED)
        return other
    return found


def _look_up(address: Address) -> Repository:
    try:
        return look_up(address)
    except HubError as error:
        raise DataError(_or_folder(address, error)) from None


def _fetch(address: Address, wanted: Sequence[str]) -> Path:
    try:
        # The card comes along: it says what the licence is.
        return fetch(address, [*map(_escaped, wanted), "README.md"])[0]
    except HubError as error:
        raise DataError(_or_folder(address, error)) from None


def _or_folder(address: Address, error: HubError) -> str:
    """Return what to say of a name that may have been meant as a folder."""
    missing = "no such dataset" in str(error)
    return f"{error}; and no folder {address.name} is there" if missing else str(error)


def _escaped(pattern: str) -> str:
    return pattern.replace("[", "[[]")
