"""Every published dataset: what its reader yields from a small tree in the genuine layout, and its errors."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.readers.layouts import WRITERS, write_tree
from feddat.data.readers import cocoqa
from feddat.data.readers.published import SOURCES
from feddat.example import DataError, Example
from feddat.pictures import PictureReader
from feddat.tasks import TASKS
from feddat.text import normal_text

ALL = pytest.mark.parametrize("name", sorted(SOURCES))
ONE_PER_FORMAT = [name for name in sorted(SOURCES) if not name.startswith("clove")] + ["clove-scene-a"]
FEW = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def examples(name: str, root: Path, split: str, count: int = 4) -> list[Example]:
    return list(SOURCES[name].read(write_tree(name, root, [split], count), split))


def message(name: str, root: Path, split: str) -> str:
    with pytest.raises(DataError) as caught:
        list(SOURCES[name].read(root, split))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_line(path: Path, number: int, **values: Any) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | values)
    path.write_text("\n".join(lines))


# What readers yield


def test_every_source_has_a_tree() -> None:
    assert set(SOURCES) == set(WRITERS)


@ALL
def test_a_genuine_tree_is_read(tmp_path: Path, name: str) -> None:
    source = SOURCES[name]
    write_tree(name, tmp_path, source.splits, count=4)
    for split in source.splits:
        assert all(path.is_file() for path in source.files(tmp_path, split))
        found = list(source.read(tmp_path, split))
        assert len({example.id for example in found}) == len(found) == 4
        assert PictureReader().read(found[0].images[0]).shape == (30, 40, 3)
        task = TASKS[source.task](["red", "green", "blue", "grey"]) if source.task == "vqa" else TASKS[source.task]()
        assert len(task.views(found[0])) == task.views_per_example
        assert len(task.targets(found)) == 4


@ALL
def test_a_byte_order_mark_does_no_harm(tmp_path: Path, name: str) -> None:
    source = SOURCES[name]
    split = source.splits[0]
    write_tree(name, tmp_path, [split], count=2)
    for path in source.files(tmp_path, split):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(list(source.read(tmp_path, split))) == 2


@pytest.mark.parametrize(
    ("name", "split", "identifier", "image"),
    [
        ("vqav2", "val", "9000", "val2014/COCO_val2014_000000000009.jpg"),
        (
            "abstract-scenes",
            "train",
            "9000",
            "scene_img_abstract_v002_train2015/abstract_v002_train2015_000000000009.png",
        ),
        ("vizwiz", "train", "VizWiz_train_00000000", "train/VizWiz_train_00000000.jpg"),
        ("aqua", "test", "item-1", "SemArt/Images/42809-test.jpg"),
        ("cocoqa", "test", "line-1", "val2014/COCO_val2014_000000000009.jpg"),
        ("gqa", "testdev", "02930152", "images/2354786.jpg"),
        ("clove-scene-b", "val", "g06778809", "VG_100K/440.jpg"),
        ("nlvr2", "train", "train-10171-0-1", "images/train/0/train-10171-0-img0.png"),
        ("nlvr2", "test1", "test1-10171-0-1", "test1/test1-10171-0-img0.png"),
        ("snli-ve", "dev", "3416050480.jpg#4r1n", "flickr30k-images/3416050480.jpg"),
        ("vqa-rad", "test", "test-0", "VQA_RAD Image Folder/synpic54610test.jpg"),
        ("slake", "validation", "11934", "imgs/xmlab0validation/source.jpg"),
        ("mimic-cxr-vqa", "validation", "0", "files/p10/p10000030/s50414260/02aa804e-validation.jpg"),
        ("pmc-vqa", "test", "line-2", "images/PMC1064097test_F1.jpg"),
        ("vcr", "val", "val-0", "vcr1images/lsmdc_3015_FILM/3015_FILM_00.23.57.000@0.jpg"),
    ],
)
def test_ids_and_image_names_are_the_published_ones(
    tmp_path: Path, name: str, split: str, identifier: str, image: str
) -> None:
    first = examples(name, tmp_path, split)[0]
    assert first.id == identifier
    assert first.images[0] == tmp_path / image


@pytest.mark.parametrize("name", ["vqav2", "abstract-scenes", "vizwiz"])
def test_ten_answers_are_votes_after_normalisation(tmp_path: Path, name: str) -> None:
    assert [example.answers for example in examples(name, tmp_path, "train", 2)] == [
        {"grey": 0.6, "red": 1.0},
        {"grey": 0.6, "green": 1.0},
    ]


@pytest.mark.parametrize(
    ("name", "split"), [("aqua", "val"), ("cocoqa", "train"), ("gqa", "val"), ("clove-function-object", "val")]
)
def test_one_answer_scores_one(tmp_path: Path, name: str, split: str) -> None:
    assert [e.answers for e in examples(name, tmp_path, split, 3)] == [{"red": 1.0}, {"green": 1.0}, {"blue": 1.0}]


def test_unanswerable_is_an_answer(tmp_path: Path) -> None:
    write_tree("vizwiz", tmp_path, ["val"], 1)
    answers = [{"answer": "unanswerable", "answer_confidence": "no"}] * 9 + [{"answer": "", "answer_confidence": "no"}]
    edit_json(tmp_path / "Annotations" / "val.json", lambda rows: rows[0].update(answers=answers, answerable=0))
    (example,) = SOURCES["vizwiz"].read(tmp_path, "val")
    assert example.answers == {"unanswerable": 1.0}
    assert example.meta == {"answer_type": "other", "answerable": "0"}


def test_questions_and_annotations_in_different_orders_are_joined(tmp_path: Path) -> None:
    straight = examples("vqav2", tmp_path, "train", 5)
    edit_json(tmp_path / "v2_mscoco_train2014_annotations.json", lambda file: file["annotations"].reverse())
    crossed = list(SOURCES["vqav2"].read(tmp_path, "train"))
    assert {e.id: e.answers for e in crossed} == {e.id: e.answers for e in straight}
    assert {e.id: e.images for e in crossed} == {e.id: e.images for e in straight}


def test_labels_and_both_images_of_nlvr2(tmp_path: Path) -> None:
    found = examples("nlvr2", tmp_path, "dev", 3)
    assert [example.label for example in found] == [0, 1, 0]
    assert found[1].images == (tmp_path / "dev/dev-10171-1-img0.png", tmp_path / "dev/dev-10171-1-img1.png")


def test_pairs_without_a_gold_label_are_skipped_and_counted(tmp_path: Path) -> None:
    write_tree("snli-ve", tmp_path, ["test"], 4)
    skipped: Counter[str] = Counter()
    found = list(SOURCES["snli-ve"].read(tmp_path, "test", skipped=skipped))
    assert [example.label for example in found] == [0, 1, 2, 0]
    assert found[0].text == "A red tile."
    assert skipped == {"without a gold label": 1}


def test_object_references_of_vcr_are_written_out(tmp_path: Path) -> None:
    second = examples("vcr", tmp_path, "train", 2)[1]
    assert second.text == "Why are person 1 and person 2 sitting at diningtable 3 ?"
    assert second.choices == ("person 1 is hungry .", "They play .", "person 1 likes person 2 .", "They rest .")
    assert second.label == 1


# Text files of COCO-QA: any lines


@FEW
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1, max_size=12).filter(
                lambda text: normal_text(text).strip()
            ),
            st.integers(0, 10**6),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_lines_come_back_as_written(tmp_path: Path, rows: list[tuple[str, int, int]]) -> None:
    columns = zip(*[(text, text, str(image), str(kind)) for text, image, kind in rows], strict=True)
    for path, lines in zip(cocoqa.files(tmp_path, "train"), columns, strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines), encoding="utf-8", newline="")
    found = list(cocoqa.records(tmp_path, "train", Counter()))
    assert [record.text("question") for record in found] == [normal_text(text).strip() for text, _, _ in rows]
    assert [record.fields["image"].name[-16:-4] for record in found] == [f"{image:012d}" for _, image, _ in rows]
    assert [record.text("kind") for record in found] == [cocoqa.KINDS[kind] for _, _, kind in rows]


# Errors about files that cannot be used


@ALL
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    split = SOURCES[name].splits[0]
    for path in SOURCES[name].files(tmp_path, split):
        write_tree(name, tmp_path, [split], 1)
        path.unlink()
        assert message(name, tmp_path, split) == f"{path}: no such file; {name} {split} needs it"


@ALL
def test_an_unknown_split_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: no split 'nowhere'; expected train"):
        SOURCES[name].files(tmp_path, "nowhere")


@pytest.mark.parametrize("name", ONE_PER_FORMAT)
def test_a_missing_image_is_named_or_skipped_and_counted(tmp_path: Path, name: str) -> None:
    source, skipped = SOURCES[name], Counter[str]()
    split = source.splits[0]
    third = examples(name, tmp_path, split, 3)[2]
    third.images[-1].unlink()
    text = message(name, tmp_path, split)
    assert text.startswith(str(tmp_path))
    assert "no such image file: " in text
    kept = list(source.read(tmp_path, split, skip_missing=True, skipped=skipped))
    assert third.id not in [example.id for example in kept]
    assert len(kept) == 2
    assert skipped["with a missing image"] == 1


@pytest.mark.parametrize("name", ONE_PER_FORMAT)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, name: str, keep: float) -> None:
    split = SOURCES[name].splits[0]
    write_tree(name, tmp_path, [split], 3)
    for path in SOURCES[name].files(tmp_path, split):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])
        if path.suffix in (".jsonl", ".txt") or name == "nlvr2":
            path.write_bytes(content[:-3] + b"\xff\n")
        assert str(tmp_path) in message(name, tmp_path, split)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "file", "change", "said"),
    [
        (
            "vqav2",
            "v2_mscoco_train2014_annotations.json",
            lambda f: f["annotations"].pop(),
            "v2_OpenEnded_mscoco_train2014_questions.json, questions 3: question_id 9002 is not in ",
        ),
        (
            "vqav2",
            "v2_OpenEnded_mscoco_train2014_questions.json",
            lambda f: f["questions"].pop(0),
            "v2_mscoco_train2014_annotations.json, annotations 1: question_id 9000 is not in ",
        ),
        (
            "vqav2",
            "v2_mscoco_train2014_annotations.json",
            lambda f: f["annotations"][1]["answers"].__setitem__(4, {"answer": [7]}),
            "annotations 2: answer 5 of 10: expected text, got [7]",
        ),
        (
            "vqav2",
            "v2_OpenEnded_mscoco_train2014_questions.json",
            lambda f: f["questions"][2].update(image_id="12"),
            "questions 3: image_id: expected a whole number, got '12'",
        ),
        (
            "vqav2",
            "v2_OpenEnded_mscoco_train2014_questions.json",
            lambda f: f.pop("questions"),
            "questions.json: expected a list of objects under the key 'questions'",
        ),
        ("vizwiz", "Annotations/train.json", lambda f: f[1].update(question=None), "item 2: question: expected text"),
        ("vizwiz", "Annotations/train.json", lambda f: f.append(f[0]), "item 4: duplicate id 'VizWiz_train_00000000'"),
        ("aqua", "train.json", lambda f: f[2].update(answer=["red"]), "item 3: answer: expected text, got ['red']"),
        ("aqua", "train.json", lambda f: f.insert(1, 5), "item 2: expected a JSON object, got 5"),
        (
            "gqa",
            "train_balanced_questions.json",
            lambda f: f["02930153"].pop("answer"),
            "question_id 02930153: answer: expected text, got None",
        ),
        (
            "clove-scene-a",
            "json/scene/scene_a#ShopAndDining_train.json",
            lambda f: f[0].update(image_source="web"),
            "item 1: image_source: expected vg or textvqa, got 'web'",
        ),
    ],
)
def test_a_bad_record_is_named_by_file_and_place(
    tmp_path: Path, name: str, file: str, change: Callable[[Any], Any], said: str
) -> None:
    write_tree(name, tmp_path, ["train"], 3)
    edit_json(tmp_path / file, change)
    assert said in message(name, tmp_path, "train")


def test_a_key_that_occurs_twice_is_named(tmp_path: Path) -> None:
    write_tree("gqa", tmp_path, ["train"], 2)
    path = tmp_path / "train_balanced_questions.json"
    path.write_text(path.read_text().replace("02930153", "02930152"))
    assert "question_id 02930152: duplicate id '02930152'" in message("gqa", tmp_path, "train")


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('{"data": []}')
    (tmp_path / "train_balanced_questions.json").write_text("[{}]")
    assert message("aqua", tmp_path, "train") == f"{tmp_path}/train.json: expected a list of objects"
    assert "questions.json: expected a mapping from keys to objects" in message("gqa", tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "file", "values", "said"),
    [
        ("nlvr2", "nlvr2/data/train.json", {"label": "maybe"}, "label: expected 0 to 1 or one of false, true"),
        (
            "nlvr2",
            "nlvr2/data/train.json",
            {"identifier": "x"},
            "identifier: expected split-set-pair-sentence, got 'x'",
        ),
        ("nlvr2", "nlvr2/data/train.json", {"directory": None}, "directory: expected text or a whole number, got None"),
        ("snli-ve", "snli_ve_train.jsonl", {"gold_label": "yes"}, "label: expected 0 to 2 or one of entailment"),
        ("snli-ve", "snli_ve_train.jsonl", {"sentence2": ""}, "sentence2: expected text, got ''"),
        ("vcr", "train.jsonl", {"question": ["Is", [3], "?"]}, "question: object 3: expected 0 to 2"),
        (
            "vcr",
            "train.jsonl",
            {"question": ["Is", 3, "?"]},
            "question: expected words and lists of object numbers, got 3",
        ),
        ("vcr", "train.jsonl", {"answer_choices": [["a"], "b"]}, "answer choice 2: expected a list of words, got 'b'"),
        ("vcr", "train.jsonl", {"answer_choices": [["a"], ["b"]]}, "choices: expected a list of 4 texts"),
        ("vcr", "train.jsonl", {"answer_label": 4}, "label: expected 0 to 3, got 4"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, file: str, values: dict[str, Any], said: str) -> None:
    write_tree(name, tmp_path, ["train"], 3)
    edit_line(tmp_path / file, 3, **values)
    text = message(name, tmp_path, "train")
    assert text.startswith(f"{tmp_path / file}, line 3: ")
    assert said in text


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("types", "2\n2\n4\n", "types.txt, line 3: types: expected 0 to 3, got '4'"),
        ("img_ids", "9\nnine\n11\n", "img_ids.txt, line 2: img_ids: expected a whole number, got 'nine'"),
        ("answers", "red\n", "answers.txt: ends before line 2, which {root}/train/questions.txt has"),
        ("questions", "what\n\nwhere\n", "questions.txt, line 2: questions: expected text"),
    ],
)
def test_bad_lines_of_cocoqa(tmp_path: Path, file: str, content: str, said: str) -> None:
    write_tree("cocoqa", tmp_path, ["train"], 3)
    (tmp_path / "train" / f"{file}.txt").write_text(content)
    assert said.format(root=tmp_path) in message("cocoqa", tmp_path, "train")


values = st.sampled_from(
    [None, True, -1, 3, 10**9, 0.5, "", " ", "x", "\x00", "x" * 300, [], [None], ["a"], {}, {"answer": 1}]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every part of a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in parts for place in places(part, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("name", [name for name in ONE_PER_FORMAT if name not in ("cocoqa", "pmc-vqa")])
@FEW
@given(data=st.data())
def test_any_wrong_value_is_read_or_named(tmp_path: Path, name: str, data: st.DataObject) -> None:
    split = SOURCES[name].splits[0]
    for path in SOURCES[name].files(tmp_path, split):
        path.unlink(missing_ok=True)  # left by the previous draw
    write_tree(name, tmp_path, [split], 1)
    path = SOURCES[name].files(tmp_path, split)[-1]
    lines = path.read_text().splitlines()
    whole = json.loads(lines[-1])
    lines[-1] = json.dumps(replaced(whole, data.draw(st.sampled_from(places(whole))), data.draw(values)))
    path.write_text("\n".join(lines))
    try:
        for example in SOURCES[name].read(tmp_path, split):
            TASKS[SOURCES[name].task](*[("red",)] * (SOURCES[name].task == "vqa")).views(example)
    except DataError as error:
        assert str(error).startswith(str(tmp_path))
