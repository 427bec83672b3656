"""A small ViLT with its masked-word head, and a small ViLT with a small BERT in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import BertConfig, BertModel, ViltConfig, ViltForMaskedLM
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from feddat.models.tiny.settings import TinySettings
from feddat.models.tiny.weights import save_random
from feddat.models.tiny.words import bert_tokenizer
from feddat.models.vilt_bert.parts import write_vilt_bert


def make_vilt(folder: Path, settings: TinySettings, words: Sequence[str]) -> None:
    """Write a ViLT in the layout of ``dandelin/vilt-b32-mlm``."""
    vocabulary = bert_tokenizer(words, folder)
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": settings.tokens, "pad_token_id": 0}
    config = ViltConfig(**(settings.stack() | settings.pictures() | text))
    save_random(lambda: ViltForMaskedLM(config), settings.seed, folder)
    pictures: dict[str, Any] = {"size": {"shortest_edge": settings.image}, "size_divisor": settings.patch}
    ViltImageProcessorPil(**pictures).save_pretrained(folder)


def make_bert(folder: Path, settings: TinySettings, words: Sequence[str]) -> None:
    """Write a BERT in the layout of ``bert-base-uncased``."""
    vocabulary = bert_tokenizer(words, folder)
    config = BertConfig(
        **settings.stack(), vocab_size=len(vocabulary), max_position_embeddings=settings.tokens, pad_token_id=0
    )
    save_random(lambda: BertModel(config), settings.seed, folder)


def make_vilt_bert(folder: Path, settings: TinySettings, words: Sequence[str]) -> None:
    """Write a folder that names its two parts, and the parts inside it."""
    make_vilt(folder / "vilt", settings, words)
    make_bert(folder / "bert", settings, words)
    write_vilt_bert(folder, Path("vilt"), Path("bert"))
