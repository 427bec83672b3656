"""Foundation models by their names on the Hub: which of a repository's files a run needs, and where they are then.

Configuration, tokenizer, image processor and safetensors are fetched, nothing else: no pickles, and no code, which
would never be run either. Of a repository whose weights are pickles alone, the safetensors are taken that the Hub's own
converter made of them, where there are any.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from feddat.hub import Address, HubError, Repository, fetch, is_offline, look_up, parse_address
from feddat.hub.client import cached_revisions, converted
from feddat.models.base import ModelError

log = logging.getLogger(__name__)

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
_TEXTS = ("*.json", "*.jinja", "*.txt", "*.model")
#: Weights in pickles' index, and whatever lies in folders: other formats, other precisions, samples.
_UNWANTED = ("*/*", "*.bin.index.json")


@dataclass(frozen=True, slots=True)
class Offer:
    """What would be downloaded of a model.

    Attributes:
        source: where its safetensors are, by the revision's name: as asked for, or of the Hub's converter.
        repository: what is there, with the commit.
        files: those that a run needs -> bytes.
    """

    source: Address
    repository: Repository
    files: dict[str, int]


def model_address(name: str) -> Address | None:
    """Return where a model is on the Hub; ``None`` where the text is an existing folder, or no name on the Hub.

    Raises:
        ModelError: it begins with ``hf://`` and cannot be read.
    """
    if Path(name).expanduser().is_dir():
        return None
    try:
        address = parse_address(name, "model")
    except HubError as error:
        raise ModelError(f"model {error}") from None
    if address is not None and address.path:
        raise ModelError(f"model {name}: expected a repository, not a file in one")
    return address


def pin_model(name: str) -> str:
    """Return a model's name with the commit that it has now, after fetching it; all other names as they are.

    Raises:
        ModelError: it cannot be had.
    """
    address = model_address(name)
    if address is None:
        return name
    return str(address) if address.pinned else str(fetch_model(address)[1])


def offer(address: Address) -> Offer:
    """Ask the Hub what would be downloaded of a model.

    Raises:
        ModelError: it cannot be had, or has no weights that can be used.
    """
    source = address
    try:
        repository = look_up(address)
        files = repository.files
        if not _some(files, WEIGHTS) and address.revision is None and (other := converted(address)) is not None:
            log.info("model %s: its weights are pickles; taking the safetensors of %s", address, other.revision)
            source, repository = other, look_up(other)
    except HubError as error:
        raise ModelError(f"model {error}") from None
    if "config.json" not in repository.files:
        raise ModelError(f"model {address}: no config.json; expected a repository in the layout of transformers")
    if not _some(repository.files, WEIGHTS):
        pickles = ", ".join(name for name in files if name.endswith((".bin", ".pt", ".pth"))) or "no weights at all"
        raise ModelError(
            f"model {address}: no safetensors, but {pickles}; `feddat convert {address} --out DIR` reads weights "
            "without running anything, then give model=DIR"
        )
    wanted = {name: size for name, size in repository.files.items() if _wanted(name)}
    return Offer(source, repository, wanted)


def fetch_model(address: Address) -> tuple[Path, Address]:
    """Return the folder of a model, fetched where it is not in the cache, and its address with the commit.

    Raises:
        ModelError: it cannot be had, or is of a family that is not supported.
    """
    try:
        if address.pinned:
            return fetch(address, _all_patterns(), _UNWANTED)
        if is_offline():
            return _fetch_offline(address)
        # By its revision's name, so that the cache knows the commit offline; and first what is small: it may not do.
        source = offer(address).source
        _check_family(fetch(source, ["config.json"])[0], address)
        return fetch(source, _all_patterns(), _UNWANTED)
    except HubError as error:
        raise ModelError(f"model {error}") from None


@lru_cache(maxsize=64)
def named_folder(name: str) -> Path:
    """Return the folder of a model by its name on the Hub, which is looked for once a process.

    Raises:
        ModelError: it cannot be had.
    """
    address = model_address(name)
    assert address is not None
    return fetch_model(address)[0]


def _fetch_offline(address: Address) -> tuple[Path, Address]:
    """Return what the cache has under the name of a revision, or of one with converted weights."""
    named = [] if address.revision is not None else cached_revisions(address)
    revisions: list[str | None] = [*named] or [address.revision]
    for revision in revisions:
        try:
            return fetch(Address("model", address.name, revision), _all_patterns(), _UNWANTED)
        except HubError:
            if revision == revisions[-1]:
                raise
    raise AssertionError("there is at least one revision")


def _check_family(folder: Path, address: Address) -> None:
    from feddat.models.catalog import check_family

    try:
        check_family(folder)
    except ModelError as error:
        raise ModelError(str(error).replace(f"model folder {folder}", f"model {address}")) from None


def _all_patterns() -> list[str]:
    return [*_TEXTS, *WEIGHTS]


def _wanted(name: str) -> bool:
    return _some([name], _all_patterns()) and not _some([name], _UNWANTED)


def _some(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Return whether a name matches a pattern."""
    patterns = list(patterns)
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
