"""Write made-up photos and questions in the layout of VQA v2, to measure `feddat data prepare`.

    python tests/benchmarks/vqav2_tree.py DIR --images 5000 --questions 20000

writes DIR/vqav2 with a training split of that size and a validation split a fifth as large. Photos are JPEG files of
640 x 480 pixels (quality 90, about 130 kB each, near COCO's): smooth noise, a dozen ellipses and sensor grain.
"""

from __future__ import annotations

import argparse
import json
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 640, 480
COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 200), "white": (240, 240, 240)}


def write_photo(path: Path, seed: int) -> None:
    """Write one photo; the seed decides every pixel."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    picture = smooth.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = rng.integers(0, WIDTH - 100), rng.integers(0, HEIGHT - 100)
        box = [x, y, x + rng.integers(20, 150), y + rng.integers(20, 120)]
        draw.ellipse([int(side) for side in box], fill=list(COLOURS.values())[rng.integers(len(COLOURS))])
    grain = rng.integers(-12, 13, (HEIGHT, WIDTH, 1))
    pixels = (np.asarray(picture).astype(np.int16) + grain).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)


def write_split(root: Path, split: str, images: int, questions: int, pool: Pool) -> None:
    """Write one split; question i is about image i modulo their number."""
    rng = np.random.default_rng(len(split))
    names = list(COLOURS)
    asked, answered = [], []
    for i in range(questions):
        row = {"question_id": 1000 * (i + 1), "image_id": 1 + i % images}
        votes = [names[rng.integers(len(names))] if vote > 6 else names[i % len(names)] for vote in range(10)]
        asked.append(row | {"question": f"what colour is the ellipse number {i % 97}?"})
        answers = [{"answer": vote, "answer_confidence": "yes", "answer_id": n} for n, vote in enumerate(votes, 1)]
        answered.append(row | {"question_type": "what colour", "answer_type": "other", "answers": answers})
    head = {"info": {"description": "made up"}, "data_subtype": f"{split}2014"}
    root.mkdir(parents=True, exist_ok=True)
    (root / f"v2_OpenEnded_mscoco_{split}2014_questions.json").write_text(json.dumps(head | {"questions": asked}))
    (root / f"v2_mscoco_{split}2014_annotations.json").write_text(json.dumps(head | {"annotations": answered}))
    paths = [root / f"{split}2014" / f"COCO_{split}2014_{1 + n:012d}.jpg" for n in range(images)]
    pool.starmap(write_photo, [(path, n + (split == "val") * 10**6) for n, path in enumerate(paths)], chunksize=50)


def main() -> None:
    """Read the command line and write the tree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--questions", type=int, default=20000)
    options = parser.parse_args()
    with Pool() as pool:
        for split, share in (("train", 1), ("val", 5)):
            sizes = options.images // share, options.questions // share
            write_split(options.folder / "vqav2", split, *sizes, pool)


if __name__ == "__main__":
    main()
