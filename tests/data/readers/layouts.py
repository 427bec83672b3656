"""Small trees in the genuine layout of each published dataset, with images that can be decoded."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from feddat.data.readers import clove

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
NAMES = tuple(COLOURS)
LABELS = ("entailment", "neutral", "contradiction")


def write_tree(name: str, root: Path, splits: Sequence[str], count: int = 6) -> Path:
    """Write ``count`` examples per split of the dataset ``name`` below ``root``; return ``root``.

    Example i has its own image of 40 x 30 pixels in one colour: red, green or blue in turn. In AQUA two questions share
    an image. VQA datasets ask for the colour. With class labels, example i has label i modulo the number of classes.
    SNLI-VE starts with one more record, which has no gold label.
    """
    for split in splits:
        WRITERS[name](root, split, count)
    return root


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_image(path: Path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((30, 40, 3), COLOURS[NAMES[index % 3]], np.uint8)).save(path)


def ten_answers(index: int) -> list[dict[str, Any]]:
    """Return ten annotators' answers: two say grey, and eight the colour, in different spellings."""
    colour = NAMES[index % 3]
    texts = ["grey", "Grey.", f"the {colour}", colour.upper(), *[colour] * 6]
    return [{"answer": text, "answer_confidence": "maybe", "answer_id": i} for i, text in enumerate(texts, 1)]


def write_vqa(questions: str, annotations: str, image: str, root: Path, split: str, count: int) -> None:
    ids = [{"question_id": 9000 + i, "image_id": 9 + i} for i in range(count)]
    asked = [row | {"question": "What colour is it?"} for row in ids]
    answered = [
        row
        | {
            "question_type": "what colour is",
            "answer_type": "other",
            "multiple_choice_answer": NAMES[i % 3],
            "answers": ten_answers(i),
        }
        for i, row in enumerate(ids)
    ]
    head = {"info": {"version": "2.0", "year": 2017}, "license": {"name": "CC BY 4.0"}, "data_type": "mscoco"}
    write_json(root / questions.format(split=split), head | {"task_type": "Open-Ended", "questions": asked})
    write_json(root / annotations.format(split=split), head | {"annotations": answered})
    for i, row in enumerate(ids):
        write_image(root / image.format(split=split, image=row["image_id"]), i)


def write_vizwiz(root: Path, split: str, count: int) -> None:
    names = [f"VizWiz_{split}_{i:08d}.jpg" for i in range(count)]
    rows = [
        {
            "answerable": 1,
            "image": name,
            "question": "What colour is this?",
            "answer_type": "other",
            "answers": ten_answers(i),
        }
        for i, name in enumerate(names)
    ]
    write_json(root / "Annotations" / f"{split}.json", rows)
    for i, name in enumerate(names):
        write_image(root / split / name, i)


def write_aqua(root: Path, split: str, count: int) -> None:
    rows = []
    for i in range(count):
        name = f"{42809 + i // 2}-{split}.jpg"
        write_image(root / "SemArt" / "Images" / name, i)
        answer = NAMES[i % 3]
        rows.append(
            {"image": name, "question": "what colour is it", "answer": answer, "need_external_knowledge": False}
        )
    write_json(root / f"{split}.json", rows)


def write_cocoqa(root: Path, split: str, count: int) -> None:
    write_lines(root / split / "questions.txt", ["what is the color of the tile"] * count)
    write_lines(root / split / "answers.txt", [NAMES[i % 3] for i in range(count)])
    write_lines(root / split / "img_ids.txt", [str(9 + i) for i in range(count)])
    write_lines(root / split / "types.txt", ["2"] * count)
    folder = {"train": "train2014", "test": "val2014"}[split]
    for i in range(count):
        write_image(root / folder / f"COCO_{folder}_{9 + i:012d}.jpg", i)


def write_gqa(root: Path, split: str, count: int) -> None:
    questions = {}
    for i in range(count):
        image = f"{'n' * (i % 2)}{2354786 + i}"
        write_image(root / "images" / f"{image}.jpg", i)
        questions[f"{2930152 + i:08d}"] = {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "tile (3)"}],
            "entailed": [],
            "isBalanced": True,
            "groups": {"global": "color", "local": "10q-tile_color"},
            "answer": NAMES[i % 3],
            "imageId": image,
            "types": {"structural": "query", "semantic": "attr", "detailed": "directOf"},
            "question": "Which color is the tile?",
            "fullAnswer": f"The tile is {NAMES[i % 3]}.",
        }
    write_json(root / f"{split}_balanced_questions.json", questions)


def write_clove(stem: str, root: Path, split: str, count: int) -> None:
    rows = []
    for i in range(count):
        write_image(root / ("VG_100K", "VG_100K_2", "images")[i % 3] / f"{440 + i}.jpg", i)
        rows.append(
            {
                "answer": NAMES[i % 3],
                "answers": [NAMES[i % 3]] * 10,
                "image_id": str(440 + i),
                "image_source": "vg",
                "question": "What color is the tile?",
                "question_id": f"g{6778809 + i:08d}",
                "set_name": split,
                "stage": "attribute",
                "ocr": [],
            }
        )
    write_json(root / f"{stem}_{split}.json", rows)


def write_nlvr2(root: Path, split: str, count: int) -> None:
    lines = []
    for i in range(count):
        pair = f"{split}-{10171 + i // 2}-{i % 2}"
        folder = root / "images" / "train" / str(i % 100) if split == "train" else root / split
        for side in (0, 1):
            write_image(folder / f"{pair}-img{side}.png", i + side)
        row = {
            "identifier": f"{pair}-1",
            "sentence": "Both tiles are of one colour.",
            "label": ("False", "True")[i % 2],
        }
        if split == "train":
            row["directory"] = i % 100
        lines.append(json.dumps(row | {"left_url": "", "right_url": "", "writer": "17", "synset": "tile"}))
    write_lines(root / "nlvr2" / "data" / f"{split}.json", lines)


def write_snli_ve(root: Path, split: str, count: int) -> None:
    lines = []
    for i in range(-1, count):
        write_image(root / "flickr30k-images" / f"{3416050480 + i}.jpg", i)
        row = {
            "annotator_labels": ["neutral", "entailment", "neutral"],
            "captionID": f"{3416050480 + i}.jpg#4",
            "gold_label": LABELS[i % 3] if i >= 0 else "-",
            "pairID": f"{3416050480 + i}.jpg#4r1n",
            "sentence1": "A tile lies on the floor.",
            "sentence2": "A red tile.",
            "Flickr30K_ID": str(3416050480 + i),
        }
        lines.append(json.dumps(row))
    write_lines(root / f"snli_ve_{split}.jsonl", lines)


def write_vcr(root: Path, split: str, count: int) -> None:
    lines = []
    for i in range(count):
        name = f"lsmdc_3015_FILM/3015_FILM_00.23.57.{i:03d}@0"
        write_image(root / "vcr1images" / f"{name}.jpg", i)
        boxes = [[0.0, 0.0, 10.0, 10.0, 0.9]] * 3
        objects = ["person", "person", "diningtable"]
        write_json(root / "vcr1images" / f"{name}.json", {"boxes": boxes, "segms": [[]] * 3, "names": objects})
        row = {
            "movie": "3015_FILM",
            "objects": objects,
            "img_fn": f"{name}.jpg",
            "metadata_fn": f"{name}.json",
            "question": ["Why", "are", [0, 1], "sitting", "at", [2], "?"],
            "answer_choices": [
                [[0], "is", "hungry", "."],
                ["They", "play", "."],
                [[0], "likes", [1], "."],
                ["They", "rest", "."],
            ],
            "answer_label": i % 4,
            "rationale_choices": [["Plates", "."]] * 4,
            "rationale_label": 0,
            "img_id": f"{split}-{i}",
            "annot_id": f"{split}-{i}",
        }
        lines.append(json.dumps(row))
    write_lines(root / f"{split}.jsonl", lines)


def write_vqa_rad(root: Path, split: str, count: int) -> None:
    """Write one file for both splits, as published; questions of the other split stay in it."""
    path = root / "VQA_RAD Dataset Public.json"
    rows = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else []
    phrase = "test_freeform" if split == "test" else "freeform"
    rows = [row for row in rows if row["phrase_type"] != phrase]
    for i in range(count):
        name = f"synpic{54610 + i}{split}.jpg"
        write_image(root / "VQA_RAD Image Folder" / name, i)
        rows.append(
            {
                "qid": f"{split}-{i}",
                "phrase_type": phrase,
                "qid_linked_id": "03f451ca-de62-4617-9679-e836026a7642",
                "image_case_url": "https://medpix.nlm.nih.gov/case?id=1",
                "image_name": name,
                "image_organ": "CHEST",
                "evaluation": "not evaluated",
                "question": "What color is the tile?",
                "question_rephrase": "NULL",
                "question_relation": "NULL",
                "question_frame": "NULL",
                "question_type": "COLOR",
                "answer": NAMES[i % 3],
                "answer_type": "OPEN",
            }
        )
    write_json(path, rows)


def write_slake(root: Path, split: str, count: int) -> None:
    """Write a Chinese question, followed by English ones."""
    row = {
        "base_type": "vqa",
        "location": "Lung",
        "modality": "X-Ray",
        "answer_type": "OPEN",
        "content_type": "Color",
        "triple": ["vhead", "_", "_"],
    }
    rows = [row | {"img_id": 0, "img_name": "xmlab0/source.jpg", "question": "什么颜色", "answer": "红", "q_lang": "zh",
                   "qid": 7}]  # fmt: skip
    for i in range(count):
        name = f"xmlab{i}{split}/source.jpg"
        write_image(root / "imgs" / name, i)
        asked = {"img_id": i, "img_name": name, "question": "What color is the tile?", "answer": NAMES[i % 3]}
        rows.append(row | asked | {"q_lang": "en", "qid": 11934 + i})
    write_json(root / f"{split}.json", rows)


def write_mimic_cxr_vqa(root: Path, split: str, count: int) -> None:
    rows = []
    for i in range(count):
        name = f"p10/p1000003{i}/s5041426{i}/02aa804e-{split}.jpg"
        write_image(root / "files" / name, i)
        rows.append(
            {
                "split": split,
                "idx": i,
                "subject_id": 10000032 + i,
                "study_id": 50414267 + i,
                "image_id": f"02aa804e-{split}",
                "image_path": name,
                "question": "Which colors does the tile have?",
                "semantic_type": "query",
                "content_type": "attribute",
                "template": "Which colors does the ${object} have?",
                "answer": [NAMES[i % 3], "grey"],
            }
        )
    file = {"train": "train", "validation": "valid", "test": "test"}[split]
    write_json(root / f"{file}.json", rows)


def write_pmc_vqa(root: Path, split: str, count: int) -> None:
    lines = ["Figure_path,Question,Answer,Choice A,Choice B,Choice C,Choice D,Answer_label"]
    for i in range(count):
        name = f"PMC{1064097 + i}{split}_F1.jpg"
        write_image(root / "images" / name, i)
        tiles = [f" {letter}: a {colour} tile" for letter, colour in zip("ABCD", (*NAMES, "grey"), strict=True)]
        choices = ",".join(tiles)
        lines.append(f"{name},What does the figure show?,a {NAMES[i % 3]} tile,{choices},{'ABCD'[i % 4]}")
    write_lines(root / f"{split}.csv", lines)


#: Dataset name -> function that writes one split, called with root, split and number of examples.
WRITERS: dict[str, Callable[[Path, str, int], None]] = {
    "vqav2": partial(
        write_vqa,
        "v2_OpenEnded_mscoco_{split}2014_questions.json",
        "v2_mscoco_{split}2014_annotations.json",
        "{split}2014/COCO_{split}2014_{image:012d}.jpg",
    ),
    "abstract-scenes": partial(
        write_vqa,
        "OpenEnded_abstract_v002_{split}2015_questions.json",
        "abstract_v002_{split}2015_annotations.json",
        "scene_img_abstract_v002_{split}2015/abstract_v002_{split}2015_{image:012d}.png",
    ),
    "vizwiz": write_vizwiz,
    "aqua": write_aqua,
    "cocoqa": write_cocoqa,
    "gqa": write_gqa,
    "nlvr2": write_nlvr2,
    "snli-ve": write_snli_ve,
    "vcr": write_vcr,
    "vqa-rad": write_vqa_rad,
    "slake": write_slake,
    "mimic-cxr-vqa": write_mimic_cxr_vqa,
    "pmc-vqa": write_pmc_vqa,
} | {
    f"clove-scene-{group}": partial(write_clove, f"json/scene/scene_{group}#{name}")
    for group, name in clove.SCENES.items()
} | {
    f"clove-function-{name}": partial(write_clove, f"json/function/functional_{name}") for name in clove.SKILLS
}  # fmt: skip
