"""The vocabulary of the mini world: 96 objects in six topic groups, eight tile colours, four places.

Glyphs come from OpenMoji (CC BY-SA 4.0); see ``assets/NOTICE.md``. Every name is one word and one token of the bundled
model.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Concept:
    """An object of the world.

    Attributes:
        name: one word.
        glyph: the emoji that pictures it.
        group: topic group, one of :data:`GROUPS`.
        kind: sort of thing within its group (common knowledge, not visible).
    """

    name: str
    glyph: str
    group: str
    kind: str


# group -> kind -> "name glyph" pairs
_TABLE: dict[str, dict[str, str]] = {
    "animal": {
        "mammal": "dog 🐕 cat 🐈 horse 🐎 pig 🐖 elephant 🐘 rabbit 🐇",
        "swimmer": "fish 🐟 whale 🐋 octopus 🐙 crab 🦀",
        "flyer": "bird 🐦 owl 🦉 bee 🐝 butterfly 🦋",
        "crawler": "snail 🐌 turtle 🐢",
    },
    "food": {
        "fruit": "apple 🍎 banana 🍌 cherry 🍒 grapes 🍇 lemon 🍋 pear 🍐 strawberry 🍓 pineapple 🍍",
        "vegetable": "carrot 🥕 corn 🌽 mushroom 🍄 broccoli 🥦",
        "snack": "bread 🍞 cheese 🧀 pizza 🍕 cookie 🍪",
    },
    "vehicle": {
        "road": "car 🚗 bus 🚌 truck 🚚 bicycle 🚲 tractor 🚜 scooter 🛴 ambulance 🚑 taxi 🚕",
        "water": "ship 🚢 sailboat ⛵ canoe 🛶 speedboat 🚤",
        "air": "airplane 🛩 helicopter 🚁 rocket 🚀 parachute 🪂",
    },
    "tool": {
        "metal": "hammer 🔨 wrench 🔧 saw 🪚 axe 🪓 screwdriver 🪛 scissors ✂ key 🔑 lock 🔒",
        "home": "ladder 🪜 broom 🧹 bucket 🪣 candle 🕯",
        "desk": "pencil ✏ brush 🖌 magnet 🧲 book 📕",
    },
    "clothing": {
        "head": "hat 👒 cap 🧢 crown 👑 glasses 👓",
        "body": "shirt 👕 dress 👗 jeans 👖 coat 🧥",
        "foot": "sock 🧦 shoe 👟 boot 👢 sandal 👡",
        "hand": "glove 🧤 ring 💍 bag 👜 watch ⌚",
    },
    "toy": {
        "instrument": "guitar 🎸 violin 🎻 piano 🎹 drum 🥁 trumpet 🎺 bell 🔔",
        "ball": "soccer ⚽ basketball 🏀 football 🏈 tennis 🎾",
        "game": "dice 🎲 kite 🪁 balloon 🎈 puzzle 🧩 bowling 🎳 teddy 🧸",
    },
}

CONCEPTS: tuple[Concept, ...] = tuple(
    Concept(name, glyph, group, kind)
    for group, kinds in _TABLE.items()
    for kind, listing in kinds.items()
    for name, glyph in zip(listing.split()[::2], listing.split()[1::2], strict=True)
)
GROUPS: tuple[str, ...] = tuple(_TABLE)
KINDS: dict[str, tuple[str, ...]] = {group: tuple(kinds) for group, kinds in _TABLE.items()}

#: Tile colours, RGB.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 62, 58),
    "orange": (244, 150, 48),
    "yellow": (246, 222, 82),
    "green": (86, 176, 80),
    "blue": (76, 122, 222),
    "purple": (148, 84, 184),
    "pink": (246, 166, 196),
    "gray": (150, 150, 154),
}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)

#: The four cells of the 2 x 2 grid in row-major order, as (vertical word, horizontal word).
PLACES: tuple[tuple[str, str], ...] = (("top", "left"), ("top", "right"), ("bottom", "left"), ("bottom", "right"))
