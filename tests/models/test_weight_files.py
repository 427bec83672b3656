"""Weights in PyTorch's own files, as in many published folders: they give the same model, and only tensors load."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from feddat.models.base import ModelError
from feddat.models.catalog import FAMILIES, load_backbone
from feddat.models.weights import weight_files, weights_hash
from helpers import make_unit

INDEX = "pytorch_model.bin.index.json"


def whole(state, folder, **options):
    torch.save(state, folder / "pytorch_model.bin", **options)


def in_two(state, folder):
    names = list(state)
    parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, own in parts.items():
        torch.save({name: state[name].clone() for name in own}, folder / file)
    weight_map = {name: file for file, own in parts.items() for name in own}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def old(state, folder):
    whole(state, folder, _use_new_zipfile_serialization=False)


def rewritten(folder: Path, write) -> None:
    """Replace the safetensors of a folder and of its parts by the files that ``write`` makes from their tensors."""
    for path in folder.rglob("model.safetensors"):
        state = load_file(path)
        path.unlink()
        write(state, path.parent)


@pytest.mark.parametrize(
    ("family", "write"),
    [*((family, whole) for family in FAMILIES), ("vilt", in_two), ("smolvlm", in_two), ("vilt", old), ("clip", old)],
)
def test_a_folder_of_any_family_without_safetensors(family, write, tmp_path, caplog):
    caplog.set_level("INFO", logger="feddat.models")
    folder = make_unit(family, tmp_path / family)
    expected = weights_hash(load_backbone(str(folder)).model.state_dict())
    assert not caplog.records
    rewritten(folder, write)
    backbone = load_backbone(str(folder))
    assert weights_hash(backbone.model.state_dict()) == expected
    assert "no safetensors; reading pytorch_model.bin, tensors only" in caplog.text
    if family == "vilt":
        assert backbone.word_head(["red"]) is not None


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_unit("vilt", tmp_path_factory.mktemp("vilt") / "model")


@pytest.fixture
def folder(source, tmp_path):
    return shutil.copytree(source, tmp_path / "model")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("family", ["vilt", "clip", "smolvlm"])
@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_nothing_is_run_that_a_file_holds_beside_tensors(family, save, tmp_path):
    folder = make_unit(family, tmp_path / family)
    sprung = tmp_path / "sprung"
    rewritten(folder, lambda state, place: save({**state, "trap": Trap(sprung)}, place / "pytorch_model.bin"))
    with pytest.raises(
        ModelError, match=r"pytorch_model.bin is damaged or holds more than tensors, and nothing in it was run"
    ):
        load_backbone(str(folder))
    assert not sprung.exists()


def test_safetensors_come_first(folder, caplog):
    caplog.set_level("INFO", logger="feddat.models")
    (folder / "pytorch_model.bin").write_bytes(b"no pickle at all")
    load_backbone(str(folder))
    assert not caplog.records


@pytest.mark.parametrize(
    ("index", "weight_map", "message"),
    [
        (
            INDEX,
            {"a": "pytorch_model-00001-of-00002.bin"},
            "names pytorch_model-00001-of-00002.bin, which is not in the",
        ),
        (INDEX, {"a": "../other/pytorch_model.bin"}, "expected a file of the same kind"),
        ("model.safetensors.index.json", {"a": "pytorch_model.bin"}, "expected a file of the same kind"),
        ("model.safetensors.index.json", None, "expected a weight_map from tensor names to files"),
        (INDEX, [], "expected a weight_map from tensor names to files"),
    ],
)
def test_an_index_that_does_not_fit(folder, index, weight_map, message):
    (folder / "model.safetensors").rename(folder / "elsewhere.safetensors")
    (folder / index).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match=message):
        load_backbone(str(folder))


def test_a_folder_without_weights_says_what_may_be_there(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no weights; expected model.safetensors or .* or pytorch_model.bin or "):
        weight_files(folder)


@pytest.mark.parametrize(
    ("family", "part"), [("vilt", None), ("albef", None), ("smolvlm", None), ("smolvlm", "text_config")]
)
def test_weights_that_were_quantised_before_are_refused(family, part, tmp_path):
    folder = make_unit(family, tmp_path / family)
    config = json.loads((folder / "config.json").read_text())
    (config if part is None else config[part])["quantization_config"] = {"quant_method": "bitsandbytes"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config.json: quantization_config: .* give the folder with the original"):
        load_backbone(str(folder))
