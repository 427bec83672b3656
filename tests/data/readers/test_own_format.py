"""A client that names a published format and a root folder instead of files."""

import logging
from pathlib import Path
from typing import Any

import pytest

from data.readers.layouts import write_tree
from feddat.config import load_config
from feddat.data.readers import read_client
from feddat.data.readers.published import SOURCES
from feddat.example import DataError


@pytest.mark.parametrize(
    ("name", "validation"), [("aqua", None), ("cocoqa", 1), ("snli-ve", None), ("nlvr2", None), ("vcr", 1)]
)
def test_published_splits_are_taken_in_order(tmp_path: Path, name: str, validation: int | None) -> None:
    source = SOURCES[name]
    for split, count in zip(source.splits, (12, 5, 4), strict=False):
        write_tree(name, tmp_path, [split], count)
    client = read_client("c", {"format": name, "root": str(tmp_path)})
    assert client.task == source.task
    if validation is None:  # train, one in between, and the last split
        assert (len(client.train), len(client.validation), len(client.test)) == (12, 5, 4)
    else:  # a tenth of train is held out
        assert (len(client.train), len(client.validation), len(client.test)) == (11, 1, 5)


def test_splits_can_be_named_and_vocabularies_are_of_train(tmp_path: Path) -> None:
    write_tree("gqa", tmp_path, ["train", "val"], 4)
    spec = {"format": "gqa", "root": str(tmp_path), "validation": "val", "test": "val", "top_answers": 1}
    client = read_client("c", spec)
    assert client.answers == ("red",)
    assert len(client.train) == 2
    assert len(client.validation) == len(client.test) == 4


def test_missing_images_are_skipped_and_told_of_if_so_wished(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tree("vizwiz", tmp_path, ["train", "val"], 6)
    (tmp_path / "val" / "VizWiz_val_00000001.jpg").unlink()
    spec = {"format": "vizwiz", "root": str(tmp_path)}
    with pytest.raises(DataError, match="item 2: image: no such image file"):
        read_client("c", spec)
    client = read_client("c", spec | {"skip_missing": True})
    assert len(client.test) == 5
    assert f"records of vizwiz val in {tmp_path} skipped: 1 with a missing image" in caplog.text


def test_pairs_without_a_label_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tree("snli-ve", tmp_path, SOURCES["snli-ve"].splits, 3)
    with caplog.at_level(logging.WARNING, "feddat"):
        read_client("c", {"format": "snli-ve", "root": str(tmp_path)})
    assert "skipped: 1 without a gold label" in caplog.text


def test_only_the_root_is_a_path_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("clients: {a: {format: gqa, root: data/gqa, test: val}}\n")
    spec = (load_config(tmp_path / "c.yaml").clients or {})["a"]
    assert spec == {"format": "gqa", "root": str(tmp_path / "data" / "gqa"), "test": "val"}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"format": "vqa2"}, "client 'c': unknown format 'vqa2'; did you mean 'vqav2'?"),
        ({"format": ["gqa"]}, "client 'c': unknown format ['gqa']; known: "),
        ({"format": "gqa", "task": ["vqa"]}, "client 'c': unknown task ['vqa']; known: vqa, "),
        ({"format": "gqa", "root": None}, "client 'c': key 'root' is missing; expected the folder that holds gqa"),
        ({"format": "gqa", "root": "/nowhere"}, "client 'c': root: no such folder: /nowhere"),
        ({"format": "gqa", "task": "vqa"}, "client 'c': key 'task' is not allowed with format gqa"),
        ({"format": "gqa", "images": "."}, "client 'c': key 'images' is not allowed with format: "),
        ({"format": "gqa", "train": "dev"}, "gqa: no split 'dev'; expected train, val, testdev"),
        ({"format": "gqa", "train": 1}, "client 'c': train: expected the name of a split, got 1"),
        ({"format": "hf", "columns": ["a"]}, "client 'c': columns: expected our column: their column, got ['a']"),
        ({"format": "gqa", "skip_missing": "yes"}, "client 'c': skip_missing: expected true or false, got 'yes'"),
        ({"train": "a.jsonl", "test": "a.jsonl"}, "client 'c': key 'root' is not allowed without format"),
    ],
)
def test_a_bad_specification_is_named(tmp_path: Path, spec: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_client("c", {"root": str(tmp_path)} | spec)
    assert said in str(caught.value)
