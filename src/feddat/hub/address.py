"""Names of repositories on the Hub, as users write them.

================================== ====================================================================
``owner/name``                      at the tip of its main branch
``owner/name@REVISION``             at a branch, a tag, ``refs/pr/N`` or a commit (40 hexadecimal digits)
``hf://owner/name@REVISION``        the same; never taken for a local folder
``hf://datasets/owner/name@R/PATH`` a file of a dataset, or several files with ``*``
================================== ====================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

#: Content of a repository; each kind has its own namespace.
Kind: TypeAlias = Literal["model", "dataset"]
SCHEME = "hf://"
#: Data formats with their own files on the Hub; their root can be ``owner/name`` without ``hf://``. For other formats,
#: such a root is a local folder, and its name must not be sent to anybody.
HOSTED = ("hf", "slake", "pmc-vqa")
_PREFIXES: dict[str, Kind] = {"models/": "model", "datasets/": "dataset"}
#: Owner and name: letters, digits, ``-``, ``_`` and ``.``; text that starts with a mark is a path.
_NAME = r"[A-Za-z0-9][\w\-.]{0,95}/[A-Za-z0-9][\w\-.]{0,95}"
_REVISION = r"refs/(?:convert|pr)/[\w\-.]+|[\w\-.%]+"
_SHORT = re.compile(rf"(?P<name>{_NAME})(?:@(?P<revision>{_REVISION}))?", re.ASCII)
_LONG = re.compile(rf"{_SHORT.pattern}(?:/(?P<path>.+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubError(ValueError):
    """A repository or file is not available from the Hub; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """A repository at a revision.

    Attributes:
        kind: kind of the repository.
        name: ``owner/name``.
        revision: branch, tag, ``refs/pr/N`` or commit; ``None``: the tip of main.
        path: path inside the repository, with ``/``; empty: the whole repository.
    """

    kind: Kind
    name: str
    revision: str | None = None
    path: str = ""

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> Address:
        """Return the same address at a commit."""
        return replace(self, revision=commit)

    def __str__(self) -> str:
        """Return the address in the form that :func:`parse_address` reads."""
        revision = "" if self.revision is None else f"@{self.revision}"
        if not self.path:
            return f"{self.name}{revision}"
        return f"{SCHEME}{self.kind}s/{self.name}{revision}/{self.path}"


def parse_address(text: str, kind: Kind) -> Address | None:
    """Return the address in a text, or ``None`` if the text has another form, such as a path.

    Args:
        text: the text, in a form of the table above.
        kind: the expected kind.

    Raises:
        HubError: the text starts with ``hf://``, but cannot be parsed or names another kind.
    """
    if not text.startswith(SCHEME):
        found = _SHORT.fullmatch(text)
        return None if found is None else _address(kind, found)
    rest = text.removeprefix(SCHEME)
    for prefix, named in _PREFIXES.items():
        if rest.startswith(prefix):
            if named != kind:
                raise HubError(f"{text}: names a {named}; expected a {kind}")
            rest = rest.removeprefix(prefix)
            break
    found = _LONG.fullmatch(rest)
    if found is None:
        wanted = "owner/name@revision" if kind == "model" else "datasets/owner/name@revision"
        raise HubError(f"{text}: not a name on the Hub; expected {SCHEME}{wanted}")
    return _address(kind, found)


def names_data(text: str, form: str | None) -> bool:
    """Return whether a client's data is on the Hub: ``hf://...``, or ``owner/name`` with a format in :data:`HOSTED`."""
    return text.startswith(SCHEME) or (form in HOSTED and parse_address(text, "dataset") is not None)


def located(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a client's specification with absolute paths, from ``folder``; names on the Hub stay if no path exists."""
    form = spec.get("format")
    # With a format, train, validation and test name its splits.
    paths = ("root",) if form else ("train", "validation", "test", "images")

    def place(text: str) -> str:
        path = folder / Path(text).expanduser()
        named = text.startswith(SCHEME) or (not path.exists() and names_data(text, form))
        return text if named else str(path.resolve())

    return {
        key: place(value) if key in paths and isinstance(value, str) and value else value for key, value in spec.items()
    }


def _address(kind: Kind, found: re.Match[str]) -> Address:
    parts = found.groupdict()
    revision = parts["revision"]
    return Address(kind, parts["name"], None if revision is None else unquote(revision), parts.get("path") or "")
