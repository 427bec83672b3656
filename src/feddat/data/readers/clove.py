"""CLOVE: questions about photos of six kinds of scene, and questions that need six skills.

Lei et al., "Symbolic Replay: Scene Graph as Prompt for Continual Learning on VQA Task", AAAI 2023 (arXiv 2208.12037).
Format as documented in github.com/showlab/CLVQA, JSON edition. (The NumPy edition holds the same examples as pickled
objects, which this reader refuses.) ::

    json/scene/scene_a#ShopAndDining_train.json      [{"question_id": "g06778809", "image_id": "440",
    json/function/functional_attribute_train.json      "image_source": "vg", "question": ..., "answers": ["kiosk", ...
    images/440.jpg                       Visual Genome's images, in the folder of GQA's archive,
    VG_100K/440.jpg                      or in the folders of its own two archives, VG_100K and VG_100K_2
    train_images/0a0bc91825468c45.jpg    TextVQA's images, needed only by the skill scenetext

``answers`` holds ten answers; if the source has only one, it is repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from feddat.data.readers import large_json
from feddat.data.readers.image_folder import Below, is_file
from feddat.data.readers.records import Record
from feddat.data.readers.vqa_answers import votes
from feddat.example import DataError

#: Group -> name of its scenes.
SCENES = {
    "a": "ShopAndDining",
    "b": "Workplace",
    "c": "HomeOrHotel",
    "d": "Transportation",
    "e": "SportAndLeisure",
    "f": "Outdoors",
}
SKILLS = ("attribute", "knowledge", "logical", "object", "relation", "scenetext")
#: ``image_source`` -> the folders that may hold such images.
FOLDERS = {"vg": ("images", "VG_100K", "VG_100K_2"), "textvqa": ("train_images",)}


@dataclass(frozen=True)
class Part:
    """A scene group or a skill; ``stem`` is the path of its files below the root, without split and suffix."""

    stem: str

    def files(self, root: Path, split: str) -> tuple[Path, ...]:
        """Return the annotations file."""
        return (root / f"{self.stem}_{split}.json",)

    def records(self, root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
        """Yield one record per question, with its ten answers as votes."""
        (path,) = self.files(root, split)
        for record in large_json.elements(path):
            source = record.text("image_source")
            if source not in FOLDERS:
                raise DataError(f"{record.where}: image_source: expected {' or '.join(FOLDERS)}, got {source!r}")
            name = f"{record.identifier('image_id')}.jpg"
            folders = FOLDERS[source]
            fields = {
                "id": record.identifier("question_id"),
                "image": Below(next((f for f in folders if is_file(root / f / name)), folders[0]), name),
                "question": record.text("question"),
                "answers": votes(record),
                "stage": record.fields.get("stage"),
            }
            yield Record(path, record.place, fields)


def scene(group: str) -> Part:
    """Return the part of a scene group, ``a`` to ``f``."""
    return Part(f"json/scene/scene_{group}#{SCENES[group]}")


def skill(name: str) -> Part:
    """Return the part of a skill."""
    return Part(f"json/function/functional_{name}")
