"""A small ALBEF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from feddat.models.albef.convert import BICUBIC, MEAN, STD
from feddat.models.albef.model import AlbefConfig, AlbefForQuestionAnswering
from feddat.models.tiny.settings import TinySettings
from feddat.models.tiny.weights import save_random
from feddat.models.tiny.words import bert_tokenizer


def albef_config(settings: TinySettings, vocab_size: int) -> AlbefConfig:
    """Return a configuration with ``layers`` layers each for pictures, words before fusion, fusion, and the decoder."""
    layers = settings.layers or 1
    return AlbefConfig(
        vision_config=settings.stack() | settings.pictures() | {"layer_norm_eps": 1e-6},
        text_config=settings.stack()
        | {"num_hidden_layers": 2 * layers, "vocab_size": vocab_size, "max_position_embeddings": settings.tokens},
        fusion_layer=layers,
        decoder_layers=layers,
    )


def make_albef(folder: Path, settings: TinySettings, words: Sequence[str]) -> None:
    """Write an ALBEF in the layout that ``feddat convert`` writes."""
    config = albef_config(settings, len(bert_tokenizer(words, folder)))
    save_random(lambda: AlbefForQuestionAnswering(config), settings.seed, folder)
    size = {"height": settings.image, "width": settings.image}
    ViTImageProcessorPil(size=size, resample=BICUBIC, image_mean=MEAN, image_std=STD).save_pretrained(folder)
