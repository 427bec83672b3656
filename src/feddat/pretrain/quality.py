"""What a pretrained backbone knows of the plain world, measured on held-out object combinations."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import torch

from feddat.data.mini.captions import SceneView, Text, caption
from feddat.data.mini.scene import sample_scenes
from feddat.pretrain.batches import IGNORE, BatchMaker, Row, scene_views
from feddat.pretrain.objective import PretrainingModel
from feddat.seeding import derive, numpy_generator


def identifiable_slots(text: Text) -> list[int]:
    """Return the slots that the rest of the caption and the image determine.

    An object's name is determined by the place in its own phrase; every other slot by the objects named.
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
def measure(
    model: PretrainingModel, maker: BatchMaker, scenes: int = 1024, split: str = "validation"
) -> dict[str, float]:
    """Return accuracies in percent on scenes of two to four objects of a split that pretraining never draws from.

    ``word/KIND``: one masked word of a caption, named at its position; ``pooled/KIND``: the same, named by the pooled
    feature; ``match``: fits or not, half of the captions with one wrong word; ``question/KIND``: one-word answers.
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
            output = model.vilt.vilt(**batch.inputs)
            named = model.vilt.mlm_score(output.pooler_output).argmax(-1)
            if mode == "match":
                guess = model.match(output.pooler_output).argmax(-1)
                right["match"] += int((guess == batch.match).sum())
                total["match"] += len(rows)
                continue
            place = "pooled" if mode == "cloze" else "question"
            for kind, hit in zip(batch.kinds, (named == batch.pooled).tolist(), strict=True):
                right[f"{place}/{kind}"] += hit
                total[f"{place}/{kind}"] += 1
            if mode == "cloze":
                masked = batch.word != IGNORE
                text = output.last_hidden_state[:, : masked.shape[1]][masked]
                hits = model.vilt.mlm_score(text).argmax(-1) == batch.word[masked]
                for kind, hit in zip(batch.kinds, hits.tolist(), strict=True):
                    right[f"word/{kind}"] += hit
                    total[f"word/{kind}"] += 1
    model.train(was_training)
    return {key: 100 * right[key] / total[key] for key in sorted(total)}


def _identifiable_cloze(view: SceneView, random: Random) -> Row:
    while True:
        row = Row(caption(view, random))
        slots = {index: row.text.slots[index] for index in identifiable_slots(row.text)}
        if slots:
            # One kind of slot as often as another: else places would crowd out relations.
            kind = random.choice(sorted(set(slots.values())))
            row.cloze(random.choice([index for index in slots if slots[index] == kind]))
            return row
