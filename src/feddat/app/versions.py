"""Version check between server and client: each sends its version, and refuses messages of another one.

The contents of messages have a version number, which rises with every change after which one side would misread the
other. The package's own version travels with it, for people. A message with neither comes from an early version.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from feddat.one_line import one_line

#: Version of the message contents. 1: sends no version; 2: adds versions and the round in which a client trained last;
#: 3: clients of a secure sum are not told each other's commitments; 4: they agree on what they received, and say whose
#: shares they opened.
PROTOCOL = 4
#: Keys of a ConfigRecord.
PACKAGE, NUMBER = "feddat", "messages"
#: How many characters of the other side's version to show.
_MOST = 32

try:
    VERSION = version("feddat")
except PackageNotFoundError:  # run from a source folder
    VERSION = "unknown"


class VersionError(ValueError):
    """The other side's messages have another version; the message names both versions."""


def told() -> dict[str, str | int]:
    """Return the entries by which each side states its version."""
    return {PACKAGE: VERSION, NUMBER: PROTOCOL}


def check(config: Mapping[str, object], other: str, this: str) -> None:
    """Check the version in a message from the other side.

    Args:
        config: a record of the message.
        other, this: names of the two sides, for the error.

    Raises:
        VersionError: the message has another version, or none.
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
        f"{PROTOCOL}); install the same version on both"
    )
