"""Fixtures of the trainer's tests: a tiny ViLT, and processes that train clients on it."""

import pytest

from feddat.adapters.build import build_adapters
from feddat.algorithms import ALGORITHMS
from feddat.client.store import PersonalStore
from feddat.client.trainer import Participant
from feddat.config import RunConfig
from feddat.models.vilt.backbone import ViltBackbone
from feddat.seeding import torch_generator
from helpers import make_tiny_vilt


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return make_tiny_vilt(tmp_path_factory.mktemp("model") / "tiny")


class Process:
    """One process: a frozen model with adapters, and the participants that train on it."""

    def __init__(self, model_folder, root, method="feddat", **settings):
        self.root = root
        values = {"method": method, "rounds": 5, "train.batch_size": 4, "train.lr": 1e-3, "eval.batch_size": 4}
        self.config = RunConfig().updated(values | settings)
        self.backbone = ViltBackbone(model_folder)
        adapter = self.config.adapter
        self.adapters = build_adapters(self.backbone.model, peft=adapter.peft or "bottleneck", reduction=4, rank=4)
        self.algorithm = ALGORITHMS[method]

    def participant(self, *members, name=None):
        name = name or members[0].name
        store = PersonalStore(self.root, name, promise=self.config.privacy.promise)
        return Participant(name, members, self.config, self.backbone, self.adapters, self.algorithm, store)

    def initial(self):
        """Return the global adapter that a server would start from."""
        self.adapters.initialise(torch_generator(self.config.seed, "server", "adapter"), "global")
        return self.adapters.state("global")

    def weights(self, adapter):
        return [p.detach().clone() for p in self.adapters.parameters(adapter)]


@pytest.fixture
def process(model_folder, tmp_path):
    """Return a function that makes a process; each has its own folder unless one is given."""
    count = 0

    def start(method="feddat", root=None, **settings):
        nonlocal count
        count += 1
        return Process(model_folder, root or tmp_path / f"disk-{count}", method, **settings)

    return start
