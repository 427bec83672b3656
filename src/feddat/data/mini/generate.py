"""Generate the train, validation and test splits of one mini client from a seed.

The examples of a split are drawn one after the other, so a smaller split is a prefix of a larger one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random

import easy_vqa
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from feddat.data.mini.captions import SceneView
from feddat.data.mini.conventions import STANDARD, Convention
from feddat.data.mini.questions import (
    SKILLS,
    Asked,
    entailment,
    multiple_choice,
    pair_statement,
    richer_entailment,
    richer_multiple_choice,
    richer_pair_statement,
)
from feddat.data.mini.render import cover, render
from feddat.data.mini.scene import Scenes, sample_scenes
from feddat.example import SPLITS, ClientData, Example
from feddat.seeding import derive, numpy_generator

#: Number of scenes to sample, and of images to render, at a time.
_BLOCK = 256
_RENDER_BLOCK = 64


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A sampled scene: names for the text makers, and arrays for the renderer, which draws only the scenes kept."""

    view: SceneView
    arrays: Scenes


@dataclass(frozen=True, slots=True)
class _Draft:
    """An example whose images are not rendered yet."""

    text: str
    scenes: tuple[_Drawn, ...]
    answers: Mapping[str, float] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    label: int | None = None
    kind: str = ""
    covered: int | None = None


_Make = Callable[[Iterator[_Drawn], Random], _Draft | None]


def mini_client(
    name: str,
    domain: str,
    sizes: Mapping[str, int],
    seed: int,
    *,
    skills: Mapping[str, float] | None = None,
    task: str = "vqa",
    maker: str | None = None,
    group: str | None = None,
    stray: float = 0.0,
    convention: Convention = STANDARD,
    description: str = "",
) -> ClientData:
    """Generate one client of the mini world.

    Args:
        name: client name.
        domain: visual domain, key of ``render.DOMAINS``.
        sizes: number of examples per split.
        seed: seed of the data.
        skills: VQA only: skill -> share of the questions.
        task: ``vqa``, ``nlvr2``, ``snli-ve`` or ``vcr``.
        maker: tasks other than VQA: key of ``_TASKS`` that makes the texts; default: the name of the task.
        group: draw only objects of this topic group.
        stray: with ``group``: share of objects drawn from any group instead.
        convention: how the client describes a scene.
        description: one line for reports.
    """
    splits: dict[str, tuple[Example, ...]] = {}
    for split in SPLITS:
        random = Random(derive(seed, "mini-text", name, domain, task, split))
        drawn = _draw(
            numpy_generator(seed, "mini-scenes", name, domain, task, split),
            partial(sample_scenes, count=_BLOCK, split=split, group=group, stray=stray),
            convention,
        )
        make = _questions(skills or {}) if task == "vqa" else _TASKS[maker or task]
        drafts = list(islice(_drafts(make, drawn, random), sizes[split]))
        images = _render(drafts, domain, seed, name, split)
        splits[split] = tuple(
            Example(
                f"{split}-{n}", pictures, draft.text, draft.answers, draft.choices, draft.label, {"kind": draft.kind}
            )
            for n, (draft, pictures) in enumerate(zip(drafts, images, strict=True))
        )
    answers = answer_vocabulary(splits["train"]) if task == "vqa" else ()
    return ClientData(name, task, splits["train"], splits["validation"], splits["test"], answers, description)


def easy_vqa_client(name: str, sizes: Mapping[str, int], seed: int, description: str = "") -> ClientData:
    """Return a client with questions of the easy-VQA dataset; validation images come from its training images."""
    train_paths, test_paths = easy_vqa.get_train_image_paths(), easy_vqa.get_test_image_paths()
    random = Random(derive(seed, "easy-vqa", name))
    held_out = set(random.sample(sorted(train_paths), len(train_paths) // 5))
    splits: dict[str, tuple[Example, ...]] = {}
    for split in SPLITS:
        questions = easy_vqa.get_test_questions() if split == "test" else easy_vqa.get_train_questions()
        paths = test_paths if split == "test" else train_paths
        rows = [
            (text, answer, image)
            for text, answer, image in zip(*questions, strict=True)
            if split == "test" or (image in held_out) == (split == "validation")
        ]
        random.shuffle(rows)
        balance = _Balance()
        kept = [row for row in rows if balance.accept(_easy_vqa_kind(row[0], row[1]), row[1])]
        if len(kept) < sizes[split]:
            raise ValueError(f"easy-VQA has {len(kept)} balanced {split} questions; the size asks for {sizes[split]}")
        splits[split] = tuple(
            Example(f"{split}-{n}", (_read_png(Path(paths[image])),), text, {answer: 1.0})
            for n, (text, answer, image) in enumerate(kept[: sizes[split]])
        )
    answers = answer_vocabulary(splits["train"])
    return ClientData(name, "vqa", splits["train"], splits["validation"], splits["test"], answers, description)


def _easy_vqa_kind(text: str, answer: str) -> str:
    # The answer to "is there a ...?" is mostly no, and to "is there not a ...?" mostly yes. Balancing each form
    # separately keeps the wording from giving the answer away.
    if answer in ("yes", "no"):
        return "negated" if "not" in text.split() else "plain"
    return "open"


def answer_vocabulary(train: Sequence[Example]) -> tuple[str, ...]:
    """Return every answer of the training split, most frequent first; ties are in alphabetical order."""
    counts = Counter(answer for example in train for answer in example.answers)
    return tuple(sorted(counts, key=lambda answer: (-counts[answer], answer)))


def _read_png(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _draw(
    rng: np.random.Generator, sample: Callable[[np.random.Generator], Scenes], convention: Convention
) -> Iterator[_Drawn]:
    while True:
        scenes = sample(rng)
        for n in range(_BLOCK):
            arrays = scenes.take(np.array([n]))
            yield _Drawn(SceneView(arrays.objects[0].tolist(), arrays.colours[0].tolist(), convention), arrays)


def _drafts(make: _Make, drawn: Iterator[_Drawn], random: Random) -> Iterator[_Draft]:
    while True:
        draft = make(drawn, random)
        if draft is not None:
            yield draft


def _render(
    drafts: Sequence[_Draft], domain: str, seed: int, client: str, split: str
) -> list[tuple[NDArray[np.uint8], ...]]:
    """Render the images of every draft.

    Blocks have a fixed size, so the first n images do not depend on how many follow.
    """
    flat = [scene.arrays for draft in drafts for scene in draft.scenes]
    pictures: list[NDArray[np.uint8]] = []
    for start in range(0, len(flat), _RENDER_BLOCK):
        block = flat[start : start + _RENDER_BLOCK]
        padded = block + [block[-1]] * (_RENDER_BLOCK - len(block))
        scenes = Scenes(*(np.concatenate(parts) for parts in zip(*map(_fields, padded), strict=True)))
        rng = numpy_generator(seed, "mini-pixels", client, domain, split, start)
        pictures += list(render(scenes, domain, rng)[: len(block)])
    remaining = iter(pictures)
    images = []
    for draft in drafts:
        own = tuple(islice(remaining, len(draft.scenes)))
        if draft.covered is not None:
            own = tuple(cover(picture[None], np.array([draft.covered]))[0] for picture in own)
        images.append(own)
    return images


def _fields(scenes: Scenes) -> tuple[NDArray[np.int64], ...]:
    return scenes.objects, scenes.colours, scenes.shifts


class _Balance:
    """Balances the answers to one kind of question, so that guessing the most frequent answer does not pay."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)

    def accept(self, kind: str, answer: str) -> bool:
        counts = self.counts[kind]
        fair = 1.15 * (counts.total() + 1) / max(2, len(counts)) + 2
        if counts[answer] + 1 > fair:
            return False
        counts[answer] += 1
        return True


def _questions(skills: Mapping[str, float]) -> _Make:
    balance = _Balance()

    def make(drawn: Iterator[_Drawn], random: Random) -> _Draft | None:
        skill = random.choices(list(skills), list(skills.values()))[0]
        maker = random.choice(SKILLS[skill])
        # Fix the skill first, then try scenes for it; otherwise rare questions would be crowded out.
        for scene in islice(drawn, 12):
            asked: Asked | None = maker(scene.view, random)
            if asked is not None and balance.accept(maker.__name__, asked.answer):
                return _Draft(asked.text, (scene,), {asked.answer: 1.0}, kind=asked.kind)
        return None

    return make


def _entailment(hypothesis: Callable[..., str | None], drawn: Iterator[_Drawn], random: Random) -> _Draft | None:
    covered, label = random.randrange(4), random.randrange(3)
    # Fix the label first, then try scenes for it; otherwise labels would not be equally likely.
    for scene in drawn:
        text = hypothesis(scene.view, covered, label, random)
        if text is not None:
            return _Draft(text, (scene,), label=label, covered=covered)
    return None


def _pair(statement: Callable[..., str | None], drawn: Iterator[_Drawn], random: Random) -> _Draft | None:
    label = random.randrange(2)
    while True:
        first, second = next(drawn), next(drawn)
        text = statement(first.view, second.view, label, random)
        if text is not None:
            return _Draft(text, (first, second), label=label)


def _choice(
    question: Callable[..., tuple[str, tuple[str, ...], int]], drawn: Iterator[_Drawn], random: Random
) -> _Draft | None:
    scene = next(drawn)
    text, choices, label = question(scene.view, random)
    return _Draft(text, (scene,), choices=choices, label=label)


#: Task, or name of a harder form of it -> maker of its drafts.
_TASKS: dict[str, _Make] = {
    "snli-ve": partial(_entailment, entailment),
    "nlvr2": partial(_pair, pair_statement),
    "vcr": partial(_choice, multiple_choice),
    "richer-snli-ve": partial(_entailment, richer_entailment),
    "richer-nlvr2": partial(_pair, richer_pair_statement),
    "richer-vcr": partial(_choice, richer_multiple_choice),
}
