"""Write a pretrained backbone as a Hugging Face model folder with its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import BertTokenizer, ViltForMaskedLM
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from feddat.data.mini.render import CANVAS


def write_model_folder(
    folder: Path,
    model: ViltForMaskedLM,
    words: list[str],
    settings: dict[str, Any],
    quality: dict[str, float],
    seconds: float,
) -> None:
    """Write config, safetensors, tokenizer, image processor, measured quality and the recipe.

    Args:
        folder: created where needed.
        model: the ViLT with its masked-word head.
        words: the tokenizer's vocabulary in index order.
        settings: the pretraining settings.
        quality: accuracies in percent by name.
        seconds: wall time of the pretraining.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizer(
        vocab=str(folder / "vocab.txt"), do_lower_case=True, model_max_length=model.config.max_position_embeddings
    ).save_pretrained(folder)
    preparation: dict[str, Any] = {
        "size": {"shortest_edge": CANVAS},
        "size_divisor": model.config.patch_size,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    ViltImageProcessorPil(**preparation).save_pretrained(folder)
    (folder / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    recipe = {"settings": settings, "seconds": round(seconds), "scenes": settings["steps"] * settings["batch_size"]}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    (folder / "README.md").write_text(_card(parameters, recipe, quality), encoding="utf-8")


def _card(parameters: int, recipe: dict[str, Any], quality: dict[str, float]) -> str:
    settings = recipe["settings"]
    rows = "\n".join(f"| {_QUALITY_NAMES.get(key, key)} | {value:.1f} |" for key, value in quality.items())
    return f"""---
license: cc-by-sa-4.0
pipeline_tag: visual-question-answering
---
# vilt-mini

A ViLT (arXiv 2102.03334) of {parameters / 1e6:.2f} M parameters ({settings["layers"]} layers, width
{settings["hidden"]}, patches of {settings["patch"]} pixels on a {CANVAS}-pixel canvas) that knows one small world:
up to four emoji on coloured tiles. It exists so that federated fine-tuning can be tried, tested and measured offline
in seconds. It knows nothing of photographs.

## Data

{recipe["scenes"]:,} scenes of FedDAT's *plain* mini world, drawn at random from 40 % of all object combinations, each
with one text made from its scene graph: a caption with words masked, a caption that fits or has one wrong word, or a
question with a one-word answer. No image of another visual domain, no counting or comparing, and no text worded like a
downstream question is among them; the object combinations of the downstream splits are others. The glyphs are
OpenMoji's (CC BY-SA 4.0), hence this licence.

## Recipe

`feddat pretrain`, settings in `recipe.json`. AdamW, peak learning rate {settings["lr"]}, warm-up, cosine decay,
{settings["steps"]:,} steps of {settings["batch_size"]} scenes, bfloat16 autocast; the first
{settings["simple_steps"]:,} steps see one or two objects only. Losses: masked words; image-text matching; the pooled
feature names one masked word, or a question's answer, through the masked-word head. The scene graph supervises two
more: every image token names the object and colour of its cell, and every object's name in a text names its cell and
colour (in the spirit of MDETR, arXiv 2104.12763). Compute: {settings["jobs"]} CPU cores for
{recipe["seconds"] / 60:.0f} minutes.

## Quality

Percent right on held-out object combinations in the plain world, scenes of two to four objects. One word of a caption
is masked, the rest is visible and enough to identify it; captions to match have one wrong word in half of the cases.

| measure | % |
| --- | --- |
{rows}
"""


_QUALITY_NAMES = {
    "match": "caption fits the image or not",
    **{
        f"{place}/{kind}": f"masked {kind} word, {how}"
        for place, how in (("word", "named in place"), ("pooled", "named by the pooled feature"))
        for kind in ("object", "colour", "place", "relation")
    },
    **{
        f"question/{kind}": f"question for {kind}"
        for kind in ("colour", "group", "kind", "neighbour", "object", "place", "relation", "yes/no")
    },
}
