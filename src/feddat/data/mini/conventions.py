"""Conventions of the clients: their names for colours and categories, for sides and for numbers.

Two hospitals that grade the same finding on different scales answer the same question about the same picture
differently. In the mini world, a client's convention decides how its questions and answers describe a scene.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from feddat.data.mini.concepts import COLOUR_NAMES, GROUPS

NUMBERS = ("zero", "one", "two", "three", "four")


@dataclass(frozen=True)
class Convention:
    """How one client describes a scene.

    Attributes:
        description: one line.
        colours: colour -> the client's own name for it.
        groups: topic group -> the client's own name for it.
        mirrored: whether left and right of an object are seen from the object, not from the viewer. Places in the
            picture are always seen from the viewer.
        numbers: the client's words for a count of 0 to 4.
    """

    description: str
    colours: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    mirrored: bool = False
    numbers: tuple[str, ...] = NUMBERS

    @cached_property
    def palette(self) -> tuple[str, ...]:
        """Return the client's colour names, each once."""
        return tuple(dict.fromkeys(self.colour(name) for name in COLOUR_NAMES))

    @cached_property
    def families(self) -> tuple[str, ...]:
        """Return the client's names of topic groups, each once."""
        return tuple(dict.fromkeys(self.group(name) for name in GROUPS))

    def colour(self, name: str) -> str:
        """Return the client's name for a colour."""
        return self.colours.get(name, name)

    def group(self, name: str) -> str:
        """Return the client's name for a topic group."""
        return self.groups.get(name, name)

    def side(self, word: str) -> str:
        """Return the client's word for a relation."""
        return _OPPOSITE.get(word, word) if self.mirrored else word


_OPPOSITE = {"left": "right", "right": "left"}

#: The conventions of the bundled model's pretraining.
STANDARD = Convention("the convention of the bundled model's pretraining")

#: Client of ``mini/convention`` -> its convention.
CONVENTIONS: dict[str, Convention] = {
    "standard": STANDARD,
    "mirrored": Convention("left and right are seen from the object, not from the viewer", mirrored=True),
    "coarse": Convention(
        "five names for eight colours; more than one is many",
        colours={"orange": "red", "pink": "red", "purple": "blue"},
        numbers=("zero", "one", "many", "many", "many"),
    ),
    "shifted": Convention(
        "a colour scale shifted by one step",
        colours=dict(zip(COLOUR_NAMES, (*COLOUR_NAMES[1:], COLOUR_NAMES[0]), strict=True)),
    ),
    "renamed": Convention(
        "other names for the families of things",
        groups=dict(zip(GROUPS, (*GROUPS[1:], GROUPS[0]), strict=True)),
    ),
}
