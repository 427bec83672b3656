"""Models and data for measurements: model folders with random weights, and a client whose pictures are JPEG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizer, ViltConfig, ViltModel
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from feddat.config import ConfigError
from feddat.example import ClientData, Example
from feddat.models.albef.model import AlbefConfig, AlbefForQuestionAnswering
from feddat.models.catalog import load_encoder
from feddat.seeding import numpy_generator

#: Number of word embeddings of bert-base-uncased.
_WORDS = 30522
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model to measure with.

    Attributes:
        title: name of the model in tables.
        write: function that writes its folder; ``None`` for a bundled model, which is loaded by name.
        side: side of the square JPEG files in pixels.
        words: words per question; each becomes one token.
        batch: examples per step.
    """

    title: str
    write: Callable[[Path], None] | None
    side: int
    words: int
    batch: int


def find_model(name: str) -> BenchModel:
    """Return one of :data:`MODELS`.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in MODELS:
        raise ConfigError(f"model {name!r}: unknown; expected one of {', '.join(MODELS)}")
    return MODELS[name]


def model_folder(name: str, below: Path) -> str:
    """Return the name or folder of one of :data:`MODELS` for ``load_backbone``, writing its folder once in ``below``.

    Raises:
        ConfigError: the name is unknown.
    """
    write = find_model(name).write
    if write is None:
        return name
    folder = below / name
    if not (folder / "preprocessor_config.json").is_file():  # written last
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            write(folder)
    return str(folder)


def make_client(model: str, folder_or_name: str, folder: Path, examples: int) -> ClientData:
    """Return a client for one of :data:`MODELS`, with pictures in ``folder`` and words from the model's vocabulary.

    Raises:
        ConfigError: the name is unknown.
    """
    encoder: Any = load_encoder(folder_or_name)
    words = sorted(word for word in encoder.tokenizer.get_vocab() if word.isalnum())
    known = find_model(model)
    return write_client(folder, "bench", known.side, words[:1000], known.words, examples)


def write_client(
    folder: Path, name: str, side: int, vocabulary: Sequence[str], words: int, examples: int
) -> ClientData:
    """Return a client with ``examples`` training questions, each about its own JPEG file in ``folder``.

    Pictures are square smooth noise, about as large on disk as photographs. A question has ``words`` words of the
    vocabulary. The up to 100 answers are single words of the same vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = numpy_generator(0, "bench", name)
    known = list(vocabulary[:100])
    made = []
    for index in range(examples):
        path = folder / f"{index}.jpg"
        coarse = generator.integers(0, 256, (max(side // 16, 1), max(side // 16, 1), 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(pixels + generator.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=90)
        text = " ".join(vocabulary[word] for word in generator.integers(0, len(vocabulary), words))
        given = generator.choice(len(known), size=2, replace=False)
        made.append(Example(str(index), (path,), text, {known[given[0]]: 1.0, known[given[1]]: 0.3}))
    return ClientData(name, "vqa", tuple(made), (), tuple(made), tuple(known))


def _write_vilt(folder: Path) -> None:
    """Write ViLT-B/32 as published, with random weights."""
    ViltModel(ViltConfig(max_image_length=-1)).save_pretrained(folder)
    _write_tokenizer(folder)
    ViltImageProcessorPil().save_pretrained(folder)


def _write_albef(folder: Path) -> None:
    """Write the published ALBEF architecture for visual question answering, with random weights."""
    AlbefForQuestionAnswering(AlbefConfig()).save_pretrained(folder)
    _write_tokenizer(folder)
    ViTImageProcessorPil(size={"height": 384, "width": 384}, resample=3).save_pretrained(folder)


def _write_tokenizer(folder: Path) -> None:
    words = [*_SPECIAL, *(f"w{index}" for index in range(_WORDS - len(_SPECIAL)))]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)


#: Name on the command line -> model. A question to ViLT-B has 12 tokens with start and end, and 157 with the patches.
MODELS = {
    "vilt-mini": BenchModel("vilt-mini, 64 px", None, side=64, words=8, batch=32),
    "vilt-b32": BenchModel("ViLT-B/32, 384 px", _write_vilt, side=480, words=10, batch=4),
    "albef-base": BenchModel("ALBEF-base, 384 px", _write_albef, side=480, words=10, batch=1),
}
