"""How readers treat the peculiarities of medical datasets, conversations and captions in their genuine files."""

import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from data.readers.layouts import write_image, write_json, write_tree
from feddat.data.readers import read_client
from feddat.data.readers.medical import answer_kind
from feddat.data.readers.published import SOURCES
from feddat.example import DataError
from feddat.pictures import PictureReader


def edit(path: Path, place: int, **values: object) -> None:
    rows = json.loads(path.read_text())
    rows[place] |= values
    path.write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("given", "answer", "kind"),
    [
        ("OPEN", "yes", "open"),
        ("CLOSED ", "chest", "closed"),
        (None, "Yes.", "closed"),
        (None, "no", "closed"),
        ("", "no fracture", "open"),
        ("other", "yes", "closed"),
    ],
)
def test_a_dataset_is_believed_and_else_yes_and_no_are_closed(given: str | None, answer: str, kind: str) -> None:
    assert answer_kind(given, answer) == kind


def test_splits_of_vqa_rad_are_its_phrase_types_and_numbers_are_answers(tmp_path: Path) -> None:
    write_tree("vqa-rad", tmp_path, ["train", "test"], 3)
    file = tmp_path / "VQA_RAD Dataset Public.json"
    edit(file, 0, phrase_type="para", answer=4, answer_type="OPEN ")
    edit(file, 5, phrase_type="test_para", answer="Yes", answer_type="CLOSED ")
    train, test = (list(SOURCES["vqa-rad"].read(tmp_path, split)) for split in ("train", "test"))
    assert [example.answers for example in train] == [{"4": 1.0}, {"green": 1.0}, {"blue": 1.0}]
    assert [example.meta["answer_type"] for example in test] == ["open", "open", "closed"]
    assert train[0].meta["image_organ"] == "CHEST"


def test_slake_is_read_in_english_from_its_archive(tmp_path: Path) -> None:
    write_tree("slake", tmp_path, ["validation"], 3)
    (tmp_path / "validation.json").rename(tmp_path / "validate.json")  # as published
    with zipfile.ZipFile(tmp_path / "imgs.zip", "w") as archive:
        for path in sorted((tmp_path / "imgs").rglob("*.jpg")):
            archive.write(path, path.relative_to(tmp_path))
            path.unlink()
    for folder in sorted((tmp_path / "imgs").rglob("*"), reverse=True):
        folder.rmdir()
    (tmp_path / "imgs").rmdir()
    skipped: Counter[str] = Counter()
    found = list(SOURCES["slake"].read(tmp_path, "validation", skipped=skipped))
    assert skipped == {"in another language": 1}
    assert [example.answers for example in found] == [{"red": 1.0}, {"green": 1.0}, {"blue": 1.0}]
    assert found[0].meta == {
        "answer_type": "open",
        "modality": "X-Ray",
        "location": "Lung",
        "content_type": "Color",
        "base_type": "vqa",
    }
    assert isinstance(found[0].images[0], bytes)
    assert abs(int(PictureReader().read(found[0].images[0])[0, 0, 0]) - 200) < 3
    edit(tmp_path / "validate.json", 2, img_name="xmlab9/source.jpg")
    with pytest.raises(DataError, match=r"validate\.json, item 3: image: no such image file: .*xmlab9/source\.jpg"):
        list(SOURCES["slake"].read(tmp_path, "validation"))
    (tmp_path / "imgs.zip").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataError, match=r"imgs\.zip: cannot be read as a ZIP file"):
        list(SOURCES["slake"].read(tmp_path, "validation"))


def test_every_answer_of_mimic_cxr_vqa_is_right_and_none_is_one(tmp_path: Path) -> None:
    write_tree("mimic-cxr-vqa", tmp_path, ["test"], 2)
    edit(tmp_path / "test.json", 1, answer=[], semantic_type="verify")
    first, second = SOURCES["mimic-cxr-vqa"].read(tmp_path, "test")
    assert first.answers == {"red": 1.0, "grey": 1.0}
    assert second.answers == {"none": 1.0}
    assert [example.meta["answer_type"] for example in (first, second)] == ["open", "closed"]
    assert not {"subject_id", "study_id"} & first.meta.keys()  # nothing that identifies a patient is kept


@pytest.mark.parametrize("changed", [False, True])
def test_the_letter_of_pmc_vqa_is_the_one_that_is_a_letter(tmp_path: Path, changed: bool) -> None:
    write_tree("pmc-vqa", tmp_path, ["train"], 4)
    path = tmp_path / "train.csv"
    if changed:  # as in the second version's files, which also have another name
        text = path.read_text().replace("Answer,Choice A", "X,Choice A").replace("Answer_label", "Answer")
        path.unlink()
        (tmp_path / "train_2.csv").write_text(text.replace("X,Choice A", "Answer_label,Choice A"))
    found = list(SOURCES["pmc-vqa"].read(tmp_path, "train"))
    assert [example.label for example in found] == [0, 1, 2, 3]
    assert found[0].choices == ("a red tile", "a green tile", "a blue tile", "a grey tile")


def test_every_turn_of_a_conversation_is_a_question(tmp_path: Path) -> None:
    for name in ("a.png", "images/b.png"):
        write_image(tmp_path / name, 0)
    turns = [
        {"from": "human", "value": "<image>\nIs it red?"},
        {"from": "gpt", "value": "Yes."},
        {"from": "human", "value": "Where is it?"},
        {"from": "gpt", "value": "on the left"},
    ]
    rows = [
        {"id": "7", "image": "a.png", "conversations": turns},
        {"id": "8", "conversations": turns[2:]},
        {"id": "7", "image": "b.png", "conversations": [turns[0] | {"value": "What is it?\n<image>"}, turns[3]]},
    ]
    for split in ("train", "val"):
        write_json(tmp_path / f"{split}.json", rows)
    client = read_client("c", {"format": "llava", "root": str(tmp_path), "test": "val", "validation": "val"})
    assert [(e.text, dict(e.answers)) for e in client.test] == [
        ("Is it red?", {"yes": 1.0}),
        ("Where is it?", {"on the left": 1.0}),
        ("What is it?", {"on the left": 1.0}),
    ]
    assert [example.meta["answer_type"] for example in client.test] == ["closed", "open", "open"]
    assert client.test[2].images == (tmp_path / "images" / "b.png",)
    rows[0]["conversations"] = turns[1:]
    write_json(tmp_path / "val.json", rows)
    with pytest.raises(DataError, match=r"val\.json, item 1: turn 1: expected text from human, got "):
        read_client("c", {"format": "llava", "root": str(tmp_path), "test": "val"})


@pytest.mark.parametrize("name", ["../x.png", "images/../../x.png"])
def test_forms_of_data_lead_nowhere_outside_their_folders(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    write_image(tmp_path / "x.png", 0)
    (root / "images").mkdir(parents=True)
    turns = [{"from": "human", "value": "Is it red?"}, {"from": "gpt", "value": "Yes."}]
    write_json(root / "train.json", [{"image": name, "conversations": turns}])
    captions = {"images": [{"id": 1, "file_name": f"../{name}"}], "annotations": [{"image_id": 1, "caption": "x"}]}
    write_json(root / "annotations" / "captions_train.json", captions)
    (root / "train").mkdir()
    for form in ("llava", "coco-captions"):
        with pytest.raises(DataError, match="lies outside the images folder"):
            read_client("c", {"format": form, "root": str(root), "test": "train"})


def test_captions_of_coco_are_answers_to_one_question(tmp_path: Path) -> None:
    images = [{"id": 9 + i, "file_name": f"COCO_train2014_{9 + i:012d}.jpg"} for i in range(3)]
    captions = [{"id": i, "image_id": 9 + i % 2, "caption": f"A tile, {i}."} for i in range(4)]
    for split in ("train2014", "val2014"):
        write_json(tmp_path / "annotations" / f"captions_{split}.json", {"images": images, "annotations": captions})
        for i in range(3):
            write_image(tmp_path / split / images[i]["file_name"], i)
    spec = {"format": "coco-captions", "root": str(tmp_path), "train": "train2014", "test": "val2014"}
    client = read_client("c", spec)
    assert [example.answers for example in client.test] == [
        {"a tile, 0.": 1.0, "a tile, 2.": 1.0},
        {"a tile, 1.": 1.0, "a tile, 3.": 1.0},
    ]
    assert {example.text for example in client.test} == {"What is in this picture?"}
    captions.append({"id": 9, "image_id": 99, "caption": "x"})
    write_json(tmp_path / "annotations/captions_val2014.json", {"images": images, "annotations": captions})
    with pytest.raises(DataError, match="a caption names image 99, which is not among the images"):
        read_client("c", spec)
