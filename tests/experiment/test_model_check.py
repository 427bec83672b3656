"""`feddat models check` and `make-tiny`: what they report about a folder, and how memory is counted."""

import pytest
import torch

from feddat.cli import main
from feddat.config import load_config
from feddat.experiment.model_check import SavedForBackward, check_model, group_sites
from helpers import make_tiny_albef, make_tiny_vilt


def test_sites_are_grouped_by_their_form():
    names = ["encoder.layer.0.output", "encoder.layer.11.output", "layers.3", "layers.4", "conv1"]
    assert group_sites(names) == {"encoder.layer.N.output": 2, "layers.N": 2, "conv1": 1}


def test_bytes_kept_for_backward_are_counted_once_and_at_their_most():
    weight = torch.zeros(6, requires_grad=True)
    counter = SavedForBackward([weight])
    with counter.counting():
        one = torch.rand(6) * weight  # keeps the 6 random numbers, and the weight, which does not count
        loss = one.exp().sum()  # keeps its own result
        assert counter.most == 2 * 6 * 4
        loss.backward()
        del one, loss
        (torch.rand(20) * torch.ones(20, requires_grad=True)).sum().backward()
    assert counter.most == 20 * 4  # the first graph is gone, so its bytes are not added


def test_what_a_folder_is_and_what_a_step_needs(tmp_path):
    torch.set_num_threads(1)
    model = str(make_tiny_albef(tmp_path / "albef"))
    settings = {"model": model, "adapter.reduction": 2, "train.batch_size": 4}
    found = check_model(load_config(**settings))
    assert (found.family, found.answers, found.kind, found.method) == ("albef", "rank", "bottleneck", "feddat")
    assert found.sites == {
        "vision.layers.N": 2,
        "text_encoder.encoder.layer.N.output": 4,
        "text_decoder.encoder.layer.N.output": 2,
    }
    adapter = 8 * ((32 * 16 + 16) + (16 * 32 + 32))
    feddat, fedavg = found.parameters["feddat"], found.parameters["fedavg"]
    assert feddat["communicated"] == fedavg["communicated"] == adapter
    assert feddat["personal"] == adapter + found.head
    assert fedavg["personal"] == found.head
    frozen = fedavg["total"] - adapter - found.head
    assert found.memory.weights == 4 * (frozen + 3 * adapter + found.head)
    assert found.memory.training == 12 * (2 * adapter + found.head)
    assert found.memory.saved > 0
    assert found.loss > 0
    if found.memory.peak is not None:
        assert found.memory.peak >= found.memory.before

    taught = check_model(load_config(**settings | {"momentum.alpha": 0.4}))
    assert taught.memory.weights == found.memory.weights + 4 * (2 * adapter + found.head)
    lone = check_model(load_config(**settings | {"method": "fedavg-norm", "adapter.reduction": 16}))
    assert (lone.kind, lone.parameters.keys(), lone.left_out.keys()) == ("norm", {"fedavg"}, {"feddat"})
    half = check_model(load_config(**settings | {"train.batch_size": 2}))
    assert half.memory.weights == found.memory.weights
    assert half.memory.saved < found.memory.saved
    classes = check_model(load_config(**settings | {"eval.answers": "classes"}))
    assert classes.answers == "classes"
    assert classes.head != found.head


@pytest.mark.parametrize("method", ["scaffold", "pfedmma"])
def test_arrays_beside_the_adapter_are_personal_only_if_they_train_and_stay(tmp_path, method):
    torch.set_num_threads(1)
    found = check_model(load_config(model=str(make_tiny_vilt(tmp_path / "vilt")), method=method))
    own, fedavg = found.parameters[method], found.parameters["fedavg"]
    if method == "scaffold":  # control variates travel but are no parameters
        assert (own["personal"], own["communicated"]) == (found.head, 2 * fedavg["communicated"])
    else:  # the projections and inner biases travel
        assert own["personal"] == own["trainable"] - own["communicated"]
        assert found.head < own["personal"] < fedavg["trainable"]


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_from_the_command_line(tmp_path, capsys):
    model = str(tmp_path / "clip")
    assert call(capsys, "models", "make-tiny", "clip", model, "size=unit", "layers=1")[0] == 0
    code, out, err = call(capsys, "models", "check", model, "train.batch_size=2", "adapter.peft=norm", "method=fedavg")
    assert (code, err) == (0, "")
    assert "family    clip" in out
    assert "vision_model.encoder.layers.N.layer_norm1" in out
    assert "feddat is not shown: adapter.peft: feddat needs adapters whose outputs can be added up" in out
    assert "fedavg, 2 made-up questions: loss" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "{}/none"], "neither a bundled model (albef-mini, vilt-mini) nor"),
        (["check", "{}"], "no config.json; expected a Hugging Face model folder"),
        (["check", "{}/vilt", "eval.answer=rank"], "unknown key 'eval.answer'; did you mean 'eval.answers'?"),
        (["check", "{}/vilt", "fusion.kind=transformer"], "one stream; expected the default"),
        (["check", "{}/vilt", "adapter.sites=nothing"], "adapter: "),
        (["make-tiny", "bert", "{}/new"], "family 'bert': unknown; expected one of vilt, vilt-bert"),
        (["make-tiny", "vilt", "{}/vilt"], "already exists; expected a new or empty folder"),
    ],
)
def test_mistakes_are_one_line(arguments, said, tmp_path, capsys):
    make_tiny_vilt(tmp_path / "vilt")
    code, _, err = call(capsys, "models", *(argument.format(tmp_path) for argument in arguments))
    assert code == 2
    assert err.count("\n") == 1
    assert said in err
