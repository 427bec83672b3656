"""Decoders of families that no other test knows: their inputs and logits are transformers' own, or they are refused."""

import json
import shutil

import pytest
import torch
from other_decoders import OTHERS
from PIL import Image as Pictures
from test_decoder import ANSWERS, CPU, VIEWS, batch, stock_logits
from transformers import AutoModelForImageTextToText

from feddat.adapters.build import build_adapters
from feddat.models.base import ModelError
from feddat.models.catalog import DECODERS, load_backbone, load_encoder
from feddat.models.decoder import check
from feddat.models.decoder.encoder import DecoderEncoder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("others")
    for family, make in OTHERS.items():
        make(root / family)
    return root


@pytest.mark.parametrize("family", OTHERS)
def test_inputs_and_logits_are_the_stock_models(folders, family):
    assert family not in DECODERS
    backbone = load_backbone(str(folders / family))
    stock = AutoModelForImageTextToText.from_pretrained(folders / family).eval()
    chat = backbone.encoder.chat
    for row, view in enumerate(VIEWS):
        picture, text = Pictures.fromarray(view.image), chat.render(view.text)
        expected = backbone.encoder.processor(
            images=[[picture]], text=[text], return_tensors="pt", add_special_tokens=chat.adds_special
        )
        found = batch(backbone, [row])
        for key in found.keys() - {"num_patches"}:  # no model takes it
            torch.testing.assert_close(found[key], expected[key])
        (answer,) = backbone.answer_tokens(ANSWERS[row : row + 1])
        ids = torch.tensor([answer[:-1]])
        with torch.no_grad():
            states = backbone.decode(backbone.read(found), ids, torch.ones_like(ids).bool())
            logits = backbone.answer_head()(states)[0]
        prompt = {key: value for key, value in expected.items() if key in found}
        torch.testing.assert_close(logits, stock_logits(stock, prompt, answer[1:]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", OTHERS)
def test_they_have_default_sites(folders, family):
    backbone = load_backbone(str(folders / family))
    for kind in ("bottleneck", "lora"):
        build_adapters(backbone.model, peft=kind, parts=("language", "vision"))
        backbone = load_backbone(str(folders / family))


def test_a_family_that_we_would_read_otherwise_is_refused(folders, tmp_path, monkeypatch):
    def copied(family):
        """Return a folder that this process has not compared yet."""
        folder = shutil.copytree(folders / family, tmp_path / family)
        path = folder / "tokenizer_config.json"
        path.write_text(path.read_text() + "\n")
        return str(folder)

    with monkeypatch.context() as patch:
        patch.setattr(DecoderEncoder, "kinds", lambda self, ids: {})
        with pytest.raises(ModelError, match=r"'gemma3' is none of the tested ones, .* makes token_type_ids, unlike"):
            load_encoder(gemma := copied("gemma3"))
    load_encoder(gemma)
    with monkeypatch.context() as patch:
        patch.setattr(DecoderEncoder, "_at_resolution", lambda self, pixels: pixels[:, :32, :32])
        with pytest.raises(ModelError, match=r"'internvl' .* 720 x 480 pixels, .* has shape .*, but .* from its own"):
            load_encoder(copied("internvl"))


def test_a_processor_that_fails_is_reported(folders, tmp_path):
    folder = shutil.copytree(folders / "llava_next", tmp_path / "model")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_grid_pinpoints": []}))
    with pytest.raises(ModelError, match=r"model folder .*: the image processor fails"):
        load_encoder(str(folder))


def test_a_folder_is_compared_once_per_process(folders, monkeypatch):
    load_encoder(str(folders / "internvl"))
    monkeypatch.setattr(check, "_stock", lambda *given: pytest.fail("compared again"))
    assert load_encoder(str(folders / "internvl")).views is not None
    assert CPU.type == "cpu"
