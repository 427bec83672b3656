"""Drawing a client's questions from a published dataset, tested on a made-up one."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feddat.benchmarks.draw import Sizes, draw_client
from feddat.benchmarks.paper import FEDERATIONS, SOURCES, Part
from feddat.data.readers.own import top_answers
from feddat.example import DataError, Example
from feddat.tasks import TASKS

PART = Part("museum", "made-up", "val", "made-up")


@dataclass
class MadeUp:
    """A dataset of 200 training and 60 test questions, two per image.

    The answer to question n is how often n + 1 can be halved: half of the answers are 0, a quarter are 1, and so on.
    """

    name: str = "made-up"
    task: str = "vqa"
    description: str = "made up"
    splits: tuple[str, ...] = ("train", "val")
    reverse: bool = False
    missing: int = 0

    def files(self, root: Path, split: str) -> tuple[Path, ...]:
        return (root / f"{split}.json",)

    def read(self, root, split, *, skip_missing=False, skipped=None, outside=False):
        count = 200 if split == "train" else 60
        order = range(count - 1, -1, -1) if self.reverse else range(count)
        for n in order:
            if n < self.missing:
                if not skip_missing:
                    raise DataError(f"record {n}: no such image file")
                skipped["image file missing"] += 1
                continue
            answer = ((n + 1) & -(n + 1)).bit_length() - 1
            image = root / f"{split}-{n // 2}.png"
            yield Example(f"{split}-{n}", (image,), f"question {n}", {f"answer {answer}": 1.0})


@pytest.fixture
def source(monkeypatch, tmp_path):
    """Register the made-up dataset, with its files below ``tmp_path``, and return it."""
    (tmp_path / "made-up").mkdir()
    for split in ("train", "val"):
        (tmp_path / "made-up" / f"{split}.json").touch()
    made_up = MadeUp()
    monkeypatch.setitem(SOURCES, "made-up", made_up)
    return made_up


def ids(examples) -> list[str]:
    return [example.id for example in examples]


def images(examples) -> set[Path]:
    return {example.images[0] for example in examples}


def test_sizes_are_those_asked_for_and_everything_is_counted(source, tmp_path):
    data, counts = draw_client(PART, tmp_path, seed=0, sizes=Sizes(50, 20, 3))
    assert [len(data.split(split)) for split in ("train", "validation", "test")] == [50, 5, 20]
    assert (data.name, data.task, data.description) == ("museum", "vqa", "made up")
    assert counts["train"].published + counts["validation"].published == 200
    assert counts["test"].published == 60
    assert [counts[split].drawn for split in counts] == [counts[split].kept for split in counts] == [50, 5, 20]
    assert data.answers == ("answer 0", "answer 1", "answer 2")
    assert counts["test"].outside == 7  # the multiples of 8 from 1 to 60
    for split in ("train", "validation", "test"):
        assert all(set(example.answers) & set(data.answers) for example in data.split(split))


def test_no_image_is_in_training_and_in_validation(source, tmp_path):
    data, counts = draw_client(PART, tmp_path, seed=1, sizes=Sizes(1000, 1000, 100))
    assert len(data.train) + len(data.validation) == 200
    assert counts["train"].published == len(data.train) > 150
    assert images(data.validation) and not images(data.validation) & images(data.train)
    assert data.answers == top_answers(data.train, 100)
    assert ids(data.train) == sorted(ids(data.train), key=lambda name: int(name.removeprefix("train-")))


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), few=st.integers(1, 60), more=st.integers(60, 150))
def test_fewer_questions_are_some_of_more(seed, few, more, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    (root / "made-up").mkdir()
    for split in ("train", "val"):
        (root / "made-up" / f"{split}.json").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "made-up", MadeUp())
        small, _ = draw_client(PART, root, seed, Sizes(few, few, 5))
        large, _ = draw_client(PART, root, seed, Sizes(more, more, 5))
        patch.setitem(SOURCES, "made-up", MadeUp(reverse=True))
        backwards, _ = draw_client(PART, root, seed, Sizes(few, few, 5))
    for split in ("train", "validation", "test"):
        assert set(ids(small.split(split))) <= set(ids(large.split(split)))
        # The order of the records does not change what is drawn.
        assert set(ids(small.split(split))) == set(ids(backwards.split(split)))


def test_the_seed_and_the_client_decide_what_is_drawn(source, tmp_path):
    drawn = [
        ids(draw_client(part, tmp_path, seed, Sizes(30, 10, 5))[0].train)
        for part, seed in ((PART, 0), (PART, 0), (PART, 1), (replace(PART, client="other"), 0))
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert drawn[0] != drawn[3]


def test_a_missing_file_says_what_is_expected_where(source, tmp_path):
    (tmp_path / "made-up" / "val.json").unlink()
    with pytest.raises(DataError, match=r"client museum: .*val\.json: no such file; expected the files of made up"):
        draw_client(PART, tmp_path, 0, Sizes())


def test_missing_images_are_raised_or_counted(source, tmp_path):
    source.missing = 4
    with pytest.raises(DataError, match="no such image file"):
        draw_client(PART, tmp_path, 0, Sizes(30, 10, 5))
    _, counts = draw_client(PART, tmp_path, 0, Sizes(30, 10, 5), skip_missing=True)
    assert counts["train"].skipped == counts["test"].skipped == {"image file missing": 4}


def test_a_split_without_questions_is_refused(source, tmp_path):
    source.missing = 60
    with pytest.raises(DataError, match=r"client museum: no test question is left of 0 in .*made-up"):
        draw_client(PART, tmp_path, 0, Sizes(30, 10, 5), skip_missing=True)


@pytest.mark.parametrize("name", FEDERATIONS)
def test_every_client_of_the_paper_has_a_published_source(name, tmp_path):
    parts = FEDERATIONS[name].parts
    assert max(Counter(part.client for part in parts).values()) == 1
    for part in parts:
        source = part.published()
        assert {"train", part.test} <= set(source.splits)
        assert source.task in TASKS
        assert all(path.is_relative_to(tmp_path) for path in source.files(tmp_path, part.test))
