"""Small random models: sizes, seeds, and tokenizers that know the mini suite's words."""

import re

import pytest
import torch

from feddat.data.mini.vocabulary import vocabulary
from feddat.models.base import ModelError
from feddat.models.catalog import FAMILIES, load_backbone, load_encoder
from feddat.models.tiny import TINY, make_tiny
from feddat.models.tiny.settings import SIZES, TinySettings, parse_settings


def test_every_family_has_a_small_one():
    assert TINY.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", TINY)
def test_the_default_is_about_as_large_as_vilt_mini_and_knows_the_mini_suites_words(family, tmp_path):
    folder = make_tiny(family, tmp_path / "model")
    backbone = load_backbone(str(folder))
    assert 1.5e6 < sum(p.numel() for p in backbone.model.parameters()) < 3.5e6
    tokenizer = load_encoder(str(folder)).tokenizer
    words = [word for word in vocabulary() if re.fullmatch("[a-z]+", word)]
    unknown = [word for word in words if len(tokenizer(word, add_special_tokens=False)["input_ids"]) != 1]
    assert len(words) > 200
    assert unknown == []


def weights(folder):
    return load_backbone(str(folder)).model.state_dict()


def test_weights_depend_on_the_seed_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (
        weights(make_tiny("clip", tmp_path / name, parse_settings(["size=unit", f"seed={seed}"])))
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["text_projection.weight"], other["text_projection.weight"])


def test_sizes_are_named_and_changed():
    assert parse_settings([]) == TinySettings()
    assert parse_settings(["layers=3", "size=unit"]) == TinySettings(hidden=32, layers=3, heads=2, image=32, tokens=16)
    assert parse_settings(["size=unit"]) == SIZES["unit"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hiden=3", "'hiden=3': expected key=value with a known key; did you mean 'hidden'"),
        ("hidden", "'hidden': expected key=value"),
        ("hidden=wide", "hidden: 'wide'; expected a whole number"),
        ("size=huge", "size: 'huge'; expected bundled or unit"),
        ("heads=0", "heads: 0; expected at least 1"),
        ("heads=7", "hidden: 160; expected a multiple of twice the 7 heads"),
        ("patch=15", "image: 64; expected a multiple of the patch of 15 pixels"),
    ],
)
def test_what_does_not_fit_is_named(override, message):
    with pytest.raises(ModelError, match=message):
        parse_settings([override])


def test_a_full_folder_and_an_unknown_family_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"already exists; expected a new or empty folder"):
        make_tiny("vilt", tmp_path)
    with pytest.raises(ModelError, match="family 'bert': unknown; expected one of vilt, vilt-bert, blip"):
        make_tiny("bert", tmp_path / "new")
