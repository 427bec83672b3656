import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from feddat.example import DataError
from feddat.models.encoding import EncodedImageTexts, encode_images
from feddat.pictures import PictureReader

CPU = torch.device("cpu")


def encoded(sizes, image_of_view, tokens) -> EncodedImageTexts:
    images = [torch.full((3, h, w), 51 * (i + 1), dtype=torch.uint8) for i, (h, w) in enumerate(sizes)]
    return EncodedImageTexts(
        images, image_of_view, tokens, pad_token=9, patch_size=(2, 2), mean=(0.5, 0.5, 0.0), std=(0.5, 0.25, 1.0)
    )


def test_batch_of_equal_images():
    batch = encoded([(4, 4), (4, 4)], [0, 1, 0], [[1, 2], [3], [4, 5, 6]]).batch([1, 0], CPU)
    assert batch["input_ids"].tolist() == [[3, 9], [1, 2]]  # padded to this batch's longest, not to the third text
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["pixel_mask"].tolist() == [[[1, 1], [1, 1]]] * 2
    # 102 / 255 = 0.4: (0.4 - 0.5) / 0.5, (0.4 - 0.5) / 0.25, 0.4; and 51 / 255 = 0.2
    torch.testing.assert_close(batch["pixel_values"][:, :, 0, 0], torch.tensor([[-0.2, -0.4, 0.4], [-0.6, -1.2, 0.2]]))
    assert batch["pixel_values"].shape == (2, 3, 4, 4) and batch["pixel_values"].dtype == torch.float32


def test_batch_of_unequal_images_is_padded_and_masked():
    views = encoded([(2, 4), (4, 2), (8, 8)], [0, 1, 2], [[1], [1], [1]])
    batch = views.batch(torch.tensor([0, 1]), CPU)
    assert batch["pixel_values"].shape == (2, 3, 4, 4)
    assert batch["pixel_mask"].tolist() == [[[1, 1], [0, 0]], [[1, 0], [1, 0]]]
    blue = batch["pixel_values"][:, 2]
    torch.testing.assert_close(blue[0, :2], torch.full((2, 4), 0.2))
    torch.testing.assert_close(blue[1, :, :2], torch.full((4, 2), 0.4))


def test_nothing_encoded_has_no_length():
    assert len(encoded([], [], [])) == 0


def test_masks_may_stay_on_the_host():
    views = EncodedImageTexts(
        [torch.zeros(3, 4, 4, dtype=torch.uint8)], [0], [[1]], 0, (2, 2), (0.5,) * 3, (0.5,) * 3, masks_on_host=True
    )
    batch = views.batch([0], torch.device("meta"))
    assert {key: value.device.type for key, value in batch.items()} == {
        "input_ids": "meta", "pixel_values": "meta", "attention_mask": "cpu", "pixel_mask": "cpu"
    }  # fmt: skip


@settings(max_examples=25)
@given(data=st.data())
def test_a_view_looks_the_same_in_every_batch(data):
    sizes = data.draw(st.lists(st.sampled_from([(2, 2), (2, 4), (6, 4)]), min_size=1, max_size=3))
    images = data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=5))
    tokens = [[i + 1] * (i % 3 + 1) for i in range(len(images))]
    views = encoded(sizes, images, tokens)
    indices = data.draw(st.lists(st.integers(0, len(images) - 1), min_size=1, max_size=6))
    batch = views.batch(indices, CPU)
    for row, view in enumerate(indices):
        height, width = sizes[images[view]]
        alone = views.batch([view], CPU)
        assert batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist() == tokens[view]
        assert torch.equal(batch["pixel_values"][row, :, :height, :width], alone["pixel_values"][0])
        assert batch["pixel_mask"][row].sum() == height * width // 4


def test_unknown_view_is_refused():
    with pytest.raises(IndexError):
        encoded([(2, 2)], [0], [[1]]).batch([1], CPU)


class Slow:
    """An encoder that records torch's number of threads, and fills each image with the picture's first value."""

    widest = 200.0

    def __init__(self):
        self.threads = []

    def image(self, pixels):
        self.threads.append(torch.get_num_threads())
        return torch.full((3, 2, 2), int(pixels[0, 0, 0]))


def save_picture(path, level):
    Image.new("L", (5, 5), level).save(path, "png")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 3])
def test_files_are_encoded_side_by_side_in_their_order(tmp_path, threads, count):
    threads(count)
    files = [tmp_path / str(index) for index in range(20)]
    for index, path in enumerate(files):
        save_picture(path, index)
    encoder = Slow()
    assert [int(image[0, 0, 0]) for image in encode_images(encoder, files, PictureReader())] == list(range(20))
    assert set(encoder.threads) == {1}
    assert torch.get_num_threads() == count
    files[7].unlink()
    with pytest.raises(DataError, match=r"7: no such file"):
        encode_images(encoder, files, PictureReader())
    assert torch.get_num_threads() == count


def test_few_files_are_encoded_one_after_the_other(tmp_path, threads):
    threads(3)
    save_picture(tmp_path / "0", 0)
    encoder = Slow()
    encode_images(encoder, [tmp_path / "0"] * 5, PictureReader())
    assert encoder.threads == [3] * 5
