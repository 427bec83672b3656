"""Downstream questions, statements and choices about scenes, for the mini federations.

No text here is worded like a pretraining text (``captions.py``). Each maker returns ``None`` if its question does not
suit a scene.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from feddat.data.mini.captions import RELATIONS, SceneView
from feddat.data.mini.concepts import COLOUR_NAMES, CONCEPTS, KINDS


class Asked(NamedTuple):
    """A question, its one answer and the skill it needs."""

    text: str
    answer: str
    kind: str


Maker = Callable[[SceneView, Random], Asked | None]


def _of(word: str) -> str:
    return f"{word} of" if word in ("left", "right") else word


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _neighbours(scene: SceneView) -> list[tuple[int, int]]:
    return [(a, b) for (a, b) in RELATIONS if a in scene.filled and b in scene.filled]


def object_colour(scene: SceneView, random: Random) -> Asked | None:
    """Colour of the tile under a named object."""
    cell = random.choice(scene.filled)
    return Asked(f"what colour is the tile of the {scene.name(cell)} ?", scene.colours[cell], "attribute")


def place_colour(scene: SceneView, random: Random) -> Asked | None:
    """Colour of the tile at a place."""
    cell = random.randrange(4)
    return Asked(f"what colour is the {scene.place(cell)} tile ?", scene.colours[cell], "attribute")


def is_colour(scene: SceneView, random: Random) -> Asked | None:
    """Whether a named object stands on a colour."""
    cell = random.choice(scene.filled)
    truth = random.random() < 0.5
    colour = scene.colours[cell] if truth else scene.other_colour(cell, random)
    return Asked(f"is the {scene.name(cell)} on a {colour} tile ?", _yes(truth), "attribute")


def place_object(scene: SceneView, random: Random) -> Asked | None:
    """Which object is at a place."""
    cell = random.choice(scene.filled)
    return Asked(f"what is in the {scene.place(cell)} corner ?", scene.name(cell), "object")


def colour_object(scene: SceneView, random: Random) -> Asked | None:
    """Which object stands on the only occupied tile of a colour."""
    cell = random.choice(scene.filled)
    if sum(scene.colours[other] == scene.colours[cell] for other in scene.filled) > 1:
        return None
    return Asked(f"what stands on the {scene.colours[cell]} tile ?", scene.name(cell), "object")


def related_object(scene: SceneView, random: Random) -> Asked | None:
    """Which object is the neighbour of a named one on a given side."""
    pairs = _neighbours(scene)
    if not pairs:
        return None
    first, second = random.choice(pairs)
    return Asked(
        f"what is {_of(scene.relation(first, second))} the {scene.name(second)} ?", scene.name(first), "relation"
    )


def relation_word(scene: SceneView, random: Random) -> Asked | None:
    """On which side of an object another object is."""
    pairs = _neighbours(scene)
    if not pairs:
        return None
    first, second = random.choice(pairs)
    text = f"where is the {scene.name(first)} compared to the {scene.name(second)} ?"
    return Asked(text, scene.relation(first, second), "relation")


def relation_holds(scene: SceneView, random: Random) -> Asked | None:
    """Whether one object is on a given side of another."""
    pairs = _neighbours(scene)
    if not pairs:
        return None
    first, second = random.choice(pairs)
    truth = random.random() < 0.5
    word = scene.relation(first, second) if truth else scene.relation(second, first)
    return Asked(f"is the {scene.name(first)} {_of(word)} the {scene.name(second)} ?", _yes(truth), "relation")


def neighbour_colour(scene: SceneView, random: Random) -> Asked | None:
    """Colour of the tile on a given side of a named object."""
    first, second = random.choice([pair for pair in RELATIONS if pair[1] in scene.filled])
    side = _of(scene.relation(first, second))
    return Asked(f"what colour is the tile {side} the {scene.name(second)} ?", scene.colours[first], "hop")


def neighbour_kind(scene: SceneView, random: Random) -> Asked | None:
    """What kind of thing is on a given side of a named object."""
    pairs = _neighbours(scene)
    if not pairs:
        return None
    first, second = random.choice(pairs)
    side = _of(scene.relation(first, second))
    return Asked(f"what sort of thing is {side} the {scene.name(second)} ?", scene.kind(first), "hop")


def neighbour_is_colour(scene: SceneView, random: Random) -> Asked | None:
    """Whether the tile on a given side of a named object has a colour."""
    first, second = random.choice([pair for pair in RELATIONS if pair[1] in scene.filled])
    truth = random.random() < 0.5
    colour = scene.colours[first] if truth else scene.other_colour(first, random)
    side = _of(scene.relation(first, second))
    return Asked(f"is the tile {side} the {scene.name(second)} {colour} ?", _yes(truth), "hop")


def place_kind(scene: SceneView, random: Random) -> Asked | None:
    """What kind of thing is at a place."""
    cell = random.choice(scene.filled)
    return Asked(f"what sort of thing is in the {scene.place(cell)} corner ?", scene.kind(cell), "knowledge")


def colour_group(scene: SceneView, random: Random) -> Asked | None:
    """Which family the thing on a tile belongs to."""
    cell = random.choice(scene.filled)
    if sum(scene.colours[other] == scene.colours[cell] for other in scene.filled) > 1:
        return None
    return Asked(f"what family has the thing on the {scene.colours[cell]} tile ?", scene.group(cell), "knowledge")


def shows_group(scene: SceneView, random: Random) -> Asked | None:
    """Whether anything of a family is shown."""
    groups = {scene.group(cell) for cell in scene.filled}
    truth = random.random() < 0.5
    candidates = sorted(groups if truth else set(scene.families) - groups)
    if not candidates:
        return None
    return Asked(f"is there any {random.choice(candidates)} in the picture ?", _yes(truth), "knowledge")


def _present_or_not(scene: SceneView, random: Random, present: bool, cell: int) -> str:
    return scene.name(cell) if present else scene.absent_name(random, scene.group(cell))


def both(scene: SceneView, random: Random) -> Asked | None:
    """Conjunction, disjunction or exclusion of two objects."""
    cells = random.sample(scene.filled, 2)
    first, second = random.random() < 0.6, random.random() < 0.5
    one, two = (_present_or_not(scene, random, p, c) for p, c in zip((first, second), cells, strict=True))
    form = random.randrange(3)
    if form == 0:
        return Asked(f"are there both a {one} and a {two} ?", _yes(first and second), "logical")
    if form == 1:
        return Asked(f"is there a {one} or a {two} ?", _yes(first or second), "logical")
    return Asked(f"is there a {one} and no {two} ?", _yes(first and not second), "logical")


def absent(scene: SceneView, random: Random) -> Asked | None:
    """Negated existence."""
    cell = random.choice(scene.filled)
    present = random.random() < 0.5
    return Asked(f"is there no {_present_or_not(scene, random, present, cell)} ?", _yes(not present), "logical")


def count_colour(scene: SceneView, random: Random) -> Asked | None:
    """How many tiles have a colour."""
    colour = random.choice([*scene.colours, *scene.colours, random.choice(scene.palette)])
    return Asked(f"how many {colour} tiles are there ?", scene.number(scene.colours.count(colour)), "count")


def count_group(scene: SceneView, random: Random) -> Asked | None:
    """How many things of a family are shown."""
    groups = [scene.group(cell) for cell in scene.filled]
    group = random.choice([*groups, *groups, random.choice(scene.families)])
    return Asked(f"how many {group} things are there ?", scene.number(groups.count(group)), "count")


def count_objects(scene: SceneView, random: Random) -> Asked | None:
    """How many things are shown."""
    return Asked("how many objects are there ?", scene.number(len(scene.filled)), "count")


def count_either(scene: SceneView, random: Random) -> Asked | None:
    """How many tiles have one of two colours."""
    one, two = random.sample(sorted({*scene.colours, *random.sample(scene.palette, 2)}), 2)
    number = scene.colours.count(one) + scene.colours.count(two)
    return Asked(f"how many tiles are {one} or {two} ?", scene.number(number), "count")


def count_empty(scene: SceneView, random: Random) -> Asked | None:
    """How many tiles of a colour hold nothing."""
    colour = random.choice([*scene.colours, *scene.colours, random.choice(scene.palette)])
    number = sum(scene.colours[cell] == colour for cell in range(4) if cell not in scene.filled)
    return Asked(f"how many {colour} tiles are empty ?", scene.number(number), "count")


def _compare(first: int, second: int, names: tuple[str, str], random: Random) -> Asked | None:
    if first == second:
        return None
    word = random.choice(("more", "fewer"))
    truth = first > second if word == "more" else first < second
    return Asked(f"are there {word} {names[0]} than {names[1]} ?", _yes(truth), "compare")


def compare_colours(scene: SceneView, random: Random) -> Asked | None:
    """Which of two colours has more tiles."""
    one, two = random.sample(sorted({*scene.colours, *random.sample(scene.palette, 2)}), 2)
    return _compare(scene.colours.count(one), scene.colours.count(two), (f"{one} tiles", f"{two} tiles"), random)


def compare_groups(scene: SceneView, random: Random) -> Asked | None:
    """Which of two families has more members."""
    groups = [scene.group(cell) for cell in scene.filled]
    candidates = sorted({*groups, random.choice(scene.families)})
    if len(candidates) < 2:
        return None
    one, two = random.sample(candidates, 2)
    return _compare(groups.count(one), groups.count(two), (f"{one} things", f"{two} things"), random)


def most_tiles(scene: SceneView, random: Random) -> Asked | None:
    """Which colour most tiles have."""
    ranked = Counter(scene.colours).most_common(2)
    if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
        return None
    return Asked("what colour have the most tiles ?", ranked[0][0], "compare")


def same_colour(scene: SceneView, random: Random) -> Asked | None:
    """Whether two objects stand on the same colour."""
    one, two = random.sample(scene.filled, 2)
    truth = scene.colours[one] == scene.colours[two]
    return Asked(f"do the {scene.name(one)} and the {scene.name(two)} have the same colour ?", _yes(truth), "compare")


#: skill -> question makers.
SKILLS: dict[str, tuple[Maker, ...]] = {
    "attribute": (object_colour, place_colour, is_colour),
    "knowledge": (place_kind, colour_group, shows_group),
    "logical": (both, absent),
    "object": (place_object, colour_object),
    "relation": (related_object, relation_word, relation_holds),
    "hop": (neighbour_colour, neighbour_kind, neighbour_is_colour),
    "count": (count_colour, count_group, count_objects),
    "tally": (count_colour, count_either, count_empty, most_tiles),
    "compare": (compare_colours, compare_groups, most_tiles, same_colour),
}


def entailment(scene: SceneView, covered: int, label: int, random: Random) -> str | None:
    """Return a hypothesis that the picture entails (0), leaves open (1) or contradicts (2) with one cell covered."""
    visible = [cell for cell in scene.filled if cell != covered]
    about_colour = random.random() < 0.4
    if label == 1:
        colour, name = random.choice(scene.palette), random.choice(CONCEPTS).name
        return (
            f"the {scene.place(covered)} tile is {colour}"
            if about_colour
            else f"a {name} is in the {scene.place(covered)} corner"
        )
    if about_colour:
        cell = random.choice([cell for cell in range(4) if cell != covered])
        colour = scene.colours[cell] if label == 0 else scene.other_colour(cell, random)
        return f"the {scene.place(cell)} tile is {colour}"
    if not visible:
        return None
    cell = random.choice(visible)
    name = scene.name(cell) if label == 0 else scene.absent_name(random)
    return f"a {name} is in the {scene.place(cell)} corner"


def pair_statement(first: SceneView, second: SceneView, label: int, random: Random) -> str | None:
    """Return a statement about two pictures that is true (1) or false (0)."""
    form = random.choice(("both pictures have a {} tile", "only one picture has a {} tile", "no picture has a {} tile"))
    colours = [colour for colour in COLOUR_NAMES if _pair_truth(form, first, second, colour) == bool(label)]
    return form.format(random.choice(colours)) if colours else None


def _pair_truth(form: str, first: SceneView, second: SceneView, colour: str) -> bool:
    shown = (colour in first.colours) + (colour in second.colours)
    return {"both": shown == 2, "only": shown == 1, "no": shown == 0}[form.split()[0]]


def multiple_choice(scene: SceneView, random: Random) -> tuple[str, tuple[str, ...], int]:
    """Return a question, four choices and the index of the right choice; each wrong choice is wrong in its own way."""
    cell = random.choice(scene.filled)
    return f"what is in the {scene.place(cell)} corner ?", *_choices(scene, cell, random)


def _choices(scene: SceneView, cell: int, random: Random) -> tuple[tuple[str, ...], int]:
    name, colour = scene.name(cell), scene.colours[cell]
    others = [scene.name(other) for other in scene.filled if other != cell]
    wrong = [
        f"a {name} on {scene.other_colour(cell, random)}",
        f"a {random.choice(others)} on {colour}",
        f"a {scene.absent_name(random)} on {random.choice((colour, scene.other_colour(cell, random)))}",
    ]
    choices = [f"a {name} on {colour}", *wrong]
    order = random.sample(range(4), 4)
    return tuple(choices[i] for i in order), order.index(0)


def richer_multiple_choice(scene: SceneView, random: Random) -> tuple[str, tuple[str, ...], int]:
    """Return a question like :func:`multiple_choice`; half of them are about the neighbour of a named object."""
    pairs = _neighbours(scene)
    if not pairs or random.random() < 0.5:
        return multiple_choice(scene, random)
    first, second = random.choice(pairs)
    question = f"what is {_of(scene.relation(first, second))} the {scene.name(second)} ?"
    return question, *_choices(scene, first, random)


def richer_entailment(scene: SceneView, covered: int, label: int, random: Random) -> str | None:
    """Return a hypothesis like :func:`entailment`, about colours, objects, sorts of things, or neighbours.

    A hypothesis that is left open always names something that could be under the cloth and is visible nowhere else.
    """
    visible = [cell for cell in scene.filled if cell != covered]
    shown = {scene.name(cell) for cell in visible}
    form = random.choices(("colour", "object", "kind", "neighbour"), (1, 3, 2, 3))[0]
    if form == "colour":
        if label == 1:
            return f"the {scene.place(covered)} tile is {random.choice(scene.palette)}"
        cell = random.choice([cell for cell in range(4) if cell != covered])
        colour = scene.colours[cell] if label == 0 else scene.other_colour(cell, random)
        return f"the {scene.place(cell)} tile is {colour}"
    if not visible:
        return None
    unseen = random.choice([concept for concept in CONCEPTS if concept.name not in shown])
    cell = random.choice(visible)
    if form == "object":
        name = unseen.name if label else scene.name(cell)
        return f"a {name} is in the {scene.place(covered if label == 1 else cell)} corner"
    if form == "kind":
        kinds = sorted({kind for kinds in KINDS.values() for kind in kinds} - {scene.kind(cell)})
        kind = scene.kind(cell) if label == 0 else random.choice(kinds)
        return f"a {kind} thing is in the {scene.place(covered if label == 1 else cell)} corner"
    pairs = [(a, b) for a, b in RELATIONS if b in visible and (a == covered if label == 1 else a in visible)]
    if not pairs:
        return None
    first, second = random.choice(pairs)
    if label == 1:
        return f"a {unseen.name} is {_of(scene.relation(first, second))} the {scene.name(second)}"
    word = scene.relation(first, second) if label == 0 else scene.relation(second, first)
    return f"a {scene.name(first)} is {_of(word)} the {scene.name(second)}"


def richer_pair_statement(first: SceneView, second: SceneView, label: int, random: Random) -> str | None:
    """Return a statement like :func:`pair_statement`, about colours of tiles, sorts of things, or families."""
    shown: list[set[str]]
    subject = random.choice(("colour", "kind", "family"))
    if subject == "colour":
        shown, words, what = [set(first.colours), set(second.colours)], list(first.palette), "{} tile"
    elif subject == "kind":
        shown = [{scene.kind(cell) for cell in scene.filled} for scene in (first, second)]
        words, what = sorted({kind for kinds in KINDS.values() for kind in kinds}), "{} thing"
    else:
        shown = [{scene.group(cell) for cell in scene.filled} for scene in (first, second)]
        words, what = list(first.families), "{} thing"
    form = random.choice(("both pictures have a", "only one picture has a", "no picture has a"))
    number = {"both": 2, "only": 1, "no": 0}[form.split()[0]]
    fitting = [word for word in words if (sum(word in one for one in shown) == number) == bool(label)]
    # Most words are shown nowhere; a false statement must not be recognisable by such a word alone.
    near = [word for word in fitting if word in shown[0] | shown[1]]
    if number and not label and near and random.random() < 0.7:
        fitting = near
    return f"{form} {what.format(random.choice(fitting))}" if fitting else None
