"""Sizes and seed of a small model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from feddat.models.base import ModelError
from feddat.text import did_you_mean


@dataclass(frozen=True, slots=True)
class TinySettings:
    """Sizes and seed of one small model; the defaults are the sizes of the bundled vilt-mini.

    Attributes:
        hidden: width of the text side and of the image side, except that CLIP's image side is 1.5 times as wide.
        layers: layers per stack; default: depends on the family, see :data:`feddat.models.tiny.TINY`.
        heads: number of attention heads.
        image: side of a picture in pixels.
        patch: side of a patch in pixels.
        tokens: maximum number of tokens of a text.
        seed: seed of the weights.
    """

    hidden: int = 160
    layers: int | None = None
    heads: int = 5
    image: int = 64
    patch: int = 16
    tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that the sizes fit together.

        Raises:
            ModelError: a size is too small, or is not a multiple of another one as required.
        """
        for item in fields(self):
            value, least = getattr(self, item.name), 0 if item.name == "seed" else 1
            if value is not None and value < least:
                raise ModelError(f"{item.name}: {value}; expected at least {least}")
        if self.hidden % (2 * self.heads):
            raise ModelError(f"hidden: {self.hidden}; expected a multiple of twice the {self.heads} heads")
        if self.image % self.patch:
            raise ModelError(f"image: {self.image}; expected a multiple of the patch of {self.patch} pixels")

    @property
    def intermediate(self) -> int:
        """Return the inner width of feed-forward blocks."""
        return 4 * self.hidden

    def stack(self) -> dict[str, Any]:
        """Return the sizes of one stack of layers, under their names in transformers' configurations."""
        return {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.intermediate,
        }

    def pictures(self) -> dict[str, int]:
        """Return the picture sizes for the configuration of an image encoder."""
        return {"image_size": self.image, "patch_size": self.patch}


#: Named sizes: ``bundled`` is about as large as the bundled vilt-mini, ``unit`` is small enough for unit tests.
SIZES = {
    "bundled": TinySettings(),
    "unit": TinySettings(hidden=32, layers=2, heads=2, image=32, patch=16, tokens=16),
}


def parse_settings(overrides: Sequence[str]) -> TinySettings:
    """Return settings from ``key=value`` texts. ``size=NAME`` chooses from :data:`SIZES`, and other keys change it.

    Raises:
        ModelError: a key is unknown, or a value is not a whole number or does not fit.
    """
    known = ("size", *(item.name for item in fields(TinySettings)))
    values: dict[str, str] = {}
    for item in overrides:
        key, separator, value = item.partition("=")
        if not separator or key not in known:
            hint = did_you_mean(key, known) or f"; known: {', '.join(known)}"
            raise ModelError(f"{item!r}: expected key=value with a known key{hint}")
        values[key] = value
    size = values.pop("size", "bundled")
    if size not in SIZES:
        raise ModelError(f"size: {size!r}; expected {' or '.join(SIZES)}")
    numbers: dict[str, int] = {}
    for key, value in values.items():
        try:
            numbers[key] = int(value)
        except ValueError:
            raise ModelError(f"{key}: {value!r}; expected a whole number") from None
    kept = {item.name: getattr(SIZES[size], item.name) for item in fields(TinySettings)}
    return TinySettings(**(kept | numbers))
