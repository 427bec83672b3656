"""Write a pretrained backbone as a Hugging Face model folder with its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import BertTokenizer

from feddat.precision import resolve_precision
from feddat.pretrain.objective import MAX_TEXT, Objective
from feddat.pretrain.settings import PretrainSettings
from feddat.report.markdown_table import TEXTS, markdown_table

#: Words for the model card: the number format of the forward passes.
_PRECISION = {"bf16": "bfloat16 autocast", "fp32": "float32"}


def write_model_folder(
    folder: Path,
    model: Objective,
    words: list[str],
    settings: Mapping[str, Any],
    quality: dict[str, float],
    seconds: float,
) -> None:
    """Write config, safetensors, tokenizer, image processor, measured quality and the recipe.

    Args:
        folder: folder to write; created if necessary.
        model: the pretrained model with its pretraining objective.
        words: the tokenizer's vocabulary in index order.
        settings: the pretraining settings.
        quality: accuracies in percent by name.
        seconds: wall time of the pretraining.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.pretrained.to(model.stored_dtype).save_pretrained(folder)  # type: ignore[arg-type]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=True, model_max_length=MAX_TEXT)
    tokenizer.save_pretrained(folder)
    model.image_processor().save_pretrained(folder)
    (folder / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    recipe = {"settings": settings, "seconds": round(seconds), "scenes": settings["steps"] * settings["batch_size"]}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    (folder / "README.md").write_text(_card(model, recipe, quality), encoding="utf-8")


def _card(model: Objective, recipe: dict[str, Any], quality: dict[str, float]) -> str:
    settings = recipe["settings"]
    rows = [(_QUALITY_NAMES.get(key, key), f"{value:.1f}") for key, value in quality.items()]
    family = "" if settings["family"] == PretrainSettings.family else f" family={settings['family']}"
    return f"""---
license: cc-by-sa-4.0
pipeline_tag: visual-question-answering
---
# {model.name}

{model.about(settings)}
It knows one small world: up to four emoji on coloured tiles. It exists so that federated fine-tuning can be tried,
tested and measured offline in seconds. It cannot interpret photographs.

## Data

{recipe["scenes"]:,} scenes of FedDAT's *plain* mini world, drawn at random from 40 % of all object combinations, each
with one text made from its scene graph: a caption with words masked, a caption that fits or has one wrong word, or a
question with a one-word answer. They include no image of another visual domain, no counting or comparing, and no text
worded like a downstream question. The downstream splits use other object combinations. The glyphs come from OpenMoji
(CC BY-SA 4.0), hence this licence.

## Recipe

`feddat pretrain DIR{family}`, settings in `recipe.json`. {model.start(settings)}AdamW, peak learning rate
{settings["lr"]}, warm-up, cosine decay, {settings["steps"]:,} steps of {settings["batch_size"]} scenes,
{_PRECISION[resolve_precision(settings["precision"])]}; scenes of the first {settings["simple_steps"]:,} steps hold only
one or two objects. Losses: {model.losses}.
The scene graph supervises two more losses: every image token predicts the object and colour of its cell, and every
object's name in a text predicts its cell and colour (in the spirit of MDETR, arXiv 2104.12763). Compute:
{settings["jobs"]} CPU cores for {recipe["seconds"] / 60:.0f} minutes.

## Quality

Percentage of correct predictions on held-out object combinations in the plain world, in scenes of two to four objects.
One word of a caption is masked; the visible rest is enough to identify it. Half of the captions to match have one wrong
word.
{model.answering}

{markdown_table(("measure", "%"), rows, (TEXTS, TEXTS))}"""


_QUALITY_NAMES = {
    "match": "whether the caption fits the image",
    **{
        f"{place}/{kind}": f"masked {kind} word, predicted {how}"
        for place, how in (("word", "at its position"), ("pooled", "from the pooled feature"))
        for kind in ("object", "colour", "place", "relation")
    },
    **{
        f"question/{kind}": f"question for {kind}"
        for kind in ("colour", "group", "kind", "neighbour", "object", "place", "relation", "yes/no")
    },
}
