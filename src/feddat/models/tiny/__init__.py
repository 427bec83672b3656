"""Small models with random weights in the genuine folder layout of each family, for trying a family out and for tests.

They know nothing, but loading, adapters, training, answering and saving work on them as on published folders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from feddat.models.base import ModelError
from feddat.models.tiny.albef import make_albef
from feddat.models.tiny.blip import make_blip
from feddat.models.tiny.decoder import DECODERS
from feddat.models.tiny.settings import TinySettings
from feddat.models.tiny.two_towers import make_clip, make_siglip
from feddat.models.tiny.vilt import make_vilt, make_vilt_bert
from feddat.models.tiny.words import bundled_words

#: Function that writes a model folder, given the folder, settings with ``layers`` set, and the words of its tokenizer.
Builder = Callable[[Path, TinySettings, Sequence[str]], None]


#: Family, as in :data:`feddat.models.catalog.FAMILIES` -> function that writes its folder, and the number of layers per
#: stack with which it is about as large as the bundled vilt-mini.
TINY: Mapping[str, tuple[Builder, int]] = {
    "vilt": (make_vilt, 5),
    "vilt-bert": (make_vilt_bert, 3),
    "blip": (make_blip, 2),
    "albef": (make_albef, 2),
    "clip": (make_clip, 3),
    "siglip": (make_siglip, 3),
    **{family: (build, 2 if family == "qwen3_vl" else 3) for family, build in DECODERS.items()},
}


def make_tiny(
    family: str, folder: Path, settings: TinySettings | None = None, words: Sequence[str] | None = None
) -> Path:
    """Write a small random model of a family into a new folder, and return the folder.

    Args:
        family: key of :data:`TINY`.
        folder: folder to write; it must not exist, or be empty.
        settings: sizes and seed; default: about as large as the bundled vilt-mini.
        words: words that become one token each, while all others are spelt; default: vilt-mini's words, which include
            those of the mini suite.

    Raises:
        ModelError: the family is unknown, or ``folder`` is not empty.
    """
    if family not in TINY:
        raise ModelError(f"family {family!r}: unknown; expected one of {', '.join(TINY)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"folder {folder}: already exists; expected a new or empty folder")
    build, layers = TINY[family]
    settings = settings or TinySettings()
    if settings.layers is None:
        settings = dataclasses.replace(settings, layers=layers)
    folder.mkdir(parents=True, exist_ok=True)
    build(folder, settings, bundled_words() if words is None else words)
    return folder
