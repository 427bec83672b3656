"""A small BLIP for question answering."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import BlipConfig, BlipForQuestionAnswering
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from feddat.models.tiny.settings import TinySettings
from feddat.models.tiny.weights import save_random
from feddat.models.tiny.words import bert_tokenizer


def make_blip(folder: Path, settings: TinySettings, words: Sequence[str]) -> None:
    """Write a BLIP in the layout of ``Salesforce/blip-vqa-base``.

    As in published folders, the start token of answers has a word embedding but is not in the tokenizer.
    """
    vocabulary = bert_tokenizer(words, folder)
    text = settings.stack() | {
        "vocab_size": len(vocabulary) + 2,
        "bos_token_id": len(vocabulary),
        "sep_token_id": vocabulary["[SEP]"],
        "pad_token_id": 0,
        "max_position_embeddings": settings.tokens,
    }
    config = BlipConfig(text_config=text, vision_config=settings.stack() | settings.pictures())
    save_random(lambda: BlipForQuestionAnswering(config), settings.seed, folder)
    BlipImageProcessorPil(size={"height": settings.image, "width": settings.image}).save_pretrained(folder)
