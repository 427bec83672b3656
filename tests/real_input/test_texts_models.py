"""Each family of models prepares texts and pixels by the steps of its published processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoImageProcessor, AutoTokenizer

from feddat.example import View
from feddat.models.catalog import encoder_fingerprint, load_backbone, load_encoder
from helpers import make_unit

CPU = torch.device("cpu")
#: Texts as people type them, one of them longer than any model of the tests reads.
TEXTS = ["What Color", "WHAT COLOR IS THE CIRCLE ?", "what’s  this\n", "Is it red, or blue?!", "É", "red " * 60, ""]
WITH_PROCESSOR = ("vilt", "blip", "albef", "clip", "siglip")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: make_unit(family, root / family) for family in (*WITH_PROCESSOR, "vilt-bert")}


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | values))


# SigLIP and SigLIP 2


def gemma(folder: Path) -> Tokenizer:
    """Write a tokenizer of Gemma's kind into a folder, as for SigLIP 2, and return it; it is case-sensitive."""
    characters = sorted(set("▁WhatColrwcieIsq?! dbu"))
    merges = [("c", "o"), ("l", "o"), ("co", "lo"), ("colo", "r"), ("C", "o"), ("w", "h"), ("W", "h")]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *characters, *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.enable_padding(direction="right", pad_id=0, pad_token="<pad>", length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | {"tokenizer_class": "GemmaTokenizer"}))
    return tokenizer


def test_siglip_2_reads_lower_case_whatever_its_tokenizer_does(tmp_path: Path) -> None:
    folder = make_unit("siglip", tmp_path / "siglip2")
    tokenizer = gemma(folder)
    assert tokenizer.encode("What Color").ids != tokenizer.encode("what color").ids
    encoder = load_encoder(str(folder))
    ids = encoder.texts(["What Color", "what color", "WHAT COLOR ?"])
    assert ids[0] == ids[1] == tokenizer.encode("what color").ids
    assert ids[2] == tokenizer.encode("what color ?").ids  # marks stay: SigLIP 2 was trained with them
    assert {len(row) for row in ids} == {16}
    assert ids[0][ids[0].index(1) :] == [1] + [0] * (15 - ids[0].index(1))  # one end token, then padding
    (long,) = encoder.texts(["color " * 99])
    assert (len(long), long[-1]) == (16, 1)  # a cut text keeps its end token

    backbone = load_backbone(str(folder))
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    views = backbone.encode([View(picture, text) for text in ("What Color", "what color")])
    with torch.no_grad():
        upper, lower = backbone.features(views.batch([0, 1], CPU))
    assert torch.equal(upper, lower)


def test_siglip_reads_no_marks_where_its_own_tokenizer_takes_them_out(tmp_path: Path) -> None:
    folder = make_unit("siglip", tmp_path / "siglip")
    change(folder, "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    ids = load_encoder(str(folder)).texts(["What  color, is it ?", "what color is it"])
    assert ids[0] == ids[1]
    gemma(folder)
    change(folder, "tokenizer_config.json", tokenizer_class="SiglipTokenizer", do_lower_case=False)
    ids = load_encoder(str(folder)).texts(["What color", "what color", "what color ?"])
    assert ids[0] != ids[1] == ids[2]


def test_what_was_encoded_in_letter_case_is_encoded_again(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = {family: encoder_fingerprint(str(folder)) for family, folder in folders.items()}
    monkeypatch.setattr("feddat.models.folder._FAMILY_VERSIONS", {})
    assert [family for family in folders if encoder_fingerprint(str(folders[family])) != now[family]] == ["siglip"]


# Texts


@pytest.mark.parametrize("family", ["vilt", "vilt-bert", "blip", "clip"])
def test_token_ids_are_the_stock_tokenizers(folders: dict[str, Path], family: str) -> None:
    folder = folders[family] / "bert" if family == "vilt-bert" else folders[family]
    stock = AutoTokenizer.from_pretrained(folder)(TEXTS, truncation=True, max_length=16)["input_ids"]
    assert load_encoder(str(folders[family])).texts(TEXTS) == stock
    assert stock[0] == AutoTokenizer.from_pretrained(folder)("what color")["input_ids"]


def test_albef_reads_questions_as_its_published_code_does(folders: dict[str, Path]) -> None:
    stock = AutoTokenizer.from_pretrained(folders["albef"])
    plain = [
        "what color",
        "what color is the circle ",
        "what’s  this",
        "is it red or blue",
        "é",
        " ".join(["red"] * 50),
        "",
    ]
    expected = [[stock.cls_token_id, *stock(text, add_special_tokens=False)["input_ids"]][:16] for text in plain]
    assert load_encoder(str(folders["albef"])).texts(TEXTS) == expected


@pytest.mark.parametrize("family", [*WITH_PROCESSOR, "vilt-bert"])
def test_the_side_of_padding_that_a_folder_names_changes_nothing(tmp_path: Path, family: str) -> None:
    folder = make_unit(family, tmp_path / family)
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    views = [View(picture, "red"), View(picture, "what color is the circle ?")]
    before = load_backbone(str(folder)).encode(views).batch([0, 1], CPU)
    for path in folder.rglob("tokenizer_config.json"):
        change(path.parent, path.name, padding_side="left", truncation_side="right")
    after = load_backbone(str(folder)).encode(views).batch([0, 1], CPU)
    assert torch.equal(before["input_ids"], after["input_ids"])
    assert torch.equal(before["attention_mask"], after["attention_mask"])


# Pixels

STEPS = {
    "usual": {},
    "other constants": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
    "to -1 and 1 by the factor": {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    "without constants": {"do_normalize": False},
    "without a factor": {"do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3},
    "bilinear": {"resample": 2},
    "bicubic": {"resample": 3},
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("family", WITH_PROCESSOR)
def test_pixels_are_the_stock_processors_to_one_of_256_levels(
    tmp_path: Path, family: str, steps: dict[str, Any]
) -> None:
    folder = make_unit(family, tmp_path / family)
    change(folder, "preprocessor_config.json", **steps)
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(noise).resize((48, 48), Image.Resampling.BICUBIC))
    stock = AutoImageProcessor.from_pretrained(folder, backend="pil")
    expected = stock(image, return_tensors="pt")["pixel_values"]
    actual = load_backbone(str(folder)).encode([View(image, "red")]).batch([0], CPU)["pixel_values"]
    assert actual.shape == expected.shape
    std = torch.tensor(stock.image_std if stock.do_normalize else [1.0] * 3).view(3, 1, 1)
    levels = (actual - expected).abs() * std / (stock.rescale_factor if stock.do_rescale else 1.0)
    assert levels.max() < 1.01
    assert (levels > 0.5).float().mean() < 0.2
