"""Which versions of the package speak to each other: server and client tell theirs, and each refuses another's.

What messages hold has a number, which goes up with every change after which one side would misread the other. The
package's own version stands beside it, for people. A message without either is of a version that told neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from feddat.one_line import one_line

#: Of what messages hold. 1: told no version; 2: with versions, and the round in which a client trained last.
PROTOCOL = 2
#: Keys of a ConfigRecord.
PACKAGE, NUMBER = "feddat", "messages"
#: Signs of another side's version that are shown.
_MOST = 32

try:
    VERSION = version("feddat")
except PackageNotFoundError:  # run from a folder of sources
    VERSION = "unknown"


class VersionError(ValueError):
    """The other side's messages are of another version; the message says which, and what this side's is."""


def told() -> dict[str, str | int]:
    """Return what each side tells of itself."""
    return {PACKAGE: VERSION, NUMBER: PROTOCOL}


def check(config: Mapping[str, object], other: str, this: str) -> None:
    """Compare what the other side tells of itself.

    Args:
        config: a record of its message.
        other, this: what the two sides are called.

    Raises:
        VersionError: its messages are of another version, or of none.
    """
    number, package = config.get(NUMBER), config.get(PACKAGE)
    if type(number) is int and number == PROTOCOL:
        return
    newer = type(number) is int and number > PROTOCOL
    found = f"messages {number}" if type(number) is int else "messages without a version"
    if isinstance(package, str):
        found = f"feddat {one_line(package, _MOST)}, {found}"
    raise VersionError(
        f"{other} has {'a newer' if newer else 'an older'} version ({found}) than {this} (feddat {VERSION}, messages "
        f"{PROTOCOL}); install the same one on both"
    )
