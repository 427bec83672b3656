"""The mini world: scenes, pixels and texts agree, and splits share no combination of objects."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feddat.data.mini import questions as q
from feddat.data.mini.atlas import GLYPH, load_atlas
from feddat.data.mini.captions import SceneView, caption, question, wrong_caption
from feddat.data.mini.concepts import COLOUR_NAMES, COLOURS, CONCEPTS, GROUPS
from feddat.data.mini.conventions import CONVENTIONS, STANDARD, Convention
from feddat.data.mini.render import CELL, DOMAINS, cover, render
from feddat.data.mini.scene import EMPTY, SPLIT_BUCKETS, Scenes, combination_bucket, sample_scenes
from feddat.data.mini.vocabulary import vocabulary

NAMES = [concept.name for concept in CONCEPTS]


def scene(objects: list[str | None], colours: list[str], convention: Convention = STANDARD) -> SceneView:
    return SceneView(
        [EMPTY if o is None else NAMES.index(o) for o in objects], [COLOUR_NAMES.index(c) for c in colours], convention
    )


# dog | -     on red | red
# apple | cat    blue | green
HAND_MADE = scene(["dog", None, "apple", "cat"], ["red", "red", "blue", "green"])


def asked(maker: q.Maker, view: SceneView = HAND_MADE) -> dict[str, str]:
    """Return the questions that a maker asks about a scene, with their answers."""
    found = [maker(view, Random(seed)) for seed in range(300)]
    return {item.text: item.answer for item in found if item is not None}


def test_atlas_holds_a_distinct_glyph_for_every_concept() -> None:
    atlas = load_atlas()
    assert atlas.shape == (96, GLYPH, GLYPH, 4)
    assert len(GROUPS) == 6
    assert len(set(NAMES)) == 96
    assert (atlas[..., 3].mean(axis=(1, 2)) > 0.1).all(), "a glyph is nearly empty"
    assert len({glyph.tobytes() for glyph in atlas}) == 96
    assert (atlas[..., :3] <= atlas[..., 3:] + 1e-6).all(), "colour is not premultiplied by alpha"


@pytest.mark.parametrize(
    ("maker", "text", "answer"),
    [
        (q.object_colour, "what colour is the tile of the apple ?", "blue"),
        (q.place_colour, "what colour is the top right tile ?", "red"),
        (q.place_object, "what is in the bottom right corner ?", "cat"),
        (q.colour_object, "what stands on the red tile ?", "dog"),
        (q.related_object, "what is below the dog ?", "apple"),
        (q.related_object, "what is left of the cat ?", "apple"),
        (q.relation_word, "where is the cat compared to the apple ?", "right"),
        (q.relation_holds, "is the dog above the apple ?", "yes"),
        (q.relation_holds, "is the dog below the apple ?", "no"),
        (q.place_kind, "what sort of thing is in the bottom left corner ?", "fruit"),
        (q.colour_group, "what family has the thing on the green tile ?", "animal"),
        (q.count_colour, "how many red tiles are there ?", "two"),
        (q.neighbour_colour, "what colour is the tile right of the dog ?", "red"),
        (q.neighbour_colour, "what colour is the tile below the dog ?", "blue"),
        (q.neighbour_kind, "what sort of thing is left of the cat ?", "fruit"),
        (q.neighbour_is_colour, "is the tile above the cat red ?", "yes"),
        (q.neighbour_is_colour, "is the tile above the cat blue ?", "no"),
        (q.count_group, "how many animal things are there ?", "two"),
        (q.count_objects, "how many objects are there ?", "three"),
        (q.count_either, "how many tiles are blue or red ?", "three"),
        (q.count_empty, "how many red tiles are empty ?", "one"),
        (q.count_empty, "how many blue tiles are empty ?", "zero"),
        (q.compare_colours, "are there more red tiles than blue tiles ?", "yes"),
        (q.compare_groups, "are there fewer animal things than food things ?", "no"),
        (q.most_tiles, "what colour have the most tiles ?", "red"),
        (q.same_colour, "do the dog and the cat have the same colour ?", "no"),
    ],
)
def test_questions_about_a_hand_made_scene(maker: q.Maker, text: str, answer: str) -> None:
    assert asked(maker)[text] == answer


@pytest.mark.parametrize("maker", [q.both, q.absent, q.shows_group, q.is_colour])
def test_yes_no_questions_are_true_of_the_scene(maker: q.Maker) -> None:
    shown = {"dog", "apple", "cat"}
    for text, answer in asked(maker).items():
        words = text.split()
        present = [word in shown for word in words if word in NAMES]
        if maker is q.both:
            first, second = present
            truth = first and second if "both" in words else first or second if "or" in words else first and not second
        elif maker is q.absent:
            truth = not present[0]
        elif maker is q.shows_group:
            truth = words[3] in ("animal", "food")
        else:
            truth = f"{words[2]} {words[5]}" in ("dog red", "apple blue", "cat green")
        assert answer == ("yes" if truth else "no"), text


def test_hypotheses_are_open_only_about_the_covered_cell() -> None:
    for seed in range(200):
        for label in range(3):
            text = q.entailment(HAND_MADE, 2, label, Random(seed))
            assert text is not None
            assert ("bottom left" in text) == (label == 1)
            if "tile" in text.split() and label != 1:
                cell = ("top left", "top right", "-", "bottom right").index(" ".join(text.split()[1:3]))
                assert (text.split()[-1] == HAND_MADE.colours[cell]) == (label == 0)


def test_pair_statements_match_their_label() -> None:
    other = scene(["dog", "car", None, None], ["red", "pink", "pink", "pink"])
    seen = set()
    for seed in range(100):
        for label in (0, 1):
            text = q.pair_statement(HAND_MADE, other, label, Random(seed))
            assert text is not None
            colour = text.split()[-2]
            shown = (colour in HAND_MADE.colours) + (colour in other.colours)
            wanted = {"both": 2, "only": 1, "no": 0}[text.split()[0]]
            assert (shown == wanted) == bool(label)
            seen.add((text.split()[0], label))
    assert len(seen) == 6


def test_of_four_choices_only_the_marked_one_is_true() -> None:
    true = {"a dog on red", "a apple on blue", "a cat on green"}
    places = {"top left": "dog", "bottom left": "apple", "bottom right": "cat"}
    for seed in range(200):
        text, choices, label = q.multiple_choice(HAND_MADE, Random(seed))
        name = next(name for place, name in places.items() if place in text)
        right = [n for n, choice in enumerate(choices) if choice in true and choice.split()[1] == name]
        assert right == [label]
        assert len(set(choices)) == 4


def test_a_wrong_caption_differs_in_one_word_and_is_false() -> None:
    true = {tuple(caption(HAND_MADE, Random(seed)).words) for seed in range(5000)}
    for seed in range(200):
        random = Random(seed)
        text = caption(HAND_MADE, random)
        wrong = wrong_caption(text, HAND_MADE, random)
        changed = [index for index, word in enumerate(wrong) if word != text.words[index]]
        assert len(changed) == 1
        assert changed[0] in text.slots
        assert tuple(wrong) not in true


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_splits_share_no_combination_of_objects(seed: int) -> None:
    combinations = {}
    for split in SPLIT_BUCKETS:
        scenes = sample_scenes(np.random.default_rng(seed), 100, split)
        combinations[split] = {tuple(sorted(row)) for row in scenes.objects.tolist()}
        assert all(len(set(row) - {EMPTY}) == sum(o != EMPTY for o in row) for row in scenes.objects.tolist())
    splits = list(combinations)
    for n, one in enumerate(splits):
        for other in splits[n + 1 :]:
            assert not combinations[one] & combinations[other]


def test_bucket_ignores_where_objects_stand() -> None:
    objects = np.array([[3, EMPTY, 40, 7], [7, 40, 3, EMPTY]])
    first, second = combination_bucket(objects)
    assert first == second
    spread = np.bincount(combination_bucket(sample_scenes(np.random.default_rng(0), 4000, "pretrain").objects))
    assert spread[:4].min() > 850, "buckets are not even"


def test_topic_scenes_hold_one_group_only() -> None:
    scenes = sample_scenes(np.random.default_rng(0), 50, "train", group="food")
    groups = {CONCEPTS[o].group for o in scenes.objects.flatten() if o != EMPTY}
    assert groups == {"food"}


def test_plain_tiles_have_their_colour_and_glyphs_their_place() -> None:
    objects = np.array([[NAMES.index("crown"), EMPTY, EMPTY, EMPTY]])
    colours = np.array([[COLOUR_NAMES.index(c) for c in ("blue", "red", "green", "pink")]])
    image = render(Scenes(objects, colours, np.full((1, 4, 2), 3)), "plain", np.random.default_rng(0))[0]
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    empty = image[:CELL, CELL:].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(empty, COLOURS["red"], atol=2)
    crown = image[:CELL, :CELL].reshape(-1, 3).mean(axis=0)
    assert np.abs(crown - COLOURS["blue"]).max() > 30, "no glyph was drawn"


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_every_domain_is_deterministic_and_looks_unlike_the_plain_world(domain: str) -> None:
    scenes = sample_scenes(np.random.default_rng(1), 8, "train")
    image = render(scenes, domain, np.random.default_rng(2))
    again = render(scenes, domain, np.random.default_rng(2))
    np.testing.assert_array_equal(image, again)
    plain = render(scenes, "plain", np.random.default_rng(2))
    difference = np.abs(image.astype(float) - plain).mean()
    assert difference == 0 if domain == "plain" else difference > 5


def test_unknown_domain_is_refused_by_name() -> None:
    scenes = sample_scenes(np.random.default_rng(1), 1, "train")
    with pytest.raises(ValueError, match="unknown visual domain 'fog'; known: plain"):
        render(scenes, "fog", np.random.default_rng(0))


def test_cover_hides_one_cell_and_nothing_else() -> None:
    scenes = sample_scenes(np.random.default_rng(1), 2, "train")
    image = render(scenes, "plain", np.random.default_rng(0))
    covered = cover(image, np.array([0, 3]))
    np.testing.assert_array_equal(covered[0, :, CELL:], image[0, :, CELL:])
    np.testing.assert_array_equal(covered[0, :CELL, :CELL], covered[1, CELL:, CELL:])
    assert (covered[0, :CELL, :CELL] != image[0, :CELL, :CELL]).mean() > 0.5


def test_every_pretraining_text_is_made_of_whole_tokens() -> None:
    words = set(vocabulary())
    assert len(words) == len(vocabulary())
    random = Random(0)
    for _ in range(500):
        for text in (caption(HAND_MADE, random), question(HAND_MADE, random)):
            assert set(text.words) <= words
            assert not text.answer or text.answer in words


@pytest.mark.parametrize(
    ("convention", "maker", "text", "answer"),
    [
        ("mirrored", q.related_object, "what is right of the cat ?", "apple"),
        ("mirrored", q.related_object, "what is below the dog ?", "apple"),
        ("mirrored", q.relation_word, "where is the cat compared to the apple ?", "left"),
        ("mirrored", q.place_object, "what is in the bottom left corner ?", "apple"),
        ("coarse", q.count_colour, "how many red tiles are there ?", "many"),
        ("coarse", q.count_objects, "how many objects are there ?", "many"),
        ("coarse", q.object_colour, "what colour is the tile of the apple ?", "blue"),
        ("shifted", q.object_colour, "what colour is the tile of the apple ?", "purple"),
        ("shifted", q.count_colour, "how many orange tiles are there ?", "two"),
        ("renamed", q.colour_group, "what family has the thing on the green tile ?", "food"),
        ("renamed", q.count_group, "how many food things are there ?", "two"),
        ("renamed", q.place_kind, "what sort of thing is in the bottom left corner ?", "fruit"),
    ],
)
def test_a_convention_words_the_same_scene_otherwise(convention: str, maker: q.Maker, text: str, answer: str) -> None:
    view = scene(["dog", None, "apple", "cat"], ["red", "red", "blue", "green"], CONVENTIONS[convention])
    assert asked(maker, view)[text] == answer


def test_coarse_names_merge_colours_also_where_they_are_counted() -> None:
    view = scene(["dog", None, "apple", "cat"], ["red", "pink", "orange", "purple"], CONVENTIONS["coarse"])
    assert view.colours == ["red", "red", "red", "blue"]
    assert asked(q.count_colour, view)["how many blue tiles are there ?"] == "one"
    assert "how many pink tiles are there ?" not in asked(q.count_colour, view)
    assert len(CONVENTIONS["coarse"].palette) == 5


def test_a_scale_that_is_shifted_and_families_that_are_renamed_still_have_all_names() -> None:
    shifted, renamed = CONVENTIONS["shifted"], CONVENTIONS["renamed"]
    assert sorted(shifted.palette) == sorted(COLOUR_NAMES) and all(shifted.colour(name) != name for name in COLOURS)
    assert sorted(renamed.families) == sorted(GROUPS) and all(renamed.group(group) != group for group in GROUPS)


def test_most_objects_are_of_the_group_and_some_stray() -> None:
    group = {NAMES.index(c.name) for c in CONCEPTS if c.group == "food"}
    for stray, low, high in ((0.0, 1.0, 1.0), (0.3, 0.7, 0.8)):
        drawn = sample_scenes(np.random.default_rng(0), 2000, "train", group="food", stray=stray).objects
        shown = drawn[drawn != EMPTY]
        assert low <= np.isin(shown, list(group)).mean() <= high  # a sixth of the strays are of the group, too


@given(st.integers(0, 10**6))
@settings(max_examples=150)
def test_a_hypothesis_follows_from_what_is_seen_contradicts_it_or_is_left_open(seed: int) -> None:
    drawn = sample_scenes(np.random.default_rng(seed), 1, "train")
    view = SceneView(drawn.objects[0].tolist(), drawn.colours[0].tolist())
    random = Random(seed)
    covered, label = random.randrange(4), random.randrange(3)
    text = q.richer_entailment(view, covered, label, random)
    if text is not None:
        assert judged(text, view, covered) == label, (text, view.colours, view.names, covered)


def judged(text: str, view: SceneView, covered: int) -> int:
    """Judge a hypothesis word by word by what is not covered: 0 true, 1 open, 2 false."""
    words = text.split()
    visible = [cell for cell in range(4) if cell != covered]
    places = {view.place(cell): cell for cell in range(4)}
    if words[0] == "the":  # the PLACE tile is COLOUR
        cell = places[" ".join(words[1:3])]
        return 1 if cell == covered else 0 if view.colours[cell] == words[-1] else 2
    if words[-1] == "corner":  # a NAME | a KIND thing is in the PLACE corner
        cell = places[" ".join(words[-3:-1])]
        if cell == covered:
            return 1
        if view.objects[cell] is None:
            return 2
        said = view.kind(cell) if words[2] == "thing" else view.name(cell)
        return 0 if said == words[1] else 2
    name, word, other = words[1], words[3], words[-1]  # a NAME is WORD [of] the OTHER
    seen = {view.name(cell): cell for cell in visible if view.objects[cell] is not None}
    away = {"left": -1, "right": 1, "above": -2, "below": 2}[word]
    if name in seen:
        return 0 if seen[name] == seen[other] + away else 2
    return 1 if seen[other] + away == covered else 2


@given(st.integers(0, 10**6))
@settings(max_examples=150)
def test_a_statement_about_two_pictures_is_as_true_as_it_should_be(seed: int) -> None:
    drawn = sample_scenes(np.random.default_rng(seed), 2, "train")
    views = [SceneView(o.tolist(), c.tolist()) for o, c in zip(drawn.objects, drawn.colours, strict=True)]
    random = Random(seed)
    label = random.randrange(2)
    text = q.richer_pair_statement(views[0], views[1], label, random)
    if text is None:
        return
    *_, word, what = text.split()
    shown = 0
    for view in views:
        about = {view.group(cell) for cell in view.filled} | {view.kind(cell) for cell in view.filled}
        shown += word in (view.colours if what == "tile" else about)
    assert {"both": shown == 2, "only": shown == 1, "no": shown == 0}[text.split()[0]] == bool(label), text


def test_a_choice_about_a_neighbour_has_one_right_answer() -> None:
    for seed in range(200):
        text, choices, label = q.richer_multiple_choice(HAND_MADE, Random(seed))
        told = {"dog": "red", "apple": "blue", "cat": "green"}
        name, colour = choices[label].split()[1::2]
        assert told[name] == colour, text
        if text == "what is below the dog ?":
            assert name == "apple"
        assert len(set(choices)) == 4
