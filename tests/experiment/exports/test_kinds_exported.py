"""Exported models of every family and kind of adapter give equal logits, loaded with only transformers and PEFT."""

from __future__ import annotations

import json

import pytest
import stock
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file

import feddat  # noqa: F401  (brings bottlenecks and prompts to PEFT)
from feddat.experiment.exports.write import Options, export
from feddat.models.catalog import DECODERS, FAMILIES

WRITERS = ("blip", "albef", *DECODERS)
ENCODERS = ("vilt", "vilt-bert", "clip", "siglip")
#: Decoders that are tested with every kind; they differ in where positions come from and where pictures enter.
FEW_DECODERS = ("smolvlm", "qwen2_vl")
KINDS = {"bottleneck": "dat", "lora": "dat", "prompt": "global", "bias": "global", "norm": "global"}
MERGED = {"lora": "dat", "bias": "global", "norm": "global", "full": "global", "head": "none"}


def cases(kinds):
    full = [(family, kind) for family in (*ENCODERS, "blip", "albef", *FEW_DECODERS) for kind in kinds]
    rest = [(family, "lora") for family in DECODERS if family not in FEW_DECODERS]
    # A decoder has no trainable head.
    return [(family, kind) for family, kind in full + rest if kind != "head" or family not in DECODERS]


def answer_of(made):
    """Return token ids of an answer, (1, L); for decoders, where only the first token is compared, (1, 2)."""
    backbone = made.foundation.backbone
    ids = torch.tensor(backbone.answer_tokens(["red"]))
    return ids[:, :2] if backbone.family in DECODERS else ids


def compare(made, family, model, head, inputs):
    if family in WRITERS:
        answer = answer_of(made)
        expected = made.logits(inputs, answer)
        with torch.no_grad():
            found = stock.token_logits(family, model, head, inputs, answer)
    else:
        expected = made.logits(inputs)
        with torch.no_grad():
            found = head(stock.features(family, model, inputs))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    made.foundation.adapters.route("none")
    return expected


def head_beside(made, family, folder):
    if family not in WRITERS:
        return stock.classifier(folder, made.foundation.backbone.feature_dim)
    if family in DECODERS:
        assert not (folder / "head.safetensors").exists()
        return None
    head = made.foundation.backbone.answer_head()  # BERT's masked-word head, built from modules of transformers
    head.load_state_dict(load_file(folder / "head.safetensors"))
    return head


def test_every_family_is_there():
    assert {family for family, _ in cases(KINDS)} == FAMILIES.keys()


@pytest.mark.parametrize(("family", "kind"), cases(KINDS))
def test_an_adapter_is_one_that_peft_loads(trained, folders, tmp_path, family, kind):
    made = trained(family, kind, KINDS[kind], **{"method": "feddat"} if KINDS[kind] == "dat" else {})
    folder = export(tmp_path / "out", made.foundation, made.model, made.origin)
    inputs = made.inputs(1 if family in WRITERS else 3)
    plain = stock.load_base(family, folders(family))
    model = PeftModel.from_pretrained(plain, folder).eval()
    compare(made, family, model, head_beside(made, family, folder), inputs)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folders(family))
    if kind == "lora":
        assert (config["r"], config["lora_alpha"]) == (4, 4)  # two adapters of rank 2 and scale 2, each weighted by 0.5
    if kind == "bottleneck":
        assert PeftConfig.from_pretrained(folder).count == 2


@pytest.mark.parametrize("sites", ["all-linear", ".*dense"])
def test_sites_of_further_modules_of_a_stock_model_are_no_sites(trained, folders, tmp_path, sites):
    """BLIP's vocabulary head is not part of our model, so it has no adapter, though the expression matches it."""
    made = trained("blip", "lora", **{"adapter.sites": sites})
    inputs = made.inputs()
    adapter = export(tmp_path / "adapter", made.foundation, made.model, made.origin)
    model = PeftModel.from_pretrained(stock.load_base("blip", folders("blip")), adapter).eval()
    assert not any("lora_" in name for name, _ in model.named_parameters() if ".cls." in name)
    compare(made, "blip", model, head_beside(made, "blip", adapter), inputs)
    merged = export(tmp_path / "merged", made.foundation, made.model, made.origin, Options(merge=True))
    compare(made, "blip", stock.load_base("blip", merged), None, inputs)


@pytest.mark.parametrize(("family", "kind"), cases(MERGED))
def test_a_merged_model_is_one_that_transformers_loads(trained, folders, tmp_path, family, kind):
    made = trained(family, kind, MERGED[kind], **{"method": "feddat"} if MERGED[kind] == "dat" else {})
    folder = export(tmp_path / "out", made.foundation, made.model, made.origin, Options(merge=True))
    assert not (folder / "adapter_config.json").exists()
    inputs = made.inputs(1 if family in WRITERS else 3)
    if family == "vilt":  # the class of transformers includes the head
        whole = stock.hf.ViltForQuestionAnswering.from_pretrained(folder).eval()
        assert whole.config.id2label == {0: "red", 1: "blue", 2: "two"}
        with torch.no_grad():
            found = whole(**inputs).logits
        torch.testing.assert_close(found, made.logits(inputs), atol=2e-5, rtol=1e-4)
        made.foundation.adapters.route("none")
        return
    if family == "albef":
        from feddat.models.albef.model import AlbefForQuestionAnswering

        whole = AlbefForQuestionAnswering.from_pretrained(folder).eval()
        compare(made, family, whole.albef, whole.head, inputs)
        return
    head = stock.classifier(folder, made.foundation.backbone.feature_dim) if family not in WRITERS else None
    compare(made, family, stock.load_base(family, folder), head, inputs)
    if family in DECODERS:
        # The tensors keep the names of the original folder, so that other software can read them.
        names = [load_file(place / "model.safetensors").keys() for place in (folder, folders(family))]
        extra = {"lm_head.weight"} if kind == "full" else set()  # no longer tied to the word embeddings
        assert names[0] - extra == names[1] - extra
