"""Every published dataset: what its reader yields from a small tree in the genuine layout."""

from collections import Counter
from pathlib import Path

import pytest

from data.readers.layouts import WRITERS, write_tree
from feddat.data.readers.published import SOURCES
from feddat.example import DataError
from feddat.models.images import read_rgb
from feddat.tasks import TASKS

ALL = pytest.mark.parametrize("name", sorted(SOURCES))


def test_every_source_has_a_tree() -> None:
    assert set(SOURCES) == set(WRITERS)


@ALL
def test_a_genuine_tree_is_read(tmp_path: Path, name: str) -> None:
    source = SOURCES[name]
    write_tree(name, tmp_path, source.splits, count=5)
    assert source.task in TASKS
    for split in source.splits:
        assert all(path.is_file() for path in source.files(tmp_path, split))
        examples = list(source.read(tmp_path, split))
        assert len(examples) == 5
        assert len({example.id for example in examples}) == 5
        for image in examples[0].images:
            assert read_rgb(image).shape == (30, 40, 3)


@ALL
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(SOURCES[name].read(tmp_path, SOURCES[name].splits[0]))


@ALL
def test_an_unknown_split_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"no split 'nowhere'; expected train"):
        SOURCES[name].files(tmp_path, "nowhere")


def test_a_missing_image_is_named_or_skipped_and_counted(tmp_path: Path) -> None:
    write_tree("vqav2", tmp_path, ["val"], count=3)
    (tmp_path / "val2014" / "COCO_val2014_000000000010.jpg").unlink()
    source, skipped = SOURCES["vqav2"], Counter()
    with pytest.raises(DataError, match=r"annotations 2: image: no such image file: .*COCO_val2014_000000000010.jpg"):
        list(source.read(tmp_path, "val"))
    assert [e.id for e in source.read(tmp_path, "val", skip_missing=True, skipped=skipped)] == ["9000", "9002"]
    assert skipped == {"image file missing": 1}
