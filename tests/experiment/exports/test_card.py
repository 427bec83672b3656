"""The model card: what it must say, and what it must not reveal."""

import json
import re

import pytest
from answers import of_run, questions, same_answers
from huggingface_hub import ModelCard

import feddat
from feddat.experiment import Experiment
from feddat.experiment.exports.card import Origin, _privacy, public_name, shared_scores
from feddat.experiment.exports.write import Options
from feddat.models.catalog import load_backbone
from feddat.models.weights import weights_hash


def card_of(folder):
    return ModelCard((folder / "README.md").read_text(encoding="utf-8"))


def test_the_card_says_how_the_model_came_about(finished, tmp_path, world):
    run = finished(method="feddat-lora")
    summary = json.loads((run / "summary.json").read_text())
    card = card_of(Experiment.open(run).export(tmp_path / "out"))
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "visual-question-answering")
    assert {"feddat", "federated-learning", "lora"} <= set(card.data.tags)
    (result,) = card.data.eval_results
    mean = sum(scores["global"] for scores in summary["clients"].values()) / 2
    assert result.metric_value == pytest.approx(mean, abs=0.005)
    assert result.metric_name == "accuracy, mean of 2 clients, each with its own head"
    lines = [line for line in card.text.splitlines() if line.startswith("| ") and line.count("|") == 3]
    rows = dict(line.strip("| ").split(" | ") for line in lines[2:])
    assert rows["method"] == "FedDAT, LoRA"
    assert (rows["rounds"], rows["clients"]) == ("2 of 2", "2")
    assert rows["foundation model"] == "model (vilt)"
    assert weights_hash(load_backbone(str(world / "model")).model.state_dict()) in rows["hash of the weights"]
    assert "no differential privacy" in card.text
    assert "arxiv.org/abs/2308.12305" in card.text


def test_a_clients_card_has_its_own_score(finished, tmp_path):
    run = finished(method="feddat")
    summary = json.loads((run / "summary.json").read_text())
    card = card_of(Experiment.open(run).export(tmp_path / "out", "bob", "local"))
    (result,) = card.data.eval_results
    assert result.metric_value == pytest.approx(summary["clients"]["bob"]["local"], abs=0.005)
    assert "Only one client's data trained the head" in card.text


@pytest.mark.parametrize("client", [None, "ann"])
def test_nobody_and_nothing_of_the_data_is_named(finished, tmp_path, client):
    """An export has no client names, questions, answers or file names; only answers.json has the client's answers."""
    folder = Experiment.open(finished(method="feddat")).export(tmp_path / "out", client)
    for path in folder.iterdir():
        text = path.read_bytes().decode("latin-1").lower()
        words = ["ann", "bob", "what is the color", "jsonl", "train0", "test0"]
        words += ["red", "green", "blue"] if path.name != "answers.json" else []
        # The path of the model, which the run was given, may contain any word.
        text = text.replace(str(Experiment.open(finished(method="feddat")).config.model).lower(), "")
        if path.suffix == ".safetensors":  # only the header has names and texts
            text = text[: 8 + int.from_bytes(path.read_bytes()[:8], "little")]
        assert not re.findall(rf"\b({'|'.join(words)})\b", text), path.name


def origin(client=None, share="scores", split="test", clients=None, **values):
    clients = {"ann": {"dat": 50.0, "local": 40.0}, "bob": {"dat": 70.0}} if clients is None else clients
    config = Experiment.load(None, f"share_metrics={share}", **values).config
    return Origin(config, 1, {"clients": clients, "split": split}, client)


def test_scores_are_told_only_where_they_may_be():
    assert list(shared_scores(origin(), "dat").values()) == [60.0]
    assert shared_scores(origin("ann"), "local") == {"the client's own test questions": 40.0}
    assert shared_scores(origin("bob"), "local") == {}  # bob has no score on this route
    assert shared_scores(origin(), "local") == {}  # the mean of one client would be its score
    assert shared_scores(origin(share="counts"), "dat") == {}
    assert shared_scores(origin(split="validation"), "dat") == {}
    assert shared_scores(origin(clients={"ann": {"score": 1.0}, "bob": {"score": 2.0}}), "global")
    assert shared_scores(Origin(origin().config, 1), "dat") == {}


@pytest.mark.parametrize(
    ("model", "name"),
    [("vilt-mini", "vilt-mini"), ("dandelin/vilt-b32-mlm", "dandelin/vilt-b32-mlm"), ("/models/mine", "mine")],
)
def test_names_without_places(model, name):
    assert public_name(model) == name


def test_a_model_of_the_hub_is_named_with_its_revision(finished, tmp_path):
    options = Options(base="dandelin/vilt-b32-mlm@f1d0c44")
    card = card_of(Experiment.open(finished(method="feddat")).export(tmp_path / "out", options=options))
    assert card.data.base_model == "dandelin/vilt-b32-mlm"
    assert "| revision | f1d0c44 |" in card.text
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("dandelin/vilt-b32-mlm", "f1d0c44")


@pytest.mark.parametrize("merge", [False, True])
def test_a_run_on_a_model_of_the_hub(hub, make_config, world, tmp_path, merge):
    commit = hub.add("model", "org/tiny", world / "model")
    run = make_config(method="feddat-lora", model="org/tiny", rounds=1)
    Experiment(run).run()
    folder = Experiment.open(run.run_dir).export(tmp_path / "out", "ann", options=Options(merge=merge))
    card = card_of(folder)
    assert card.data.base_model == "org/tiny"
    assert f"| revision | {commit} |" in card.text
    asked = questions(run.run_dir)
    same_answers(feddat.load(folder).answers(asked), of_run(run.run_dir, "ann", asked))
    if not merge:
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", commit)


def test_the_card_says_what_is_promised_of_records_and_of_what_it_is_not(finished, tmp_path):
    private = {"privacy__epsilon": 8.0, "privacy__delta": 1e-3, "share_metrics": "none", "rounds": 1}
    shared = {"privacy__scope": "shared", "algorithm__heads": "separate", "algorithm__alpha": 0.0}
    promise = "(8, 0.001)-differential privacy of every training record"
    whole, part = finished(**private), finished(**private | shared)
    assert promise in card_of(Experiment.open(whole).export(tmp_path / "ann", "ann", "local")).text
    assert promise in card_of(Experiment.open(part).export(tmp_path / "all")).text
    own = card_of(Experiment.open(part).export(tmp_path / "own", "ann", "local")).text
    assert promise not in own and "| privacy | none, see below |" in own and "but this model is not" in own


def test_the_card_says_what_is_promised_of_clients(finished, tmp_path):
    values = {"privacy__epsilon": 8.0, "privacy__delta": 1e-3, "privacy__unit": "client", "share_metrics": "none"}
    run = finished(**values, rounds=1)
    promise = "(8, 0.001)-differential privacy of every client's whole training data"
    text = card_of(Experiment.open(run).export(tmp_path / "all")).text
    assert promise in text and "the server added to the mean of updates" in text
    own = card_of(Experiment.open(run).export(tmp_path / "own", "ann", "local")).text
    assert promise not in own and "but this model is not" in own


NONE = "no differential privacy and no secure aggregation"
SUMS = "The server saw sums of their updates, but no single update"


@pytest.mark.parametrize(
    ("values", "said", "not_said"),
    [
        ({}, NONE, SUMS),
        ({"secure_aggregation.enabled": True}, f"{SUMS} (secure aggregation). There was no differential privacy", NONE),
        ({"secure_aggregation.enabled": True, "method": "feddat-lora"}, SUMS, NONE),
        ({"secure_aggregation.enabled": True, "method": "local"}, NONE, SUMS),
        ({"privacy.epsilon": 8.0, "secure_aggregation.enabled": True}, "DP-SGD at each client", NONE),
    ],
)
@pytest.mark.parametrize("client", [None, "ann"])
def test_the_card_says_how_updates_were_protected(values, said, not_said, client):
    """A method that sends nothing has no sums."""
    text = _privacy(origin(client, **values), personal=client is not None)
    assert said in text and not_said not in text
