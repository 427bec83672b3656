"""Clients that name the folder of a Hugging Face dataset: Parquet shards, or the output of save_to_disk."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from feddat.data.readers import arrow, read_client
from feddat.example import DataError
from feddat.pictures import PictureReader

COLUMNS = {"image": "img", "question": "q", "answers": "votes.answer"}


def png(colour: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


def row(**values: Any) -> dict[str, Any]:
    votes = [{"answer": "Red", "answer_id": 1}, {"answer": "red", "answer_id": 2}]
    return {"img": {"bytes": png("red"), "path": "x.png"}, "q": "What colour?", "votes": votes} | values


def table(rows: list[dict[str, Any]], classes: dict[str, list[str]] | None = None) -> pa.Table:
    """Return rows as the datasets library writes them, with the class names in the schema's metadata."""
    features = {name: {"names": names, "_type": "ClassLabel"} for name, names in (classes or {}).items()}
    note = {"huggingface": json.dumps({"info": {"features": {"q": {"_type": "Value"}} | features}})}
    return pa.Table.from_pylist(rows).replace_schema_metadata(note)


def save_shards(folder: Path, split: str, *shards: pa.Table) -> None:
    folder.mkdir(exist_ok=True)
    for number, shard in enumerate(shards):
        parquet.write_table(shard, folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")


def save_to_disk(folder: Path, split: str, *shards: pa.Table) -> None:
    (folder / split).mkdir(parents=True)
    names = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        with pa.OSFile(str(folder / split / name), "wb") as file, pa.ipc.new_stream(file, shard.schema) as stream:
            stream.write_table(shard)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / split / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize("inside", ["disk", "shards", "data"])
def test_shards_are_read_in_order_and_columns_are_named(tmp_path: Path, inside: str) -> None:
    shards = table([row(q="one"), row(q="two")]), table([row(q="three")])
    for split in ("train", "test"):
        if inside == "disk":
            save_to_disk(tmp_path, split, *shards)
        else:
            save_shards(tmp_path / "data" if inside == "data" else tmp_path, split, *shards)
    client = read_client("c", {"format": "hf", "root": str(tmp_path), "columns": COLUMNS})
    assert [example.text for example in client.test] == ["one", "two", "three"]
    assert [example.id for example in client.test] == ["row-1", "row-2", "row-3"]
    assert client.test[0].answers == {"red": 0.6}
    assert PictureReader().read(client.test[2].images[0])[0, 0].tolist() == [255, 0, 0]
    assert len(client.train) + len(client.validation) == 3


def test_class_labels_are_known_by_name_and_image_lists_by_number(tmp_path: Path) -> None:
    pair = [{"bytes": png("red"), "path": None}, {"bytes": None, "path": "b.png"}]
    (tmp_path / "b.png").write_bytes(png("blue"))
    # The classes are not in our order: 0 is true here.
    rows = [{"pair": pair, "text": "Both are red.", "truth": number} for number in (0, 1, 0)]
    for split in ("train", "test"):
        save_shards(tmp_path, split, table(rows, {"truth": ["True", "False"]}))
    columns = {"image": "pair.0", "image2": "pair.1", "question": "text", "label": "truth"}
    client = read_client("c", {"format": "hf", "root": str(tmp_path), "task": "nlvr2", "columns": columns})
    assert [example.label for example in client.test] == [1, 0, 1]
    assert client.test[0].images == (png("red"), tmp_path / "b.png")


def test_rows_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "ROWS", 2)
    shard = table([row(q=str(number)) for number in range(5)])
    save_shards(tmp_path, "train", shard)
    save_to_disk(tmp_path, "test", shard)
    for path in (tmp_path / "train-00000-of-00001.parquet", tmp_path / "test" / "data-00000-of-00001.arrow"):
        records = list(arrow.read(path))
        assert [record.fields["q"] for record in records] == list("01234")
        assert [record.place for record in records] == [f"row {number}" for number in range(1, 6)]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (COLUMNS | {"question": "text"}, "row 1: column 'text', named as question: no 'text' (columns: img, q, votes)"),
        (COLUMNS | {"answers": "votes.score"}, "row 1: column 'votes.score', named as answers: no 'score'"),
        (
            {"image": "img", "question": "q"},
            "no column looks like 'answers' (columns: img, q, votes); name it",
        ),
        ({"image": "q", "question": "q", "answers": "q"}, "row 1: image: no such image file"),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path: Path, columns: dict[str, str], said: str) -> None:
    for split in ("train", "test"):
        save_shards(tmp_path, split, table([row(), row()]))
    with pytest.raises(DataError) as caught:
        read_client("c", {"format": "hf", "root": str(tmp_path), "columns": columns})
    assert said in str(caught.value)


def test_a_folder_without_the_split_and_damaged_files_are_named(tmp_path: Path) -> None:
    spec = {"format": "hf", "root": str(tmp_path), "columns": COLUMNS}
    with pytest.raises(
        DataError, match=r"no split 'train'; expected train/state.json \(from save_to_disk\), or train-"
    ):
        read_client("c", spec)
    save_to_disk(tmp_path, "train", table([row()] * 2))
    with pytest.raises(DataError, match=r"no split 'test'; expected test/state.json .*; splits are train"):
        read_client("c", spec)
    save_to_disk(tmp_path, "test", table([row()] * 2))
    data = tmp_path / "train" / "data-00000-of-00001.arrow"
    data.write_bytes(data.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"data-00000-of-00001.arrow: not a readable Arrow file"):
        read_client("c", spec)
    data.unlink()
    with pytest.raises(DataError, match=r"data-00000-of-00001.arrow: no such file; hf train needs it"):
        read_client("c", spec)
    (tmp_path / "train" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"state.json: expected JSON with a list _data_files"):
        read_client("c", spec)
    (tmp_path / "train" / "state.json").write_text('{"_data_files": []}')
    with pytest.raises(DataError, match=r"state.json: _data_files names no file"):
        read_client("c", spec)


@pytest.mark.parametrize("form", [save_shards, save_to_disk])
def test_columns_that_are_not_named_are_guessed(tmp_path: Path, form: Any) -> None:
    rows = [{"id": 7, "photo": {"bytes": png("red"), "path": None}, "query": "What?", "answer": "red"}] * 2
    for split in ("train", "test"):
        form(tmp_path, split, table(rows))
    client = read_client("c", {"format": "hf", "root": str(tmp_path)})
    assert [(example.id, example.text, dict(example.answers)) for example in client.test] == [
        ("row-1", "What?", {"red": 1.0}),
        ("row-2", "What?", {"red": 1.0}),
    ]
    assert client.test[0].meta["their_id"] == "7"
    with pytest.raises(DataError, match="row 2: duplicate id '7', first used in row 1"):
        read_client("c", {"format": "hf", "root": str(tmp_path), "columns": {"id": "id"}})


@pytest.mark.parametrize(
    ("splits", "used"),
    [
        (("train", "test"), ("held out", "test")),
        (("train", "validation", "test"), ("validation", "test")),
        (("train", "dev", "test"), ("dev", "test")),
        (("train", "validation"), ("held out", "validation")),
        (("train", "val", "validation", "test"), ("validation", "test")),
        (("train", "validation", "test=validation"), ("held out", "validation")),
        (("train", "validation", "test", "test=validation"), ("held out", "validation")),
        (("train", "validation", "test", "validation=test", "test=validation"), ("test", "validation")),
    ],
)
def test_splits_that_are_used(tmp_path: Path, splits: tuple[str, ...], used: tuple[str, str]) -> None:
    for split in splits:
        if "=" not in split:
            save_to_disk(tmp_path, split, table([row(q=split)] * 20))
    named = dict(split.split("=") for split in splits if "=" in split)
    client = read_client("c", {"format": "hf", "root": str(tmp_path), "columns": COLUMNS} | named)
    validation = "train" if used[0] == "held out" else used[0]
    assert {example.text for example in client.validation} == {validation}
    assert {example.text for example in client.test} == {used[1]}


def test_a_split_named_for_validation_is_not_the_test_split(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        save_to_disk(tmp_path, split, table([row(q=split)] * 20))
    with pytest.raises(DataError, match="no split 'test'"):
        read_client("c", {"format": "hf", "root": str(tmp_path), "columns": COLUMNS, "validation": "validation"})


def test_the_second_picture_of_a_pair_is_guessed(tmp_path: Path) -> None:
    rows = [{"images": [{"bytes": png(c), "path": None} for c in ("red", "blue")], "sentence": "Same?", "label": 0}] * 2
    for split in ("train", "test"):
        save_shards(tmp_path, split, table(rows, {"label": ["False", "True"]}))
    client = read_client("c", {"format": "hf", "root": str(tmp_path), "task": "nlvr2"})
    assert client.test[0].images == (png("red"), png("blue"))


def test_a_likely_name_counts_more_than_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png("red"))
    rows = [{"md5": b"123", "image": "x.png", "question": "What?", "answer": "red"}] * 2
    for split in ("train", "test"):
        save_shards(tmp_path, split, table(rows))
    client = read_client("c", {"format": "hf", "root": str(tmp_path)})
    assert client.test[0].images == (tmp_path / "x.png",)


@pytest.mark.parametrize("other", ["scratch/2024/predictions", "old/train/0", ".cache/train/0"])
def test_other_tables_in_the_folder_are_not_read(tmp_path: Path, other: str) -> None:
    for split in ("train", "test"):
        save_shards(tmp_path / "data", split, table([row(q=split)] * 2))
    (tmp_path / other).parent.mkdir(parents=True)
    parquet.write_table(table([row(q="other")] * 2), tmp_path / f"{other}.parquet")
    client = read_client("c", {"format": "hf", "root": str(tmp_path), "columns": COLUMNS})
    assert {example.text for example in (*client.train, *client.validation)} == {"train"}
    assert {example.text for example in client.test} == {"test"}


def test_a_split_may_be_the_beginning_of_files(tmp_path: Path) -> None:
    for split in ("train", "small", "test"):
        save_shards(tmp_path / "data", split, table([row(q=split)] * 2))
    client = read_client("c", {"format": "hf", "root": str(tmp_path), "columns": COLUMNS, "train": "small"})
    assert {example.text for example in client.train} == {"small"}
