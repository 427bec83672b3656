"""Captions and questions about plain scenes: the texts that the bundled model is pretrained on.

No downstream question (``questions.py``) is worded like them. No text here counts or compares, so both skills are new
to the bundled model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from feddat.data.mini.concepts import COLOUR_NAMES, CONCEPTS, GROUPS, KINDS, PLACES
from feddat.data.mini.conventions import STANDARD, Convention
from feddat.data.mini.scene import EMPTY

#: (cell, neighbour) -> word for the place of the first cell, seen from the second.
RELATIONS: dict[tuple[int, int], str] = {
    (0, 1): "left",
    (2, 3): "left",
    (1, 0): "right",
    (3, 2): "right",
    (0, 2): "above",
    (1, 3): "above",
    (2, 0): "below",
    (3, 1): "below",
}


@dataclass(slots=True)
class Text:
    """Words about one scene, annotated from the scene graph.

    Attributes:
        words: lower-case words, one token each.
        slots: index of a word that the image determines -> ``object``, ``colour``, ``place`` or ``relation``.
        mentions: index of an object's name -> the cell of the object.
        answer: the answer to a question; empty for a caption.
        kind: what a question asks for; ``caption`` for a caption.
    """

    words: list[str] = field(default_factory=list)
    slots: dict[int, str] = field(default_factory=dict)
    mentions: dict[int, int] = field(default_factory=dict)
    answer: str = ""
    kind: str = "caption"

    def say(self, phrase: str) -> Text:
        """Append plain words."""
        self.words += phrase.split()
        return self

    def slot(self, word: str, kind: str, cell: int | None = None) -> Text:
        """Append one word that the image determines; ``cell`` is set if the word names the object in that cell."""
        self.slots[len(self.words)] = kind
        if cell is not None:
            self.mentions[len(self.words)] = cell
        self.words.append(word)
        return self


class SceneView:
    """One scene for the text makers: names of a convention instead of indices."""

    def __init__(self, objects: list[int], colours: list[int], convention: Convention = STANDARD) -> None:
        self.objects = [None if o == EMPTY else CONCEPTS[o] for o in objects]
        self.colours = [convention.colour(COLOUR_NAMES[c]) for c in colours]
        self.convention = convention
        self.palette, self.families = convention.palette, convention.families
        self.filled = [cell for cell in range(4) if self.objects[cell] is not None]
        self.names = {concept.name for concept in self.objects if concept is not None}

    def name(self, cell: int) -> str:
        """Return the name of the object in a filled cell."""
        concept = self.objects[cell]
        assert concept is not None, f"cell {cell} is empty"
        return concept.name

    def group(self, cell: int) -> str:
        """Return the topic group of the object in a filled cell."""
        concept = self.objects[cell]
        assert concept is not None, f"cell {cell} is empty"
        return self.convention.group(concept.group)

    def kind(self, cell: int) -> str:
        """Return the kind of the object in a filled cell."""
        concept = self.objects[cell]
        assert concept is not None, f"cell {cell} is empty"
        return concept.kind

    def place(self, cell: int) -> str:
        """Return the words for a cell's place."""
        return " ".join(PLACES[cell])

    def relation(self, first: int, second: int) -> str:
        """Return the word for a cell's place as seen from its neighbour."""
        return self.convention.side(RELATIONS[first, second])

    def number(self, count: int) -> str:
        """Return the word for a count of 0 to 4."""
        return self.convention.numbers[count]

    def absent_name(self, random: Random, group: str | None = None) -> str:
        """Return the name of an object that is not shown; of ``group``, if given."""
        while True:
            concept = random.choice(CONCEPTS)
            if concept.name not in self.names and (group is None or self.convention.group(concept.group) == group):
                return concept.name

    def other_colour(self, cell: int, random: Random) -> str:
        """Return a colour other than the colour of the cell's tile."""
        return random.choice([colour for colour in self.palette if colour != self.colours[cell]])


def caption(scene: SceneView, random: Random) -> Text:
    """Describe one to three things of the scene: objects with colour and place, neighbours, empty tiles."""
    text = Text()
    pairs = [(a, b) for (a, b) in RELATIONS if a in scene.filled and b in scene.filled]
    budget = random.choice((1, 2, 2, 3))
    cells = random.sample(scene.filled, min(budget, len(scene.filled)))
    if pairs and random.random() < 0.45:
        first, second = random.choice(pairs)
        _object(text, scene, first, random)
        text.slot(RELATIONS[first, second], "relation").say("of" if RELATIONS[first, second] in _SIDES else "")
        _object(text, scene, second, random)
        cells = [cell for cell in cells if cell not in (first, second)][: budget - 2]
    for cell in cells:
        if text.words:
            text.say("and")
        _object(text, scene, cell, random, place=random.random() < 0.85)
    empty = [cell for cell in range(4) if cell not in scene.filled]
    if empty and random.random() < 0.2:
        cell = random.choice(empty)
        text.say("and an empty").slot(scene.colours[cell], "colour").say("tile")
        _place(text, cell)
    return text


_SIDES = ("left", "right")


def _object(text: Text, scene: SceneView, cell: int, random: Random, place: bool = False) -> None:
    text.say("a").slot(scene.name(cell), "object", cell)
    if random.random() < 0.8:
        text.say("on").slot(scene.colours[cell], "colour")
    if place:
        _place(text, cell)


def _place(text: Text, cell: int) -> None:
    vertical, horizontal = PLACES[cell]
    text.say("at the").slot(vertical, "place").slot(horizontal, "place")


def wrong_caption(text: Text, scene: SceneView, random: Random) -> list[str]:
    """Return the caption's words with one word replaced so that the caption no longer fits the scene."""
    index = random.choice(list(text.slots))
    word, kind = text.words[index], text.slots[index]
    words = list(text.words)
    if kind == "object":
        group = scene.group(text.mentions[index]) if random.random() < 0.5 else None
        words[index] = scene.absent_name(random, group)
    elif kind == "colour":
        words[index] = random.choice([colour for colour in COLOUR_NAMES if colour != word])
    else:
        words[index] = _OPPOSITE[word]
    return words


_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above", "top": "bottom", "bottom": "top"}


def question(scene: SceneView, random: Random) -> Text:
    """Ask about the scene; the answer is one word."""
    return random.choice(_QUESTIONS)(scene, random)


def _ask(kind: str, answer: str) -> Text:
    return Text(kind=kind, answer=answer)


def _at(text: Text, cell: int) -> Text:
    return text.say(" ".join(PLACES[cell]))


def _object_colour(scene: SceneView, random: Random) -> Text:
    cell = random.choice(scene.filled)
    return _ask("colour", scene.colours[cell]).say("which colour is under the").slot(scene.name(cell), "object", cell)


def _place_colour(scene: SceneView, random: Random) -> Text:
    cell = random.randrange(4)
    return _at(_ask("colour", scene.colours[cell]).say("which colour fills the"), cell)


def _place_object(scene: SceneView, random: Random) -> Text:
    cell = random.choice(scene.filled)
    return _at(_ask("object", scene.name(cell)).say("which thing sits at the"), cell)


def _colour_object(scene: SceneView, random: Random) -> Text:
    cell = random.choice(scene.filled)
    if sum(scene.colours[other] == scene.colours[cell] for other in scene.filled) > 1:
        return _place_object(scene, random)
    return _ask("object", scene.name(cell)).say("which thing lies on").slot(scene.colours[cell], "colour")


def _row_or_side(scene: SceneView, random: Random) -> Text:
    cell = random.choice(scene.filled)
    vertical, horizontal = PLACES[cell]
    if random.random() < 0.5:
        return _ask("place", vertical).say("which row holds the").slot(scene.name(cell), "object", cell)
    return _ask("place", horizontal).say("which side holds the").slot(scene.name(cell), "object", cell)


def _group_or_kind(scene: SceneView, random: Random) -> Text:
    cell = random.choice(scene.filled)
    if random.random() < 0.4:
        return _at(_ask("group", scene.group(cell)).say("which family sits at the"), cell)
    if random.random() < 0.5:
        return (
            _ask("kind", scene.kind(cell)).say("which sort lies under the name").slot(scene.name(cell), "object", cell)
        )
    return _at(_ask("kind", scene.kind(cell)).say("which sort sits at the"), cell)


def _neighbour(scene: SceneView, random: Random) -> Text:
    pairs = [(a, b) for (a, b) in RELATIONS if a in scene.filled and b in scene.filled]
    if not pairs:
        return _row_or_side(scene, random)
    first, second = random.choice(pairs)
    word = RELATIONS[first, second]
    if random.random() < 0.5:
        text = _ask("neighbour", scene.name(first)).say("which thing sits").slot(word, "relation")
        return text.say("of the" if word in _SIDES else "the").slot(scene.name(second), "object", second)
    text = _ask("relation", word).say("seen from the").slot(scene.name(second), "object", second)
    return text.say("which way lies the").slot(scene.name(first), "object", first)


def _shown(scene: SceneView, random: Random) -> Text:
    text = _ask("yes/no", "yes").say("does the picture show a")
    if random.random() < 0.5:
        cell = random.choice(scene.filled)
        return text.slot(scene.name(cell), "object", cell)
    text.answer = "no"
    return text.say(scene.absent_name(random))


def _stands_on(scene: SceneView, random: Random) -> Text:
    cell = random.choice(scene.filled)
    text = _ask("yes/no", "yes").say("does the").slot(scene.name(cell), "object", cell).say("sit on")
    if random.random() < 0.5:
        return text.say(scene.colours[cell])
    text.answer = "no"
    return text.say(scene.other_colour(cell, random))


def _both_or_either(scene: SceneView, random: Random) -> Text:
    first = random.random() < 0.5
    second = random.random() < 0.5
    word = random.choice(("and", "or"))
    truth = (first and second) if word == "and" else (first or second)
    cells = random.sample(scene.filled, min(2, len(scene.filled)))
    names = []
    for present, cell in ((first, cells[0]), (second, cells[-1])):
        names.append(scene.name(cell) if present else scene.absent_name(random))
    text = _ask("yes/no", "yes" if truth else "no").say("does it show a")
    return text.say(f"{names[0]} {word} a {names[1]}")


def _true_of_picture(scene: SceneView, random: Random) -> Text:
    described = caption(scene, random)
    if random.random() < 0.5:
        text = _ask("yes/no", "yes").say("does it show")
        offset = len(text.words)
        text.words += described.words
        text.mentions = {index + offset: cell for index, cell in described.mentions.items()}
        return text
    return _ask("yes/no", "no").say("does it show").say(" ".join(wrong_caption(described, scene, random)))


_QUESTIONS = (
    _object_colour,
    _place_colour,
    _place_object,
    _place_object,
    _colour_object,
    _row_or_side,
    _group_or_kind,
    _group_or_kind,
    _neighbour,
    _neighbour,
    _shown,
    _stands_on,
    _both_or_either,
    _true_of_picture,
)

#: Every answer to the questions above.
ANSWERS: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *COLOUR_NAMES,
            *(concept.name for concept in CONCEPTS),
            *GROUPS,
            *(kind for kinds in KINDS.values() for kind in kinds),
            *_OPPOSITE,
            "yes",
            "no",
        ]
    )
)

#: Every word that the texts and answers above can hold, except the names in ``concepts.py``.
FUNCTION_WORDS: tuple[str, ...] = tuple(
    "a an and at above below bottom colour does either empty family fills from holds in is it left lies name no not of "
    "on or picture right row seen show side sit sits sort the thing tile top under way which yes".split()
)
