"""Fetch foundation models by their names on the Hub.

Only configuration, tokenizer, image processor and safetensors are fetched. Pickles and code are not; such code would
never run anyway. If a repository has only pickled weights, the safetensors that the Hub's own converter made of them
are used, if there are any.
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
#: The index of pickled weights, and everything in subfolders: other formats, other precisions, samples.
_UNWANTED = ("*/*", "*.bin.index.json")


@dataclass(frozen=True, slots=True)
class Offer:
    """The files of a model that a download would fetch.

    Attributes:
        source: address of its safetensors, with the requested revision or the one by the Hub's converter.
        repository: content of the repository, with the commit.
        files: name -> size in bytes of each file that a run needs.
    """

    source: Address
    repository: Repository
    files: dict[str, int]


def model_address(name: str) -> Address | None:
    """Return the Hub address of a model; ``None`` if the text is an existing folder, or no name on the Hub.

    Raises:
        ModelError: the text begins with ``hf://`` but is not a valid address.
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
    """Fetch a model of the Hub, and return its name with the current commit; return all other names unchanged.

    Raises:
        ModelError: the model cannot be fetched.
    """
    address = model_address(name)
    if address is None:
        return name
    return str(address) if address.pinned else str(fetch_model(address)[1])


def offer(address: Address) -> Offer:
    """Ask the Hub which files of a model would be downloaded.

    Raises:
        ModelError: the Hub does not provide the model, or the model has no usable weights.
    """
    source = address
    try:
        repository = look_up(address)
        files = repository.files
        if not _some(files, WEIGHTS) and address.revision is None and (other := converted(address)) is not None:
            log.info("model %s: its weights are pickles; using the safetensors of %s", address, other.revision)
            source, repository = other, look_up(other)
    except HubError as error:
        raise ModelError(f"model {error}") from None
    if "config.json" not in repository.files:
        raise ModelError(f"model {address}: no config.json; expected a repository in the layout of transformers")
    if not _some(repository.files, WEIGHTS):
        pickles = ", ".join(name for name in files if name.endswith((".bin", ".pt", ".pth"))) or "no weights at all"
        raise ModelError(
            f"model {address}: no safetensors, but {pickles}; convert them with `feddat convert {address} --out DIR`, "
            "which runs no code from them, then set model=DIR"
        )
    wanted = {name: size for name, size in repository.files.items() if _wanted(name)}
    return Offer(source, repository, wanted)


def fetch_model(address: Address) -> tuple[Path, Address]:
    """Return the folder of a model, after fetching it unless it is in the cache, and its address with the commit.

    Raises:
        ModelError: the model cannot be fetched, or its family is not supported.
    """
    try:
        if address.pinned:
            return fetch(address, _all_patterns(), _UNWANTED)
        if is_offline():
            return _fetch_offline(address)
        # Fetch by the name of the revision, so that the cache knows the commit offline. Fetch the small configuration
        # first, because the family might not be supported.
        source = offer(address).source
        _check_family(fetch(source, ["config.json"])[0], address)
        return fetch(source, _all_patterns(), _UNWANTED)
    except HubError as error:
        raise ModelError(f"model {error}") from None


@lru_cache(maxsize=64)
def named_folder(name: str) -> Path:
    """Return the folder of a model by its name on the Hub. Each process looks a model up only once.

    Raises:
        ModelError: the model cannot be fetched.
    """
    address = model_address(name)
    assert address is not None
    return fetch_model(address)[0]


def _fetch_offline(address: Address) -> tuple[Path, Address]:
    """Return the cached model of the requested revision, or of a revision with converted weights."""
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
    """Return whether any name matches any pattern."""
    patterns = list(patterns)
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
