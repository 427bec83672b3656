"""Where adapters go by default: one row per family of transformers, matched against full module names.

METHOD: bottleneck adapters sit after every feed-forward block; LoRA goes on the query and value projections. The rows
name modules as transformers 5 does; a leading ``(.*\\.)?`` lets the same row fit a bare model and one inside a task
model (``encoder.layer.0`` and ``vilt.encoder.layer.0``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DefaultSites:
    """Regular expressions that must match a module's whole name.

    Attributes:
        bottleneck: modules whose output the adapter reads (see :mod:`feddat.adapters.bottleneck.layer`).
        lora: linear projections that LoRA adapts.
    """

    bottleneck: str
    lora: str


# The feed-forward's own output module: it adds the residual itself (ViLT), or adds and normalises it (BERT).
_OUTPUT_MODULE = DefaultSites(
    bottleneck=r"(.*\.)?layer\.\d+\.output",
    lora=r"(.*\.)?layer\.\d+\.attention\.(attention|self)\.(query|value)",
)
# Layers that add the residual in their own forward: only the whole layer's output has it.
_VIT_LAYER = DefaultSites(
    bottleneck=r"(.*\.)?layers?\.\d+",
    lora=r"(.*\.)?layers?\.\d+\.attention\.(attention\.)?(query|value|q_proj|v_proj)",
)
_CLIP_LAYER = DefaultSites(
    bottleneck=r"(.*\.)?encoder\.layers\.\d+",
    lora=r"(.*\.)?encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj)",
)
_DECODER = DefaultSites(
    bottleneck=r"(model\.)?layers\.\d+\.mlp",
    lora=r"(model\.)?layers\.\d+\.self_attn\.(q_proj|v_proj)",
)
# A vision-language model: its language model only, never the vision tower.
_VLM_DECODER = DefaultSites(
    bottleneck=r"(.*\.)?(text_model|language_model)\.(model\.)?layers\.\d+\.mlp",
    lora=r"(.*\.)?(text_model|language_model)\.(model\.)?layers\.\d+\.self_attn\.(q_proj|v_proj)",
)

DEFAULT_SITES: dict[str, DefaultSites] = {
    **dict.fromkeys(("vilt", "bert", "roberta", "visual_bert"), _OUTPUT_MODULE),
    **dict.fromkeys(("vit", "deit"), _VIT_LAYER),
    **dict.fromkeys(("clip", "clip_text_model", "clip_vision_model"), _CLIP_LAYER),
    **dict.fromkeys(("siglip", "siglip_vision_model"), _CLIP_LAYER),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma"), _DECODER),
    **dict.fromkeys(("smolvlm", "idefics3", "paligemma", "internvl"), _VLM_DECODER),
    **dict.fromkeys(("llava", "llava_next", "llava_onevision"), _VLM_DECODER),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), _VLM_DECODER),
}


def default_sites(model_type: str | None) -> DefaultSites:
    """Return the default sites of a transformers ``config.model_type``.

    Raises:
        ValueError: there are no defaults for this type.
    """
    sites = DEFAULT_SITES.get(model_type or "")
    if sites is None:
        raise ValueError(
            f"model type {model_type!r} has no default adapter sites: give a regular expression over module names "
            f"(known types: {', '.join(sorted(DEFAULT_SITES))})"
        )
    return sites
