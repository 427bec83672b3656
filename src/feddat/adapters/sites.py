"""Default sites of adapters: one row per family of transformers models, matched against full module names.

As in FedDAT (arXiv 2308.12305), bottleneck adapters go after every feed-forward block, LoRA on the query and value
projections. Prompts enter beside the words, and beside the image patches of a model that sees both together. The rows
name modules as transformers 5 does. With a leading ``(.*\\.)?``, the same row fits a bare model and a model inside a
task model (``encoder.layer.0`` and ``vilt.encoder.layer.0``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

#: Parts of a vision-language model that can have adapters; a model without such parts counts as the first part.
PARTS = ("language", "vision", "projector")


@dataclass(frozen=True, slots=True)
class PromptSite:
    """The place where soft prompts enter and leave.

    Attributes:
        stack: the module around all transformer layers; it takes embeddings, a mask, and positions if it adds them.
        inputs: the inputs that get prompts. With more than one, ``embeddings.token_type_embeddings`` next to the stack
            has one row for each.
        causal: whether a token sees only the tokens before it.
    """

    stack: str
    inputs: tuple[str, ...] = ("text",)
    causal: bool = False


@dataclass(frozen=True, slots=True)
class DefaultSites:
    """Regular expressions that must match a module's full name.

    Attributes:
        bottleneck: modules whose output the adapter reads (see :mod:`feddat.adapters.bottleneck.layer`).
        lora: linear projections that LoRA adapts.
        prompt: the place where soft prompts enter; ``None`` for models that read no text.
        whole: modules that train whole beside the adapters, if the model has them (:mod:`feddat.adapters.whole`).
        parts: sites in the other :data:`PARTS`, which get adapters only on request.
    """

    bottleneck: str
    lora: str
    prompt: PromptSite | None = None
    whole: str | None = None
    parts: Mapping[str, DefaultSites] = field(default_factory=dict)


# The feed-forward's own output module: it adds the residual itself (ViLT), or adds and normalises it (BERT).
_OUTPUT_MODULE = DefaultSites(
    bottleneck=r"(.*\.)?layer\.\d+\.output",
    lora=r"(.*\.)?layer\.\d+\.attention\.(attention|self)\.(query|value)",
    prompt=PromptSite(r"(.*\.)?encoder"),
)
_VILT = replace(_OUTPUT_MODULE, prompt=PromptSite(r"(.*\.)?encoder", inputs=("text", "image")))
# Of the two models in sequence, only ViLT gets adapters, as in the published code.
_VILT_BERT = DefaultSites(
    bottleneck=r"vilt\.encoder\.layer\.\d+\.output",
    lora=r"vilt\.encoder\.layer\.\d+\.attention\.attention\.(query|value)",
    prompt=PromptSite(r"vilt\.encoder", inputs=("text", "image")),
)
# These layers add the residual in their own forward, so only the whole layer's output includes it.
_VIT_LAYER = DefaultSites(
    bottleneck=r"(.*\.)?layers?\.\d+",
    lora=r"(.*\.)?layers?\.\d+\.attention\.(attention\.)?(query|value|q_proj|v_proj)",
)
_CLIP_LAYER = DefaultSites(
    bottleneck=r"(.*\.)?encoder\.layers\.\d+",
    lora=r"(.*\.)?encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj)",
)
_CLIP_TEXT = replace(_CLIP_LAYER, prompt=PromptSite(r"(.*text_model\.)?encoder", causal=True), whole="fusion")
_SIGLIP_TEXT = replace(_CLIP_LAYER, prompt=PromptSite(r"(.*text_model\.)?encoder"), whole="fusion")
# Only the encoder that reads the question with the image. The layers of the image tower are
# `vision_model.encoder.layers.N`, those of the answer decoder `text_decoder.bert.encoder.layer.N.output`.
_BLIP = DefaultSites(
    bottleneck=r"text_encoder\.encoder\.layer\.\d+\.output",
    lora=r"text_encoder\.encoder\.layer\.\d+\.(cross)?attention\.self\.(query|value)",
    prompt=PromptSite(r"text_encoder\.encoder"),
)
_DECODER = DefaultSites(
    bottleneck=r"(model\.)?layers\.\d+\.mlp",
    lora=r"(model\.)?layers\.\d+\.self_attn\.(q_proj|v_proj)",
    prompt=PromptSite(r"(model)?", causal=True),
)
# A vision-language model: by default, only its language model gets adapters.
_VLM_DECODER = DefaultSites(
    bottleneck=r"(.*\.)?(text_model|language_model)\.(model\.)?layers\.\d+\.mlp",
    lora=r"(.*\.)?(text_model|language_model)\.(model\.)?layers\.\d+\.self_attn\.(q_proj|v_proj)",
    prompt=PromptSite(r"(.*\.)?(text_model|language_model)", causal=True),
    parts={
        # CLIP's and SigLIP's layers and Qwen's blocks add the residual themselves.
        "vision": DefaultSites(
            bottleneck=r"(.*\.)?(vision_(model|tower)\..*layers|visual\.blocks)\.\d+",
            lora=r"(.*\.)?(vision_(model|tower)\..*layers\.\d+\.self_attn\.(q_proj|v_proj)|visual\.blocks\.\d+\.attn\.qkv)",
        ),
        "projector": DefaultSites(
            bottleneck=r"(.*\.)?(multi_modal_projector|connector|visual\.(merger|deepstack_merger_list\.\d+))",
            lora=r"(.*\.)?(multi_modal_projector\.linear(_\d)?|connector\.modality_projection\.proj"
            r"|visual\.(merger|deepstack_merger_list\.\d+)\.(mlp\.[02]|linear_fc\d))",
        ),
    },
)
# ALBEF: ViT's layers, and BERT's in the text encoder and in the answer decoder.
_ALBEF = DefaultSites(
    bottleneck=r"(.*\.)?(vision\.layers\.\d+|text_(encoder|decoder)\.encoder\.layer\.\d+\.output)",
    lora=r"(.*\.)?(vision\.layers\.\d+\.attention\.(q_proj|v_proj)"
    r"|text_(encoder|decoder)\.encoder\.layer\.\d+\.attention\.self\.(query|value))",
    prompt=PromptSite(r"(.*\.)?text_encoder\.encoder"),
)

DEFAULT_SITES: dict[str, DefaultSites] = {
    "vilt": _VILT,
    "blip": _BLIP,
    "albef": _ALBEF,
    "vilt-bert": _VILT_BERT,
    **dict.fromkeys(("bert", "roberta", "visual_bert"), _OUTPUT_MODULE),
    **dict.fromkeys(("vit", "deit"), _VIT_LAYER),
    **dict.fromkeys(("clip", "clip_text_model"), _CLIP_TEXT),
    "siglip": _SIGLIP_TEXT,
    **dict.fromkeys(("clip_vision_model", "siglip_vision_model"), _CLIP_LAYER),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma"), _DECODER),
    **dict.fromkeys(("smolvlm", "idefics3", "paligemma", "internvl", "gemma3"), _VLM_DECODER),
    **dict.fromkeys(("llava", "llava_next", "llava_onevision"), _VLM_DECODER),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), _VLM_DECODER),
}


def default_sites(model_type: str | None, parts: Sequence[str] = PARTS[:1]) -> DefaultSites:
    """Return the default sites of a transformers ``config.model_type``, in the given ``parts`` of the model.

    Raises:
        ValueError: this type has no default sites, or lacks one of the parts.
    """
    sites = DEFAULT_SITES.get(model_type or "")
    if sites is None:
        raise ValueError(
            f"model type {model_type!r} has no default adapter sites; give a regular expression for module names "
            f"(known types: {', '.join(sorted(DEFAULT_SITES))})"
        )
    if tuple(parts) == PARTS[:1]:
        return sites
    chosen = []
    for part in parts:
        if part not in {PARTS[0], *sites.parts}:
            have = ", ".join([PARTS[0], *sites.parts])
            raise ValueError(f"model type {model_type!r} has no part {part!r} for adapters; its parts: {have}")
        chosen.append(sites if part == PARTS[0] else sites.parts[part])
    return replace(
        sites,
        bottleneck="|".join(f"({site.bottleneck})" for site in chosen),
        lora="|".join(f"({site.lora})" for site in chosen),
    )


def check_sites(model: nn.Module, sites: str, peft: str) -> None:
    """Check an expression from a user: that the modules whose full names it matches can have adapters.

    Raises:
        ValueError: it is not a regular expression, or matches nothing; a match contains another one; or a match is no
            projection, for LoRA, or has no linear layer or is a stack of layers, for bottlenecks.
    """
    if peft == "lora" and sites == "all-linear":  # PEFT's own name for them
        return
    try:
        expression = re.compile(sites)
    except re.error as error:
        raise ValueError(f"sites: {sites!r} is not a regular expression: {error}") from None
    modules = dict(model.named_modules())
    names = [name for name in modules if expression.fullmatch(name)]
    if not names:
        near = difflib.get_close_matches(sites.replace("\\", ""), modules, cutoff=0.0)
        raise ValueError(f"sites: {sites!r} matches no module's full name; names are {', '.join(near)}, ...")
    for name in names:
        module = modules[name]
        called = f"sites: {sites!r} matches {name or 'the whole model'} ({type(module).__name__})"
        if peft == "lora" and not (isinstance(module, _PROJECTIONS) or type(module).__name__ == "Conv1D"):
            raise ValueError(f"{called}, but LoRA goes on linear layers and convolutions")
        if inner := next((other for other in names if other != name and other.startswith(name and f"{name}.")), None):
            raise ValueError(f"{called} and {inner} inside it; expected one of the two")
        if peft != "lora" and not any(isinstance(child, nn.Linear) for child in module.modules()):
            raise ValueError(f"{called}, which contains no linear layer that tells the width of its output")
        if peft != "lora" and _is_tower(module):
            raise ValueError(f"{called}, a whole stack of layers; bottlenecks go on its layers or on modules in them")


def _is_tower(module: nn.Module) -> bool:
    """Return whether a module is a model, or holds a stack of layers, so that its output is more than one tensor."""
    from transformers import PreTrainedModel  # takes seconds to import

    if isinstance(module, PreTrainedModel | nn.ModuleList | nn.ModuleDict):
        return True
    return any(layer_of(name) and list(part.children()) for name, part in module.named_modules())


def matching(names: Collection[str], wanted: Collection[str]) -> str:
    """Return a regular expression that fully matches only ``wanted`` of ``names``; short if numbers do not matter."""
    short = "|".join(dict.fromkeys(re.sub(r"(?<=\\\.)\d+(?=\\\.|$)", r"\\d+", re.escape(name)) for name in wanted))
    if [name for name in names if re.fullmatch(short, name)] == [name for name in names if name in set(wanted)]:
        return short
    return "|".join(map(re.escape, wanted))


#: Modules that LoRA adapts; transformers has one more, ``Conv1D``.
_PROJECTIONS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Matches a name inside a layer; its groups are the tower of layers and the layer's number.
_IN_LAYER = re.compile(r"(.*?\b(?:layers?|blocks))\.(\d+)(?:\.|$)")


def layer_of(name: str) -> tuple[str, int] | None:
    """Return the tower and the layer number of a module or parameter, or ``None`` if it is in no layer."""
    match = _IN_LAYER.match(name)
    return (match[1], int(match[2])) if match else None


def depths(names: Iterable[str]) -> dict[str, int]:
    """Return the number of layers of each tower among ``names``, which is one more than its highest layer number."""
    found: dict[str, int] = {}
    for tower, number in filter(None, map(layer_of, names)):
        found[tower] = max(found.get(tower, 0), number + 1)
    return found


def in_last_layers(names: Collection[str], count: int) -> list[str]:
    """Return the names that are in the last ``count`` layers of their tower.

    Args:
        names: names of modules or parameters; names outside layers are left out.
        count: number of layers.
    """
    depth = depths(names)
    places = {name: place for name in names if (place := layer_of(name))}
    return [name for name, (tower, number) in places.items() if number >= depth[tower] - count]
