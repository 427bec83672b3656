"""Repositories of the Hub through ``huggingface_hub``: its cache, progress bars, retries and tokens.

What of its environment matters is read at every call: ``HF_ENDPOINT``, ``HF_HUB_CACHE`` (or ``HF_HOME``),
``HF_HUB_OFFLINE`` and, by the library itself, ``HF_TOKEN``. Requests name repositories, revisions and files, and say
who asks: nothing but the versions of this package, of the library and of Python. Telemetry is off for good,
and so is the library's other protocol (Xet): every request is one of HTTP, which a mirror can serve and a test reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from feddat.files import write_atomic, write_json
from feddat.hub.address import Address, HubError

#: Seconds to wait for the Hub's first answer.
TIMEOUT = 20.0
_TRUE = frozenset({"1", "on", "yes", "true"})
#: Who opens requests with weights that were converted to safetensors, and what it calls them.
CONVERTER, CONVERSION = "SFconvertbot", "Adding `safetensors` variant of this model"


@dataclass(frozen=True, slots=True)
class Repository:
    """What the Hub says of a repository.

    Attributes:
        address: with the commit that its revision is now.
        files: path -> bytes.
        licence: as its card says; empty where it says nothing.
        gated: whether its owner decides who may have it.
        configs: of a dataset, as its card has them: which files each split is made of.
    """

    address: Address
    files: Mapping[str, int]
    licence: str
    gated: bool
    configs: Sequence[Mapping[str, Any]] = ()


def look_up(address: Address) -> Repository:
    """Ask the Hub what a repository holds; nothing is downloaded.

    The answer is kept beside the repository's files in the cache: a commit is asked about once, and offline not at all.

    Raises:
        HubError: it cannot be had, or the Hub cannot be reached.
    """
    if (known := _remembered(address)) is not None:
        return known
    if is_offline():
        raise HubError(f"{address}: not in {cache_folder()}, and HF_HUB_OFFLINE is set; pull it once online")
    with _one_line(address):
        info = _api().repo_info(
            address.name, revision=address.revision, repo_type=address.kind, files_metadata=True, timeout=TIMEOUT
        )
        card: Any = info.card_data
        licence = card.get("license") if card is not None else None
        files = {item.rfilename: item.size or 0 for item in info.siblings or ()}
        commit = str(info.sha)
    shown = ", ".join(licence) if isinstance(licence, list) else str(licence or "")
    configs = card.get("configs") if card is not None else None
    usable = [one for one in configs if isinstance(one, dict)] if isinstance(configs, list) else []
    found = Repository(address.at(commit), files, shown, bool(info.gated), usable)
    _remember(found, address)
    return found


def converted(address: Address) -> Address | None:
    """Return where the Hub's own converter keeps a model's weights as safetensors; ``None`` where it does not.

    The converter's requests are open to everybody's eyes and often never merged: their weights are those of main.

    Raises:
        HubError: the Hub cannot be reached.
    """
    with _one_line(address):
        for found in _api().get_repo_discussions(
            address.name, author=CONVERTER, discussion_type="pull_request", repo_type=address.kind
        ):
            if found.author == CONVERTER and found.title == CONVERSION and found.git_reference:
                return Address(address.kind, address.name, str(found.git_reference))
    return None


def fetch(address: Address, wanted: Sequence[str], unwanted: Sequence[str] = ()) -> tuple[Path, Address]:
    """Return a folder that holds the files of a repository that are wanted, and its address with the commit.

    What is in the library's cache is not downloaded again, and without the network a complete copy there serves.

    Args:
        address: ``path`` is not looked at.
        wanted: patterns of names, in which ``*`` also stands for ``/``.
        unwanted: patterns of names that are left out all the same.

    Raises:
        HubError: it cannot be had, or is not complete in the cache and the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    place = str(cache_folder())
    with _one_line(address):
        folder = snapshot_download(
            address.name,
            revision=address.revision,
            repo_type=address.kind,
            allow_patterns=list(wanted),
            ignore_patterns=list(unwanted) or None,
            cache_dir=place,
            endpoint=_endpoint(),
            etag_timeout=TIMEOUT,
            local_files_only=is_offline(),
            max_workers=4,
            **_caller(),
        )
    found = Path(folder)
    return found, address.at(found.name)


def cached_revisions(address: Address) -> list[str]:
    """Return the names of revisions of a repository that the cache knows the commits of, main first."""
    refs = _folder(address) / "refs"
    names = [path.relative_to(refs).as_posix() for path in sorted(refs.rglob("*")) if path.is_file()]
    return sorted(names, key=lambda name: name != "main")


def _folder(address: Address) -> Path:
    """Return the library's folder of a repository, whether it exists or not."""
    return cache_folder() / f"{address.kind}s--{address.name.replace('/', '--')}"


def _remember(found: Repository, asked: Address) -> None:
    content = {key: value for key, value in asdict(found).items() if key != "address"}
    place = _folder(found.address) / "feddat"
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / f"{found.address.revision}.json", content)
    if not asked.pinned:
        write_atomic(_ref(asked), str(found.address.revision).encode())


def _ref(address: Address) -> Path:
    """Return the file that holds the commit that a revision had when it was last asked for."""
    return _folder(address) / "feddat" / f"at-{quote(address.revision or 'main', safe='')}"


def _remembered(address: Address) -> Repository | None:
    """Return what the Hub once said of a commit; of another revision offline alone: it may have moved."""
    if not address.pinned and not is_offline():
        return None
    try:
        if not address.pinned:
            address = address.at(_ref(address).read_text(encoding="utf-8"))
        text = (_folder(address) / "feddat" / f"{address.revision}.json").read_text(encoding="utf-8")
        return Repository(address, **json.loads(text))
    except (OSError, ValueError, TypeError):
        return None


def stores_of(folder: Path) -> tuple[Path, ...]:
    """Return where the links in a repository's folder of the cache lead to; nothing for any other folder.

    The library keeps a repository's files beside its folders, or those of all repositories in one place.
    """
    if "snapshots" not in folder.parts:
        return ()
    cache = cache_folder().absolute()
    parts = folder.absolute().relative_to(cache).parts if folder.absolute().is_relative_to(cache) else ()
    return (cache / parts[0] / "blobs", cache / "blobs") if parts[1:2] == ("snapshots",) else ()


def cache_folder() -> Path:
    """Return where the library keeps what it has downloaded."""
    if named := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Return whether the Hub must not be asked (``HF_HUB_OFFLINE``)."""
    return any(os.environ.get(key, "").lower() in _TRUE for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def _endpoint() -> str | None:
    return (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None


def _caller() -> dict[str, Any]:
    """Return how requests name their sender, after seeing to it that the library adds nothing to it."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    constants.HF_HUB_DISABLE_XET = True
    return {"library_name": "feddat", "library_version": metadata.version("feddat")}


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint(), **_caller())


@contextmanager
def _one_line(address: Address) -> Iterator[None]:
    """Turn the library's errors into one line that names the repository and says what to do."""
    import httpx2
    from huggingface_hub import errors

    kind, name = address.kind, address.name
    place = _endpoint() or "https://huggingface.co"
    try:
        yield
    except errors.GatedRepoError as error:
        asked = "is yours allowed?" if _token() else "no token was sent; log in with `hf auth login`, or set HF_TOKEN"
        raise HubError(
            f"{name}: its owner decides who may have this {kind}: ask on {place}/{_page(address)}, then give your "
            f"token ({asked})"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{name}: has no revision {address.revision!r}; expected a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        raise _unknown(address) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if is_offline():
            raise HubError(
                f"{address}: not complete in {cache_folder()}, and HF_HUB_OFFLINE is set; pull it once online, or copy "
                "that folder from a machine that has it"
            ) from error
        raise _unreachable(address, error.__cause__ or error) from error
    except errors.EntryNotFoundError as error:
        raise HubError(f"{address}: {_first_line(error)}") from error
    except errors.HfHubHTTPError as error:
        # Without a token the Hub refuses what does not exist as it refuses what is private.
        refused = error.response.status_code == 401 and not _token()
        raise (_unknown(address) if refused else _unreachable(address, error)) from error
    except (httpx2.HTTPError, errors.FileMetadataError) as error:
        raise _unreachable(address, error) from error
    except ValueError as error:  # huggingface_hub refuses some names itself
        raise HubError(f"{address}: {_first_line(error)}") from error
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else _first_line(error)
        raise HubError(f"{address}: {named}; what is downloaded stays, the same command goes on") from error


def _unknown(address: Address) -> HubError:
    place = _endpoint() or "https://huggingface.co"
    token = "your token may not see it" if _token() else "no token was sent (`hf auth login`, or HF_TOKEN)"
    return HubError(f"{address.name}: no such {address.kind} at {place}, or a private one and {token}")


def _unreachable(address: Address, error: BaseException) -> HubError:
    place = _endpoint() or "https://huggingface.co"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 429:
        reason = "too many requests; wait some minutes, or log in (`hf auth login`), then give the same command"
    elif status in (401, 403):
        reason = f"refused ({status}); is the token of `hf auth login` or HF_TOKEN still good?"
    else:
        reason = f"{_first_line(error)}; what is downloaded stays, the same command goes on"
    return HubError(f"{address}: cannot be had from {place}: {reason}")


def _page(address: Address) -> str:
    return f"datasets/{address.name}" if address.kind == "dataset" else address.name


def _token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
