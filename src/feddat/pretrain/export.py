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
