"""Finished runs exported from the command line: the exported models answer as the runs do."""

import dataclasses
import json
import shutil

import pytest
import stock
import torch
from answers import of_run, questions, same_answers
from peft import PeftModel
from safetensors.torch import load_file, save_file

import feddat
from feddat.experiment import Experiment, ExperimentError
from feddat.experiment.exports.folder import ExportError
from feddat.experiment.single.foundation import answering_state
from feddat.models.tiny import make_tiny
from feddat.models.tiny.settings import SIZES

#: Name -> settings, a route that the clients answer on.
RUNS = {
    "feddat": ({"method": "feddat"}, "dat"),
    "feddat, local": ({"method": "feddat"}, "local"),
    "feddat, global": ({"method": "feddat"}, "global"),
    "feddat-lora": ({"method": "feddat-lora"}, "dat"),
    "apfl, mixed": ({"method": "apfl", "adapter__peft": "lora"}, "mixed"),
    "apfl, its own head for global": ({"method": "apfl", "adapter__peft": "lora"}, "global"),
    "fedavg-ft": ({"method": "fedavg-ft"}, "local"),
    "fedex-lora": ({"method": "fedex-lora"}, "global"),
    "fedsa-lora": ({"method": "fedsa-lora"}, "global"),
    "ffa-lora": ({"method": "ffa-lora"}, "global"),
    "fedper": ({"method": "fedper"}, "global"),
    "prompt": ({"method": "fedavg", "adapter__peft": "prompt"}, "global"),
    "norm": ({"method": "fedavg", "adapter__peft": "norm"}, "global"),
    "bias": ({"method": "fedavg", "adapter__peft": "bias"}, "global"),
    "head": ({"method": "head"}, "none"),
    "local": ({"method": "local"}, "local"),
    "central": ({"method": "central"}, "global"),
}


@pytest.mark.parametrize("name", RUNS)
def test_an_exported_model_answers_as_the_run_does(finished, call, tmp_path, name):
    values, route = RUNS[name]
    run = finished(**values)
    assert call("export", run, "--client", "ann", "--route", route, "--out", tmp_path / "ann") == 0
    model, asked = feddat.load(tmp_path / "ann"), questions(run)
    expected = of_run(run, "ann", asked, route)
    same_answers(model.answers(asked), expected)
    assert model.answer(asked[0].images[0], asked[0].text) == expected[0][0][0]
    assert {model.task, *model.classes} == {"vqa", "blue", "green", "red"}
    if name in ("feddat-lora", "fedex-lora", "ffa-lora", "norm", "bias", "head"):
        assert call("export", run, "--client", "ann", "--route", route, "--merge", "--out", tmp_path / "merged") == 0
        same_answers(feddat.load(tmp_path / "merged").answers(asked), expected)


def test_the_default_route_is_the_methods_own(finished, call, tmp_path):
    assert call("export", finished(method="feddat"), "--client", "bob", "--out", tmp_path / "bob") == 0
    assert json.loads((tmp_path / "bob" / "feddat.json").read_text())["route"] == "dat"


def test_a_whole_model_is_exported_merged(finished, call, tmp_path, capsys):
    run = finished(method="fedavg-full")
    assert call("export", run, "--client", "ann", "--out", tmp_path / "no") == 2
    assert "trains the model itself, without an adapter; give --merge" in capsys.readouterr().err
    assert call("export", run, "--client", "ann", "--out", tmp_path / "yes", "--merge") == 0
    same_answers(feddat.load(tmp_path / "yes").answers(questions(run)), of_run(run, "ann", questions(run)))


@pytest.mark.parametrize("method", ["feddat", "feddat-lora", "fedex-lora"])
def test_the_shared_adapter_and_checkpoints_are_what_peft_loads(finished, call, tmp_path, world, method):
    run = finished(method=method)
    assert call("export", run, "--out", tmp_path / "shared") == 0
    federation, state = Experiment.open(run)._latest()
    backbone = federation.foundation.backbone
    member = federation.participants["ann"].members["ann"]
    inputs = member.inputs(member.encode_unseen(federation.data["ann"].test[:3]), torch.arange(3))
    adapters, extras = federation.foundation.adapters, answering_state(federation.foundation, state).extras
    adapters.load("global", state.shared)
    adapters.shift(extras or {})
    adapters.route("global")
    with torch.no_grad():
        expected = backbone.features(inputs)
    adapters.shift({})
    places = [tmp_path / "shared"] if extras else [tmp_path / "shared", run / "checkpoints"]
    for place in places:  # only the server's state has FedEx-LoRA's residuals
        model = PeftModel.from_pretrained(stock.load_base("vilt", world / "model"), place).eval()
        with torch.no_grad():
            torch.testing.assert_close(stock.features("vilt", model, inputs), expected, atol=2e-5, rtol=1e-4)
    assert not (tmp_path / "shared" / "answers.json").exists()
    assert sorted(path.name for path in (run / "checkpoints" / "round-00002").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "state.safetensors",
    ]


def test_transformers_answers_from_a_merged_model_as_predict_does(finished, call, tmp_path):
    """The image processor of transformers gives the same pixels, since the pictures are not resized."""
    run = finished(method="feddat-lora")
    assert call("export", run, "--client", "ann", "--merge", "--out", tmp_path / "ann") == 0
    model = stock.hf.AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path / "ann")
    processor = stock.hf.AutoProcessor.from_pretrained(tmp_path / "ann", backend="pil")
    assert type(model) is stock.hf.ViltForQuestionAnswering
    asked = questions(run)
    for example, expected in zip(asked, of_run(run, "ann", asked), strict=True):
        picture = stock.picture(example.images[0])
        with torch.no_grad():
            logits = model(**processor(picture, example.text, return_tensors="pt")).logits[0]
        found = sorted(
            ((model.config.id2label[i], p) for i, p in enumerate(logits.softmax(0).tolist())), key=lambda a: -a[1]
        )
        same_answers([found], [expected], within=1e-4)


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_merged_weights_are_rounded_where_asked(finished, call, tmp_path, dtype, kind):
    run = finished(method="feddat-lora")
    assert call("export", run, "--client", "ann", "--merge", "--dtype", dtype, "--out", tmp_path / "ann") == 0
    assert {value.dtype for value in load_file(tmp_path / "ann" / "model.safetensors").values()} == {kind}
    same_answers(feddat.load(tmp_path / "ann").answers(questions(run)), of_run(run, "ann", questions(run)), 0.02)


def test_a_merged_model_is_a_foundation_model(finished, call, tmp_path, make_config):
    run = finished(method="feddat-lora")
    assert call("export", run, "--client", "ann", "--merge", "--out", tmp_path / "ann") == 0
    summary = Experiment(make_config(model=str(tmp_path / "ann"), rounds=1)).run()
    assert set(summary["clients"]) == {"ann", "bob"}


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        ({"method": "feddat"}, ["--client", "eve"], "client 'eve': not in this run; clients are ann, bob"),
        (
            {"method": "feddat"},
            ["--client", "ann", "--route", "up"],
            "route 'up': feddat answers on dat, local, global",
        ),
        ({"method": "feddat"}, ["--route", "dat"], "route 'dat': belongs to a client; give --client"),
        (
            {"method": "feddat"},
            ["--client", "ann", "--merge"],
            "separate layers with a ReLU, which no weight of the model can",
        ),
        ({"method": "feddat"}, ["--dtype", "bf16"], "--dtype applies only to a merged model; give --merge"),
        ({"method": "feddat"}, ["--merge", "--dtype", "int8"], "--dtype: expected fp32, bf16 or fp16, got 'int8'"),
        ({"method": "feddat"}, ["--public"], "--public applies only to an upload; give --push"),
        ({"method": "fedavg", "adapter__peft": "prompt"}, ["--merge"], "prompts are inputs"),
        ({"method": "local"}, [], "method local: there is no shared adapter; give --client"),
        ({"method": "fedsa-lora"}, [], "and other parameters; give --client"),
        ({"method": "feddpa"}, ["--client", "ann"], "weighs adapters or answers anew for each question"),
        ({"method": "feddat-mixed"}, ["--client", "ann"], "choose another route with --route: dat, local, global"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(finished, call, tmp_path, capsys, values, arguments, message):
    assert call("export", finished(**values), *arguments, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_only_an_exported_model_is_replaced_and_only_if_asked(finished, call, tmp_path, capsys):
    run, out = finished(method="feddat"), tmp_path / "out"
    assert call("export", run, "--out", out) == 0
    assert call("export", run, "--out", out) == 2
    assert "not empty; choose another folder, or replace an exported model with --overwrite" in capsys.readouterr().err
    (out / "stale").touch()
    assert call("export", run, "--out", out, "--overwrite") == 0
    assert not (out / "stale").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    assert call("export", run, "--out", tmp_path / "mine", "--overwrite") == 2
    assert "--overwrite replaces only exported models" in capsys.readouterr().err
    assert call("export", tmp_path / "mine", "--out", tmp_path / "new") == 2
    assert "not a run folder" in capsys.readouterr().err


def test_a_run_without_a_round_has_nothing_to_export(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished(method="feddat"), run, ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(ExperimentError, match="no checkpoint yet"):
        Experiment.open(run).export(tmp_path / "out")


def damage(folder, file, change):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(change(content)))


def change(folder, **values):
    damage(folder, "feddat.json", lambda info: info | values)


def lose(folder, part):
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({k: v for k, v in tensors.items() if part not in k}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "feddat.json").unlink(), "not the folder of an exported model"),
        (lambda folder: (folder / "feddat.json").write_text("{"), "feddat.json: not JSON"),
        (lambda folder: (folder / "head.safetensors").unlink(), "no head.safetensors; the exported model"),
        (lambda folder: (folder / "head.safetensors").write_bytes(b"x"), "head.safetensors: cannot be read"),
        (lambda folder: (folder / "answers.json").unlink(), "answers.json: No such file"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json: no such file"),
        (lambda folder: lose(folder, "bottleneck_up"), r"does not fit the model: .*bottleneck_up.* is missing"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
        (lambda folder: damage(folder, "feddat.json", lambda info: info | {"layout": 9}), "layout 9; this version"),
        (
            lambda folder: damage(folder, "feddat.json", lambda info: info | {"new": 9}),
            "feddat.json: unknown key 'new'",
        ),
        (lambda folder: damage(folder, "feddat.json", lambda info: info | {"model": "/gone"}), "name it with --model"),
        (lambda folder: damage(folder, "answers.json", lambda names: names[:2]), "the head does not fit"),
        (lambda folder: damage(folder, "answers.json", lambda names: {}), "expected a list of answers"),
        (
            lambda folder: change(folder, head_init="wrods"),
            "feddat.json: head_init: .*'random' or 'words' .got 'wrods'",
        ),
        (lambda folder: change(folder, format="fp7"), "feddat.json: format: .*'fp32'.* .got 'fp7'"),
        (lambda folder: change(folder, rank_top=0), "feddat.json: rank_top: .*greater than or equal to 1 .got 0"),
        (lambda folder: change(folder, rank_top=None), "feddat.json: rank_top: expected a value, since the model"),
        (lambda folder: change(folder, answering="loud"), "feddat.json: answering: expected one of classes, rank, gen"),
        (lambda folder: change(folder, task="vqq"), "feddat.json: task: expected one of vqa, nlvr2, snli-ve, vcr"),
        (
            lambda folder: change(folder, fusion_weights=[1.0]),
            "feddat.json: fusion_weights, but the model has no train",
        ),
        (lambda folder: change(folder, fusion_weights=["x"]), "feddat.json: fusion_weights.0: .*valid number"),
    ],
)
def test_a_damaged_folder_is_said_in_one_line(finished, tmp_path, spoil, message):
    folder = tmp_path / "ann"
    Experiment.open(finished(method="feddat")).export(folder, "ann")
    spoil(folder)
    with pytest.raises(ExportError, match=message) as raised:
        feddat.load(folder)
    assert "\n" not in str(raised.value)


def test_another_foundation_model_is_refused_and_a_moved_one_found(finished, tmp_path, world):
    run, folder = finished(method="feddat"), tmp_path / "ann"
    Experiment.open(run).export(folder, "ann")
    other = make_tiny("vilt", tmp_path / "other", dataclasses.replace(SIZES["unit"], seed=1))
    with pytest.raises(ExportError, match=r"trained on another model than .*other"):
        feddat.load(folder, model=other)
    damage(folder, "feddat.json", lambda info: info | {"model": "/gone"})
    same_answers(feddat.load(folder, model=world / "model").answers(questions(run)), of_run(run, "ann", questions(run)))


def test_what_all_have_in_common_cannot_answer(finished, tmp_path):
    Experiment.open(finished(method="feddat")).export(tmp_path / "shared")
    with pytest.raises(ExportError, match="without a head; export a client's model with --client"):
        feddat.load(tmp_path / "shared")
