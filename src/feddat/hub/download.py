"""Downloads of large files from published addresses, which continue after a kill or a broken connection."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from feddat.hub.address import HubError

#: Bytes read at a time.
_CHUNK = 1 << 20
#: Number of attempts with a broken connection before the command ends.
_TRIES = 5
_TIMEOUT = 60.0
#: Receives the number of bytes so far and the total number, if the server tells it.
Told: TypeAlias = Callable[[int, int | None], None]


def download(url: str, path: Path, progress: Told = lambda done, total: None) -> None:
    """Download a file; bytes from an earlier call (``NAME.part``) are not downloaded again.

    Args:
        url: an ``http://`` or ``https://`` address.
        path: the destination; its folder is created. Nothing is downloaded if the file exists.
        progress: see :data:`Told`.

    Raises:
        HubError: the file cannot be downloaded; the message names the address.
    """
    import httpx

    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(_TRIES):
        try:
            _fetch_rest(url, part, progress)
            break
        except httpx.TransportError as error:
            if attempt == _TRIES - 1:
                raise HubError(
                    f"{url}: {error or type(error).__name__}; run the same command again to continue"
                ) from error
        except OSError as error:
            raise HubError(
                f"{error.filename or part}: {error.strerror}; run the same command again to continue"
            ) from error
    part.replace(path)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a ZIP file; files that already exist in full size are not written again.

    Raises:
        HubError: the archive is damaged, or an entry would be outside the folder.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                name = PurePosixPath(entry.filename.replace("\\", "/"))
                if name.is_absolute() or ".." in name.parts:
                    raise HubError(
                        f"{archive}: entry {entry.filename!r} is outside the folder; the archive is not safe to unpack"
                    )
                target = folder.joinpath(*name.parts)
                if entry.is_dir() or (target.is_file() and target.stat().st_size == entry.file_size):
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
                with opened.open(entry) as source, temporary.open("wb") as file:
                    while chunk := source.read(_CHUNK):
                        file.write(chunk)
                temporary.replace(target)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise HubError(f"{archive}: cannot be unpacked: {error}; remove it to download it again") from error


def _fetch_rest(url: str, part: Path, progress: Told) -> None:
    """Append the missing part of a file; start over if the server cannot continue in the middle."""
    import httpx

    done = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    headers |= {"Accept-Encoding": "identity", "User-Agent": "feddat"}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=_TIMEOUT) as answer:
        if answer.status_code == 416:  # the part is already the whole file
            return
        if answer.status_code not in (200, 206):
            raise HubError(f"{url}: the server answered {answer.status_code} {answer.reason_phrase}")
        if answer.status_code == 200:
            done = 0
        length = answer.headers.get("content-length")
        total = done + int(length) if length is not None else None
        with part.open("ab" if done else "wb") as file:
            for chunk in answer.iter_raw():  # written as it arrives, so a retry does not download it again
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    if total is not None and done < total:
        raise httpx.ReadError(f"received only {done} of {total} bytes")
