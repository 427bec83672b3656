"""Fixtures of exports: models with random adapters, as if they had been trained, and finished runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feddat.algorithms.base import MAIN_HEAD
from feddat.cli import main
from feddat.client.member import Member
from feddat.client.trained import TrainedModel
from feddat.config import load_config
from feddat.example import ClientData, View
from feddat.experiment import Experiment
from feddat.experiment.exports.card import Origin
from feddat.experiment.single.foundation import load_foundation
from feddat.experiment.single.methods import resolve
from helpers import make_unit
from two_clients import quick_config

ANSWERS = ("red", "blue", "two")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return a function that gives a family's model folder; each is made once."""
    root, made = tmp_path_factory.mktemp("families"), {}

    def folder(family):
        if family not in made:
            made[family] = make_unit(family, root / family)
        return made[family]

    return folder


class Trained:
    """A foundation with three random adapters, and a client's model on it.

    Attributes:
        config: the settings.
        foundation: the model with its adapters, as runs load it.
        member: the client.
        model: the client's model on one route.
        origin: what the model card says about the run.
    """

    def __init__(self, folder, kind, route, task="vqa", **settings):
        torch.set_num_threads(1)
        settings = {"model": str(folder), "method": "fedavg", "adapter.peft": kind, "adapter.rank": 2} | settings
        self.config = load_config(None, None, **{"adapter.reduction": 4, "adapter.alpha": 4} | settings)
        self.foundation = load_foundation(resolve(self.config))
        adapters, backbone = self.foundation.adapters, self.foundation.backbone
        generator = torch.Generator().manual_seed(0)
        for name in ("global", "local", "anchor"):
            drawn = {
                key: value + 0.1 * torch.randn(value.shape, generator=generator)
                for key, value in adapters.state(name).items()
            }
            adapters.load(name, drawn)
        data = ClientData("ann", task, (), (), (), ANSWERS if task == "vqa" else ())
        self.member = Member(data, self.foundation.config, backbone, torch.device("cpu"))
        for head in self.member.heads.values():
            with torch.no_grad():
                for parameter in head.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        weights = {"dat": {"local": 0.5, "anchor": 0.5}, "none": {}}.get(route, {route: 1.0})
        parts = [(weight, adapters.state(name)) for name, weight in weights.items()]
        self.model = TrainedModel(route, parts, {}, {MAIN_HEAD: self.member.heads[MAIN_HEAD]}, self.member)
        self.origin = Origin(self.config, rounds=1)

    def inputs(self, count=1):
        """Return a batch of the first ``count`` of three views, whose pictures and questions differ in size."""
        generator = np.random.default_rng(0)
        sizes, texts = [(32, 32), (50, 40), (33, 90)], ["what color is the circle ?", "red", "is it blue ?"]
        pictures = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
        views = [View(picture, text) for picture, text in zip(pictures, texts, strict=True)][:count]
        return self.foundation.backbone.encode(views).batch(list(range(count)), torch.device("cpu"))

    def logits(self, inputs, answer=None):
        """Return the logits of the client's model: of classes, or of the tokens of ``answer``."""
        backbone, head = self.foundation.backbone, self.model.heads[MAIN_HEAD]
        self.foundation.adapters.route(self.model.route)
        with torch.no_grad():
            if answer is None:
                return head(backbone.features(inputs))
            return head(backbone.decode(backbone.read(inputs), answer[:, :-1], torch.ones_like(answer[:, :-1]).bool()))


@pytest.fixture
def trained(folders):
    """Return a function that makes a :class:`Trained` of a family and kind of adapter."""
    return lambda family, kind, route="global", **settings: Trained(folders(family), kind, route, **settings)


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory):
    """Return a function that gives the folder of a finished quick run of ``ann`` and ``bob``.

    Each run is computed once; tests must not change its folder.
    """
    root, made = tmp_path_factory.mktemp("finished"), {}

    def run(**values):
        torch.set_num_threads(1)
        key = repr(sorted(values.items()))
        if key not in made:
            config = quick_config(world, runs_dir=root, **{"name": f"run{len(made)}", "train__lr": 0.05} | values)
            Experiment(config).run()
            made[key] = config.run_dir
        return made[key]

    return run


@pytest.fixture
def call():
    """Return a function that runs a command and returns its exit code."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        return stopped.value.code

    return call
