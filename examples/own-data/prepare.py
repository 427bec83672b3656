"""Write two clients' data in the form that feddat reads: a JSONL file per split and a folder of images per client.

The pictures and questions come from the easy-vqa package. One client asks about colours, the other about shapes; they
share no picture and no question. Replace this script by your own export; only the files that it writes matter.

    python prepare.py [FOLDER] [--train 300] [--test 60]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import easy_vqa

COLOURS = ("black", "gray", "red", "green", "blue", "brown", "yellow", "teal")
SHAPES = ("circle", "rectangle", "triangle")
CLIENTS = ("colours", "shapes")


def subject(question: str, answer: str) -> str | None:
    """Return the client that asks this question; ``None`` for questions about both colour and shape."""
    words = question.rstrip("?").split()
    names_colour, names_shape = any(w in COLOURS for w in words), any(w in SHAPES for w in words)
    if answer in COLOURS or (answer in ("yes", "no") and names_colour and not names_shape):
        return "colours"
    if answer in SHAPES or (answer in ("yes", "no") and names_shape and not names_colour):
        return "shapes"
    return None


def write_split(folder: Path, split: str, count: int) -> None:
    """Write ``count`` records per client as ``CLIENT/SPLIT.jsonl``, and copy the images they name."""
    source = "train" if split == "train" else "test"
    questions, answers, numbers = getattr(easy_vqa, f"get_{source}_questions")()
    images = getattr(easy_vqa, f"get_{source}_image_paths")()
    for place, client in enumerate(CLIENTS):
        (folder / client / "images").mkdir(parents=True, exist_ok=True)
        records = []
        for question, answer, number in zip(questions, answers, numbers, strict=True):
            # Even pictures belong to one client, odd ones to the other.
            if len(records) == count or number % 2 != place or subject(question, answer) != client:
                continue
            name = f"{source}-{number}.png"
            shutil.copyfile(images[number], folder / client / "images" / name)
            records.append({"image": f"images/{name}", "question": question, "answers": answer})
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / client / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{folder / client / split}.jsonl: {len(records)} questions")


def main() -> None:
    """Read the command line and write both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--train", type=int, default=300, help="training questions per client")
    parser.add_argument("--test", type=int, default=60, help="test questions per client")
    arguments = parser.parse_args()
    write_split(arguments.folder, "train", arguments.train)
    write_split(arguments.folder, "test", arguments.test)


if __name__ == "__main__":
    main()
