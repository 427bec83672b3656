"""The mini world: scenes, pixels and texts say the same thing, and splits share nothing."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feddat.data.mini import questions as q
from feddat.data.mini.atlas import GLYPH, load_atlas
from feddat.data.mini.captions import SceneView, caption, question, wrong_caption
from feddat.data.mini.concepts import COLOUR_NAMES, COLOURS, CONCEPTS, GROUPS
from feddat.data.mini.render import CELL, DOMAINS, cover, render
from feddat.data.mini.scene import EMPTY, SPLIT_BUCKETS, Scenes, combination_bucket, sample_scenes
from feddat.data.mini.vocabulary import vocabulary

NAMES = [concept.name for concept in CONCEPTS]


def scene(objects: list[str | None], colours: list[str]) -> SceneView:
    return SceneView(
        [EMPTY if o is None else NAMES.index(o) for o in objects], [COLOUR_NAMES.index(c) for c in colours]
    )


# dog | -     on red | red
# apple | cat    blue | green
HAND_MADE = scene(["dog", None, "apple", "cat"], ["red", "red", "blue", "green"])


def asked(maker: q.Maker) -> dict[str, str]:
    """Everything that a maker asks of the hand-made scene."""
    found = [maker(HAND_MADE, Random(seed)) for seed in range(300)]
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
        (q.count_group, "how many animal things are there ?", "two"),
        (q.count_objects, "how many objects are there ?", "three"),
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
    for seed in range(200):
        random = Random(seed)
        text = caption(HAND_MADE, random)
        wrong = wrong_caption(text, HAND_MADE, random)
        changed = [index for index, word in enumerate(wrong) if word != text.words[index]]
        assert len(changed) == 1
        assert changed[0] in text.slots


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
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
