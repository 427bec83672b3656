"""Several adapters combined into one, checked by hand on small numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from feddat.adapters.bottleneck import BottleneckConfig
from feddat.adapters.build import build_adapters
from feddat.adapters.combine import add_bottlenecks, add_lora, factored
from feddat.adapters.peft_form import hub_name, put_peft, read_peft, save_peft


def lora(a, b):
    return {"q.lora_A.weight": torch.tensor(a), "q.lora_B.weight": torch.tensor(b)}


def test_loras_side_by_side():
    """½ · 3 · [1]ᵀ[1, 2] + ¼ · 3 · [8]ᵀ[0, 1]: two LoRAs of rank 1 and scale 3 become one of rank 2 and scale 1."""
    parts = [(0.5, lora([[1.0, 2.0]], [[1.0]])), (0.25, lora([[0.0, 1.0]], [[8.0]]))]
    config, state = add_lora(LoraConfig(r=1, lora_alpha=3), {"q": 3.0}, parts)
    assert (config.r, config.lora_alpha) == (2, 2)
    assert state["q.lora_B.weight"].tolist() == [[1.5, 6.0]]
    assert (state["q.lora_B.weight"] @ state["q.lora_A.weight"]).tolist() == [[1.5, 3.0 + 6.0]]


def bottleneck(down, bias, up, out):
    names = ("down.weight", "down.bias", "up.weight", "up.bias")
    values = ([[down]], [bias], [[up]], [out])
    return {f"s.bottleneck_{name}": torch.tensor(value) for name, value in zip(names, values, strict=True)}


def test_bottlenecks_side_by_side():
    """½ · (3·relu(x + 1) + 4) + ½ · (5·relu(-x) + 6): at x = 2 it is ½·(9 + 4) + ½·6 = 9.5, at x = -2 it is 10."""
    parts = [(0.5, bottleneck(1.0, 1.0, 3.0, 4.0)), (0.5, bottleneck(-1.0, 0.0, 5.0, 6.0))]
    config, state = add_bottlenecks(BottleneckConfig(reduction=1), ["s"], parts)
    assert config.count == 2
    down, bias, up, out = state.values()
    found = [(up @ (down @ torch.tensor([x]) + bias).relu() + out).item() for x in (2.0, -2.0)]
    assert found == [9.5, 10.0]


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 99))
@settings(max_examples=20)
def test_products_are_factored_exactly_and_no_wider_than_needed(one, other, seed):
    generator = torch.Generator().manual_seed(seed)
    products = {
        site: torch.randn(4, rank, generator=generator) @ torch.randn(rank, 5, generator=generator)
        for site, rank in (("a", one), ("b", other))
    }
    state = factored(products)
    if not max(one, other):
        assert state == {}
        return
    for site, product in products.items():
        a, b = state[f"{site}.lora_A.weight"], state[f"{site}.lora_B.weight"]
        assert (len(a), b.shape[1]) == (max(one, other),) * 2
        torch.testing.assert_close(b @ a, product, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["prompt", "norm", "bias", "full"])
def test_other_kinds_combine_only_one_adapter(vilt, kind):
    adapters = build_adapters(vilt.build(), peft=kind)
    state = adapters.state("global")
    assert adapters.combined([(1.0, state)])[1].keys() == state.keys()
    for parts in ([(0.5, state)], [(0.5, state), (0.5, state)]):
        with pytest.raises(ValueError, match="can neither be mixed nor scaled"):
            adapters.combined(parts)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("dandelin/vilt-b32-mlm", ("dandelin/vilt-b32-mlm", None)),
        ("dandelin/vilt-b32-mlm@f1d0c44", ("dandelin/vilt-b32-mlm", "f1d0c44")),
        ("hf://a/b@refs/pr/1", ("a/b", "refs/pr/1")),
        ("vilt-mini", None),
        ("/models/vilt", None),
        ("models/vilt/base", None),
    ],
)
def test_names_on_the_hub(model, expected):
    assert hub_name(model) == expected


def test_a_folder_that_does_not_fit_is_refused(vilt, tmp_path):
    adapters = build_adapters(vilt.build(), peft="lora", rank=2)
    form, state = adapters.combined([(1.0, adapters.state("global"))])
    save_peft(tmp_path, form, state, None)
    config, tensors = read_peft(tmp_path)
    put_peft(vilt.build(), config, tensors)
    config.r = 4
    with pytest.raises(ValueError, match=r"the adapter does not fit the model: .*size mismatch"):
        put_peft(vilt.build(), config, tensors)
