"""The reader of VQA v2 accepts the made-up files that `feddat data prepare` is measured on."""

from multiprocessing.pool import ThreadPool

from PIL import Image
from vqav2_tree import HEIGHT, WIDTH, write_split

from feddat.data.readers.published import SOURCES


def test_a_made_up_split_is_read_with_its_answers_and_pictures(tmp_path):
    with ThreadPool(1) as pool:
        write_split(tmp_path / "vqav2", "train", 3, 6, pool)
    examples = list(SOURCES["vqav2"].read(tmp_path / "vqav2", "train"))
    assert len(examples) == 6
    assert examples[0].text == "what colour is the ellipse number 0?"
    assert "red" in examples[0].answers
    with Image.open(examples[0].images[0]) as picture:
        assert picture.size == (WIDTH, HEIGHT)
