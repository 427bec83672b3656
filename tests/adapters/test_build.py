"""Building adapters from plain settings, and counting their parameters."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers as hf
from tiny_models import Case
from torch import nn

from feddat.adapters.build import build_adapters, count_parameters
from feddat.adapters.sites import DEFAULT_SITES, default_sites, depths, in_last_layers, layer_of


def test_lora_adapts_query_and_value(case: Case) -> None:
    keys = build_adapters(case.build(), peft="lora", rank=2).state("global")
    sites = {key.split(".lora_")[0] for key in keys}
    assert len(sites) == case.lora_sites and len(keys) == 2 * case.lora_sites
    assert {site.rpartition(".")[2] for site in sites} in ({"query", "value"}, {"q_proj", "v_proj"})
    assert case.name != "smolvlm" or all("text_model" in site for site in sites), "never the vision tower"


def test_settings_reach_the_adapters(vilt: Case) -> None:
    wide = build_adapters(vilt.build(), reduction=4, sites=r"encoder\.layer\.1\.output").state("global")
    assert {key: tuple(value.shape) for key, value in wide.items()} == {
        "encoder.layer.1.output.bottleneck_down.weight": (8, 32),
        "encoder.layer.1.output.bottleneck_down.bias": (8,),
        "encoder.layer.1.output.bottleneck_up.weight": (32, 8),
        "encoder.layer.1.output.bottleneck_up.bias": (32,),
    }
    lora = build_adapters(vilt.build(), peft="lora", rank=2, alpha=6, sites=r"encoder\.layer\.0\.intermediate\.dense")
    assert [tuple(value.shape) for value in lora.state("global").values()] == [(2, 32), (48, 2)]
    assert lora.peft_model.get_submodule("base_model.model.encoder.layer.0.intermediate.dense").scaling["global"] == 3


@pytest.mark.parametrize(("kind", "entries"), [("bottleneck", 4), ("lora", 4)])
def test_adapters_in_the_last_layers_alone(vilt: Case, kind: str, entries: int) -> None:
    keys = build_adapters(vilt.build(), peft=kind, rank=2, layers=1).state("global")
    assert len(keys) == entries and all(".layer.1." in key for key in keys)
    both = build_adapters(vilt.build(), peft=kind, rank=2, layers=2).state("global")
    assert list(both) == list(build_adapters(vilt.build(), peft=kind, rank=2).state("global"))


def test_layers_that_are_not_there(vilt: Case) -> None:
    with pytest.raises(ValueError, match="layers: 3, but the model has sites for adapters in only 2 layers"):
        build_adapters(vilt.build(), layers=3)
    with pytest.raises(ValueError, match="layers: cannot be chosen for adapters of kind 'bias'"):
        build_adapters(vilt.build(), peft="bias", layers=1)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("encoder.layer.11.output", ("encoder.layer", 11)),
        ("model.visual.blocks.3.attn.qkv", ("model.visual.blocks", 3)),
        ("vision.layers.0", ("vision.layers", 0)),
        ("multi_modal_projector.linear_1", None),
        ("layernorm.0", None),
    ],
)
def test_which_layer_a_name_is_in(name: str, place: tuple[str, int] | None) -> None:
    assert layer_of(name) == place


def test_the_last_layers_of_each_tower() -> None:
    names = ["a.layer.0.x", "a.layer.1.x", "a.layer.1.y", "b.layers.0", "b.layers.4", "projector"]
    assert in_last_layers(names, 1) == ["a.layer.1.x", "a.layer.1.y", "b.layers.4"]
    assert in_last_layers(names, 9) == names[:-1]
    assert depths(names) == {"a.layer": 2, "b.layers": 5}


@pytest.mark.parametrize("kind", ["bottleneck", "lora"])
def test_counts(vilt: Case, kind: str) -> None:
    base = vilt.build()
    backbone = sum(parameter.numel() for parameter in base.parameters())
    adapters = build_adapters(base, peft=kind, reduction=16, rank=2)
    # Two sites of 32·2 + 2 + 2·32 + 32; four projections with 2·(32 + 32).
    one = 2 * 162 if kind == "bottleneck" else 4 * 128
    head = nn.Linear(32, 10)

    def count(*trains: str, **options: Any) -> tuple[int, ...]:
        found = count_parameters(adapters, trains=trains, **options)
        return found["total"], found["trainable"], found["communicated"]

    everything: dict[str, Any] = {"shares": lambda key: True}
    assert count("global", "local", head=head, **everything) == (backbone + 2 * one + 330, 2 * one + 330, one)
    assert count("global", **everything) == (backbone + one, one, one)
    assert count("local") == (backbone + one, one, 0)
    assert count(head=head) == (backbone + 330, 330, 0)
    # Half of the global adapter is not trained, and only this half is communicated.
    keys = list(adapters.named("global"))
    half = sum(adapters.named("global")[key].numel() for key in keys[: len(keys) // 2])
    rests = set(keys[: len(keys) // 2])
    found = count("global", trains_key=lambda key: key not in rests, shares=rests.__contains__)
    assert found == (backbone + one, one - half, half)


#: Model types that transformers does not know. Their own tests check their adapter sites.
OWN_TYPES = {"albef", "vilt-bert"}


def _one_layer(model_type: str) -> nn.Module:
    config = hf.AutoConfig.for_model(model_type)
    for part in (config, *(getattr(config, name, None) for name in ("text_config", "vision_config"))):
        for depth in ("num_hidden_layers", "depth"):
            if hasattr(part, depth):
                setattr(part, depth, 1)
        if getattr(part, "layer_types", None):
            part.layer_types = part.layer_types[:1]
    if model_type == "blip":  # the automatic class would be the captioning model
        return hf.BlipForQuestionAnswering(config)
    try:
        return hf.AutoModelForImageTextToText.from_config(config)
    except ValueError:
        return hf.AutoModel.from_config(config)


@pytest.mark.parametrize("kind", ["bottleneck", "lora"])
@pytest.mark.parametrize("model_type", sorted(DEFAULT_SITES.keys() - OWN_TYPES))
def test_default_sites_fit_the_real_architectures(model_type: str, kind: str) -> None:
    """Check one layer of each known type at full width, without memory for its weights."""
    with torch.device("meta"):
        adapters = build_adapters(_one_layer(model_type), peft=kind)
    names = [name for name, parameter in adapters.peft_model.named_parameters() if ".global." in name]
    sites = {name.split(".bottleneck_")[0].split(".lora_")[0] for name in names}
    towers = 2 if model_type in ("clip", "siglip") else 1
    attentions = 2 if model_type == "blip" else 1  # its text encoder also attends to the image
    assert len(sites) == towers * (1 if kind == "bottleneck" else 2 * attentions)
    config = adapters.peft_model.get_base_model().config
    parts = (config.text_config, config.vision_config) if towers == 2 else (config.get_text_config(),)
    if kind == "bottleneck":
        widths = {p.shape[1] for p in adapters.parameters("global") if p.dim() == 2 and p.shape[1] > p.shape[0]}
        assert widths == {part.hidden_size for part in parts}


@pytest.mark.parametrize(
    "model_type", sorted({name for name, sites in DEFAULT_SITES.items() if sites.prompt} - OWN_TYPES)
)
def test_prompt_sites_fit_the_real_architectures(model_type: str) -> None:
    with torch.device("meta"):
        adapters = build_adapters(_one_layer(model_type), peft="prompt")
    config: Any = adapters.model.config
    tokens = {key: tuple(value.shape) for key, value in adapters.named("global").items() if key.endswith("tokens")}
    places = ("text", "image") if model_type == "vilt" else ("text",)
    assert tokens == {f"{place}.tokens": (5, config.get_text_config().hidden_size) for place in places}


def test_unknown_settings_are_refused(vilt: Case) -> None:
    with pytest.raises(ValueError, match="unknown kind of adapter 'prefix'; kinds are bottleneck, lora"):
        build_adapters(vilt.build(), peft="prefix")
    with pytest.raises(ValueError, match="model type None has no default adapter sites"):
        build_adapters(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="'t5' has no default adapter sites"):
        default_sites("t5")


def test_pefts_name_for_all_linear_layers(vilt: Case) -> None:
    adapters = build_adapters(vilt.build(), peft="lora", sites="all-linear")
    assert any("intermediate.dense" in key for key in adapters.state("global"))


@pytest.mark.parametrize(
    ("kind", "sites", "reason"),
    [
        (
            "bottleneck",
            r"encoder\.layer\.\d.outputs",
            r"matches no module's full name; names are encoder\.layer\.\d\.output",
        ),
        ("bottleneck", "no.such.module", "matches no module's full name"),
        ("lora", "encoder[", "is not a regular expression: unterminated character set at position 7"),
        ("bottleneck", r"encoder\.layer\.0.*", r"layer\.0 \(ViltLayer\) and encoder\.layer\.0\.attention inside it"),
        ("bottleneck", "encoder|", r"matches the whole model \(ViltModel\) and encoder inside it"),
        ("bottleneck", r".*layernorm_after", r"layernorm_after \(LayerNorm\), which contains no linear layer"),
        ("bottleneck", "encoder", r"encoder \(ViltEncoder\), a whole stack of layers; bottlenecks go on its layers"),
        ("bottleneck", r"encoder\.layer", r"encoder\.layer \(ModuleList\), a whole stack of layers"),
        ("bottleneck", "", r"matches the whole model \(ViltModel\), a whole stack of layers"),
        ("lora", r"encoder\.layer\.0", r"layer\.0 \(ViltLayer\), but LoRA goes on linear layers and convolutions"),
        ("lora", r".*word_embeddings", r"word_embeddings \(Embedding\), but LoRA goes on linear layers"),
    ],
)
def test_sites_that_cannot_have_adapters_are_refused(vilt: Case, kind: str, sites: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^sites: {re.escape(repr(sites))} .*{reason}"):
        build_adapters(vilt.build(), peft=kind, sites=sites)
