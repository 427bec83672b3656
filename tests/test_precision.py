"""The precision `auto` is resolved for the machine once, and the run records the result."""

import pytest
import torch

from feddat.config import load_config
from feddat.experiment import Experiment
from feddat.precision import resolve_precision


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_what_the_cpu_multiplies_in(monkeypatch, native):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    assert resolve_precision("auto") == ("bf16" if native else "fp32")
    assert resolve_precision("fp32") == "fp32"
    assert resolve_precision("bf16") == "bf16"


def test_a_device_that_is_not_there_is_no_reason_to_fail_yet():
    assert resolve_precision("auto", "meta") == "fp32"
    assert torch.cuda.is_available() or resolve_precision("auto", "cuda:0") == "fp32"


def test_a_run_writes_down_what_auto_meant(monkeypatch, tmp_path):
    config = load_config(overrides=["train.precision=auto", f"runs_dir={tmp_path}"])
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert Experiment(config).config.train.precision == "bf16"
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert Experiment(config).settings.train.precision == "fp32"
