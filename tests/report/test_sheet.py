"""Contact sheets: every picture is drawn, texts stay inside their column, bad images are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feddat.example import ClientData, DataError, Example
from feddat.report.sheet import GAP, PICTURE, contact_sheet, load_image, question_and_answer

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


def test_image_files_are_read_in_rgb_and_bad_ones_are_named(tmp_path: Path) -> None:
    Image.new("L", (4, 3), 7).save(tmp_path / "grey.png")
    assert load_image(tmp_path / "grey.png").mode == "RGB"
    assert load_image((tmp_path / "grey.png").read_bytes()).mode == "RGB"
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png: not a readable image"):
        load_image(tmp_path / "bad.png")
