"""Quality of a pretrained backbone in the plain world, measured on held-out object combinations."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import torch

from feddat.data.mini.captions import SceneView, Text, caption
from feddat.data.mini.scene import sample_scenes
from feddat.pretrain.batches import BatchMaker, Row, scene_views
from feddat.pretrain.objective import Objective
from feddat.seeding import derive, numpy_generator


def identifiable_slots(text: Text) -> list[int]:
    """Return the slots that the image and the rest of the caption determine.

    The place in an object's own phrase determines its name. The named objects determine every other slot.
    """
    objects = [index for index, kind in text.slots.items() if kind == "object"]
    ends = [*objects[1:], len(text.words)]
    placed = {
        start
        for start, end in zip(objects, ends, strict=True)
        if any(text.slots.get(index) == "place" for index in range(start, end))
        and not any(text.slots.get(index) == "relation" for index in range(start, end))
        and "empty" not in text.words[start:end]
    }
    return [index for index, kind in text.slots.items() if kind != "object" or index in placed]


@torch.inference_mode()
def measure(model: Objective, maker: BatchMaker, scenes: int = 1024, split: str = "validation") -> dict[str, float]:
    """Return accuracies in percent on scenes of two to four objects of a split that pretraining never uses.

    ``word/KIND``: one masked word of a caption, predicted at its position; ``pooled/KIND``: the same, predicted from
    the pooled feature, for families that have one; ``match``: whether a caption fits, when half of them have one wrong
    word; ``question/KIND``: one-word answers.
    """
    was_training = model.training
    model.eval()
    right: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for mode in ("cloze", "match", "question"):
        rng = numpy_generator(maker.seed, "quality", split, mode)
        random = Random(derive(maker.seed, "quality-text", split, mode))
        for _ in range(scenes // 256):
            drawn = sample_scenes(rng, 256, split)
            views = scene_views(drawn)
            if mode == "cloze":
                rows = [_identifiable_cloze(view, random) for view in views]
            else:
                rows = [Row.draw(view, mode, random) for view in views]
            batch = maker.assemble(drawn, rows, rng)
            if mode == "match":
                right["match"] += int((model.fits(batch) == batch.match).sum())
                total["match"] += len(rows)
                continue
            guesses = model.cloze(batch) if mode == "cloze" else {"question": model.answer(batch)}
            for how, guess in guesses.items():
                for kind, hit in zip(batch.kinds, (guess == batch.pooled).tolist(), strict=True):
                    right[f"{how}/{kind}"] += hit
                    total[f"{how}/{kind}"] += 1
    model.train(was_training)
    return {key: 100 * right[key] / total[key] for key in sorted(total)}


def _identifiable_cloze(view: SceneView, random: Random) -> Row:
    while True:
        row = Row(caption(view, random))
        slots = {index: row.text.slots[index] for index in identifiable_slots(row.text)}
        if slots:
            # Choose every kind of slot equally often; otherwise places would crowd out relations.
            kind = random.choice(sorted(set(slots.values())))
            row.cloze(random.choice([index for index in slots if slots[index] == kind]))
            return row
