"""A dishonest server against a client with a policy: the real client app, on real files, asked to give data away.

A refused attack must end like this: the server learns only a code, the client's log gives the reason in one line, and
the client's private state does not change.
"""

import json
import logging
import shutil
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import yaml
from flwr.app import ConfigRecord, Context, Message, RecordDict
from PIL import Image
from safetensors.torch import load

from feddat.app import messages
from feddat.app.client import FAILED, OLD_STATE, OTHER_MODEL, REFUSED
from feddat.app.grid import identify
from feddat.cli import main
from feddat.client.approvals import MOST_WAITING, Approvals
from feddat.client.store import SUMS_FILE, PersonalStore
from feddat.client.totals import Totals
from feddat.config import BOUNDS, RunConfig
from feddat.experiment.serving import flower
from feddat.experiment.serving.app_config import AppConfig, to_flat
from feddat.experiment.serving.gate import ClientGate
from feddat.experiment.single.foundation import load_foundation
from feddat.site import read_site
from helpers import make_tiny_vilt

QUESTION = "what is the color ?"
COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230)}
SIZES = {"train": 80, "validation": 40, "test": 40}
#: Settings that an honest server asks for.
HONEST = {"rounds": 3, "train.batch_size": 16, "train.lr": 0.01}
#: A policy that allows everything, to show that the refused attacks would work without a policy.
NONE_AT_ALL = {
    "guarded_steps": False,
    "approval": "first-use",
    "methods": ["fedavg", "feddat"],
    "kinds": ["full", "bottleneck"],
    "min_examples": 0,
    "min_questions": 0,
    "score_splits": ["train", "validation", "test"],
    "bounds": {key: [-1e300, 1e300] for key in BOUNDS},
}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Path:
    """Return a folder with a model and the files of a client; the names of the pictures are secret."""
    root = tmp_path_factory.mktemp("hospital")
    make_tiny_vilt(root / "model")
    generator = np.random.default_rng(0)
    for split, size in SIZES.items():
        lines = []
        for i in range(size):
            answer = list(COLOURS)[i % 3]
            pixels = np.clip(generator.normal(COLOURS[answer], 40, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"patient-{split}{i}.png")
            lines.append({"image": f"patient-{split}{i}.png", "question": QUESTION, "answers": answer})
        (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


class Server:
    """A server that asks one client for anything. It knows the model and computes the hashes that an attack needs.

    Attributes:
        place: the client's folder.
    """

    def __init__(self, hospital, place):
        self.hospital, self.place, self.file = hospital, place, place / "client.yaml"
        self.site(approval="first-use")

    def site(self, data=None, own=None, **policy):
        """Write the client's file; ``own``: further keys of it."""
        files = {split: str(self.hospital / f"{split}.jsonl") for split in SIZES} | (data or {})
        settings = {"client": "ann", "data": files, "model": str(self.hospital / "model"), "threads": 1}
        settings["accept_changes"] = data is not None
        self.file.write_text(yaml.safe_dump(settings | (own or {}) | {"policy": policy}))

    def settings(self, changes):
        """Return a run's settings as a server sends them."""
        config = RunConfig(benchmark=None, clients={"ann": {}}).updated(HONEST)
        return to_flat(AppConfig(config)) | changes

    def ask(self, kind="train", settings=None, says=None, shared=None, foundation=None, run="r1", round=1):
        """Return the client's reply to one message.

        ``settings`` and ``says`` change the honest settings and the honest instruction; None in ``says`` removes a key.
        """
        flat = self.settings(settings or {})
        context = Context(1, 1, {"client": "ann", "data": str(self.file)}, RecordDict(), flat)
        if kind == "query":
            return self._send(messages.query_content(run), kind, context)
        foundation = foundation or self.foundation()
        config = dict(messages.instruction_config(round, 3, "train", False, run, foundation.model))
        if kind == "evaluate":
            config["split"] = "validation"
        config = ConfigRecord({k: v for k, v in (config | (says or {})).items() if v is not None})
        arrays = messages.to_arrays(shared or foundation.initial_shared())
        return self._send(messages.instruction_content(arrays, config), kind, context)

    def _send(self, content, kind, context):
        identify(1)
        message = Message(content, 1, kind, group_id="1")
        message.metadata.__dict__["_message_id"] = "1"
        return flower.client_app(message, context)

    def foundation(self, changes=None):
        """Return the foundation that a server loads for the honest settings with ``changes``."""
        site = read_site(self.file)
        return load_foundation(ClientGate(self.file, self.settings(changes or {})).settings(site))

    def state(self):
        """Return all files of the client's state except the approvals and counts of its policy."""
        files = sorted(path for path in (self.place / "state").rglob("*") if path.is_file() and path.name != ".lock")
        return {str(path): path.read_bytes() for path in files if ".policy" not in path.parts}


def approvals_of(server):
    return Approvals(server.place / "state", server.place / "seals")


def forget_counts(server):
    """Remove today's counts from both folders, which no single account needs to be able to write."""
    for path in ("state/.policy/today.json", "seals/.today.json"):
        (server.place / path).unlink()


@pytest.fixture(scope="module")
def served(hospital, tmp_path_factory):
    """Return a server that has run one honest round of run r1."""
    torch.set_num_threads(1)
    server = Server(hospital, tmp_path_factory.mktemp("ann"))
    assert server.ask("train").has_content()
    return server


@pytest.fixture
def server(served, hospital, tmp_path):
    """Return the same server with a copy of the client, so that tests do not affect each other."""
    shutil.copytree(served.place, tmp_path / "ann")
    return Server(hospital, tmp_path / "ann")


def refused(caplog, reply, reason, code=REFUSED):
    """Assert that a reply is a refusal with this code, and that one line of the client's log gives the reason."""
    assert reply.has_error()
    assert reply.error.reason == code
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1, told
    assert reason in told[0].event["reason"]
    assert "\n" not in told[0].getMessage() and len(told[0].getMessage()) < 700


def test_an_honest_server_is_served(server):
    assert messages.read_name(server.ask("query")).name == "ann"
    trained = server.ask("train", round=2)
    assert trained.content.metric_records["metrics"]["num-examples"] == 80
    assert server.ask("evaluate", round=2).content.metric_records["metrics"]["num-examples"] == 40
    names = ["data.json", "round-0001.safetensors", "round-0002.safetensors"]
    assert [Path(path).name for path in server.state()] == names


# Settings that would make an update reveal data, or overload the client's machine.

CLOSED_FORM = {
    "method": "fedavg",
    "adapter.peft": "full",
    "train_examples": 1,
    "train.steps": 1,
    "train.batch_size": 1,
    "train.lr": 1e4,
    "train.eps": 1e4,
    "train.weight_decay": 0.0,
    "share_metrics": "none",
}
LINES = "[&a [x,x,x,x,x,x,x,x,x]"
BOMB = LINES + "".join(f", &{b} [{', '.join(['*' + a] * 9)}]" for a, b in pairwise("abcdefghijk")) + "]"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (CLOSED_FORM, "policy.kinds: adapter.peft is 'full'"),
        ({"adapter.peft": "bias", "method": "fedavg"}, "policy.kinds: adapter.peft is 'bias'"),
        ({"train.steps": 1}, "train.steps is 1, expected 4 to 10000"),
        ({"train.batch_size": 1}, "train.batch_size is 1, expected 8 to 512"),
        ({"train.lr": 1e4}, "train.lr is 10000"),
        ({"train.lr": 1e-30}, "train.lr is 1e-30"),
        ({"train.eps": 1e4}, "train.eps is 10000"),
        ({"train.eps": float("inf")}, "train.eps is inf"),
        ({"train.betas": "[.nan, 0.98]"}, "train.betas is nan"),
        ({"train.betas": "[0.0, 0.0]"}, "train.betas is 0"),
        ({"train.clip_norm": 1e-12}, "train.clip_norm is 1e-12"),
        ({"algorithm.alpha": 1.0}, "algorithm.alpha is 1, expected 0 to 0.9"),
        ({"algorithm.fedprox_mu": 1e9, "method": "fedprox"}, "algorithm.fedprox_mu is 1e+09"),
        ({"method": "scaffold"}, "policy.methods: method is 'scaffold'"),
        ({"method": "central"}, "policy.methods: method is 'central'"),
        ({"method": "fedex-lora"}, "policy.methods: method is 'fedex-lora'"),
        ({"method": "\x1b[31mevil\n" * 99}, "policy.methods: method is"),
        ({"fusion.kind": "transformer", "fusion.side": "shared"}, "policy.shared_fusion"),
        ({"eval.split": "train"}, "eval.split"),
        ({"train.trap": "all", "train.warmup": 1.0}, "policy.traps: train.trap is 'all', expected nothing: none is"),
        # Bombs.
        ({"adapter.sites": "(((a+)+)+)+$"}, "policy.sites: adapter.sites is '(((a+)+)+)+$', expected nothing"),
        ({"rounds": 10**15}, "rounds is 1e+15, expected 1 to 100"),
        ({"train.steps": 10**9}, "train.steps is 1e+09"),
        ({"train.epochs": 10**9}, "train.epochs is 1e+09"),
        ({"train.epochs": 10, "train.batch_size": 8, "algorithm.personal_epochs": 10**9}, "algorithm.personal_epochs"),
        ({"adapter.peft": "lora", "adapter.rank": 10**9}, "adapter.rank is 1e+09"),
        ({"adapter.peft": "prompt", "method": "fedavg", "adapter.prompt_tokens": 10**9}, "adapter.prompt_tokens"),
        ({"cache_prefix": 10**12}, "cache_prefix is 1e+12"),
        ({"train.betas": BOMB}, "a value has an alias"),
        ({"algorithm.options": "{a: &a [x], b: *a}"}, "a value has an alias"),
        ({"train.betas": "[" * 4000}, "train.betas: value has more than 64 brackets"),
        ({"train.betas": "[" * 65}, "train.betas: value has more than 64 brackets"),
        ({"algorithm.options": "{" + "? " * 2000}, "algorithm.options"),
        ({"algorithm.options": "{" + "a: 1, " * 500 + "}"}, "key 'a' occurs twice"),
        ({"train.betas": "[" + "9" * 4000 + "9" * 90 + "]"}, "train.betas"),
        ({"train.betas": "[" + "9" * 5000 + "]"}, "train.betas: value is longer than 4096 characters"),
        ({f"x{i}": 1 for i in range(2000)}, "settings, expected at most 1000"),
        ({"train.lrr": 1.0}, "unknown key 'train.lrr'"),
        ({"path": "/etc/passwd"}, "unknown key 'path'"),
        ({"": 1}, "unknown key ''"),
        ({"train.lr.x": 1}, "train.lr"),
        ({"train" + ".a" * 2000: 1}, "key is longer than 100"),
        ({"train.betas": "{" + "a: {" * 60}, "train.betas"),
    ],
)
def test_settings_that_a_policy_does_not_allow(served, caplog, settings, reason):
    before, foundation = served.state(), served.foundation()
    began = time.perf_counter()
    for kind in ("train", "evaluate", "query"):
        caplog.clear()
        refused(caplog, served.ask(kind, settings, foundation=foundation), reason)
    assert time.perf_counter() - began < 10
    assert served.state() == before


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"train.batch_size": 80}, "train.steps is 1 (80 examples in batches of 80), expected 4 to 10000"),
        ({"train.batch_size": 40, "train.epochs": 4}, "policy.guarded_steps: 8 steps with 2 batches in an epoch"),
        ({"train.steps": 4, "train.batch_size": 8}, "min_examples: an update of 32 examples, expected at least 64"),
        ({"method": "fedrep", "algorithm.head_share": 0.8}, "policy.min_examples: an update of 16 examples"),
        ({"adapter.reduction": 2}, "policy.max_parameters: "),
    ],
)
def test_settings_whose_update_would_come_of_too_little(server, caplog, settings, reason):
    server.site(approval="first-use", max_parameters=1000 if "max_parameters" in reason else 10**6)
    before, foundation = server.state(), server.foundation(settings)
    refused(caplog, server.ask("train", settings, foundation=foundation, run="r2"), reason)
    assert server.state() == before


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "fedprox"}, "privacy.guarded_steps: they do not cover fedprox"),
        ({"method": "pfedme"}, "privacy.guarded_steps: they do not cover pfedme"),
        (
            {"train.clip_norm": 0.01},
            "privacy.guarded_steps: train.clip_norm: one huge gradient would shrink all others",
        ),
    ],
)
def test_settings_that_show_gradients_although_steps_are_guarded(server, caplog, settings, reason):
    server.site(approval="first-use")
    before = server.state()
    refused(caplog, server.ask("train", settings, foundation=server.foundation(), run="r2"), reason)
    assert server.state() == before
    server.site(approval="first-use", guarded_steps=False)
    assert not server.ask("train", settings, foundation=server.foundation(settings), run="r2").has_error()


@pytest.mark.parametrize("changes", [{"privacy.epsilon": 100.0}, {"privacy.delta": 1e-3}])
def test_a_worthless_epsilon_does_not_turn_the_guard_off(server, caplog, changes):
    """Steps with noise for records are not guarded, and with such an epsilon there is hardly any noise."""
    before, settings = server.state(), PRIVATE | changes
    for kind in ("query", "train"):
        caplog.clear()
        reason = "expected epsilon at most 8, delta 1e-05: noise takes the place of policy.guarded_steps"
        refused(caplog, server.ask(kind, settings, foundation=server.foundation(), run="r2"), reason)
    assert server.state() == before
    server.site(approval="first-use", guarded_steps=False)
    assert server.ask("query", settings, run="r2").has_content()


@pytest.mark.parametrize("unit", ["record", "client"])
def test_noise_that_is_found_is_held_to_the_bounds(server, caplog, unit):
    settings, before = PRIVATE | {"privacy.unit": unit}, server.state()
    server.site(approval="first-use", bounds={"privacy.noise_multiplier": [20, 1000]})
    reply = server.ask("train", settings, foundation=server.foundation(settings), run="r2")
    refused(caplog, reply, "policy.bounds: privacy.noise_multiplier is ")
    assert server.state() == before
    server.site(approval="first-use")
    assert server.ask("train", settings, foundation=server.foundation(settings), run="r2").has_content()


@pytest.mark.parametrize("guarded", [True, False])
def test_losses_of_training_leave_only_without_guarded_steps(server, guarded):
    """One example changes the loss, and the server's adapter can choose which."""
    server.site(approval="first-use", guarded_steps=guarded)
    reply = server.ask("train", foundation=server.foundation(), run="r2")
    told = {key for record in reply.content.metric_records.values() for key in record}
    assert ("train.loss" in told) is not guarded
    assert {"train.steps", "num-examples"} <= told


@pytest.mark.parametrize(
    ("sharing", "trained", "scored"),
    [
        ("scores", {"num-examples", "train.examples", "train.steps"}, {"num-examples", "examples", "score."}),
        ("counts", {"num-examples"}, {"num-examples", "examples"}),
        ("none", set(), set()),
    ],
)
def test_the_numbers_that_leave_are_those_of_the_list(server, sharing, trained, scored):
    """docs/what-leaves.md lists them; how long a client trained, and with how many passes, stays with it."""
    server.site(own={"share_metrics": sharing}, approval="first-use")
    told = [set(server.ask(kind, run="r2").content.metric_records["metrics"]) for kind in ("train", "evaluate")]
    assert told[0] == trained | {"round"}
    assert {name.partition(".")[0] + "." if "." in name else name for name in told[1]} == scored | {"round"}


def test_a_picture_gives_its_question_away_where_there_is_no_policy(server):
    """The attack is real: almost only the embeddings of the words in the one question move."""
    server.site(**NONE_AT_ALL, train_examples=1)
    foundation = server.foundation(CLOSED_FORM)
    shared = foundation.initial_shared()
    reply = server.ask("train", CLOSED_FORM, foundation=foundation, shared=shared, run="r2")
    (key,) = [key for key in shared if key.endswith("word_embeddings.weight")]
    sent = messages.to_tensors(reply.content.array_records["shared"])[key]
    moved = {int(row) for row in (sent - shared[key]).abs().sum(dim=1).nonzero()}
    (words,) = foundation.backbone.encoder.texts([QUESTION])
    assert set(words) - {0} <= moved and len(moved) <= len(set(words)) + 1


def test_what_is_the_clients_own_is_not_the_servers_to_choose(server):
    settings = {"train_examples": 1, "validation_examples": 1, "test_examples": 1, "data_seed": 7, "split_clients": 80}
    settings |= {"threads": 100_000, "device": "cuda:99", "root": "/etc", "data_cache": "/etc", "runs_dir": "/etc"}
    settings |= {"benchmark": "/etc", "clients": BOMB, "log.mlflow": "http://127.0.0.1:1", "revisions": BOMB}
    trained, scored = (server.ask(kind, settings, run="r2") for kind in ("train", "evaluate"))
    assert trained.content.metric_records["metrics"]["num-examples"] == 80
    assert scored.content.metric_records["metrics"]["num-examples"] == 40
    assert torch.get_num_threads() == 1
    plain = server.ask("train", run="r3")
    for key, array in plain.content.array_records["shared"].items():
        assert array.data == trained.content.array_records["shared"][key].data


LIMITS = {"pictures.max_pixels": 1, "pictures.frame": 2}


def test_a_server_cannot_measure_pictures_by_limits_of_its_choice(server):
    """Pictures have 32 x 32 pixels, and files hold one each: with these limits, reading them would fail."""
    server.ask("query", LIMITS, run="r2")
    assert not LIMITS.keys() & approvals_of(server).approved("r2").keys()
    for number, (key, value) in enumerate(LIMITS.items()):
        for settings in ({key: value}, PRIVATE | {key: value}):
            foundation, run = server.foundation(settings), f"limit{number}{len(settings)}"
            assert server.ask("train", settings, foundation=foundation, run=run).has_content()


def test_a_clients_own_limits_on_pictures_hold(server, caplog):
    server.site({"pictures": {"max_pixels": 1023}}, approval="first-use")
    refused(caplog, server.ask("train", foundation=server.foundation(), run="r2"), "pictures.max_pixels (1023)", FAILED)


def test_its_own_caps_hold(server):
    server.site(approval="first-use", train_examples=70)
    assert server.ask("train", run="r2").content.metric_records["metrics"]["num-examples"] == 70


@pytest.mark.parametrize("model", ["/etc", "/nowhere", "owner/name", "hf://owner/name"])
def test_a_server_opens_and_fetches_no_model(server, caplog, monkeypatch, model):
    """The server cannot even find out whether a folder exists."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    settings = yaml.safe_load(server.file.read_text())
    foundation = server.foundation()
    server.file.write_text(yaml.safe_dump({key: value for key, value in settings.items() if key != "model"}))
    reply = server.ask("train", {"model": model}, foundation=foundation)
    refused(caplog, reply, f"the run's model is {model}; name it in client.yaml")


# Instructions.


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({"model": []}, "must name the hashes of adapter, encoder, settings, weights, each once"),
        ({"model": ["weights=1", "encoder=1", "adapter=1"]}, "must name the hashes of"),
        ({"model": ["weights=1", "encoder=1", "adapter=1", "adapter=2"]}, "must name the hashes of"),
        ({"model": None}, "model is missing or not of type list"),
        ({"round": 0}, "round is 0, expected 1 to 3"),
        ({"round": 10**15}, f"round is {10**15}, expected 1 to 3"),
        ({"round": 10**15, "rounds": 10**15}, f"says {10**15} rounds, its run 3"),
        ({"round": 1.0}, "round is missing or not of type int"),
        ({"final": 1}, "final is missing or not of type bool"),
        ({"wire.format": "int8"}, "wire format differs from its run's"),
        ({"pickle": "x"}, "has 1 unknown keys"),
        ({"run": "../../bob"}, "names no run"),
        ({"run": ".policy"}, "names no run"),
        ({"run": None}, "names no run"),
    ],
)
def test_instructions_that_are_not_its_runs(served, caplog, kind, says, reason):
    before = served.state()
    refused(caplog, served.ask(kind, says=says), reason)
    assert served.state() == before


@pytest.mark.parametrize("part", range(4))
def test_every_hash_is_compared(served, caplog, part):
    named = [f"{name}={value}" for name, value in served.foundation().model.items()]
    named[part] = named[part].partition("=")[0] + "=0"
    before = served.state()
    refused(caplog, served.ask(says={"model": named}), named[part].partition("=")[0], OTHER_MODEL)
    assert served.state() == before


def test_an_adapter_that_is_not_numbers_is_refused(served, caplog):
    shared = {key: torch.full_like(value, float("nan")) for key, value in served.foundation().initial_shared().items()}
    before = served.state()
    refused(caplog, served.ask(shared=shared, round=2), "NaN or infinite")
    assert served.state() == before


def test_an_adapter_of_huge_values(served, caplog):
    """Whether training overflows would show whether one example excites a unit."""
    shared = served.foundation().initial_shared()
    shared[next(iter(shared))].flatten()[0] = -1e20
    before = served.state()
    refused(caplog, served.ask(shared=shared, round=2), "policy.max_value: the adapter or the extra arrays have values")
    assert served.state() == before


def test_an_adapter_of_another_shape(served, caplog):
    shared = {key: torch.zeros(3) for key in served.foundation().initial_shared()}
    before = served.state()
    refused(caplog, served.ask(shared=shared, round=2), "", FAILED)
    assert served.state() == before


# Scores.


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({"split": "train"}, "policy.score_splits: split is 'train', expected one of validation, test"),
        ({"split": "test", "final": True}, "marks an evaluation as final that is not the run's last"),
    ],
)
def test_scores_of_what_is_not_to_be_scored(served, caplog, says, reason):
    refused(caplog, served.ask("evaluate", says=says), reason)


def test_a_score_of_few_questions(server, hospital, tmp_path, caplog):
    few = hospital / "few.jsonl"
    few.write_text("".join((hospital / "validation.jsonl").read_text().splitlines(keepends=True)[:31]))
    server.site({"validation": str(few)}, approval="first-use")
    refused(caplog, server.ask("evaluate"), "policy.min_questions: a score on 31 questions, expected at least 32")
    assert server.ask("evaluate", says={"split": "test"}).has_content()


def test_a_day_has_so_many_updates_and_scores(server, caplog):
    server.site(approval="first-use", evaluations_a_day=2, updates_a_day=2)
    forget_counts(server)
    for kind in ("evaluate", "train"):
        for _ in range(2):
            assert server.ask(kind).has_content()
        before = server.state()
        caplog.clear()
        refused(caplog, server.ask(kind), "were already made today")
        assert server.state() == before


# Approval.


def test_a_run_waits_for_approval_and_keeps_to_what_was_approved(server, caplog):
    server.site()
    refused(
        caplog, server.ask("query", run="r2"), "run r2: not approved yet; approve it with `feddat deploy approve r2`"
    )
    assert not (server.place / "state" / "r2").exists()
    approvals = approvals_of(server)
    assert approvals.waiting()["r2"]["train.lr"] == 0.01
    approvals.approve("r2")
    assert server.ask("query", run="r2").has_content()
    assert server.ask("train", run="r2").has_content()
    before = server.state()
    for change in ({"train.lr": 0.005}, {"rounds": 4}, {"adapter.reduction": 4}, {"seed": 1}):
        caplog.clear()
        (key,) = change
        told = f"run r2: settings differ from those approved ({key})"
        foundation = server.foundation(change)
        says = {"rounds": 4} if key == "rounds" else {}
        refused(caplog, server.ask("train", change, says, foundation=foundation, run="r2"), told)
    assert server.state() == before


@pytest.mark.parametrize("approval", ["ask", "first-use"])
def test_whoever_writes_the_states_but_not_the_seals_starts_no_run(server, caplog, approval):
    """The account removes all approvals, or copies a waiting run to the approved ones."""
    folder = server.place / "state" / ".policy"
    server.site(approval=approval)
    (folder / "approved" / "r1.json").unlink()
    refused(caplog, server.ask("train"), "r1.json is gone; approve it with `feddat deploy approve r1`")
    (folder / "waiting" / "r1.json").rename(folder / "approved" / "r1.json")
    assert server.ask("train").has_content(), "these are the settings that were approved"
    before = server.state()
    server.site()
    for run in ("r1", "r2"):
        server.ask("train", {"train.lr": 0.005}, foundation=server.foundation(), run=run)
        (folder / "waiting" / f"{run}.json").replace(folder / "approved" / f"{run}.json")
    server.site(approval=approval)
    for run in ("r1", "r2"):
        caplog.clear()
        reply = server.ask("train", {"train.lr": 0.005}, foundation=server.foundation(), run=run)
        refused(caplog, reply, f"{run}.json is not what was approved here")
    assert server.state() == before
    approvals_of(server).approve("r2")
    assert server.ask("query", {"train.lr": 0.005}, run="r2").has_content()


def test_whoever_writes_the_states_but_not_the_seals_resets_no_limit(server, caplog):
    server.site(approval="first-use", updates_a_day=1)
    forget_counts(server)
    assert server.ask("train", round=2).has_content()
    (server.place / "state" / ".policy" / "today.json").unlink()
    refused(caplog, server.ask("train", round=3), "policy.updates_a_day: 1 updates were already made today")


@pytest.fixture
def feddat(server, capsys, monkeypatch):
    """Return a function that runs ``feddat deploy approve`` at the client; it returns the exit code and the output."""
    for name, value in (("propagate", True), ("handlers", [])):  # the command line sets its own
        monkeypatch.setattr(logging.getLogger("feddat"), name, value)
    for file in (server.place / "state" / ".policy").glob("waiting/*"):
        file.unlink()  # left by other tests

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["deploy", "approve", *arguments, "--folder", str(server.place)])
        told = capsys.readouterr()
        return end.value.code, told.out + told.err

    return run


def test_the_administrator_approves_a_run_and_sees_what_it_asks_for(server, feddat):
    server.site()
    assert feddat() == (0, "no run is waiting for approval\n")
    server.ask("query", run="r2")
    code, told = feddat()
    assert code == 0
    assert told.splitlines() == ["run r2 asks for", "  rounds: 3", "  train.batch_size: 16", "  train.lr: 0.01"]
    code, told = feddat("r1")
    assert (code, told.strip()) == (2, "error: run r1: is not waiting for approval; waiting runs: r2")
    assert server.ask("query", run="r2").has_error(), "to look is not to approve"
    assert feddat("r2")[1].endswith("run r2 is approved\n")
    assert server.ask("query", run="r2").has_content()
    server.ask("query", {"train.lr": 0.005}, run="r2")
    code, told = feddat()
    assert told.splitlines() == ["run r2 asks for settings that differ from the approved ones", "  train.lr: 0.005"]
    feddat("r2")
    server.site(privacy="all", total_epsilon=12.0)
    server.ask("query", PRIVATE, run="r3")
    assert feddat("r3")[1].splitlines()[-2:] == ["without privacy: 1 run", "run r3 is approved"]
    assert server.ask("train", PRIVATE, foundation=server.foundation(PRIVATE), run="r3").has_content()
    spent = "spent so far: ε 4, δ 1e-05 in 1 run; at most ε 12"
    assert feddat()[1].splitlines() == [spent, "without privacy: 1 run", "no run is waiting for approval"]


def test_settings_that_arrive_while_the_administrator_reads_are_not_approved(server, feddat, monkeypatch):
    """The server asks for a learning rate, and for another one once the first is on the screen."""
    server.site()
    server.ask("query", {"train.lr": 0.001}, run="r2")
    before = Totals.spent

    def late(totals):
        server.ask("query", {"train.lr": 0.005}, run="r2")
        return before(totals)

    with monkeypatch.context() as patch:
        patch.setattr(Totals, "spent", late)
        code, told = feddat("r2")
    assert code == 2 and "  train.lr: 0.001\n" in told
    assert told.endswith(
        "run r2: not approved, since it now asks for other settings than those shown (train.lr); look at them and "
        "approve it again\n"
    )
    assert approvals_of(server).approved("r2") is None
    assert feddat("r2")[1].endswith("  train.lr: 0.005\nrun r2 is approved\n")
    assert approvals_of(server).approved("r2")["train.lr"] == 0.005


@pytest.mark.parametrize(
    ("options", "answer", "code"), [((), True, 0), ((), False, 1), (("--yes",), None, 0)], ids=["yes", "no", "option"]
)
def test_on_a_terminal_the_administrator_is_asked_after_the_settings_are_shown(
    server, feddat, capsys, monkeypatch, options, answer, code
):
    server.site()
    server.ask("query", run="r2")
    asked = []

    def confirm(question):
        asked.append((question, "train.lr: 0.01" in capsys.readouterr().out))
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", confirm)
    assert feddat("r2", *options)[0] == code
    assert asked == ([] if answer is None else [("Approve run r2?", True)])
    assert (approvals_of(server).approved("r2") is not None) == (code == 0)
    assert feddat("r9")[0] == 2 and len(asked) == (answer is not None), "nothing waits, so nothing is asked"


def test_the_administrator_withdraws_an_approval(server, feddat, capsys):
    assert server.ask("query").has_content()
    assert feddat("--withdraw")[0] == 2
    assert feddat("r2", "--withdraw") == (2, "error: run r2: is not approved; approved runs: r1\n")
    assert feddat("r1", "--withdraw") == (0, "run r1 is no longer approved\n")
    assert server.ask("train").error.reason == REFUSED, "although policy.approval is first-use"
    assert "run r1: its approval was withdrawn; approve it with `feddat deploy approve r1`" in capsys.readouterr().err
    assert feddat("r1")[1].endswith("run r1 is approved\n")
    assert server.ask("train").has_content()


def test_at_first_use_settings_are_pinned(server, caplog):
    refused(caplog, server.ask("query", {"train.lr": 0.005}), "run r1: settings differ from those approved (train.lr)")


def test_a_server_fills_no_disk_with_runs(server, caplog):
    server.site(approval="first-use", new_runs_a_day=2)
    folder = server.place / "state" / ".policy"
    forget_counts(server)
    for run in range(4):
        server.ask("query", run=f"new{run}")
    assert {file.stem for file in (folder / "approved").iterdir()} == {"r1", "new0", "new1"}
    server.site()
    for run in range(MOST_WAITING + 2):
        server.ask("query", run=f"newer{run}")
    assert len(list((folder / "waiting").iterdir())) == MOST_WAITING


# Errors.


def damaged(hospital, folder, what):
    """Return the paths of a client's data with one fault in it: ``what``."""
    line = json.loads((hospital / "train.jsonl").read_text().splitlines()[0])
    if what == "no file":
        return {"train": str(folder / "patients-2024.jsonl")}
    if what == "no picture":
        line["image"] = "patient-4711.png"
    if what == "no answer":
        del line["answers"]
    rest = (hospital / "train.jsonl").read_text()
    (folder / "patients.jsonl").write_text(json.dumps(line) + "\n" + rest)
    return {"train": str(folder / "patients.jsonl"), "images": str(hospital)}


@pytest.mark.parametrize("what", ["no file", "no picture", "no answer", "no client.yaml", "no state"])
@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
def test_errors_tell_the_server_nothing(served, hospital, tmp_path, caplog, kind, what):
    server, foundation = Server(hospital, tmp_path), served.foundation()
    if what == "no client.yaml":
        server.file.unlink()
    elif what == "no state":
        (tmp_path / "state").write_text("a file where the folder should be")
    else:
        server.site(damaged(hospital, tmp_path, what), approval="first-use")
    reply = server.ask(kind, foundation=foundation)
    if kind == "query" and reply.has_content():  # a query reads no pictures
        assert what == "no picture"
        return
    refused(caplog, reply, "", FAILED)
    told = caplog.records[-1].event["reason"]
    assert "patient" in told or str(tmp_path) in told, "it is in the client's own log"


def test_a_damaged_approval_does_not_let_a_run_in(server, caplog):
    (server.place / "state" / ".policy" / "approved" / "r1.json").write_text("{")
    refused(caplog, server.ask("train"), "r1.json: cannot be read", FAILED)


# Refused requests leave no trace.


def test_an_honest_run_ends_with_the_same_numbers_whatever_was_tried_in_between(server, hospital, tmp_path):
    def rounds(server, between):
        for round in (1, 2, 3):
            for settings, says in between:
                for kind in ("query", "train", "evaluate"):
                    assert server.ask(kind, settings, says, foundation=foundation).has_error() or kind == "query"
            reply = server.ask("train", round=round, run="r1")
        return {key: array.data for key, array in reply.content.array_records["shared"].items()}, {
            Path(path).name: load(content) for path, content in server.state().items() if path.endswith(".safetensors")
        }

    foundation = server.foundation()
    for name in ("calm", "attacked"):
        (tmp_path / name).mkdir()
    calm, attacked = (Server(hospital, tmp_path / name) for name in ("calm", "attacked"))
    tried = [(CLOSED_FORM, {}), ({}, {"model": []}), ({}, {"round": 10**15}), ({"train.steps": 10**9}, {})]
    one, other = rounds(calm, []), rounds(attacked, tried)
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for name, tensors in one[1].items():
        assert all(torch.equal(value, other[1][name][key]) for key, value in tensors.items())


# --- privacy ----------------------------------------------------------------------------------------------------------

PRIVATE = {"method": "fedavg", "privacy.epsilon": 4.0, "share_metrics": "none"}
CLIENTS = PRIVATE | {"privacy.unit": "client"}
SUMS = {"secure_aggregation.enabled": True, "secure_aggregation.bits": 20}


@pytest.mark.parametrize(
    ("required", "settings", "reason"),
    [
        ("shared", {}, "policy.privacy: the run promises no privacy, expected privacy.unit=record with"),
        ("all", PRIVATE | {"privacy.scope": "shared"}, "policy.privacy: privacy.scope is shared, expected"),
        ("shared", PRIVATE | {"privacy.epsilon": 6.0}, "policy.epsilon, policy.delta: the run promises 6 and 1e-05"),
        ("shared", PRIVATE | {"privacy.delta": 1e-4}, "policy.epsilon, policy.delta: the run promises 4 and 0.0001"),
        ("none", PRIVATE | {"privacy.noise_seed": 1}, "noise hides nothing from a server that knows its seed"),
        ("none", CLIENTS | {"privacy.epsilon": 1e9}, "policy.bounds: privacy.epsilon is 1e+09, expected 0.01 to 100"),
        ("shared", CLIENTS, "policy.privacy: privacy.unit is client and its server adds the noise, expected"),
        ("client", CLIENTS, "policy.privacy: privacy.unit is client and its server adds the noise, expected"),
        ("central", PRIVATE, "policy.privacy: privacy.scope is all, expected privacy.unit=client, epsilon at most 5"),
        ("client", CLIENTS | SUMS | {"privacy.epsilon": 6.0}, "policy.epsilon, policy.delta: the run promises 6"),
        ("client", CLIENTS | SUMS | {"privacy.noise_seed": 1}, "noise hides nothing from a server"),
        ("shared", PRIVATE | {"share_metrics": "scores"}, "privacy: share_metrics is scores: losses, scores and"),
        ("shared", PRIVATE | {"method": "fedprox"}, "privacy: fedprox: its proximal term"),
    ],
)
def test_a_run_that_promises_less_than_a_client_requires(server, caplog, required, settings, reason):
    before = server.state()
    total = None if required == "none" else 50.0
    server.site(approval="first-use", privacy=required, epsilon=5.0, total_epsilon=total)
    refused(caplog, server.ask("query", settings, run="r2"), reason)
    assert server.state() == before


def test_a_clients_own_start_is_held_to_the_runs_promise(server, caplog):
    """The start is in the client's own file, so it is checked after the file's settings are applied."""
    server.site(own={"start_local": "exported"})
    before = server.state()
    reason = "exported: it may have learned from the same records without noise, and reaches the global adapter through"
    refused(caplog, server.ask("query", PRIVATE | {"method": "feddat"}, run="r2"), reason)
    assert server.state() == before
    scope = {"method": "feddat", "privacy.scope": "shared", "algorithm.heads": "separate", "algorithm.alpha": 0.0}
    settings = ClientGate(server.file, server.settings(PRIVATE | scope)).settings(read_site(server.file))
    assert settings.adapter.start_local.name == "exported"


def test_runs_share_one_budget_and_a_run_beyond_it_is_refused_before_anything_is_done(server, caplog):
    """Each run promises ε 4; 10 are two runs. A run that is asked again counts once."""
    server.site(approval="first-use", privacy="all", epsilon=5.0, total_epsilon=10.0)
    foundation = server.foundation(PRIVATE)
    for run, round in (("r2", 1), ("r2", 1), ("r3", 1), ("r2", 2)):
        assert server.ask("train", PRIVATE, foundation=foundation, run=run, round=round).has_content()
    before = server.state()
    reason = "policy.total_epsilon: 10; spent so far: ε 8, δ 2e-05 in 2 runs, and run r4 would add ε 4, δ 1e-05"
    for kind in ("query", "train"):
        caplog.clear()
        refused(caplog, server.ask(kind, PRIVATE, foundation=foundation, run="r4"), reason)
    assert server.state() == before and approvals_of(server).approved("r4") is None
    server.site(approval="first-use", privacy="all", epsilon=5.0, total_epsilon=20.0, total_delta=2.5e-5)
    caplog.clear()
    reason = "policy.total_delta: 2.5e-05; spent so far: ε 8, δ 2e-05 in 2 runs"
    refused(caplog, server.ask("train", PRIVATE, foundation=foundation, run="r4"), reason)
    server.site(approval="first-use", privacy="all", epsilon=5.0, total_epsilon=20.0)
    assert server.ask("train", PRIVATE, foundation=foundation, run="r4").has_content()


@pytest.mark.parametrize(
    ("lost", "run", "reason"),
    [
        (("state/.policy/spent.json", "seals/.total.spent.json"), "r3", "so what earlier runs have spent is not known"),
        (("seals",), "r3", ".total.key is gone; restore the key, or remove"),
        (("state/r2", "seals/r2.key", "seals/r2.spent.json"), "r2", "run r2 trained here before, but its ledger"),
    ],
)
def test_a_total_that_is_not_known_stops_private_training(server, caplog, lost, run, reason):
    server.site(approval="first-use", privacy="all", epsilon=5.0, total_epsilon=10.0)
    foundation = server.foundation(PRIVATE)
    assert server.ask("train", PRIVATE, foundation=foundation, run="r2").has_content()
    for path in (server.place / name for name in lost):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = server.state()
    for kind in ("query", "train"):
        caplog.clear()
        reply = server.ask(kind, PRIVATE, foundation=foundation, run=run)
        assert reply.error.reason == FAILED and reason in caplog.text
    assert server.state() == before


@pytest.mark.parametrize("old_state", ["refuse", "continue"])
def test_an_older_backup_of_the_budget_is_noticed_without_the_server(server, caplog, old_state):
    server.site(own={"old_state": old_state}, approval="first-use", privacy="all", epsilon=5.0, total_epsilon=50.0)
    foundation = server.foundation(PRIVATE)
    server.ask("train", PRIVATE, foundation=foundation, run="r2")
    kept = {path: path.read_bytes() for path in (server.place / "state" / "r2").rglob("*") if path.is_file()}
    server.ask("train", PRIVATE, foundation=foundation, run="r2", round=2)
    shutil.rmtree(server.place / "state" / "r2")
    for path, content in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    caplog.clear()
    reply = server.ask("train", PRIVATE, foundation=foundation, run="r2", round=2)
    if old_state == "refuse":
        refused(caplog, reply, "is older than its copy beside the seal key: restored from an older backup?", OLD_STATE)
        return
    assert reply.has_content() and "the copy counts" in caplog.text
    (steps,) = json.loads((server.place / "state" / "r2" / "ann" / "privacy.json").read_text())["steps"]
    assert steps["count"] == 15


def test_an_older_backup_of_the_secure_sums_is_noticed_without_the_server(server, caplog):
    server.site(own={"old_state": "refuse"}, approval="first-use")
    foundation = server.foundation(SUMS)
    assert server.ask("train", SUMS, foundation=foundation, run="r2").has_content()
    store = PersonalStore(server.place / "state" / "r2", "ann", key=server.place / "seals" / "r2.key")
    opened = {"names": ["ann", "bob", "cas"], "clients": 3}
    store.write_record(SUMS_FILE, {"run": "r2", "rounds": {"1": opened}})
    assert server.ask("train", SUMS, foundation=foundation, run="r2").has_content()
    (store.folder / SUMS_FILE).unlink()
    caplog.clear()
    reply = server.ask("train", SUMS, foundation=foundation, run="r2")
    refused(caplog, reply, "the record of secure sums in", OLD_STATE)


def test_no_collusion_is_not_assumed(server, caplog):
    server.site(approval="first-use", privacy="client", total_epsilon=50.0)
    asked = CLIENTS | SUMS | {"privacy.colluders": 0}
    refused(caplog, server.ask("query", asked, run="r2"), "policy.bounds: privacy.colluders is 0, expected 1 to 1e")


def test_a_run_that_promises_enough_gets_an_adapter_and_nothing_else_until_the_budget_is_spent(server, caplog):
    server.site(approval="first-use", privacy="all", epsilon=5.0, total_epsilon=50.0)
    foundation = server.foundation(PRIVATE)
    for _ in range(3):  # the same round each time; the budget is for three
        reply = server.ask("train", PRIVATE, foundation=foundation, run="r2")
        assert dict(reply.content.metric_records["metrics"]) == {"round": 1}
    caplog.clear()
    before = server.state()
    refused(caplog, server.ask("train", PRIVATE, foundation=foundation, run="r2"), "training stops: 15 steps", FAILED)
    assert server.state() == before
