"""On a GPU: recorded passes give the same numbers as plain ones, and a run ends close to the same run on a CPU."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from client.small_clients import vqa_client
from feddat.adapters.build import build_adapters
from feddat.algorithms import ALGORITHMS
from feddat.cli.program import app
from feddat.client.captured import CapturedRoutes
from feddat.client.received import Received
from feddat.client.store import PersonalStore
from feddat.client.trainer import Participant
from feddat.config import load_config
from feddat.models.vilt.backbone import ViltBackbone
from feddat.seeding import torch_generator
from helpers import make_tiny_vilt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_vilt(tmp_path_factory.mktemp("model") / "tiny")


class Recorder(CapturedRoutes):
    """Count the passes that were replayed."""

    replayed = 0

    def features(self, route, inputs):
        found = super().features(route, inputs)
        self.replayed += found is not None
        return found


def of_two_lengths(client):
    """Return the client with every other question shortened, so that batches are padded."""

    def cut(examples):
        return tuple(replace(e, text="what ?") if i % 2 else e for i, e in enumerate(examples))

    return replace(client, train=cut(client.train), test=cut(client.test))


def trained(folder, root, device, method="feddat", recorded=False, padded=False, **settings):
    """Train one client for two rounds; return its adapters, its scores and the number of replayed passes."""
    values = {"method": method, "rounds": 2, "train.batch_size": 4, "train.lr": 1e-3, "eval.batch_size": 4}
    config = load_config(**(values | {"device": device, "train.epochs": 3} | settings))
    backbone = ViltBackbone(folder)
    backbone.model.to(device)
    adapters = build_adapters(backbone.model, peft=config.adapter.peft or "bottleneck", reduction=4, rank=4)
    backbone.stage(adapters.changed)
    recorder = Recorder(backbone, adapters, config.train.precision) if recorded else None
    client = vqa_client("a", sizes=(16, 4, 8))
    client = of_two_lengths(client) if padded else client
    algorithm = ALGORITHMS[method]
    participant = Participant(
        "a", [client], config, backbone, adapters, algorithm, PersonalStore(root, "a"), captured=recorder
    )
    adapters.initialise(torch_generator(0, "server", "adapter"), "global")
    shared = adapters.state("global")
    for round in (1, 2):
        result = participant.fit(shared, round)
        shared = result.shared
    trains = recorder.replayed if recorder else 0
    for _ in range(3):  # two batches each: enough for evaluation passes to be recorded too
        scores = participant.evaluate(Received(shared, 2), "test").scores
    assert not recorder or recorder.replayed > trains
    state = {name: adapters.state(name) for name in ("global", "local")}
    return state, scores, recorder.replayed if recorder else 0


def close(a, b, atol):
    for name in a:
        for key in a[name]:
            torch.testing.assert_close(a[name][key], b[name][key], atol=atol, rtol=1e-3, msg=f"{name} {key}")


@pytest.mark.parametrize("method", ["feddat", "feddat-2", "fedavg", "apfl", "moon", "pfedme", "feddpa", "fedprox"])
def test_recorded_passes_train_what_plain_ones_train(folder, tmp_path, method):
    plain, scores, _ = trained(folder, tmp_path / "plain", "cuda", method)
    state, again, replayed = trained(folder, tmp_path / "recorded", "cuda", method, recorded=True)
    assert replayed > 4
    close(state, plain, 2e-5)
    assert again == scores


def test_padded_batches_recorded_train_what_plain_ones_train(folder, tmp_path):
    plain, scores, _ = trained(folder, tmp_path / "plain", "cuda", padded=True)
    state, again, replayed = trained(folder, tmp_path / "recorded", "cuda", recorded=True, padded=True)
    assert replayed > 4
    close(state, plain, 2e-5)
    assert again == scores


def test_a_gpu_trains_what_a_cpu_trains(folder, tmp_path):
    on_cpu, scores, _ = trained(folder, tmp_path / "cpu", "cpu")
    on_gpu, again, _ = trained(folder, tmp_path / "gpu", "cuda", recorded=True)
    close(on_gpu, on_cpu, 2e-4)
    assert again == scores


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("method", ["feddat", "feddpa"])
def test_recorded_layers_in_bfloat16_train_what_they_train_unrecorded(folder, tmp_path, method, padded):
    settings = {"method": method, "train.precision": "bf16", "padded": padded}
    plain, _, _ = trained(folder, tmp_path / "plain", "cuda", **settings)
    recorded, _, replayed = trained(folder, tmp_path / "recorded", "cuda", recorded=True, **settings)
    assert replayed > 4
    close(recorded, plain, 1e-3)


def test_a_run_on_a_gpu_ends_near_the_one_on_a_cpu(tmp_path):
    found = {}
    for device in ("cpu", "cuda"):
        settings = [f"device={device}", f"runs_dir={tmp_path}", f"name={device}", "rounds=2", "train_examples=48"]
        settings += ["test_examples=40", "benchmark=mini/function", "train.lr=6e-3", "train.batch_size=16"]
        result = CliRunner().invoke(app, ["run", "--profile", *settings])
        assert result.exit_code == 0, result.output
        found[device] = json.loads((tmp_path / device / "summary.json").read_text())
    assert (tmp_path / "cuda" / "profile" / "trace-training.json").is_file()
    assert abs(found["cpu"]["mean"] - found["cuda"]["mean"]) < 5.0, found
