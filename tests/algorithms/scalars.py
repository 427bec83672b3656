"""A learner small enough to check by hand: one scalar per adapter and head, two classes, plain SGD by default."""

from math import exp

import torch
from torch.nn import functional as F

from feddat.adapters.base import check_route
from feddat.algorithms import RoundContext
from feddat.algorithms.distillation import distillation_loss
from feddat.config import AlgorithmConfig

LR = 0.1
START = {"global": 0.8, "local": -0.3, "anchor": 0.5, "head": 1.5}


class ScalarLearner:
    """Features are the weighted sum of the adapters; logits are (head * feature, 0); the first class is correct."""

    def __init__(self, optimizer=torch.optim.SGD, **options):
        self.p = {name: torch.tensor(value, dtype=torch.float64) for name, value in START.items()}
        self.p["head.global"] = self.p["head"].clone()
        trained = [self.p[name].requires_grad_() for name in ("global", "local", "head", "head.global")]
        self.optimizer = optimizer(trained, lr=LR, **options)
        self.moved = []
        self.routes = []

    def features(self, route):
        self.routes.append(route)
        if route == "none":
            return torch.ones(1, 1, dtype=torch.float64)
        return sum(self.p[name] * weight for name, weight in check_route(route).items()).reshape(1, 1)

    def logits(self, features, head="main"):
        return torch.cat([self.p["head" if head == "main" else f"head.{head}"] * features, 0 * features], dim=1)

    def task_loss(self, logits):
        return F.cross_entropy(logits, torch.zeros(1, dtype=torch.long))

    def distillation_loss(self, student, teacher, temperature):
        return distillation_loss(student, teacher, temperature)

    def answers(self, route, head="main"):
        return self.logits(self.features(route), head)

    def update(self, loss, adapters=None, head=True):
        self.backward(loss)
        self.step(adapters, head)

    def backward(self, loss):
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def step(self, adapters=None, head=True):
        resting = [name for name in ("global", "local") if adapters is not None and name not in adapters]
        for name in resting + ([] if head else ["head", "head.global"]):
            self.p[name].grad = None
        before = {name: value.item() for name, value in self.p.items()}
        self.optimizer.step()
        self.moved.append({name for name, value in self.p.items() if value.item() != before[name]})

    def adapter(self, name):
        return {"w": self.p[name]}

    def copy(self, source, target):
        with torch.no_grad():
            self.p[target].copy_(self.p[source])

    def also_train(self, tensors):
        self.optimizer.add_param_group({"params": list(tensors), "lr": LR})

    def values(self):
        return {name: value.item() for name, value in self.p.items() if name in START}


def context(round=1, rounds=10, **settings):
    return RoundContext(round=round, rounds=rounds, config=AlgorithmConfig(**settings))


def slope_of_task(z):
    """Return d task / dz for logits (z, 0), where the first class is correct."""
    return 1 / (1 + exp(-z)) - 1
