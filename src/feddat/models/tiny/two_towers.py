"""A small CLIP and a small SigLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from feddat.models.tiny.settings import TinySettings
from feddat.models.tiny.weights import save_random
from feddat.models.tiny.words import clip_tokenizer, siglip_tokenizer


def make_clip(folder: Path, settings: TinySettings, words: Sequence[str]) -> None:
    """Write a CLIP. As in published ones, the image tower is wider (by half), and both project to another width."""
    size = clip_tokenizer(words, folder)
    text = settings.stack() | {
        "vocab_size": size,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
        "max_position_embeddings": settings.tokens,
    }
    wider = {"hidden_size": settings.hidden * 3 // 2, "intermediate_size": settings.intermediate * 3 // 2}
    vision = settings.stack() | settings.pictures() | wider
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=settings.hidden // 2)
    save_random(lambda: CLIPModel(config), settings.seed, folder)
    side = settings.image
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        folder
    )


def make_siglip(folder: Path, settings: TinySettings, words: Sequence[str]) -> None:
    """Write a SigLIP. It pads all texts to full length."""
    text = settings.stack() | {
        "vocab_size": siglip_tokenizer(words, folder),
        "max_position_embeddings": settings.tokens,
        "projection_size": settings.hidden,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    config = SiglipConfig(text_config=text, vision_config=settings.stack() | settings.pictures())
    save_random(lambda: SiglipModel(config), settings.seed, folder)
    SiglipImageProcessorPil(size={"height": settings.image, "width": settings.image}).save_pretrained(folder)
