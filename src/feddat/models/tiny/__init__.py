"""Small models with random weights, in the genuine layout of each family's folders: to try a family out, and for tests.

They know nothing, but everything that a published folder goes through works on them alike: loading, adapters, training,
answers, saving.
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

#: Writes a model folder; takes the folder, the settings with ``layers`` filled in, and the words to know as a whole.
Builder = Callable[[Path, TinySettings, Sequence[str]], None]


#: Family, as in :data:`feddat.models.catalog.FAMILIES` -> what writes a folder of it, and the layers of each of its
#: stacks that make it about as large as the bundled vilt-mini.
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
        folder: to write; it must not exist or be empty.
        settings: sizes and seed; default: about as large as the bundled vilt-mini.
        words: that the tokenizer knows as a whole, others are spelt; default: vilt-mini's, hence the mini suite's.

    Raises:
        ModelError: there is no such family, or ``folder`` has something in it.
    """
    if family not in TINY:
        raise ModelError(f"family {family!r}: unknown; expected {', '.join(TINY)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"folder {folder}: exists already; expected a new one")
    build, layers = TINY[family]
    settings = settings or TinySettings()
    if settings.layers is None:
        settings = dataclasses.replace(settings, layers=layers)
    folder.mkdir(parents=True, exist_ok=True)
    build(folder, settings, bundled_words() if words is None else words)
    return folder
