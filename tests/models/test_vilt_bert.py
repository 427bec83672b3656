import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertModel, ViltModel
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from feddat.adapters.build import build_adapters
from feddat.example import View
from feddat.models.base import ModelError
from feddat.models.tiny.settings import SIZES
from feddat.models.tiny.vilt import make_bert
from feddat.models.vilt_bert.backbone import ViltBertBackbone
from feddat.models.vilt_bert.parts import write_vilt_bert
from helpers import WORDS, make_unit

CPU = torch.device("cpu")


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_unit("vilt-bert", tmp_path_factory.mktemp("model") / "vault")


@torch.no_grad()
def test_features_equal_the_stock_models_in_a_row(folder):
    images, texts = [picture(32, 48), picture(48, 32, seed=1)], ["what color is the circle ?", "red"]
    words = AutoTokenizer.from_pretrained(folder / "bert")(texts, padding=True, return_tensors="pt")
    embeddings = BertModel.from_pretrained(folder / "bert").eval()(**words).last_hidden_state
    pixels = ViltImageProcessorPil.from_pretrained(folder / "vilt")(images, return_tensors="pt")
    vilt = ViltModel.from_pretrained(folder / "vilt").eval()
    expected = vilt(inputs_embeds=embeddings, attention_mask=words["attention_mask"], **pixels).pooler_output
    backbone = ViltBertBackbone(folder)
    views = backbone.encode([View(image, text) for image, text in zip(images, texts, strict=True)])
    torch.testing.assert_close(backbone.features(views.batch([0, 1], CPU)), expected, atol=1e-5, rtol=0)


def test_answers_can_start_from_the_words_of_vilt(folder):
    assert ViltBertBackbone(folder).word_head(["red", "blue"])(torch.zeros(1, 32)).shape == (1, 2)


@pytest.mark.parametrize(
    ("sites", "where"),
    [(None, {"vilt"}), (r"(.*\.)?layer\.\d+\.output", {"vilt", "bert"})],
)
def test_adapters_are_in_vilt_and_where_asked_for_in_bert(folder, sites, where):
    adapters = build_adapters(ViltBertBackbone(folder).model, sites=sites)
    found = {re.match(r"(\w+)\.encoder\.layer\.(\d)\.output", key).groups() for key in adapters.named("global")}
    assert found == {(part, layer) for part in where for layer in "01"}


def test_prompts_enter_vilt_beside_words_and_patches(folder):
    adapters = build_adapters(ViltBertBackbone(folder).model, peft="prompt", prompt_tokens=3)
    assert adapters.named("global")["text.tokens"].shape == adapters.named("global")["image.tokens"].shape == (3, 32)


def test_parts_may_lie_elsewhere(folder, tmp_path):
    write_vilt_bert(tmp_path / "other", folder / "vilt", folder / "bert")
    views = [View(picture(32, 32), "red")]
    one, other = ViltBertBackbone(folder), ViltBertBackbone(tmp_path / "other")
    assert one.encoder.fingerprint == other.encoder.fingerprint
    with torch.no_grad():
        expected = one.features(one.encode(views).batch([0], CPU))
        assert torch.equal(other.features(other.encode(views).batch([0], CPU)), expected)


def test_other_widths_are_refused(folder, tmp_path):
    make_bert(tmp_path / "wide", dataclasses.replace(SIZES["unit"], hidden=48), WORDS)
    write_vilt_bert(tmp_path / "model", folder / "vilt", tmp_path / "wide")
    with pytest.raises(ModelError, match="BERT has hidden size 48, ViLT 32; expected the same"):
        ViltBertBackbone(tmp_path / "model")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"vilt": "vilt"}, "parts names no bert"),
        ({"vilt": "vilt", "bert": "vilt"}, "model_type is 'vilt'; expected 'bert'"),
        ({"vilt": "vilt", "bert": "nowhere"}, "nowhere: no such folder"),
        (["vilt", "bert"], "parts: expected a mapping from names to paths"),
    ],
)
def test_unusable_parts_are_named(folder, tmp_path, parts, message):
    write_vilt_bert(tmp_path / "model", folder / "vilt", folder / "bert")
    if isinstance(parts, dict):
        parts = {name: str(folder / part) for name, part in parts.items()}
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "vilt-bert", "parts": parts}))
    with pytest.raises(ModelError, match=message):
        ViltBertBackbone(tmp_path / "model")
