"""A resumed run goes on with the model and data that it began with, or names what was exchanged."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_experiment_resume import Stop, stop_at

from feddat.app.checkpoint import Checkpoints
from feddat.client.store import StoreError
from feddat.config import load_config
from feddat.example import Example
from feddat.experiment import Experiment, ExperimentError
from feddat.experiment.single import client_data, foundation
from feddat.experiment.single.deciding import config_hash
from feddat.experiment.single.federation import load_federation
from feddat.experiment.single.world import check_client, finished_worlds, in_short
from feddat.report.page import write_report
from two_clients import SIZES, numbers


@pytest.fixture
def place(world, tmp_path):
    """A copy of the model and of two clients' files, which tests may exchange."""
    torch.set_num_threads(1)
    return Path(shutil.copytree(world, tmp_path / "place"))


@pytest.fixture
def settings(place, tmp_path):
    def make(**values):
        clients = {c: {split: str(place / c / f"{split}.jsonl") for split in SIZES} for c in ("ann", "bob")}
        base = {"model": str(place / "model"), "benchmark": None, "clients": clients, "rounds": 2, "name": "run"}
        base |= {"runs_dir": tmp_path / "runs", "train.batch_size": 5, "train.lr": 0.01, "method": "fedavg"}
        return load_config(None, None, **base | values)

    return make


def another_process():
    """Clear what this process has loaded, as if it were a new one."""
    foundation._load_model.cache_clear()
    client_data._load_benchmark.cache_clear()


def weights(place):
    path = place / "model" / "model.safetensors"
    state = {key: value.clone() for key, value in load_file(path).items()}
    state["vilt.encoder.layer.0.attention.attention.query.weight"][0, 0] += 1e-3
    save_file(state, path)


def processor(place):
    path = place / "model" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.4, 0.5, 0.5]}))


def tokenizer(place):
    path = place / "model" / "tokenizer.json"
    path.write_text(path.read_text().replace('"red"', '"ret"'))


def questions(client, split):
    def change(place):
        path = place / client / f"{split}.jsonl"
        path.write_text(path.read_text().replace("what is", "is the", 1))

    return change


def answers(place):
    path = place / "ann" / "train.jsonl"
    path.write_text(path.read_text().replace('"answers": "red"', '"answers": "blue"', 1))


def images(client, split):
    def change(place):
        path = place / client / f"{split}1.png"
        pixels = Image.open(path)
        pixels.putpixel((0, 0), (1, 2, 3))
        pixels.save(path)

    return change


CHANGES = [
    (weights, "model weights"),
    (processor, "tokenizer or image processor"),
    (tokenizer, "tokenizer or image processor"),
    (questions("ann", "train"), "client ann: train questions"),
    (answers, "client ann: train questions"),
    (questions("bob", "validation"), "client bob: validation questions"),
    (images("bob", "train"), "client bob: train images"),
    (images("ann", "test"), "client ann: test images"),
]


def stopped_after_a_round(config):
    with pytest.raises(Stop):
        Experiment(config).run(stop_at(8))  # in round 2, with two clients
    another_process()


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=lambda value: getattr(value, "__name__", value))
def test_what_was_exchanged_is_named_and_nothing_is_touched(settings, place, tmp_path, change, said):
    stopped_after_a_round(settings())
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    change(place)
    events = []
    with pytest.raises(ExperimentError) as caught:
        Experiment(settings()).run(events.append, resume=True)
    assert f"changed since round 1: {said}; " in str(caught.value)
    assert "--accept-changes" in str(caught.value)
    assert not events
    assert before == {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}


def test_what_is_put_back_or_copied_is_the_same_again(settings, place):
    Experiment(settings(name="whole")).run()
    stopped_after_a_round(settings())
    copy = shutil.copytree(place, place.with_name("copy"), copy_function=shutil.copyfile)  # with new times
    for _, (change, _) in zip(range(4), CHANGES, strict=False):
        change(place)
    shutil.rmtree(place)
    Path(copy).rename(place)
    summary = Experiment(settings()).run(resume=True)
    assert summary["changes"] == []
    whole, resumed = (numbers(settings(name=name).run_dir) for name in ("whole", "run"))
    assert whole == resumed


def test_a_run_taken_up_from_its_folder_says_the_same_though_it_noted_the_weights(settings, place):
    stopped_after_a_round(settings())
    weights(place)
    folder = settings().run_dir
    assert Experiment.open(folder).config.model_weights
    with pytest.raises(ExperimentError, match="changed since round 1: model weights; "):
        Experiment.open(folder).run(resume=True)
    before = Experiment.open(folder).config.model_weights
    summary = Experiment.open(folder).run(resume=True, accept_changes=True)
    assert [change["what"] for change in summary["changes"]] == [["model weights"]]
    assert before != Experiment.open(folder).config.model_weights == summary["model_weights"]


def test_changes_that_are_accepted_stand_in_summary_and_report(settings, place, caplog):
    stopped_after_a_round(settings(rounds=3))
    weights(place)
    images("ann", "test")(place)
    with pytest.raises(Stop):
        Experiment(settings(rounds=3)).run(stop_at(8), resume=True, accept_changes=True)
    assert "continues after round 1 despite changes to model weights, client ann: test images" in caplog.text
    another_process()
    summary = Experiment(settings(rounds=3)).run(resume=True)  # accepted once, the change needs no second consent
    assert summary["changes"] == [{"round": 1, "what": ["model weights", "client ann: test images"]}]
    page = (settings().run_dir / "report.html").read_text(encoding="utf-8")
    assert "Exchanged during the run" in page
    assert "model weights, client ann: test images (after round 1)" in page


def test_a_run_without_changes_says_nothing_of_them(settings):
    summary = Experiment(settings(rounds=1)).run()
    assert summary["changes"] == []
    assert set(summary["world"]) == {"model weights", "tokenizer or image processor", "sites of adapters", "data"}
    assert "Exchanged" not in write_report(settings().run_dir).read_text(encoding="utf-8")


def test_generated_examples_are_the_data_of_a_generated_benchmark(settings, monkeypatch):
    mini = {"benchmark": "mini/task", "clients": None, "train_examples": 6, "test_examples": 3, "method": "local"}
    with pytest.raises(Stop):
        Experiment(settings(**mini)).run(lambda event: stop(event, "fit", 2))
    another_process()
    real = client_data._load_benchmark

    def other_definition(*given):
        first, *rest = real(*given)
        question = first.test[0]
        return (replace(first, test=(replace(question, text=question.text + " ?"), *first.test[1:])), *rest)

    monkeypatch.setattr(client_data, "_load_benchmark", other_definition)
    with pytest.raises(ExperimentError, match=r"since round 1: client \w+: test questions; "):
        Experiment(settings(**mini)).run(resume=True)
    monkeypatch.setattr(client_data, "_load_benchmark", real)
    assert Experiment(settings(**mini)).run(resume=True)["changes"] == []


def stop(event, kind, round):
    if event["event"] == kind and event["round"] == round:
        raise Stop


def test_a_folder_of_a_version_without_hashes_is_resumed(settings):
    Experiment(settings(name="whole")).run()
    config = settings()
    stopped_after_a_round(config)
    (path,) = (config.run_dir / "checkpoints").glob("*/state.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    state = json.loads(metadata["state"])
    del state["world"], state["changes"], metadata["seal"]
    save_file(load_file(path), path, metadata=metadata | {"state": json.dumps(state)})
    (config.run_dir / ".seal.key").unlink()  # it had no seals either
    assert Experiment(config).run(resume=True)["changes"] == []
    assert numbers(settings(name="whole").run_dir) == numbers(config.run_dir)
    assert Checkpoints(config.run_dir / "checkpoints", config_hash(config)).world()[1], "from now on it has some"


def test_answers_of_another_model_are_refused(settings, place):
    config = settings(rounds=1)
    Experiment(config).run()
    another_process()
    weights(place)
    question = [Example("q", (place / "ann" / "test0.png",), "what is the color ?")]
    with pytest.raises(ExperimentError, match="changed since round 1: model weights; "):
        Experiment(config).predict("ann", question)
    assert Experiment(config).predict("ann", question, accept_changes=True)


def test_runs_are_not_compared_with_those_of_another_world(settings, place):
    runs = {name: settings(method=name, name=f"{name}-s0", rounds=1) for name in ("fedavg", "head", "local")}
    Experiment(runs["fedavg"]).run()
    another_process()
    beside = finished_worlds(runs)
    assert set(beside) == set(runs)
    Experiment(runs["head"]).run(beside=beside["head"])
    images("ann", "test")(place)
    weights(place)
    another_process()
    with pytest.raises(ExperimentError, match="had other model weights and data; restore the original, or repeat all"):
        Experiment(runs["local"]).run(beside=beside["local"])
    other = {"fedavg": runs["fedavg"], "fewer": settings(train_examples=4)}
    assert set(finished_worlds(other)) == {"fedavg"}, "other data is meant to be other data"


def test_a_client_of_its_own_process_sees_to_its_data_itself(settings, place, tmp_path):
    def participant():
        another_process()
        run = Experiment(settings()).settings
        return load_federation(run, tmp_path / "clients").participants["ann"]

    check_client(participant())
    images("ann", "train")(place)
    check_client(participant())  # nothing has been trained yet
    participant().store.save(1, {"x": torch.ones(1)})
    check_client(participant())
    questions("bob", "train")(place)
    check_client(participant())  # another client's data does not matter to ann
    questions("ann", "train")(place)
    with pytest.raises(StoreError, match=r"client ann: changed .*: client ann: train questions; .*accept_changes"):
        check_client(participant())
    check_client(participant(), accept=True)
    check_client(participant())
    held = json.loads((tmp_path / "clients" / "ann" / "data.json").read_text())
    assert set(held) == {f"client ann: {split} {what}" for split in SIZES for what in ("questions", "images")}


def test_a_summary_has_one_hash_of_all_data():
    world = {"model weights": "a", "client x: train images": "b"}
    short = in_short(world)
    assert short["model weights"] == "a"
    assert set(short) == {"model weights", "data"}
    assert in_short(world | {"client x: train images": "c"})["data"] != short["data"]
    assert in_short({"model weights": "a"}) == {"model weights": "a"}
