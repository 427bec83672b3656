"""Pretraining batches: plain scenes with texts, their masked words, and labels from the scene graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from feddat.data.mini.captions import SceneView, Text, caption, question, wrong_caption
from feddat.data.mini.render import render
from feddat.data.mini.scene import EMPTY, Scenes, sample_scenes
from feddat.seeding import derive, numpy_generator

#: Label of a position that a loss ignores (torch's own convention).
IGNORE = -100


@dataclass(frozen=True, slots=True)
class Batch:
    """One pretraining batch of N scenes and texts of up to L tokens; labels are int64, ``IGNORE`` if there is none.

    Attributes:
        inputs: ``input_ids`` and ``attention_mask`` (N, L), ``pixel_values`` (N, 3, 64, 64) in [-1, 1].
        word: (N, L) the masked words.
        pooled: (N,) the word to predict from the pooled feature: a cloze's masked word or a question's answer.
        match: (N,) 1 where the caption fits the image, 0 where one word is wrong.
        mention_cell: (N, L) the cell of the object that is named at this position.
        mention_colour: (N, L) the colour of that cell's tile.
        question: (N,) bool, whether the text is a question.
        objects: (N, 4) the object in each cell, ``len(CONCEPTS)`` for an empty cell.
        colours: (N, 4) the tile's colour in each cell.
        kinds: the kind of each of the N questions, or of the slot that a cloze masks.
        seed: seed for random draws in a loss.
    """

    inputs: dict[str, Tensor]
    word: Tensor
    pooled: Tensor
    match: Tensor
    mention_cell: Tensor
    mention_colour: Tensor
    question: Tensor
    objects: Tensor
    colours: Tensor
    kinds: list[str]
    seed: int = 0


def to_pixel_values(images: np.ndarray) -> Tensor:
    """Convert uint8 images (N, H, W, 3) to float32 (N, 3, H, W) in [-1, 1], as the bundled image processor does."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class BatchMaker:
    """Make the batch of any step of one process. It depends only on the seed, so a resumed run sees the same batches.

    Args:
        vocabulary: the tokenizer's words in index order.
        empty_label: label of an empty cell in :attr:`Batch.objects`.
        batch_size: scenes per step of this process.
        seed: seed of all batches.
        rank: number of this process.
        modes: use of a text (:meth:`Row.draw`) -> relative frequency, for :meth:`training`.
        closed_questions: whether [SEP] ends a question, as it ends a caption.
    """

    def __init__(
        self,
        vocabulary: list[str],
        empty_label: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        *,
        modes: Mapping[str, float],
        closed_questions: bool = True,
    ) -> None:
        self.ids = {word: index for index, word in enumerate(vocabulary)}
        self.empty_label = empty_label
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.modes = modes
        self.closed_questions = closed_questions

    def training(self, step: int, sizes: tuple[int, ...], parts: int) -> list[Batch]:
        """Return the batch of ``step`` with scenes of ``sizes`` objects, in ``parts`` micro-batches.

        Each micro-batch holds texts of about equal length, which need little padding. Four parts speed up a step by
        about half.
        """
        rng = numpy_generator(self.seed, "pretrain", self.rank, step)
        random = Random(derive(self.seed, "pretrain-text", self.rank, step))
        scenes = sample_scenes(rng, self.batch_size, "pretrain", sizes)
        modes = random.choices(list(self.modes), list(self.modes.values()), k=self.batch_size)
        rows = [Row.draw(view, mode, random) for view, mode in zip(scene_views(scenes), modes, strict=True)]
        order = sorted(range(len(rows)), key=lambda n: len(rows[n].words))
        chunks = np.array_split(np.array(order), parts)
        return [
            self.assemble(
                scenes.take(chunk),
                [rows[n] for n in chunk],
                rng,
                derive(self.seed, "pretrain-draws", self.rank, step, part),
            )
            for part, chunk in enumerate(chunks)
        ]

    def assemble(self, scenes: Scenes, rows: list[Row], rng: np.random.Generator, seed: int = 0) -> Batch:
        """Render the scenes and return them with ids and labels as a batch."""
        length = max(len(row.words) + 1 + self._closed(row) for row in rows)
        shape = (len(rows), length)
        input_ids = np.full(shape, self.ids["[PAD]"])
        word, cell, colour = (np.full(shape, IGNORE) for _ in range(3))
        for n, row in enumerate(rows):
            end = len(row.words) + 1
            input_ids[n, 0] = self.ids["[CLS]"]
            if self._closed(row):
                input_ids[n, end] = self.ids["[SEP]"]
            input_ids[n, 1:end] = [self.ids[token] for token in row.words]
            for index, original in row.masked.items():
                word[n, index + 1] = self.ids[original]
            for index, place in row.mentions.items():
                cell[n, index + 1], colour[n, index + 1] = place, scenes.colours[n, place]
        ids = torch.from_numpy(input_ids)
        objects = np.where(scenes.objects == EMPTY, self.empty_label, scenes.objects)
        return Batch(
            inputs={
                "input_ids": ids,
                "attention_mask": (ids != self.ids["[PAD]"]).long(),
                "pixel_values": to_pixel_values(render(scenes, "plain", rng)),
            },
            word=torch.from_numpy(word),
            pooled=torch.tensor([self.ids[row.pooled] if row.pooled else IGNORE for row in rows]),
            match=torch.tensor([IGNORE if row.match is None else int(row.match) for row in rows]),
            mention_cell=torch.from_numpy(cell),
            mention_colour=torch.from_numpy(colour),
            question=torch.tensor([bool(row.text.answer) for row in rows]),
            objects=torch.from_numpy(objects),
            colours=torch.from_numpy(scenes.colours),
            kinds=[row.kind for row in rows],
            seed=seed,
        )

    def _closed(self, row: Row) -> bool:
        return self.closed_questions or not row.text.answer


def scene_views(scenes: Scenes) -> list[SceneView]:
    """Return the scenes with objects and colours by name."""
    return [SceneView(o, c) for o, c in zip(scenes.objects.tolist(), scenes.colours.tolist(), strict=True)]


class Row:
    """One text as the model sees it, with the labels to predict."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.words, self.mentions = list(text.words), dict(text.mentions)
        self.masked: dict[int, str] = {}
        self.pooled = text.answer
        self.match: bool | None = None
        self.kind = text.kind

    @classmethod
    def draw(cls, scene: SceneView, mode: str, random: Random) -> Row:
        """Return a text about a scene.

        Args:
            scene: scene that the text describes or asks about.
            mode: ``mask``, a caption with about a third of its content words masked; ``cloze``, a caption with one word
                masked; ``match``, a caption that fits or has one wrong word; ``question``, a question.
            random: source of all randomness.
        """
        if mode == "question":
            return cls(question(scene, random))
        row = cls(caption(scene, random))
        slots = list(row.text.slots)
        if mode == "match":
            row._match(scene, random)
        elif mode == "cloze":
            row.cloze(random.choice(slots))
        else:
            some = [index for index in slots if random.random() < 0.35]
            row._mask(some or [random.choice(slots)])
        return row

    def cloze(self, index: int) -> None:
        """Mask the word at ``index`` and make it the label, both at its position and of the pooled feature."""
        self._mask([index])
        self.pooled, self.kind = self.text.words[index], self.text.slots[index]

    def _match(self, scene: SceneView, random: Random) -> None:
        self.match = random.random() < 0.5
        if not self.match:
            self.words = wrong_caption(self.text, scene, random)
            self.mentions = {i: cell for i, cell in self.mentions.items() if self.words[i] == self.text.words[i]}

    def _mask(self, indices: list[int]) -> None:
        self.masked = {index: self.text.words[index] for index in indices}
        for index in indices:
            self.words[index] = "[MASK]"
            self.mentions.pop(index, None)
