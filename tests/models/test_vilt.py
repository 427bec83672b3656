import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, ViltForMaskedLM, ViltModel
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from feddat.example import DataError, View
from feddat.models.base import ModelError
from feddat.models.vilt.backbone import ViltBackbone
from feddat.pictures import PictureReader
from helpers import make_tiny_vilt

CPU = torch.device("cpu")


def picture(height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def change_weights(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_backbone_is_frozen_and_in_eval_mode(backbone):
    assert (backbone.family, backbone.feature_dim) == ("vilt", 32)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())


@torch.no_grad()
def test_features_equal_the_stock_pipeline(backbone):
    # These images need no resizing; another test covers resampling.
    images, texts = [picture(32, 48), picture(48, 32, seed=1)], ["what color is the circle ?", "red"]
    stock = ViltModel.from_pretrained(backbone.folder).eval()
    processor = ViltImageProcessorPil.from_pretrained(backbone.folder)
    words = AutoTokenizer.from_pretrained(backbone.folder)(texts, padding=True, return_tensors="pt")
    expected = stock(**words, **processor(images, return_tensors="pt")).pooler_output
    batch = backbone.encode([View(i, t) for i, t in zip(images, texts, strict=True)]).batch([0, 1], CPU)
    torch.testing.assert_close(backbone.features(batch), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(48, 80), (80, 48), (333, 517), (20, 20), (32, 100), (100, 50)])
def test_pixels_equal_the_stock_processor_to_one_of_256_levels(backbone, height, width):
    image = picture(height, width)
    processor = ViltImageProcessorPil.from_pretrained(backbone.folder)
    expected = processor(image, return_tensors="pt")["pixel_values"]
    actual = backbone.encode([View(image, "red")]).batch([0], CPU)["pixel_values"]
    levels = (actual - expected).abs() * processor.image_std[0] * 255
    assert levels.max() < 1.01
    assert (levels > 0.5).float().mean() < 0.02


def test_pixels_of_the_right_size_are_left_alone(backbone):
    image = picture(32, 48)
    assert np.array_equal(backbone.encoder.image(image).permute(1, 2, 0), image)


def test_another_resampling_is_refused(folder):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resample": 1}))
    with pytest.raises(ModelError, match="resample 1; expected 2"):
        ViltBackbone(folder)


def test_text_is_cut_to_the_position_embeddings(backbone):
    batch = backbone.encode([View(picture(), "red " * 40)]).batch([0], CPU)
    assert batch["input_ids"].shape == (1, 16)
    assert batch["input_ids"][0, -1] == AutoTokenizer.from_pretrained(backbone.folder).sep_token_id
    assert backbone.features(batch).shape == (1, 32)


def test_shared_images_are_decoded_once(backbone, tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    Image.fromarray(picture()).save(path)
    array = picture(seed=1)
    opened = []
    monkeypatch.setattr(PictureReader, "read", lambda self, image: opened.append(image) or picture())
    pairs = [(path, path), (array, array), (path.read_bytes(), path.read_bytes())]
    views = backbone.encode([View(image, "a") for pair in pairs for image in pair])
    assert len(views) == 6
    assert len(opened) == 3


def test_images_of_all_shapes_and_kinds_together(backbone, tmp_path):
    path = tmp_path / "gray.png"
    Image.new("L", (90, 30), 128).save(path)
    views = backbone.encode([View(path, "a"), View(picture(30, 90), "a longer text ?"), View(picture(80, 40), "a")])
    features = backbone.features(views.batch([0, 1, 2], CPU))
    alone = torch.cat([backbone.features(views.batch([i], CPU)) for i in range(3)])
    torch.testing.assert_close(features, alone, atol=1e-5, rtol=0)


def test_encoding_nothing_gives_no_views(backbone):
    assert len(backbone.encode([])) == 0


def test_unreadable_image_is_named(backbone, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    for name in ("broken.jpg", "missing.jpg"):
        with pytest.raises(DataError, match=name):
            backbone.encode([View(picture(), "a"), View(tmp_path / name, "a")])


def test_image_too_thin_for_one_patch_is_named(backbone, tmp_path):
    Image.new("RGB", (2000, 2)).save(tmp_path / "thin.png")
    with pytest.raises(DataError, match=r"thin\.png: 2000 x 2 pixels are too narrow"):
        backbone.encode([View(tmp_path / "thin.png", "a")])


@torch.no_grad()
def test_word_head_gives_the_scores_of_the_masked_word_head(backbone):
    stock = ViltForMaskedLM.from_pretrained(backbone.folder).mlm_score
    torch.nn.init.normal_(backbone._word_scores.decoder.bias, generator=torch.Generator().manual_seed(5))
    stock.decoder.bias.copy_(backbone._word_scores.decoder.bias)
    head = backbone.word_head(["blue", "ox", "red"])
    features = torch.randn(4, 32)
    words = AutoTokenizer.from_pretrained(backbone.folder).convert_tokens_to_ids(["blue", "red", "o", "##x"])
    blue, red, o, x = stock(features)[:, words].T  # "ox" is no word: the mean of its pieces' scores
    torch.testing.assert_close(head(features), torch.stack([blue, (o + x) / 2, red], dim=1))


def test_word_head_is_a_trainable_copy(backbone):
    head, other = backbone.word_head(["red", "blue"]), backbone.word_head(["red", "blue"])
    assert all(parameter.requires_grad for parameter in head.parameters())
    before = [parameter.clone() for parameter in other.parameters()]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(7)
    again = backbone.word_head(["red", "blue"])
    for a, b, c in zip(before, other.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_word_head_refuses_an_empty_answer(backbone):
    with pytest.raises(ValueError, match="answer ''"):
        backbone.word_head(["red", ""])


def test_folder_without_masked_word_head(folder):
    def strip(weights):
        for name in [name for name in weights if name.startswith("mlm_score.")]:
            del weights[name]

    features = ViltBackbone(folder).features
    view = [View(picture(), "red")]
    change_weights(folder, strip)
    backbone = ViltBackbone(folder)
    batch = backbone.encode(view).batch([0], CPU)
    assert backbone.word_head(["red"]) is None
    assert torch.equal(backbone.features(batch), features(batch))


def test_old_name_of_the_word_bias_is_read(folder):
    bias = torch.arange(float(json.loads((folder / "config.json").read_text())["vocab_size"]))

    def rename(weights):
        del weights["mlm_score.decoder.bias"]
        weights["mlm_score.bias"] = bias

    change_weights(folder, rename)
    head = ViltBackbone(folder).word_head(["red"])
    red = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("red")
    assert head[1].bias.tolist() == [float(red)]


def test_loading_leaves_the_global_random_state_alone(folder):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    ViltBackbone(folder)
    assert torch.equal(torch.rand(1), expected)


def test_loading_prints_nothing(folder, capfd):
    ViltBackbone(folder)
    assert capfd.readouterr() == ("", "")


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def remove_tensors(folder):
    change_weights(folder, lambda weights: [weights.pop(f"vilt.pooler.dense.{name}") for name in ("weight", "bias")])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), "no config.json"),
        (remove("model.safetensors"), "no weights; expected model.safetensors"),
        (remove("tokenizer.json"), "no tokenizer; expected tokenizer.json or vocab.txt or vocab.json"),
        (remove("preprocessor_config.json"), "no image processor; expected preprocessor_config.json"),
        (remove_tensors, r"weights lack 2 tensor\(s\): .*pooler\.dense\.bias"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "weights cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json: cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json: no model_type"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "'bert'; expected 'vilt'"),
        (
            lambda folder: change_weights(
                folder, lambda w: w.update({"vilt.embeddings.cls_token": torch.ones(1, 1, 3)})
            ),
            r"differ in shape from config.json: 1 tensor\(s\): .*cls_token",
        ),
    ],
)
def test_unusable_folder_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(ModelError, match=message) as error:
        ViltBackbone(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_tokenizer_of_another_model_is_refused(folder, tmp_path):
    other = make_tiny_vilt(tmp_path / "other", words=["more", "words"])
    (folder / "tokenizer.json").write_text((other / "tokenizer.json").read_text())
    with pytest.raises(ModelError, match=r"tokens, but the model in .* has \d+ embeddings"):
        ViltBackbone(folder)
