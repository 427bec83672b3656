"""Repositories on the Hub through ``huggingface_hub``, with its cache, progress bars, retries and tokens.

Every call reads the environment variables that matter: ``HF_ENDPOINT``, ``HF_HUB_CACHE`` (or ``HF_HOME``),
``HF_HUB_OFFLINE`` and, in the library itself, ``HF_TOKEN``. Requests contain the names of repositories, revisions and
files. About their sender, they contain only the versions of this package, of the library and of Python. Telemetry is
always off, and so is the library's other protocol (Xet). Every request is plain HTTP, which a mirror can serve and a
test can read.
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
from feddat.hub.card import usable_configs

#: Seconds to wait for the Hub's first answer.
TIMEOUT = 20.0
_TRUE = frozenset({"1", "on", "yes", "true"})
#: The bot that opens pull requests with weights converted to safetensors, and the title of these requests.
CONVERTER, CONVERSION = "SFconvertbot", "Adding `safetensors` variant of this model"


@dataclass(frozen=True, slots=True)
class Repository:
    """The Hub's information about a repository.

    Attributes:
        address: the address with the current commit of its revision.
        files: path -> size in bytes.
        licence: the licence on its card; empty if the card has none.
        gated: whether its owner decides who has access.
        configs: for a dataset, the configurations on its card, which list the files of each split.
    """

    address: Address
    files: Mapping[str, int]
    licence: str
    gated: bool
    configs: Sequence[Mapping[str, Any]] = ()


def look_up(address: Address) -> Repository:
    """Ask the Hub for the contents of a repository without downloading anything.

    The answer is kept next to the repository's files in the cache. The Hub is therefore asked about a commit only once,
    and never when offline.

    Raises:
        HubError: the repository is not available, or the Hub cannot be reached.
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
    found = Repository(address.at(commit), files, shown, bool(info.gated), usable_configs(card))
    _remember(found, address)
    return found


def converted(address: Address) -> Address | None:
    """Return the address of a model's safetensors weights from the Hub's own converter, or ``None`` without any.

    The converter's pull requests are public and often never merged. Their weights equal those of main.

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
    """Return a folder with the wanted files of a repository, and the repository's address with the commit.

    Files in the library's cache are not downloaded again. Offline, a complete copy in the cache is enough.

    Args:
        address: the repository; its ``path`` is ignored.
        wanted: patterns of file names, in which ``*`` also matches ``/``.
        unwanted: patterns of file names to leave out even if they are wanted.

    Raises:
        HubError: the repository is not available, or it is incomplete in the cache and the Hub cannot be reached.
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
    """Return the names of a repository's revisions with a commit in the cache, main first."""
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
    """Return the file with the commit that a revision had at the last request."""
    return _folder(address) / "feddat" / f"at-{quote(address.revision or 'main', safe='')}"


def _remembered(address: Address) -> Repository | None:
    """Return the Hub's earlier answer about a commit; about other revisions only offline, because they can move."""
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
    """Return the folders that the links in a repository's cache folder lead to; empty for any other folder.

    The library stores a repository's files next to its snapshots, or the files of all repositories in one place.
    """
    if "snapshots" not in folder.parts:
        return ()
    cache = cache_folder().absolute()
    parts = folder.absolute().relative_to(cache).parts if folder.absolute().is_relative_to(cache) else ()
    return (cache / parts[0] / "blobs", cache / "blobs") if parts[1:2] == ("snapshots",) else ()


def cache_folder() -> Path:
    """Return the folder of the library's downloads."""
    if named := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Return whether requests to the Hub are forbidden (``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``)."""
    return any(os.environ.get(key, "").lower() in _TRUE for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def _endpoint() -> str | None:
    return (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None


def _caller() -> dict[str, Any]:
    """Turn off the library's telemetry and Xet, and return how requests name their sender."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    constants.HF_HUB_DISABLE_XET = True
    return {"library_name": "feddat", "library_version": metadata.version("feddat")}


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint(), **_caller())


@contextmanager
def _one_line(address: Address) -> Iterator[None]:
    """Turn the library's errors into one line that names the repository and the remedy."""
    import httpx2
    from huggingface_hub import errors

    kind, name = address.kind, address.name
    place = _endpoint() or "https://huggingface.co"
    try:
        yield
    except errors.GatedRepoError as error:
        asked = (
            "does your token have access?"
            if _token()
            else "no token was sent; log in with `hf auth login`, or set HF_TOKEN"
        )
        raise HubError(
            f"{name}: its owner restricts access to this {kind}; request access on {place}/{_page(address)}, then use "
            f"your token ({asked})"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{name}: has no revision {address.revision!r}; expected a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        raise _unknown(address) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if is_offline():
            raise HubError(
                f"{address}: not complete in {cache_folder()}, and HF_HUB_OFFLINE is set; pull it once online, or copy "
                "this folder from a machine that has it"
            ) from error
        raise _unreachable(address, error.__cause__ or error) from error
    except errors.EntryNotFoundError as error:
        raise HubError(f"{address}: {_first_line(error)}") from error
    except errors.HfHubHTTPError as error:
        # Without a token, the Hub answers the same for a missing repository and for a private one.
        refused = error.response.status_code == 401 and not _token()
        raise (_unknown(address) if refused else _unreachable(address, error)) from error
    except (httpx2.HTTPError, errors.FileMetadataError) as error:
        raise _unreachable(address, error) from error
    except ValueError as error:  # huggingface_hub itself refuses some names
        raise HubError(f"{address}: {_first_line(error)}") from error
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else _first_line(error)
        raise HubError(f"{address}: {named}; run the same command again to continue the download") from error


def _unknown(address: Address) -> HubError:
    place = _endpoint() or "https://huggingface.co"
    token = "your token has no access" if _token() else "no token was sent (`hf auth login`, or HF_TOKEN)"
    return HubError(f"{address.name}: no such {address.kind} at {place}, or it is private and {token}")


def _unreachable(address: Address, error: BaseException) -> HubError:
    place = _endpoint() or "https://huggingface.co"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 429:
        reason = "too many requests; wait a few minutes or log in (`hf auth login`), then run the same command again"
    elif status in (401, 403):
        reason = f"refused ({status}); check that the token of `hf auth login` or HF_TOKEN is still valid"
    else:
        reason = f"{_first_line(error)}; run the same command again to continue the download"
    return HubError(f"{address}: cannot be fetched from {place}: {reason}")


def _page(address: Address) -> str:
    return f"datasets/{address.name}" if address.kind == "dataset" else address.name


def _token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
