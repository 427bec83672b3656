"""Runs with rounded weights and their exports on another kind of device than the run's.

The weights that ``int8`` and ``int4`` leave alone are float32 on a CPU and bfloat16 on a GPU. A GPU is imitated by its
formats here.
"""

import importlib
import json
from contextlib import contextmanager

import pytest
import torch
from answers import questions
from safetensors.torch import load_file, save_file

import feddat
from feddat.config import ConfigError
from feddat.experiment import Experiment
from feddat.experiment.exports.folder import ExportError
from feddat.experiment.exports.write import Options
from feddat.experiment.single import foundation
from feddat.models.catalog import load_backbone
from feddat.models.decoder import backbone as decoder
from feddat.models.weights import original_hash, weights_hash
from helpers import make_unit

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@contextmanager
def formats_of_a_gpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "rest_dtype", lambda weights, device: torch.bfloat16)
        foundation._load_model.cache_clear()
        yield
    foundation._load_model.cache_clear()


@pytest.fixture(scope="module", params=["int8", pytest.param("int4", marks=needs_bitsandbytes)])
def run_on_a_gpu(request, finished, folders):
    with formats_of_a_gpu():
        return finished(method="fedavg-lora", model=str(folders("smolvlm")), weights=request.param, rounds=1)


def test_the_hash_before_rounding_is_the_same_on_all_devices(folders):
    folder = str(folders("smolvlm"))
    here = load_backbone(folder, "int8")
    with formats_of_a_gpu():
        there = load_backbone(folder, "int8")
    assert original_hash(here) == original_hash(there) == original_hash(load_backbone(folder, "bf16"))
    assert weights_hash(here.model.state_dict()) != weights_hash(there.model.state_dict())
    plain = load_backbone(folder)
    assert original_hash(plain) == weights_hash(plain.model.state_dict()) != original_hash(here)


def test_a_run_is_exported_and_answers_on_another_kind_of_device(run_on_a_gpu, tmp_path):
    out = Experiment.open(run_on_a_gpu, device="cpu").export(tmp_path / "out", "ann", None, Options())
    (question, *_) = questions(run_on_a_gpu)
    found = feddat.load(out).answer(str(question.images[0]), question.text)
    with formats_of_a_gpu():
        assert feddat.load(out).answer(str(question.images[0]), question.text) == found


def test_an_export_may_begin_a_run_on_another_kind_of_device(run_on_a_gpu, make_config, tmp_path):
    out = Experiment.open(run_on_a_gpu, device="cpu").export(tmp_path / "out")
    values = {key: getattr(Experiment.open(run_on_a_gpu).config, key) for key in ("model", "weights")}
    begin = {"method": "fedavg-lora", "rounds": 1, "adapter__start": out}
    assert Experiment(make_config(**begin, **values)).run()["start"]
    with pytest.raises(ConfigError, match=rf"\(weights={values['weights']}\), whose weights differ from this model's"):
        Experiment(make_config(**begin, name="plain", model=values["model"])).run()


def test_another_model_is_still_noticed(run_on_a_gpu, tmp_path):
    out = Experiment.open(run_on_a_gpu, device="cpu").export(tmp_path / "out", "ann", None, Options())
    other = make_unit("smolvlm", tmp_path / "other")
    state = load_file(other / "model.safetensors")
    state[min(state)] += 1
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match="weights or processor differ"):
        feddat.load(out, other)


def test_hashes_of_rounded_weights_from_0_1_0_are_read(folders, finished, tmp_path):
    folder = str(folders("smolvlm"))
    run = finished(method="fedavg-lora", model=folder, weights="int8", rounds=1)
    rounded = weights_hash(load_backbone(folder, "int8").model.state_dict())
    out = Experiment.open(run).export(tmp_path / "out", "ann", None, Options())
    info = json.loads((out / "feddat.json").read_text())
    assert info["weights"] != rounded
    (out / "feddat.json").write_text(json.dumps(info | {"weights": rounded}))
    (question, *_) = questions(run)
    assert feddat.load(out).answer(str(question.images[0]), question.text)
    # 0.1.0 wrote that hash into its checkpoints as "model weights"; nothing is compared with it.
    assert "model weights" not in json.loads((run / "summary.json").read_text())["world"]
