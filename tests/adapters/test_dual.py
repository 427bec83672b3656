"""Global, local and anchor adapters: routes, gradients and states, for both kinds of adapter."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny_models import CASES, Case
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from feddat.adapters.base import ADAPTERS, ROUTES
from feddat.adapters.bottleneck import BottleneckConfig
from feddat.adapters.build import build_adapters
from feddat.adapters.dual import DualAdapters

KINDS = ("bottleneck", "lora")
VILT = CASES[0]
kinds = pytest.mark.parametrize("kind", KINDS)


def build(case: Case, kind: str, **options: Any) -> DualAdapters:
    """Return adapters of the given kind, each different and large enough to be seen in the output."""
    dual = build_adapters(case.build(), peft=kind, **options)
    scatter(dual)
    return dual


def scatter(dual: DualAdapters, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in ADAPTERS:
            for parameter in dual.parameters(name):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def output(dual: DualAdapters, route: str, case: Case = VILT) -> Tensor:
    dual.route(route)
    return case.run(dual.peft_model)


def gradients(dual: DualAdapters) -> dict[str, list[Tensor | None]]:
    found = {name: [p.grad for p in dual.parameters(name)] for name in ADAPTERS}
    dual.peft_model.zero_grad(set_to_none=True)
    return found


def with_gradient(found: dict[str, list[Tensor | None]]) -> set[str]:
    """Return the adapters with gradients; none may have some parameters with and some without."""
    for name, values in found.items():
        assert len({value is None for value in values}) == 1, name
    return {name for name, values in found.items() if values[0] is not None}


# Routes ---------------------------------------------------------------------------------------------------------------


@kinds
def test_single_routes_equal_a_model_with_that_adapter_only(case: Case, kind: str) -> None:
    dual = build(case, kind)
    for name in ("global", "local"):
        single = build(case, kind)
        if name == "local":
            single.copy("local", "global")
        assert torch.equal(output(dual, name, case), output(single, "global", case))


@kinds
def test_no_route_is_the_base_model(case: Case, kind: str) -> None:
    dual = build(case, kind)
    output(dual, "dat", case)
    assert torch.equal(output(dual, "none", case), case.run(case.build()))


@kinds
def test_dat_is_half_and_half(kind: str) -> None:
    """With one linear site, the DAT output is the mean of the outputs of the local and the anchor adapter."""
    base = nn.Sequential(nn.Linear(6, 6))
    config = (
        BottleneckConfig(target_modules=["0"], reduction=2)
        if kind == "bottleneck"
        else LoraConfig(target_modules=["0"], r=2, lora_alpha=6)
    )
    dual = DualAdapters(base, config)
    scatter(dual)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    values = {}
    for route in ROUTES:
        dual.route(route)
        values[route] = dual.peft_model(x)
    torch.testing.assert_close(values["dat"], (values["local"] + values["anchor"]) / 2)
    assert (values["dat"] - values["local"]).abs().max() > 0.01


def test_dat_weighs_lora_by_exactly_half() -> None:
    """W = identity, A = (1, 1), B = (1, 0)ᵀ, alpha / rank = 3: local adds 3·(x₁+x₂) to y₁, and half of that on DAT."""
    dual = DualAdapters(nn.Sequential(nn.Linear(2, 2, bias=False)), LoraConfig(target_modules=["0"], r=1, lora_alpha=3))
    with torch.no_grad():
        next(dual.peft_model.get_base_model()[0].base_layer.parameters()).copy_(torch.eye(2))
        for name, size in (("global", 0.0), ("local", 1.0), ("anchor", 2.0)):
            down, up = dual.parameters(name)
            down.fill_(1)
            up.copy_(torch.tensor([[size], [0.0]]))
    x = torch.tensor([1.0, 4.0])
    expected = {"local": 1 + 15.0, "dat": 1 + 7.5 + 15.0, "global": 1.0, "none": 1.0}
    for route in ("local", "dat", "none", "dat", "local", "global", "local"):
        dual.route(route)
        assert dual.peft_model(x).tolist() == [expected[route], 4.0], route


@kinds
@pytest.mark.parametrize("route", ROUTES)
def test_a_mapping_of_weights_is_a_route(kind: str, route: str) -> None:
    dual = build(VILT, kind)
    expected = output(dual, route)
    dual.route({name: torch.tensor(weight) for name, weight in ROUTES[route].items()})
    assert torch.equal(VILT.run(dual.peft_model), expected)
    assert torch.equal(output(dual, route), expected), "nothing of the mapping is left behind"


@kinds
def test_weights_may_be_learned_and_differ_between_rows(kind: str) -> None:
    """With one linear site, the derivative with respect to an adapter's weight is what the adapter adds."""
    dual = DualAdapters(
        nn.Sequential(nn.Linear(6, 6)),
        BottleneckConfig(target_modules=["0"], reduction=2)
        if kind == "bottleneck"
        else LoraConfig(target_modules=["0"], r=2),
    )
    scatter(dual)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    added = {}
    for route in ("global", "local", "none"):
        dual.route(route)
        added[route] = dual.peft_model(x)
    base = added.pop("none")
    mix = torch.tensor(0.25, requires_grad=True)
    rows = torch.tensor([0.5, 2.0]).reshape(2, 1, 1)
    dual.route({"global": mix, "local": rows})
    mixed = dual.peft_model(x)
    expected = base + 0.25 * (added["global"] - base) + rows * (added["local"] - base)
    torch.testing.assert_close(mixed, expected)
    mixed.sum().backward()
    torch.testing.assert_close(mix.grad, (added["global"] - base).sum())


@kinds
@given(routes=st.lists(st.sampled_from(sorted(ROUTES)), min_size=1, max_size=8))
@settings(max_examples=20)
def test_a_route_does_not_depend_on_earlier_ones(kind: str, routes: list[str]) -> None:
    dual, expected = _shared_dual(kind)
    for route in routes:
        dual.route(route)
    assert torch.equal(VILT.run(dual.peft_model), expected[routes[-1]])


_DUALS: dict[str, tuple[DualAdapters, dict[str, Tensor]]] = {}


def _shared_dual(kind: str) -> tuple[DualAdapters, dict[str, Tensor]]:
    if kind not in _DUALS:
        dual = build(VILT, kind)
        _DUALS[kind] = dual, {route: output(build(VILT, kind), route).detach() for route in ROUTES}
    return _DUALS[kind]


@kinds
def test_no_weight_is_left_behind(kind: str) -> None:
    """After any other route each adapter has its own full scale again, alpha / rank = 16 / 3 for LoRA."""
    dual = build_adapters(VILT.build(), peft=kind, rank=3)
    layers = [module for module in dual.peft_model.modules() if isinstance(module, BaseTunerLayer)]
    full = 1.0 if kind == "bottleneck" else 16 / 3
    for route in ("global", "local", "none"):
        dual.route("dat")
        assert all(layer.scaling == {"global": full, "local": full / 2, "anchor": full / 2} for layer in layers)
        dual.route(route)
        assert all(layer.scaling == dict.fromkeys(ADAPTERS, full) for layer in layers)


@kinds
def test_lora_keeps_pretrained_weights_and_both_kinds_start_at_or_near_them(case: Case, kind: str) -> None:
    dual = build_adapters(case.build(), peft=kind)
    difference = (output(dual, "global", case) - case.run(case.build())).abs().max()
    assert difference == 0 if kind == "lora" else 0 < difference < 0.05


@kinds
def test_switching_costs_microseconds(kind: str) -> None:
    dual = build_adapters(VILT.build(), peft=kind)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        dual.route("dat")
        dual.route("global")
        best = min(best, time.perf_counter() - start)
    assert best < 1e-3, "a forward pass of the smallest model takes longer than that"


@kinds
def test_compiled_model_follows_routes(kind: str) -> None:
    vit = CASES[2]
    dual = build(vit, kind)
    expected = {route: output(dual, route, vit) for route in ROUTES}
    torch._dynamo.reset()
    compiled = torch.compile(dual.peft_model, backend="eager")
    for route in ("global", "dat", "local", "none", "dat", "global"):
        dual.route(route)
        torch.testing.assert_close(vit.run(compiled), expected[route])


def test_half_precision_base(vilt: Case) -> None:
    dual = build_adapters(vilt.build(torch.bfloat16))
    assert {p.dtype for name in ADAPTERS for p in dual.parameters(name)} == {torch.float32}
    output(dual, "dat").float().sum().backward()
    assert with_gradient(gradients(dual)) == {"local"}


# Gradients ------------------------------------------------------------------------------------------------------------

TRAINS = {"global": {"global"}, "local": {"local"}, "dat": {"local"}, "none": set()}


@kinds
def test_who_gets_gradients_on_each_route(case: Case, kind: str) -> None:
    dual = build(case, kind)
    for route, expected in TRAINS.items():
        result = output(dual, route, case).square().sum()
        assert result.requires_grad == bool(expected)
        if expected:
            result.backward()
        assert with_gradient(gradients(dual)) == expected
    assert not any(
        p.requires_grad for n, p in dual.peft_model.named_parameters() if "lora_" not in n and "neck_" not in n
    )


@kinds
def test_joint_backward_equals_separate_ones(case: Case, kind: str) -> None:
    dual = build(case, kind)
    separate = {}
    for route in ("global", "dat"):
        output(dual, route, case).square().sum().backward()
        separate[route] = gradients(dual)
    # Both graphs exist at once, and another route is open during backward.
    total = output(dual, "global", case).square().sum() + output(dual, "dat", case).square().sum()
    dual.route("none")
    total.backward()
    joint = gradients(dual)
    assert with_gradient(joint) == {"global", "local"}
    torch.testing.assert_close(joint["global"], separate["global"]["global"])
    torch.testing.assert_close(joint["local"], separate["dat"]["local"])


def _train_round(dual: DualAdapters) -> None:
    optimizer = torch.optim.AdamW([*dual.parameters("global"), *dual.parameters("local")], lr=1e-3)
    dual.refresh_anchor()
    for route in ("global", "dat"):
        output(dual, route).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def _evaluate(dual: DualAdapters) -> None:
    with torch.no_grad():
        for route in ROUTES:
            output(dual, route)


def _save_and_load(dual: DualAdapters) -> None:
    for name in ADAPTERS:
        dual.load(name, dual.state(name))


def _start_afresh(dual: DualAdapters) -> None:
    dual.initialise(torch.Generator().manual_seed(0), "local")


OPERATIONS = {f.__name__: f for f in (_train_round, _evaluate, _save_and_load, _start_afresh)}


@kinds
@given(operations=st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=5), copied=st.booleans())
@settings(max_examples=12)
def test_what_trains_never_changes(kind: str, operations: list[str], copied: bool) -> None:
    dual = build(VILT, kind)
    for operation in operations:
        OPERATIONS[operation](dual)
    if copied:
        dual = copy.deepcopy(dual)
    for route, expected in TRAINS.items():
        if expected:
            output(dual, route).square().sum().backward()
            assert with_gradient(gradients(dual)) == expected, route


@kinds
def test_a_step_moves_only_what_its_route_trains(kind: str) -> None:
    dual = build(VILT, kind)
    for route, moved in (("global", "global"), ("dat", "local"), ("local", "local")):
        before = {name: [p.detach().clone() for p in dual.parameters(name)] for name in ADAPTERS}
        optimizer = torch.optim.AdamW([*dual.parameters("global"), *dual.parameters("local")], lr=1e-2)
        output(dual, route).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        for name in ADAPTERS:
            same = all(torch.equal(a, b) for a, b in zip(before[name], dual.parameters(name), strict=True))
            assert same == (name != moved), (route, name)


@kinds
def test_anchor_stays_frozen_whatever_peft_switches(kind: str) -> None:
    dual = build(VILT, kind)
    dual.peft_model.base_model.set_adapter(list(ADAPTERS))
    assert not any(p.requires_grad for p in dual.parameters("anchor"))


# States ---------------------------------------------------------------------------------------------------------------


def _tensors(like: dict[str, Tensor]) -> st.SearchStrategy[dict[str, Tensor]]:
    def draw(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {key: torch.randn(value.shape, generator=generator) for key, value in like.items()}

    return st.integers(0, 2**31).map(draw)


@kinds
@given(data=st.data())
@settings(max_examples=20)
def test_states_come_back_as_they_went_in(kind: str, data: st.DataObject) -> None:
    dual = _state_dual(kind)
    states = {name: data.draw(_tensors(dual.state(name))) for name in ADAPTERS}
    for name, saved in states.items():
        dual.load(name, dict(data.draw(st.permutations(sorted(saved.items())))))
    for name, saved in states.items():
        loaded = dual.state(name)
        assert list(loaded) == list(saved), "the order is the model's"
        assert all(torch.equal(loaded[key], saved[key]) for key in saved)


_STATE_DUALS: dict[str, DualAdapters] = {}


def _state_dual(kind: str) -> DualAdapters:
    if kind not in _STATE_DUALS:
        _STATE_DUALS[kind] = build(VILT, kind)
    return _STATE_DUALS[kind]


@kinds
def test_states_carry_the_outputs_to_another_model(case: Case, kind: str) -> None:
    dual, other = build(case, kind), build_adapters(case.build(), peft=kind)
    for name in ADAPTERS:
        other.load(name, dual.state(name))
    for route in ROUTES:
        assert torch.equal(output(dual, route, case), output(other, route, case))


def test_names_in_states() -> None:
    dual = build(VILT, "bottleneck")
    assert list(dual.state("global"))[:4] == [
        "encoder.layer.0.output.bottleneck_down.weight",
        "encoder.layer.0.output.bottleneck_down.bias",
        "encoder.layer.0.output.bottleneck_up.weight",
        "encoder.layer.0.output.bottleneck_up.bias",
    ]
    assert list(dual.state("local")) == list(dual.state("anchor")) == list(dual.named("global"))


def test_states_are_copies() -> None:
    dual = build(VILT, "bottleneck")
    state = dual.state("global")
    before = {key: value.clone() for key, value in state.items()}
    with torch.no_grad():
        for parameter in dual.parameters("global"):
            parameter.zero_()
    assert all(torch.equal(state[key], before[key]) and not state[key].requires_grad for key in state)


@kinds
def test_anchor_starts_as_a_copy_of_the_global_adapter(kind: str) -> None:
    dual = build_adapters(VILT.build(), peft=kind)
    pairs = zip(dual.parameters("anchor"), dual.parameters("global"), strict=True)
    assert all(torch.equal(anchor, shared) and anchor is not shared for anchor, shared in pairs)


def test_anchor_is_a_copy_of_the_global_adapter() -> None:
    dual = build(VILT, "bottleneck")
    dual.refresh_anchor()
    shared, anchor = dual.state("global"), dual.state("anchor")
    assert all(torch.equal(anchor[key], value) for key, value in shared.items())
    scatter(dual, seed=9)
    dual.load("global", shared)
    assert not torch.equal(dual.state("anchor")[next(iter(shared))], shared[next(iter(shared))])


def test_a_copy_moves_nothing_else() -> None:
    dual = build(VILT, "lora")
    before = {name: dual.state(name) for name in ADAPTERS}
    dual.copy("global", "local")
    after = {name: dual.state(name) for name in ADAPTERS}
    for name, source in (("global", "global"), ("local", "global"), ("anchor", "anchor")):
        assert all(torch.equal(after[name][key], value) for key, value in before[source].items())


KEY = "encoder.layer.1.output.bottleneck_down.weight"


SPOILED: dict[str, tuple[Any, str]] = {
    "missing": (lambda state, key: state.pop(key), "key '{key}' of shape (2, 32) is missing"),
    "shape": (
        lambda state, key: state.update({key: torch.zeros(3, 32)}),
        "key '{key}' has shape (3, 32), this model expects (2, 32)",
    ),
    "extra": (lambda state, key: state.update(more=torch.zeros(7)), "unexpected key 'more' of shape (7,)"),
    "dtype": (
        lambda state, key: state.update({key: torch.zeros(2, 32).int()}),
        "key '{key}' has dtype torch.int32, expected floating point",
    ),
}


@pytest.mark.parametrize("adapter", ["global", "anchor"])
@pytest.mark.parametrize("fault", SPOILED)
def test_wrong_states_are_refused_whole(fault: str, adapter: str) -> None:
    spoil, message = SPOILED[fault]
    dual = build(VILT, "bottleneck")
    before = dual.state(adapter)
    state = {key: torch.zeros_like(value) for key, value in before.items()}
    spoil(state, KEY)
    with pytest.raises(ValueError) as error:
        dual.load(adapter, state)
    assert str(error.value).startswith(f"{adapter} adapter: ")
    assert message.format(key=KEY) in str(error.value)
    after = dual.state(adapter)
    assert all(torch.equal(after[key], before[key]) for key in before), "nothing may be loaded"


@kinds
def test_initialise_is_reproducible_and_touches_one_adapter(kind: str) -> None:
    dual = build(VILT, kind)
    before = {name: dual.state(name) for name in ("local", "anchor")}
    dual.initialise(torch.Generator().manual_seed(5), "global")
    first = dual.state("global")
    assert all(torch.equal(value, dual.state(name)[key]) for name in before for key, value in before[name].items())
    dual.initialise(torch.Generator().manual_seed(5), "global")
    assert all(torch.equal(value, first[key]) for key, value in dual.state("global").items())
    dual.initialise(torch.Generator().manual_seed(6), "global")
    assert not all(torch.equal(value, first[key]) for key, value in dual.state("global").items())


def test_initial_values_of_both_kinds() -> None:
    bottleneck = build(VILT, "bottleneck", reduction=1)
    bottleneck.initialise(torch.Generator().manual_seed(0), "local")
    weights = torch.cat([p.flatten() for p in bottleneck.parameters("local") if p.dim() == 2])
    assert abs(weights.std() - 0.02) < 0.001 and abs(weights.mean()) < 0.002
    assert all(p.eq(0).all() for p in bottleneck.parameters("local") if p.dim() == 1)

    lora = build(VILT, "lora")
    lora.initialise(torch.Generator().manual_seed(0), "local")
    down, up = lora.parameters("local")[:2]
    assert up.eq(0).all() and 0.8 / 32**0.5 < down.abs().max() <= 1 / 32**0.5


# Refusals -------------------------------------------------------------------------------------------------------------


def test_unknown_names_are_refused() -> None:
    dual = build(VILT, "bottleneck")
    with pytest.raises(ValueError, match="unknown route 'teacher'; routes are global, local, anchor, dat, sum, none"):
        dual.route("teacher")
    with pytest.raises(ValueError, match="unknown adapter 'head'; adapters are global, local, anchor"):
        dual.parameters("head")
    with pytest.raises(ValueError, match="unknown adapter 'head'"):
        dual.route({"global": 0.5, "head": 0.5})
    with pytest.raises(ValueError, match="unknown adapter 'head'"):
        dual.initialise(torch.Generator(), "head")


@pytest.mark.parametrize("options", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["pooler"]}])
def test_options_that_routes_cannot_weigh_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))}=.* cannot be used with dual adapters"):
        DualAdapters(VILT.build(), LoraConfig(target_modules=["query"], **options))
    if "modules_to_save" in options:
        with pytest.raises(ValueError, match=r"^modules_to_save="):
            DualAdapters(VILT.build(), BottleneckConfig(**options))


@pytest.mark.parametrize("config", [BottleneckConfig, LoraConfig])
def test_the_head_that_peft_adds_for_a_task_is_refused(config: Any) -> None:
    words = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(ValueError, match=r"^modules_to_save=.*classifier.* cannot be used with dual adapters"):
        DualAdapters(BertForSequenceClassification(words), config(task_type="SEQ_CLS"))


def test_lora_on_embeddings_is_refused() -> None:
    with pytest.raises(ValueError, match="adapters on embeddings are not supported"):
        DualAdapters(VILT.build(), LoraConfig(target_modules=r".*word_embeddings"))


def test_wrapped_model_is_refused() -> None:
    model = get_peft_model(VILT.build(), BottleneckConfig())
    assert isinstance(model, PeftModel)
    with pytest.raises(ValueError, match="already wrapped by PEFT"):
        DualAdapters(model, BottleneckConfig())
