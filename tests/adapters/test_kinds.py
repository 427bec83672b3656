"""Kinds of adapter that replace weights or add prompts: what trains, routes, gradients, states, parameter counts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LNTuningConfig, get_peft_model
from tiny_models import CASES, Case
from torch import Tensor, nn

from feddat.adapters.base import ADAPTERS, Adapters
from feddat.adapters.build import build_adapters, count_parameters
from feddat.adapters.prompts import SoftPrompts
from feddat.adapters.sites import PromptSite
from feddat.adapters.soft_prompt.entry import extend_mask, extend_positions
from feddat.kinds import KINDS
from feddat.models.vilt.fast import make_fast

VILT, BERT, VIT, CLIP, SMOLVLM = CASES
ONE_AT_A_TIME = [name for name, kind in KINDS.items() if not kind.mixes]
#: Every kind with every model in which it trains something. `head` trains nothing in any model.
PAIRS = [
    pytest.param(case, kind, id=f"{case.name}-{kind}")
    for case in CASES
    for kind in ("prompt", "bias", "norm", "full")
    if (case, kind) != (VIT, "prompt")
]
pairs = pytest.mark.parametrize(("case", "kind"), PAIRS)


def build(case: Case, kind: str) -> Adapters:
    """Return adapters of the given kind, each different and large enough to be seen in the output."""
    adapters = build_adapters(case.build(), peft=kind)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in ADAPTERS:
            adapters.initialise(generator, name)
            for parameter in adapters.parameters(name):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapters


def output(adapters: Adapters, route: str, case: Case) -> Tensor:
    adapters.route(route)
    return case.run(adapters.model)


def gradients(adapters: Adapters) -> dict[str, list[Tensor]]:
    """Return all gradients, zeros where a parameter has none, and clear them."""
    found = {}
    for name in ADAPTERS:
        found[name] = [torch.zeros_like(p) if p.grad is None else p.grad for p in adapters.parameters(name)]
        for parameter in adapters.parameters(name):
            parameter.grad = None
    return found


def moved(found: dict[str, list[Tensor]]) -> set[str]:
    return {name for name, values in found.items() if any(value.any() for value in values)}


# What trains ----------------------------------------------------------------------------------------------------------


def test_norms() -> None:
    keys = list(build_adapters(VILT.build(), peft="norm").state("global"))
    assert keys[:4] == [
        "embeddings.text_embeddings.LayerNorm.weight",
        "embeddings.text_embeddings.LayerNorm.bias",
        "encoder.layer.0.layernorm_before.weight",
        "encoder.layer.0.layernorm_before.bias",
    ]
    # One norm in the text embeddings, two in each of two layers, one after the last.
    assert len(keys) == 2 * (1 + 2 * 2 + 1)
    decoder = [key for key in build_adapters(SMOLVLM.build(), peft="norm").state("global") if "text_model" in key]
    assert len(decoder) == 2 * 2 + 1, "RMSNorm has weights only"


def test_biases() -> None:
    keys = build_adapters(VILT.build(), peft="bias").state("global")
    # Six linear layers and two norms in each of two layers; outside them two norms, the pooler and the patches.
    assert len(keys) == 2 * (6 + 2) + 1 + 1 + 1 + 1
    assert all(key.endswith(".bias") and value.dim() == 1 for key, value in keys.items())


def test_everything() -> None:
    base = VILT.build()
    expected = {name: value.clone() for name, value in base.named_parameters()}
    state = build_adapters(base, peft="full").state("global")
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], value) for key, value in expected.items()), "it starts as pretrained"


def test_prompts() -> None:
    state = build_adapters(VILT.build(), peft="prompt", prompt_tokens=3).state("local")
    shapes = {"tokens": (3, 32), "down.weight": (8, 32), "down.bias": (8,), "up.weight": (32, 8), "up.bias": (32,)}
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        f"{place}.{key}": shape for place in ("text", "image") for key, shape in shapes.items()
    }
    assert {key.split(".")[0] for key in build_adapters(BERT.build(), peft="prompt").state("global")} == {"text"}


def test_the_head_alone() -> None:
    adapters = build_adapters(VILT.build(), peft="head")
    assert adapters.state("global") == {}
    assert not any(parameter.requires_grad for parameter in adapters.model.parameters())
    assert torch.equal(output(adapters, "global", VILT), VILT.run(VILT.build()))


def test_a_shared_parameter_is_trained_once_and_everywhere() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    adapters = build_adapters(Tied(), peft="full")
    assert list(adapters.state("global")) == ["first.weight"]
    adapters.load("local", {"first.weight": torch.tensor([[2.0, 0.0], [0.0, 3.0]])})
    adapters.route("local")
    assert adapters.model(torch.ones(2)).tolist() == [4.0, 9.0]


# Routes and gradients -------------------------------------------------------------------------------------------------


@pairs
def test_routes(case: Case, kind: str) -> None:
    adapters, plain = build(case, kind), case.run(case.build())
    outputs = {route: output(adapters, route, case).detach() for route in ADAPTERS}
    assert all(value.shape == plain.shape for value in outputs.values())
    assert torch.equal(output(adapters, "none", case), plain), "without adapters the model is as it was"
    for name in ADAPTERS:
        other = build_adapters(case.build(), peft=kind)
        other.load("global", adapters.state(name))
        assert torch.equal(output(other, "global", case), outputs[name])
    assert (outputs["global"] - outputs["local"]).abs().max() > 1e-4


@pairs
def test_joint_backward_equals_separate_ones(case: Case, kind: str) -> None:
    adapters = build(case, kind)
    separate = {}
    for route in ("global", "local"):
        output(adapters, route, case).square().sum().backward()
        separate[route] = gradients(adapters)
        assert moved(separate[route]) == {route}
    total = output(adapters, "global", case).square().sum() + output(adapters, "local", case).square().sum()
    output(adapters, "none", case)  # another route is open during backward
    total.backward()
    joint = gradients(adapters)
    for route in ("global", "local"):
        torch.testing.assert_close(joint[route], separate[route][route])
    output(adapters, "anchor", case)
    assert not any(parameter.requires_grad for parameter in adapters.parameters("anchor"))


@pytest.mark.parametrize("kind", ONE_AT_A_TIME)
def test_mixtures_are_refused(kind: str) -> None:
    adapters = build_adapters(VILT.build(), peft=kind)
    for route in ("dat", {"local": 0.5}, {"global": 1.0, "local": 1.0}, {"global": torch.tensor(1.0)}):
        with pytest.raises(ValueError, match=f"kind '{kind}' can neither be mixed nor scaled"):
            adapters.route(route)
    with pytest.raises(ValueError, match="unknown route 'teacher'"):
        adapters.route("teacher")


def test_compiled_model_follows_routes() -> None:
    adapters = build(BERT, "norm")
    expected = {route: output(adapters, route, BERT) for route in ("global", "local", "none")}
    torch._dynamo.reset()
    compiled = torch.compile(adapters.model, backend="eager")
    for route in ("global", "local", "none", "global"):
        adapters.route(route)
        torch.testing.assert_close(BERT.run(compiled), expected[route])


# States ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prompt", "bias", "norm", "full"])
@given(seed=st.integers(0, 2**31), name=st.sampled_from(ADAPTERS))
@settings(max_examples=10)
def test_states_come_back_as_they_went_in(kind: str, seed: int, name: str) -> None:
    adapters = _built(kind)
    generator = torch.Generator().manual_seed(seed)
    others = {other: adapters.state(other) for other in ADAPTERS if other != name}
    state = {key: torch.randn(value.shape, generator=generator) for key, value in adapters.state(name).items()}
    adapters.load(name, dict(reversed(state.items())))
    assert list(adapters.state(name)) == list(state), "the order is the model's"
    assert all(torch.equal(adapters.state(name)[key], value) for key, value in state.items())
    assert all(torch.equal(adapters.state(o)[k], v) for o, values in others.items() for k, v in values.items())
    before = adapters.state(name)
    with pytest.raises(ValueError, match=rf"{name} adapter: key '.*' of shape .* is missing"):
        adapters.load(name, dict(list(state.items())[1:]))
    assert all(torch.equal(before[key], value) for key, value in adapters.state(name).items())


_BUILT: dict[str, Adapters] = {}


def _built(kind: str) -> Adapters:
    return _BUILT.setdefault(kind, build_adapters(VILT.build(), peft=kind))


@pytest.mark.parametrize("kind", ["prompt", "bias", "norm", "full"])
def test_initial_values(kind: str) -> None:
    adapters = build(VILT, kind)
    local = adapters.state("local")
    adapters.initialise(torch.Generator().manual_seed(5), "global")
    first = adapters.state("global")
    adapters.initialise(torch.Generator().manual_seed(5), "global")
    assert all(torch.equal(first[key], value) for key, value in adapters.state("global").items())
    assert all(torch.equal(local[key], value) for key, value in adapters.state("local").items())
    pretrained = dict(VILT.build().named_parameters())
    if kind == "prompt":
        assert first["text.down.weight"].abs().max() <= 32**-0.5
        assert not torch.equal(first["text.tokens"], first["image.tokens"])
    else:
        assert all(torch.equal(pretrained[key], value) for key, value in first.items())


@pytest.mark.parametrize("kind", ["prompt", "norm"])
def test_a_copy_lives_on_its_own(kind: str) -> None:
    adapters = build(VILT, kind)
    before = output(adapters, "global", VILT)
    twin = copy.deepcopy(adapters)
    adapters.load("global", {key: torch.zeros_like(value) for key, value in adapters.state("global").items()})
    assert not torch.equal(output(adapters, "global", VILT), before)
    assert torch.equal(output(twin, "global", VILT), before)
    assert torch.equal(output(twin, "none", VILT), VILT.run(VILT.build()))


# On the fast ViLT -----------------------------------------------------------------------------------------------------


def _padded() -> dict[str, Tensor]:
    """Return two images of different sizes with texts of different lengths, so that both masks hide something."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, 32, 32, dtype=torch.long)
    mask[1, 16:] = 0
    return {
        "input_ids": torch.randint(6, 40, (2, 5), generator=generator),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "pixel_values": torch.randn(2, 3, 32, 32, generator=generator) * mask[:, None],
        "pixel_mask": mask,
    }


@pytest.mark.parametrize("batch", [VILT.batch(), _padded()], ids=["full", "padded"])
@pytest.mark.parametrize("kind", [*KINDS])
def test_fast_vilt_equals_the_stock_model(kind: str, batch: dict[str, Tensor]) -> None:
    results = []
    for model in (VILT.build(), make_fast(VILT.build())):
        adapters = build_adapters(model, peft=kind)
        adapters.load("global", build(VILT, kind).state("global"))
        adapters.route("global")
        torch.manual_seed(0)  # the stock model draws the order of its patches
        pooled = adapters.model(**batch).pooler_output
        if kind != "head":
            pooled.square().sum().backward()
        results.append([pooled.detach(), *gradients(adapters)["global"]])
    for stock, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, stock, atol=2e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Unsupported layer type")
def test_norms_are_pefts_layer_norm_tuning() -> None:
    own = build(VILT, "norm")
    theirs = get_peft_model(VILT.build(), LNTuningConfig(target_modules=".*([lL]ayer[nN]orm).*"))
    layers = {n.removeprefix("base_model.model.").replace("ln_tuning_layers.default.", ""): p
              for n, p in theirs.named_parameters() if p.requires_grad}  # fmt: skip
    assert list(layers) == list(own.state("global"))
    with torch.no_grad():
        for key, value in own.state("global").items():
            layers[key].copy_(value)
    expected, actual = VILT.run(theirs), output(own, "global", VILT)
    assert torch.equal(actual, expected)
    expected.square().sum().backward()
    actual.square().sum().backward()
    torch.testing.assert_close([p.grad for p in own.parameters("global")], [p.grad for p in layers.values()])


# Prompts --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_prompts_are_what_their_network_makes_of_tokens() -> None:
    """With all else zero, every prompt token is the bias of the up projection plus its input's type embedding."""
    adapters = build_adapters(VILT.build(), peft="prompt", prompt_tokens=2)
    state = {key: torch.zeros_like(value) for key, value in adapters.state("global").items()}
    state["text.up.bias"], state["image.up.bias"] = torch.full((32,), 1.0), torch.full((32,), 2.0)
    adapters.load("global", state)
    seen: list[Tensor] = []
    layer: Any = adapters.model.get_submodule("encoder.layer.0")
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    output(adapters, "global", VILT)
    output(adapters, "none", VILT)
    prompted, plain = seen
    kinds = adapters.model.get_submodule("embeddings.token_type_embeddings").weight
    assert torch.equal(prompted[0, :4], torch.stack([1 + kinds[0], 1 + kinds[0], 2 + kinds[1], 2 + kinds[1]]))
    assert torch.equal(prompted[:, 4:], plain)


@torch.no_grad()
@pytest.mark.parametrize("case", [BERT, SMOLVLM], ids=lambda case: case.name)
def test_padding_stays_unseen_beside_prompts(case: Case) -> None:
    adapters = build(case, "prompt")
    adapters.route("global")
    batch = case.batch() | {"attention_mask": torch.tensor([[1, 1, 1, 1, 0]] * 2)}
    expected = case.read(adapters.model(**batch))[:, :4]
    batch["input_ids"] = batch["input_ids"].clone()
    batch["input_ids"][:, 4] = 7
    torch.testing.assert_close(case.read(adapters.model(**batch))[:, :4], expected)


@torch.no_grad()
def test_prompts_of_a_decoder_come_before_its_words() -> None:
    """Explicit positions change nothing, a word does not affect earlier outputs, and a filled cache is refused."""
    adapters = build(SMOLVLM, "prompt")
    adapters.route("global")
    batch = SMOLVLM.batch()
    expected = adapters.model(**batch).logits
    positions = torch.arange(5)[None].expand(2, -1)
    torch.testing.assert_close(adapters.model(**batch, position_ids=positions).logits, expected)
    changed = batch | {"input_ids": torch.cat([batch["input_ids"][:, :4], torch.full((2, 1), 9)], dim=1)}
    torch.testing.assert_close(adapters.model(**changed).logits[:, :4], expected[:, :4])
    cache = adapters.model(**batch, use_cache=True).cache
    with pytest.raises(ValueError, match="cannot continue from a filled cache"):
        adapters.model(input_ids=batch["input_ids"][:, :1], cache=cache)


def test_masks_and_positions() -> None:
    assert extend_mask(torch.tensor([[1, 0]]), 1, causal=True).tolist() == [[1, 1, 0]]
    row = torch.tensor([[[[True, False]]]])
    assert extend_mask(row, 1, causal=False).tolist() == [[[[True, True, False]]]]
    low = torch.finfo(torch.float32).min
    square = torch.tensor([[[[0.0, low], [0.0, 0.0]]]])
    assert extend_mask(square, 2, causal=True).tolist() == [
        [[[0, low, low, low], [0, 0, low, low], [0, 0, 0, low], [0, 0, 0, 0]]]
    ]
    both = torch.tensor([[[[True, False], [True, False]]]])
    assert extend_mask(both, 1, causal=False).tolist() == [[[[True, True, False]] * 3]]
    assert extend_positions(torch.tensor([[0, 1], [3, 4]]), 2).tolist() == [[0, 1, 2, 3], [0, 1, 5, 6]]


# Numbers --------------------------------------------------------------------------------------------------------------

#: Parameters of ViLT-B/32, counted by hand: width d = 768, 12 layers, feed-forward 3072, patches of 32 × 32, 26 norms
#: (two per layer, one in the text embeddings, one at the end).
NORM = 26 * 2 * 768
BIAS = 12 * (4 * 768 + 3072 + 768) + 26 * 768 + 768 + 768  # linear layers, norms, patches, pooler
LAYER = 4 * 768 * 768 + 2 * 768 * 3072
EMBEDDINGS = (30522 + 40 + 2 + 2) * 768 + 768 + 145 * 768  # words, positions, two kinds of type; class token; patches
FULL = 12 * LAYER + EMBEDDINGS + 3 * 32 * 32 * 768 + 768 * 768 + 26 * 768 + BIAS
COUNTS = {
    "bottleneck": 12 * (768 * 48 + 48 + 48 * 768 + 768),  # 894,528 as published
    "lora": 12 * 2 * 16 * (768 + 768),
    "prompt": 2 * (5 * 768 + 768 * 192 + 192 + 192 * 768 + 768),
    "bias": BIAS,
    "norm": NORM,
    "full": FULL,
    "head": 0,
}


def everything(key: str) -> bool:
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_counts_of_vilt_b32(kind: str) -> None:
    with torch.device("meta"):
        adapters = build_adapters(hf.ViltModel(hf.ViltConfig()), peft=kind)
    one = COUNTS[kind]
    replaced = one if kind in ("bias", "norm", "full") else 0
    head = nn.Linear(768, 2)
    assert count_parameters(adapters, trains=("global",), shares=everything, head=head) == {
        "total": FULL - replaced + one + 1538,
        "trainable": one + 1538,
        "communicated": one,
    }
    frozen = count_parameters(adapters, trains=("global",), head=head.requires_grad_(False))
    assert (frozen["total"], frozen["trainable"]) == (FULL - replaced + one + 1538, one)
    both = count_parameters(adapters, trains=("global", "local"), shares=everything)
    assert both == {"total": FULL - replaced + 2 * one, "trainable": 2 * one, "communicated": one}
    assert count_parameters(adapters, trains=())["total"] == FULL


def test_the_numbers_written_out() -> None:
    assert COUNTS == {
        "bottleneck": 894_528,
        "lora": 589_824,
        "prompt": 599_424,
        "bias": 104_448,
        "norm": 39_936,
        "full": 111_595_008,
        "head": 0,
    }


# Refusals -------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="soft prompts need a model that reads text, but 'vit' does not"):
        build_adapters(VIT.build(), peft="prompt")
    with pytest.raises(ValueError, match="Sequential has no parameters of kind 'norm'"):
        build_adapters(nn.Sequential(nn.Linear(2, 2)), peft="norm")
    with pytest.raises(ValueError, match="sites: cannot be chosen for adapters of kind 'bias'"):
        build_adapters(VILT.build(), peft="bias", sites="encoder")
    two = nn.ModuleDict({"a": BERT.build(), "b": BERT.build()})
    with pytest.raises(ValueError, match=r"need exactly one module .* in ModuleDict; found a.encoder, b.encoder"):
        SoftPrompts(two, PromptSite(r"(.*\.)?encoder"))
