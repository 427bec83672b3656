"""FedDAT's step on a ViLT against the published sequence written out naively: explicit adapters, passes and AdamW.

Both sides start from the same weights and see the same batches. They share only the stock ViLT and the head. The naive
side adds x + A(x) in hooks from plain tensors, runs every pass in the paper's order, and updates plain tensors by
AdamW's formula.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ViltConfig, ViltModel

from feddat.adapters.build import build_adapters
from feddat.algorithms import ALGORITHMS, RoundContext
from feddat.client.learner import BatchLearner
from feddat.client.optim import build_optimizer, schedule, set_learning_rate
from feddat.config import AlgorithmConfig, TrainConfig

ANSWERS, BATCH, STEPS, WIDTH = 5, 4, 5, 32
TRAIN = TrainConfig(lr=3e-3)
SETTINGS = {"alpha": 0.4, "beta": 0.7, "temperature": 3.0}
CONFIG = ViltConfig(
    vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32,
    patch_size=16, max_position_embeddings=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def start():
    """Return the model, the head and the batches, which are the same for both sides."""
    torch.manual_seed(0)
    model = ViltModel(CONFIG).double().eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    head = nn.Sequential(nn.Linear(WIDTH, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, ANSWERS)).double()
    batches = []
    for _ in range(STEPS):
        inputs = {
            "input_ids": torch.randint(0, 50, (BATCH, 6)),
            "attention_mask": torch.ones(BATCH, 6, dtype=torch.long),
            "pixel_values": torch.randn(BATCH, 3, 32, 32, dtype=torch.float64),
            "pixel_mask": torch.ones(BATCH, 32, 32, dtype=torch.long),
        }
        batches.append((inputs, torch.rand(BATCH, ANSWERS, dtype=torch.float64).round(decimals=1)))
    return model, head, batches


def vqa_loss(logits, targets):
    return ANSWERS * F.binary_cross_entropy_with_logits(logits, targets)


def ours(start, order, peft="bottleneck"):
    """Run five steps with the real code; return the adapters' weights at the start and at the end, and the head."""
    model, head, batches = start
    model, head = copy.deepcopy(model), copy.deepcopy(head)
    adapters = build_adapters(model, peft=peft, reduction=4, rank=4)
    adapters.peft_model.double()
    # Unlike freshly initialised adapters, these have no zeros, and all three differ.
    generator = torch.Generator().manual_seed(1)
    for name in ("global", "local", "anchor"):
        for parameter in adapters.parameters(name):
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    first = {name: [p.detach().clone() for p in adapters.parameters(name)] for name in ("global", "local", "anchor")}

    task = SimpleNamespace(views_per_example=1, logits=lambda head, features: head(features), loss=vqa_loss)
    member = SimpleNamespace(task=task, heads={"main": head}, generation=None, pooled=lambda features: features)
    backbone = SimpleNamespace(features=lambda inputs: model(**inputs).pooler_output)
    trained = [*adapters.parameters("global"), *adapters.parameters("local"), *head.parameters()]
    optimizer = build_optimizer(trained, TRAIN)
    learner = BatchLearner(backbone, adapters, "fp32", optimizer)
    for step, (inputs, targets) in enumerate(batches):
        set_learning_rate(optimizer, TRAIN.lr * schedule(step, STEPS, TRAIN.warmup))
        learner.take(member, inputs, targets)
        ALGORITHMS["feddat"].step(learner, RoundContext(1, 30, AlgorithmConfig(order=order, **SETTINGS)))
    last = {name: [p.detach() for p in adapters.parameters(name)] for name in ("global", "local", "anchor")}
    return first, last, [p.detach() for p in head.parameters()]


class AdamW:
    """AdamW by its formula (Loshchilov and Hutter, arXiv 1711.05101); each tensor has its own count of steps."""

    def __init__(self):
        self.state = {}

    @torch.no_grad()
    def step(self, tensors, grads, lr):
        beta1, beta2 = 0.9, 0.98
        for p, g in zip(tensors, grads, strict=True):
            m, v, t = self.state.get(id(p), (torch.zeros_like(p), torch.zeros_like(p), 0))
            m, v, t = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g, t + 1
            self.state[id(p)] = (m, v, t)
            if p.ndim > 1:
                p.mul_(1 - lr * 1e-2)
            p.sub_(lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + 1e-8))


class Naive:
    """The method as it was published; an adapter is [W_down, b_down, W_up, b_up] for each layer."""

    def __init__(self, start, first):
        model, head, self.batches = start
        self.model, self.head = copy.deepcopy(model), copy.deepcopy(head)
        self.s, self.c, self.anchor = ([t.clone() for t in first[name]] for name in ("global", "local", "anchor"))
        for tensor in [*self.s, *self.c]:
            tensor.requires_grad_()
        self.h = list(self.head.parameters())
        self.mix = []
        for index, layer in enumerate(self.model.encoder.layer):
            layer.output.register_forward_hook(lambda module, args, x, index=index: self.site(index, x))

    def site(self, index, x):
        added = 0
        for weight, adapter in self.mix:
            w_down, b_down, w_up, b_up = adapter[4 * index : 4 * index + 4]
            added = added + weight * (torch.relu(x @ w_down.T + b_down) @ w_up.T + b_up)
        return x + added

    def z(self, inputs, mix):
        self.mix = mix
        return self.head(self.model(**inputs).pooler_output)

    def z_s(self, inputs):
        return self.z(inputs, [(1.0, self.s)])

    def z_dat(self, inputs):
        return self.z(inputs, [(0.5, self.c), (0.5, self.anchor)])

    @staticmethod
    def task(z, y):
        p = torch.sigmoid(z)
        return ANSWERS * -(y * p.log() + (1 - y) * (1 - p).log()).mean()

    @staticmethod
    def kl(student, teacher):
        t = SETTINGS["temperature"]
        p, q = (teacher.detach() / t).softmax(-1), (student / t).softmax(-1)
        return t * t * (p * (p / q).log()).sum(-1).mean()

    def l_s(self, z_s, z_dat, y):
        return (1 - SETTINGS["alpha"]) * self.task(z_s, y) + SETTINGS["alpha"] * self.kl(z_s, z_dat)

    def l_dat(self, z_dat, z_s, y):
        return (1 - SETTINGS["beta"]) * self.task(z_dat, y) + SETTINGS["beta"] * self.kl(z_dat, z_s)

    def run(self, order):
        adamw = AdamW()
        for step, (inputs, y) in enumerate(self.batches):
            lr = 3e-3 * (STEPS - step) / STEPS  # 10 % of five steps: no warm-up
            if order == "alternating":
                with torch.no_grad():
                    z_dat = self.z_dat(inputs)
                z_s = self.z_s(inputs)
                moving = [*self.s, *self.h]
                adamw.step(moving, torch.autograd.grad(self.l_s(z_s, z_dat, y), moving), lr)
                z_dat = self.z_dat(inputs)
                moving = [*self.c, *self.h]
                adamw.step(moving, torch.autograd.grad(self.l_dat(z_dat, z_s, y), moving), lr)
            else:
                z_dat, z_s = self.z_dat(inputs), self.z_s(inputs)
                loss = self.l_s(z_s, z_dat, y) + self.l_dat(z_dat, z_s, y)
                moving = [*self.s, *self.c, *self.h]
                adamw.step(moving, torch.autograd.grad(loss, moving), lr)


def largest_difference(a, b):
    assert len(a) == len(b)
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("order", ["alternating", "joint"])
def test_five_steps_equal_the_naive_sequence(start, order):
    first, last, head = ours(start, order)
    naive = Naive(start, first)
    naive.run(order)
    assert largest_difference(last["global"], naive.s) < 1e-10
    assert largest_difference(last["local"], naive.c) < 1e-10
    assert largest_difference(head, naive.h) < 1e-10
    assert largest_difference(last["anchor"], first["anchor"]) == 0
    # The comparison is meaningful only if both adapters moved.
    assert largest_difference(last["global"], first["global"]) > 1e-3
    assert largest_difference(last["local"], first["local"]) > 1e-3


def test_the_two_orders_differ(start):
    alternating, joint = ours(start, "alternating"), ours(start, "joint")
    assert largest_difference(alternating[1]["local"], joint[1]["local"]) > 1e-6


@pytest.mark.parametrize("order", ["alternating", "joint"])
def test_lora_moves_global_and_local_and_leaves_the_anchor(start, order):
    first, last, _ = ours(start, order, peft="lora")
    assert largest_difference(last["global"], first["global"]) > 1e-3
    assert largest_difference(last["local"], first["local"]) > 1e-3
    assert largest_difference(last["anchor"], first["anchor"]) == 0
