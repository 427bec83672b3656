"""Contact sheets: every picture is drawn, texts stay inside their column, bad images are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feddat.example import ClientData, DataError, Example
from feddat.picture_settings import PictureSettings
from feddat.report.sheet import GAP, PICTURE, contact_sheet, question_and_answer

COLOURS = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]


def client(count: int, text: str = "what colour?") -> ClientData:
    def example(index: int) -> Example:
        picture = np.full((40, 40, 3), COLOURS[index % 3], np.uint8)
        return Example(str(index), (picture,), text, {"red": 1.0})

    examples = tuple(example(index) for index in range(count))
    return ClientData("shop", "vqa", examples, examples[:1], examples[:1], ("red",), "a shop")


def test_every_example_is_drawn_in_its_column() -> None:
    sheet = contact_sheet([client(3)], columns=3, rows=1)
    assert sheet.width == GAP + 3 * (PICTURE + GAP)
    pixels = np.asarray(sheet)
    for column, colour in enumerate(COLOURS):
        middle = GAP + column * (PICTURE + GAP) + PICTURE // 2
        assert (pixels[:, middle] == colour).all(axis=-1).sum() >= 40


def test_clients_stand_below_each_other_and_long_texts_stay_in_their_column() -> None:
    one = contact_sheet([client(1)], columns=2, rows=1)
    two = contact_sheet([client(1), client(1)], columns=2, rows=1)
    assert two.height - GAP == 2 * (one.height - GAP)
    long = np.asarray(contact_sheet([client(1, "word " * 80 + "w" * 300)], columns=2, rows=1))
    below = long[-150:, GAP + PICTURE + 1 :]
    assert (below == 255).all()


def test_what_is_right_is_told_for_every_kind_of_example() -> None:
    assert question_and_answer(Example("1", (), "q", {"a": 0.3, "b": 1.0})) == ("q", "b, a (0.3)")
    assert question_and_answer(Example("1", (), "q", label=1)) == ("q", "class 1")
    assert question_and_answer(Example("1", (), "q", label=1), ("no", "yes")) == ("q", "yes")
    assert question_and_answer(Example("1", (), "q", choices=("w", "x"), label=1)) == ("q", "x")


def sheet_of(*images: Path | bytes, **settings: object) -> np.ndarray:
    examples = tuple(Example(str(n), (image,), "?", {"red": 1.0}) for n, image in enumerate(images))
    data = ClientData("shop", "vqa", examples, (), (), ("red",), pictures=PictureSettings(**settings))
    return np.asarray(contact_sheet([data], columns=len(images), rows=1))


def test_images_are_drawn_as_models_read_them(tmp_path: Path) -> None:
    """A grey image, one of 16 bits with the client's settings, and one of a single row; from files and memory."""
    Image.new("L", (4, 3), 77).save(tmp_path / "grey.png")
    Image.fromarray(np.array([[0, 4000]] * 2, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGB", (3000, 1), (1, 2, 3)).save(tmp_path / "thin.png")
    paths = [tmp_path / name for name in ("grey.png", "deep.png", "thin.png")]
    sheet = sheet_of(paths[0], paths[1].read_bytes(), paths[2], grey="percentiles")
    lefts = [GAP + column * (PICTURE + GAP) for column in range(3)]
    assert (sheet[:, lefts[0] + 100] == 77).all(axis=-1).sum() == 150
    assert (sheet[:, lefts[1] + 195] == 255).all(axis=-1).sum() >= PICTURE // 2
    assert (sheet[:, lefts[2] + 100] == (1, 2, 3)).all(axis=-1).sum() == 1


def test_bad_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png: cannot be decoded"):
        sheet_of(tmp_path / "bad.png")
