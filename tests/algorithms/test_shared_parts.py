"""Methods that share or train only a part of the adapter, by hand and with real adapters."""

import pytest
import torch
from scalars import LR, START, ScalarLearner, context
from torch import nn

from feddat.adapters.build import build_adapters
from feddat.algorithms import ALGORITHMS
from feddat.algorithms.fedex_lora import FedExLora
from feddat.app.messages import TrainReply
from feddat.app.rules import MeanRule
from feddat.config import ConfigError, load_config

KEYS = [f"encoder.layer.{n}.output.bottleneck_{part}.weight" for n in range(4) for part in ("down", "up")]


def loras(*layers):
    return [f"encoder.layer.{n}.attention.attention.query.lora_{part}.weight" for n in layers for part in "AB"]


def test_fedrep_trains_the_head_first():
    """With a head share of 0.4, the first two of five steps train the head and the other three the adapter."""
    learner, fedrep = ScalarLearner(), ALGORITHMS["fedrep"]
    for step in range(5):
        now = context(head_share=0.4)
        now.steps, now.step = 5, step
        fedrep.step(learner, now)
    assert learner.moved == [{"head"}] * 2 + [{"global"}] * 3
    # The first step by hand: d loss / d z = sigmoid(z) - 1 at z = head * global.
    first = ScalarLearner()
    fedrep.step(first, context(head_share=1.0))
    s, h = START["global"], START["head"]
    slope = torch.sigmoid(torch.tensor(h * s, dtype=torch.float64)).item() - 1
    assert first.values()["head"] == pytest.approx(h - LR * slope * s, abs=1e-12)


def test_fedper_keeps_the_last_layers():
    config = load_config(None, ["method=fedper", "algorithm.personal_layers=2"])
    fedper = ALGORITHMS["fedper"].for_run(config, [*KEYS, "layernorm.weight"])
    assert [key for key in KEYS if fedper.shares(key)] == KEYS[:4]
    assert fedper.shares("layernorm.weight")
    assert all(map(fedper.trains_key, KEYS))


def test_fedper_counts_the_layers_of_each_tower():
    towers = [f"{tower}.encoder.layers.{n}.w" for tower, depth in (("text", 2), ("vision", 3)) for n in range(depth)]
    fedper = ALGORITHMS["fedper"].for_run(load_config(None, ["method=fedper"]), towers)
    assert [key for key in towers if not fedper.shares(key)] == ["text.encoder.layers.1.w", "vision.encoder.layers.2.w"]


def test_fedper_refuses_what_leaves_nothing_to_share():
    config = load_config(None, ["algorithm.personal_layers=4"])
    with pytest.raises(ConfigError, match=r"algorithm\.personal_layers: 4 of 4 layers leave nothing to share"):
        ALGORITHMS["fedper"].for_run(config, KEYS)
    with pytest.raises(ConfigError, match="fedper needs adapters in layers"):
        ALGORITHMS["fedper"].for_run(config, ["text.tokens"])


@pytest.mark.parametrize(
    ("method", "shared", "trained"), [("fedsa-lora", "A", "AB"), ("ffa-lora", "B", "B")], ids=["fedsa", "ffa"]
)
def test_which_factors_travel_and_train(method, shared, trained):
    algorithm = ALGORITHMS[method]
    assert [key[-8] for key in loras(0, 1) if algorithm.shares(key)] == list(shared) * 2
    assert [key[-8] for key in loras(0, 1) if algorithm.trains_key(key)] == list(trained) * 2
    assert algorithm.kinds == ("lora",)


# FedEx-LoRA -----------------------------------------------------------------------------------------------------------


def test_fedex_by_hand():
    """Factors 1·2 and 3·4 have the mean product 7; the means have the product 2·3 = 6. The residual 1 adds up."""
    server = FedExLora.server
    clients = [{"q.lora_A.weight": torch.tensor([[a]]), "q.lora_B.weight": torch.tensor([[b]])}
               for a, b in ((1.0, 2.0), (3.0, 4.0))]  # fmt: skip
    state, shared = server.start(clients[0]), clients[0]
    assert server.sends(state) == {"q": torch.zeros(1, 1)}
    for expected in (1.0, 2.0):
        rule = MeanRule(server)
        rule.start(shared, state)
        rule.open(1, shared)
        for client in clients:
            rule.add(TrainReply({key: value.numpy() for key, value in client.items()}, {}, 1, {"loss": 0.0}), 1.0)
        shared, state = rule.close(clients=2), rule.state
        assert {key: value.item() for key, value in shared.items()} == {"q.lora_A.weight": 2, "q.lora_B.weight": 3}
        assert rule.answers()["q"].item() == rule.open(2, shared)["q"].item() == expected


def test_fedex_average_is_exact():
    """With residuals, every weight is the pretrained one plus the mean update of three clients' random pairs."""
    clients = []
    base = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    pretrained = [layer.weight.detach().clone() for layer in base]
    adapters = build_adapters(base, peft="lora", rank=2, alpha=6, sites=r"\d")
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        clients.append({k: torch.randn(v.shape, generator=generator) for k, v in adapters.state("global").items()})
    rule = MeanRule(FedExLora.server)
    rule.start(clients[0], None)
    rule.open(1, clients[0])
    for client in clients:
        rule.add(TrainReply({key: value.numpy() for key, value in client.items()}, {}, 1, {"loss": 0.0}), 1.0)
    adapters.load("global", rule.close(clients=3))
    adapters.shift(rule.answers())
    for site, before in zip("01", pretrained, strict=True):
        layer = adapters.peft_model.get_base_model().get_submodule(site)
        update = sum(3.0 * client[f"{site}.lora_B.weight"] @ client[f"{site}.lora_A.weight"] for client in clients) / 3
        total = layer.base_layer.weight + layer.get_delta_weight("global")
        torch.testing.assert_close(total, before + update, atol=1e-5, rtol=1e-6)
    adapters.shift({"1": torch.ones(3, 7)})
    weights = [adapters.peft_model.get_base_model().get_submodule(site).base_layer.weight for site in "01"]
    assert torch.equal(weights[0], pretrained[0]), "a site without product goes back"
    torch.testing.assert_close(weights[1], pretrained[1] + 3)
    adapters.shift({})
    assert torch.equal(weights[1], pretrained[1])


def test_only_lora_has_weights_to_shift():
    for kind in ("bottleneck", "bias"):
        adapters = build_adapters(
            nn.Sequential(nn.Linear(5, 7)), peft=kind, sites="0" if kind == "bottleneck" else None
        )
        adapters.shift({})
        with pytest.raises(ValueError, match="no frozen weight to shift below '0'"):
            adapters.shift({"0": torch.zeros(7, 5)})
