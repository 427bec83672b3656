"""A whole run, from configuration to run folder."""

import json

import pytest
import torch
from flwr.app import MessageType
from flwr.common.serde import recorddict_to_proto
from PIL import Image
from safetensors.torch import load_file

from feddat.algorithms import ALGORITHMS
from feddat.algorithms.feddat import MixedFedDAT
from feddat.app.grid import InProcessGrid
from feddat.config import ConfigError
from feddat.example import DataError, Example
from feddat.experiment import VARIANTS, Experiment, ExperimentError, known_methods
from feddat.experiment.single import run as run_module
from feddat.kinds import KINDS
from feddat.models.base import ModelError
from two_clients import SIZES, numbers


def test_a_run_leaves_its_folder(make_config):
    events = []
    config = make_config()
    summary = Experiment(config).run(events.append)
    folder = config.run_dir
    assert {entry.name for entry in folder.iterdir() if entry.name != ".lock"} == {
        ".seal.key",
        "config.yaml",
        "metrics.jsonl",
        "log.jsonl",
        "summary.json",
        "predictions.json",
        "predictions",
        "checkpoints",
        "clients",
        "report.html",
        "run-id",
    }
    assert json.loads((folder / "summary.json").read_text()) == summary
    opened = Experiment.open(folder).config
    assert opened.model_weights is not None  # the hash of the weights that it ran with
    assert opened.model_copy(update={"model_weights": None}) == Experiment(config).config

    assert summary["method"] == "feddat"
    assert set(summary["clients"]) == {"ann", "bob"}
    assert all(set(scores) == {"dat", "local", "global"} for scores in summary["clients"].values())
    assert summary["mean"] == pytest.approx(sum(c["dat"] for c in summary["clients"].values()) / 2)
    checkpoint = load_file(folder / "checkpoints" / "adapter_model.safetensors")
    assert summary["parameters"]["communicated"] == sum(value.numel() for value in checkpoint.values())
    assert summary["bytes"]["up"] > 2 * 2 * 4 * summary["parameters"]["communicated"]
    assert summary["seconds"] == pytest.approx(sum(summary["seconds_in"].values()))

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scores = [(x["round"], x["client"], x["split"], x["route"], x["examples"]) for x in lines if "score" in x]
    points = [(1, "validation"), (2, "validation"), (2, "test")]
    assert scores == [
        (r, c, s, route, SIZES[s]) for r, s in points for c in ("ann", "bob") for route in ("dat", "local", "global")
    ]
    final = {x["client"]: x["score"] for x in lines if x.get("split") == "test" and x["route"] == "dat"}
    assert final == {name: scores["dat"] for name, scores in summary["clients"].items()}
    losses = [x["metrics"]["loss"] for x in lines if x.get("split") == "train"]
    assert len(losses) == 4
    assert sum(losses[2:]) < sum(losses[:2])

    assert [e["event"] for e in events] == [
        "start",
        *["fit", "fit", "updates", "eval", "eval", "round"],
        *["fit", "fit", "updates", "eval", "eval", "eval", "eval", "round"],
        "done",
    ]
    assert all({"round", "rounds", "seconds_left"} <= set(event) for event in events)
    assert events[1]["seconds_left"] is None
    assert events[6]["seconds_left"] > 0


def test_samples_show_question_truth_and_answers(make_config):
    config = make_config(rounds=1)
    Experiment(config).run()
    samples = json.loads((config.run_dir / "predictions.json").read_text())
    assert [sample["client"] for sample in samples] == ["ann"] * 4 + ["bob"] * 4
    for sample in samples:
        assert sample["truth"] in ("red", "green", "blue")
        assert len(sample["top"]) == 3
        assert sum(probability for _, probability in sample["top"]) == pytest.approx(1)
        assert sample["score"] == float(sample["top"][0][0] == sample["truth"])
        (picture,) = sample["images"]
        assert Image.open(config.run_dir / picture).size == (32, 32)


#: Methods whose server rules need more than two clients.
CROWD = {"krum", "fedtrimmedavg"}


def travelled(messages):
    """Return how many numbers the messages of training have; all should have the same."""
    training = [message.content for message in messages if message.metadata.message_type == MessageType.TRAIN]
    return {sum(array.numpy().size for r in one.array_records.values() for array in r.values()) for one in training}


@pytest.mark.parametrize("method", [name for name in (*ALGORITHMS, *VARIANTS) if name not in CROWD])
def test_every_method_runs_and_reports_the_routes_it_has(make_config, monkeypatch, method):
    events, asked, sent = [], [], []

    class Tapped(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):
            asked.extend(messages)
            for reply in super().send_and_receive(messages, timeout=timeout):
                sent.append(reply)
                yield reply

    monkeypatch.setattr(run_module, "InProcessGrid", Tapped)
    config = make_config(method=method, rounds=1)
    summary = Experiment(config).run(events.append)
    settings = Experiment(config).settings
    answers = (MixedFedDAT if settings.algorithm.answer == "mixture" else ALGORITHMS[settings.method]).routes
    routes = set(answers) if len(answers) > 1 else {"score"}
    assert {name: set(scores) for name, scores in summary["clients"].items()} == {"ann": routes, "bob": routes}
    assert summary["method"] == method
    counts = summary["parameters"]
    assert (counts["communicated"] > 0) == ALGORITHMS[Experiment(config).settings.method].communicates
    assert (travelled(sent), travelled(asked)) == ({counts["communicated"]}, {counts["received"]})
    assert not summary["failed"]
    assert not summary["refused"]
    trained = [(e["client"], e["metrics"]["steps"]) for e in events if e["event"] == "fit"]
    steps = 4.0 if method.endswith("-2x") else 2.0
    assert trained == ([("central", 4.0)] if method.startswith("central") else [("ann", steps), ("bob", steps)])


def test_a_variant_is_its_method_with_other_settings(make_config):
    config = make_config(train__epochs=3)
    assert Experiment(config.model_copy(update={"method": "fedavg-2x"})).settings.train.epochs == 6
    fine_tuned = Experiment(config.model_copy(update={"method": "fedavg-ft"})).settings
    assert (fine_tuned.method, fine_tuned.algorithm.personal_epochs) == ("fedavg", 1)
    assert set(known_methods()) == {*ALGORITHMS, *VARIANTS}
    assert all(known_methods().values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_sends_what_it_trains(make_config, kind):
    events = []
    summary = Experiment(make_config(method="fedavg", rounds=1, adapter__peft=kind)).run(events.append)
    counts = summary["parameters"]
    assert counts == events[0]["parameters"] | {"received": counts["communicated"]}
    assert (summary["peft"], summary["method"]) == (kind, "fedavg")
    head = counts["trainable"] - counts["communicated"]
    alone = Experiment(make_config(method="head", rounds=1, name="alone")).run()["parameters"]
    assert alone == {"total": alone["total"], "trainable": head, "communicated": 0, "received": 0}
    replaced = counts["communicated"] if kind in ("bias", "norm", "full") else 0
    assert counts["total"] == alone["total"] - replaced + counts["communicated"]


def test_arrays_beside_the_adapter_count_as_sent_and_where_they_train_as_trained(make_config):
    plain, scaffold, projected = (
        Experiment(make_config(method=method, rounds=1, name=method)).run()["parameters"]
        for method in ("fedavg", "scaffold", "pfedmma")
    )
    twice = 2 * plain["communicated"]
    assert scaffold == plain | {"communicated": twice, "received": twice}, "the adapter and a control variate"
    # Each site's inner layer has r biases, which travel, and a projection (r, r), which travels and trains.
    projections = projected["trainable"] - plain["trainable"]
    assert projected["total"] - plain["total"] == projections > 0
    biases = projected["communicated"] - projections
    assert projections % biases == 0, "r² for every r"


@pytest.mark.parametrize("kind", ["prompt", "bias", "norm", "full", "head"])
def test_feddat_needs_adapters_that_can_be_mixed(make_config, kind):
    with pytest.raises(ConfigError, match=f"feddat needs adapters .* but got '{kind}'; expected one of .* lora"):
        Experiment(make_config(adapter__peft=kind))


@pytest.mark.parametrize(
    ("method", "stays", "known"),
    [
        # The server knows the anchor: it is the adapter that the client received.
        ("feddat", ["head/", "local."], "anchor."),
        ("fedsa-lora", ["head/", "global.encoder"], "-"),
        ("fedper", ["head/", "global.encoder.layer.1"], "-"),
        ("feddpa", ["head/", "local.", "state.instances"], "-"),
        # The client sends the local adapter; the anchor, the rest of the world, is made of what the server sent.
        ("fedalt", ["head/", "state.mixer"], ("local.", "anchor.")),
    ],
)
def test_what_leaves_a_client_is_the_shared_part_counts_and_metrics(make_config, monkeypatch, method, stays, known):
    sent, states = [], []

    class Tapped(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):
            for reply in super().send_and_receive(messages, timeout=timeout):
                sent.append(reply)
                yield reply

    monkeypatch.setattr(run_module, "InProcessGrid", Tapped)
    config = make_config(method=method)
    expected = Experiment(config).run()["parameters"]["communicated"]
    for client in ("ann", "bob"):
        states += load_file(config.run_dir / "clients" / client / "round-0002.safetensors").items()
    private = {key: value.numpy().tobytes() for key, value in states if value.count_nonzero() > 0}
    for prefix in stays:
        assert any(key.startswith(prefix) for key in private), prefix
    kinds = []
    for reply in sent:
        kinds.append(reply.metadata.message_type)
        wire = recorddict_to_proto(reply.content).SerializeToString()
        for word in (b"what is", b"color", b"green", b"blue", b".png"):
            assert word not in wire
        assert not [key for key, value in private.items() if value in wire and not key.startswith(known)]
        for record in reply.content.array_records.values():
            assert sum(array.numpy().size for array in record.values()) == expected
            assert method != "fedsa-lora" or all(".lora_A." in key for key in record)
        assert bool(reply.content.array_records) == (kinds[-1] == "train")
        assert bool(reply.content.config_records) == (kinds[-1] == "query")
    assert (kinds.count("query"), kinds.count("train"), kinds.count("evaluate")) == (2, 4, 6)


def test_fedex_answers_with_its_residuals_and_leaves_none_behind(make_config):
    """Residuals shift the frozen weights; a later run in the same process finds them unchanged."""
    before = Experiment(make_config(method="fedavg-lora", name="before")).run()
    config = make_config(method="fedex-lora")
    summary = Experiment(config).run()
    state = load_file(config.run_dir / "checkpoints" / "round-00002" / "state.safetensors")
    residuals = list(state.values())
    assert len(residuals) == 4
    assert all(value.shape == (32, 32) and value.any() for value in residuals)
    assert summary["bytes"]["evaluate"]["down"] > 6 * 4 * 4 * 32 * 32, "answers need them"
    assert Experiment(config).predict("ann", [], 1) == []
    after = Experiment(make_config(method="fedavg-lora", name="after")).run()
    assert numbers_of(before) == numbers_of(after)


def numbers_of(summary):
    return summary["clients"], summary["bytes"], summary["mean"]


def test_fedalt_clients_train_beside_the_rest_of_the_world(make_config):
    config = make_config(method="fedalt", adapter__peft="lora")
    Experiment(config).run()
    state = {(c, r): load_file(config.run_dir / "clients" / c / f"round-000{r}.safetensors")
             for c in ("ann", "bob") for r in (1, 2)}  # fmt: skip
    for client, other in (("ann", "bob"), ("bob", "ann")):
        rest = {key: value for key, value in state[client, 2].items() if key.startswith("anchor.")}
        assert rest
        for key, value in rest.items():
            expected = state[other, 1][key.replace("anchor.", "local.")]
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


def test_a_second_run_in_the_same_process_gives_the_same_numbers(make_config):
    first, other, again = (make_config(name=name, seed=seed) for name, seed in (("a", 0), ("b", 1), ("c", 0)))
    for config in (first, other, again):
        Experiment(config).run()
    assert numbers(first.run_dir) == numbers(again.run_dir)
    assert numbers(first.run_dir)["states"] != numbers(other.run_dir)["states"]


def test_questions_can_be_asked_of_a_finished_run(make_config, world):
    config = make_config(rounds=1)
    with pytest.raises(ExperimentError, match="not a run folder"):
        Experiment.open(config.run_dir)
    Experiment(config).run()
    experiment = Experiment.open(config.run_dir)
    example = Example("q", (world / "ann" / "test0.png",), "what is the color ?")
    ((first, second),) = experiment.predict("ann", [example], k=2)
    assert first[1] > second[1]
    with pytest.raises(ExperimentError, match="client 'eve': not in this run; clients are ann, bob"):
        experiment.predict("eve", [example])


def test_what_cannot_run_says_why_in_one_line_and_leaves_nothing(make_config, world, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    clients = make_config().clients
    bad = [
        ({"method": "fedavgg"}, ConfigError, "method: 'fedavgg' is unknown; methods are feddat, feddat-2, fedavg,"),
        ({"model": "vilt-maxi"}, ModelError, "'vilt-maxi'"),
        ({"device": "cuda:77"}, ConfigError, "device: 'cuda:77' cannot be used here"),
        ({"benchmark": "mini/none", "clients": None}, ValueError, "'mini/none'"),
        ({"adapter.sites": "nowhere"}, ConfigError, "adapter: "),
        ({"clients": clients | {"ann": clients["ann"] | {"test": str(empty)}}}, DataError, "empty"),
    ]
    for values, error, text in bad:
        with pytest.raises(error) as caught:
            Experiment(make_config(**values)).run()
        assert text in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "runs" / "run" / "config.yaml").exists()


def test_when_training_breaks_in_every_client_the_run_stops_with_the_reason(make_config):
    config = make_config(train__lr=1e30)
    with pytest.raises(ExperimentError, match="round 1, train: no client could do its part; first: client ann: Train"):
        Experiment(config).run()


def test_a_client_that_breaks_is_left_out_and_counted(make_config, monkeypatch):
    from feddat.client.trainer import Participant

    fit = Participant.fit

    def sometimes(self, shared, round, extras=None):
        if self.name == "bob" and round == 2:
            raise RuntimeError("power cut")
        return fit(self, shared, round, extras)

    monkeypatch.setattr(Participant, "fit", sometimes)
    config = make_config()
    summary = Experiment(config).run()
    assert (summary["failed"], summary["refused"], summary["missing"]) == (1, 0, [])
    lines = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in lines if "failed" in line] == [
        {"round": 2, "client": "bob", "failed": "RuntimeError: power cut", "during": "train"}
    ]
