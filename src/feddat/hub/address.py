"""Names of repositories on the Hub, as people write them.

================================== ====================================================================
``owner/name``                      at the tip of its main branch
``owner/name@REVISION``             at a branch, a tag, ``refs/pr/N`` or a commit (40 hexadecimal digits)
``hf://owner/name@REVISION``        the same, where a folder of that name might be meant
``hf://datasets/owner/name@R/PATH`` a file or, with ``*``, files of a dataset
================================== ====================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote

#: What a repository holds; each kind has names of its own.
Kind: TypeAlias = Literal["model", "dataset"]
SCHEME = "hf://"
#: Formats of data that are on the Hub in their own files: their root may be ``owner/name`` without ``hf://``. Of others
#: that is a folder, whose name is nobody else's business.
HOSTED = ("hf", "slake", "pmc-vqa")
_PREFIXES: dict[str, Kind] = {"models/": "model", "datasets/": "dataset"}
#: Owner and name: letters, digits, ``-``, ``_`` and ``.``; a mark at the front is a path's.
_NAME = r"[A-Za-z0-9][\w\-.]{0,95}/[A-Za-z0-9][\w\-.]{0,95}"
_REVISION = r"refs/(?:convert|pr)/[\w\-.]+|[\w\-.%]+"
_SHORT = re.compile(rf"(?P<name>{_NAME})(?:@(?P<revision>{_REVISION}))?", re.ASCII)
_LONG = re.compile(rf"{_SHORT.pattern}(?:/(?P<path>.+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubError(ValueError):
    """A name cannot be had from the Hub; the message names it, and says what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """A repository at a revision.

    Attributes:
        kind: of the repository.
        name: ``owner/name``.
        revision: branch, tag, ``refs/pr/N`` or commit; ``None``: the tip of main.
        path: below it, with ``/``; empty: all of it.
    """

    kind: Kind
    name: str
    revision: str | None = None
    path: str = ""

    @property
    def pinned(self) -> bool:
        """Return whether the revision is a commit, which never changes."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> Address:
        """Return the same at a commit."""
        return replace(self, revision=commit)

    def __str__(self) -> str:
        """Return the address as :func:`parse_address` reads it."""
        revision = "" if self.revision is None else f"@{self.revision}"
        if not self.path:
            return f"{self.name}{revision}"
        return f"{SCHEME}{self.kind}s/{self.name}{revision}/{self.path}"


def parse_address(text: str, kind: Kind) -> Address | None:
    """Return the address that a text is; ``None`` where it is of another form, a path for one.

    Args:
        text: see the table above.
        kind: what is wanted.

    Raises:
        HubError: it begins with ``hf://`` and cannot be read, or names another kind.
    """
    if not text.startswith(SCHEME):
        found = _SHORT.fullmatch(text)
        return None if found is None else _address(kind, found)
    rest = text.removeprefix(SCHEME)
    for prefix, named in _PREFIXES.items():
        if rest.startswith(prefix):
            if named != kind:
                raise HubError(f"{text}: names a {named}, where a {kind} is expected")
            rest = rest.removeprefix(prefix)
            break
    found = _LONG.fullmatch(rest)
    if found is None:
        wanted = "owner/name@revision" if kind == "model" else "datasets/owner/name@revision"
        raise HubError(f"{text}: cannot be read; expected {SCHEME}{wanted}")
    return _address(kind, found)


def names_data(text: str, form: str | None) -> bool:
    """Return whether a client's data is on the Hub: ``hf://...``, or ``owner/name`` of a format in :data:`HOSTED`."""
    return text.startswith(SCHEME) or (form in HOSTED and parse_address(text, "dataset") is not None)


def local_or_named(folder: Path, text: str, form: str | None) -> str:
    """Return where a client's data is: a path, absolute from ``folder``, or a name on the Hub where no path exists."""
    path = folder / Path(text).expanduser()
    named = text.startswith(SCHEME) or (not path.exists() and names_data(text, form))
    return text if named else str(path.resolve())


def _address(kind: Kind, found: re.Match[str]) -> Address:
    parts = found.groupdict()
    revision = parts["revision"]
    return Address(kind, parts["name"], None if revision is None else unquote(revision), parts.get("path") or "")
