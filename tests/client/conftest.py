"""Two small clients over one tiny ViLT: what the trainer's tests share."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from feddat.adapters.methods import build_adapters
from feddat.algorithms import ALGORITHMS
from feddat.client.store import PersonalStore
from feddat.client.trainer import Participant
from feddat.config import load_config
from feddat.example import ClientData, Example
from feddat.models.vilt import ViltBackbone
from feddat.seeding import torch_generator

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers import make_tiny_vilt

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230)}


def vqa_client(name, answers=("red", "green", "blue"), sizes=(11, 3, 6)):
    """A client that is asked for the colour of a noisy square."""
    generator = np.random.default_rng(sum(name.encode()))

    def example(index, split):
        answer = answers[index % len(answers)]
        image = np.clip(generator.normal(COLOURS[answer], 40, (32, 32, 3)), 0, 255).astype(np.uint8)
        return Example(id=f"{split}-{index}", images=(image,), text="what is the color ?", answers={answer: 1.0})

    splits = [tuple(example(i, s) for i in range(size)) for s, size in zip("vte", sizes, strict=True)]
    return ClientData(name, "vqa", train=splits[0], validation=splits[1], test=splits[2], answers=answers)


def label_client(task, size=9):
    """A client whose labels follow the colour (SNLI-VE), whether two are the same (NLVR2), or a word (VCR)."""
    generator = np.random.default_rng(0)
    names = list(COLOURS)

    def image(colour):
        return np.clip(generator.normal(COLOURS[colour], 20, (32, 32, 3)), 0, 255).astype(np.uint8)

    def example(i):
        first, second = names[i % 3], names[(i + i % 2) % 3]
        if task == "nlvr2":
            return Example(id=str(i), images=(image(first), image(second)), text="two red", label=int(i % 2 == 0))
        if task == "snli-ve":
            return Example(id=str(i), images=(image(first),), text="is the circle red", label=i % 3)
        choices = ("yes", "no", "two", "circle")
        return Example(id=str(i), images=(image(first),), text="what ?", choices=choices, label=i % 3)

    examples = tuple(example(i) for i in range(size))
    return ClientData(task, task, train=examples, validation=examples[:2], test=examples[:7])


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return make_tiny_vilt(tmp_path_factory.mktemp("model") / "tiny")


class Process:
    """What one process has: one frozen model with adapters, and participants made on it."""

    def __init__(self, model_folder, root, method="feddat", **settings):
        self.root = root
        values = {"method": method, "rounds": 5, "train.batch_size": 4, "train.lr": 1e-3, "eval.batch_size": 4}
        self.config = load_config(**(values | settings))
        self.backbone = ViltBackbone(model_folder)
        adapter = self.config.adapter
        self.adapters = build_adapters(self.backbone.model, peft=adapter.peft, reduction=4, rank=4)
        self.algorithm = ALGORITHMS[method]

    def participant(self, *members, name=None):
        name = name or members[0].name
        store = PersonalStore(self.root, name)
        return Participant(name, members, self.config, self.backbone, self.adapters, self.algorithm, store)

    def initial(self):
        """The global adapter that a server would start from."""
        self.adapters.initialise(torch_generator(self.config.seed, "server", "adapter"), "global")
        return self.adapters.shared_state()

    def weights(self, adapter):
        return [p.detach().clone() for p in self.adapters.parameters(adapter)]


@pytest.fixture
def process(model_folder, tmp_path):
    """Return a function that starts a process; each has its own disk unless given one."""
    count = 0

    def start(method="feddat", root=None, **settings):
        nonlocal count
        count += 1
        return Process(model_folder, root or tmp_path / f"disk-{count}", method, **settings)

    return start


def same(a, b):
    """Whether two sets of tensors are equal bit by bit; by name where both have names."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        b = [b[key] for key in a]
    a, b = (list(x.values()) if isinstance(x, dict) else list(x) for x in (a, b))
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
