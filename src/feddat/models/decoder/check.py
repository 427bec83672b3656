"""Compare the inputs that we make for a decoder with those of its folder's own processor.

Tests do this for the families in :data:`feddat.models.catalog.DECODERS`. Other families are compared when they are
loaded, on two test pictures, because a small difference (another token, fewer tiles) silently makes a model worse.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image as Pictures
from torch import Tensor

from feddat.models.base import ModelError
from feddat.models.folder import first_line
from feddat.models.weights import quiet

if TYPE_CHECKING:
    from feddat.models.decoder.encoder import DecoderEncoder
    from feddat.pictures import Pixels

#: Height and width of the test pictures: one is larger than the resolution of most models.
_SIZES = ((480, 720), (64, 48))
_QUESTION = "What is in the picture?"
#: Maximum difference of normalised pixels, about three of 256 levels.
_PIXELS = 0.05
_passed: set[str] = set()


def check_like_stock(encoder: DecoderEncoder, family: str, folder: Path) -> None:
    """Compare an encoder with its folder's processor; once per process and folder.

    Raises:
        ModelError: the inputs differ, or the processor cannot be called.
    """
    if encoder.fingerprint in _passed:
        return
    generator = np.random.default_rng(0)
    for size in _SIZES:
        picture = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        try:
            expected = _stock(encoder, picture)
            found = encoder.views([encoder.image(picture)], [0], encoder.texts([_QUESTION])).batch([0], _CPU)
        except Exception as error:  # processors raise many kinds of errors for pictures that they cannot take
            raise ModelError(
                f"model folder {folder}: the processor of model_type {family!r} cannot be used: {first_line(error)}"
            ) from error
        if differing := _difference(found, expected):
            raise ModelError(
                f"model folder {folder}: model_type {family!r} is none of the tested ones, and for a picture of "
                f"{size[1]} x {size[0]} pixels, {differing}; this model cannot be used"
            )
    _passed.add(encoder.fingerprint)


_CPU = torch.device("cpu")


def _stock(encoder: DecoderEncoder, picture: Pixels) -> dict[str, Tensor]:
    """Return the inputs of the folder's own processor."""
    chat = encoder.chat
    special = {} if chat.adds_special else {"add_special_tokens": False}
    with quiet():
        made = encoder.processor(
            images=[[Pictures.fromarray(picture)]], text=[chat.render(_QUESTION)], return_tensors="pt", **special
        )
    return {key: value for key, value in made.items() if isinstance(value, Tensor)}


def _difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> str | None:
    """Return how inputs differ from the expected ones, or ``None`` if they do not."""
    # Tokenizers add types of 0, which no decoder reads; image processors add numbers that no model takes.
    used = {key for key, value in expected.items() if key in found or key != "token_type_ids" or value.any()}
    for key in sorted(used | {key for key in found if key.endswith("token_type_ids")}):
        if key not in found or key not in expected:
            return f"its own processor makes {'no ' if key in found else ''}{key}, unlike this package"
        own, stock = found[key], expected[key]
        if own.shape != stock.shape:
            return f"{key} has shape {tuple(own.shape)}, but {tuple(stock.shape)} from its own processor"
        wide = own.dtype.is_floating_point
        apart = int(((own - stock).abs() > _PIXELS if wide else own != stock).sum())
        if apart:
            return f"{apart} of {own.numel()} values of {key} differ from those of its own processor"
    return None
