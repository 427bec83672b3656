"""Small trees in the genuine layout of each published dataset, with images that can be decoded."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
NAMES = tuple(COLOURS)


def write_tree(name: str, root: Path, splits: Sequence[str], count: int = 6) -> Path:
    """Write ``count`` questions per split of the dataset ``name`` below ``root`` and return it.

    Question i shows a plain colour, the same as question i + 3; VQA datasets ask for it.
    """
    for split in splits:
        WRITERS[name](root, split, count)
    return root


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_image(path: Path, index: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), COLOURS[NAMES[index % 3]], np.uint8)
    Image.fromarray(pixels).save(path)


def ten_answers(*texts: str) -> list[dict[str, Any]]:
    """Return ten annotators' answers: the texts, the last one repeated."""
    padded = [*texts, *[texts[-1]] * (10 - len(texts))]
    return [{"answer": text, "answer_confidence": "yes", "answer_id": i} for i, text in enumerate(padded, 1)]


def vqa(questions: str, annotations: str, image: str) -> Callable[[Path, str, int], None]:
    def write(root: Path, split: str, count: int) -> None:
        rows = [{"question_id": 9000 + i, "image_id": 9 + i} for i in range(count)]
        asked = [row | {"question": "What colour is it?"} for row in rows]
        answered = [
            row
            | {
                "question_type": "what",
                "answer_type": "other",
                "multiple_choice_answer": NAMES[i % 3],
                "answers": ten_answers("grey", "grey", NAMES[i % 3]),
            }
            for i, row in enumerate(rows)
        ]
        head = {"info": {"version": "2.0", "year": 2017}, "license": {"name": "CC BY 4.0"}, "data_type": "mscoco"}
        write_json(root / questions.format(split=split), head | {"task_type": "Open-Ended", "questions": asked})
        write_json(root / annotations.format(split=split), head | {"annotations": answered})
        for i, row in enumerate(rows):
            write_image(root / image.format(split=split, image=row["image_id"]), i)

    return write


#: Dataset name -> writes one split: (root, split, number of questions).
WRITERS: dict[str, Callable[[Path, str, int], None]] = {
    "vqav2": vqa(
        "v2_OpenEnded_mscoco_{split}2014_questions.json",
        "v2_mscoco_{split}2014_annotations.json",
        "{split}2014/COCO_{split}2014_{image:012d}.jpg",
    ),
    "abstract-scenes": vqa(
        "OpenEnded_abstract_v002_{split}2015_questions.json",
        "abstract_v002_{split}2015_annotations.json",
        "scene_img_abstract_v002_{split}2015/abstract_v002_{split}2015_{image:012d}.png",
    ),
}
