"""How large a small model is, and the seed of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from feddat.models.base import ModelError
from feddat.text import did_you_mean


@dataclass(frozen=True, slots=True)
class TinySettings:
    """The sizes of one small model; the defaults are the bundled vilt-mini's.

    Attributes:
        hidden: width of the text side, and of the image side but for CLIP's, which is half as wide again.
        layers: of each stack; default: per family, see :data:`feddat.models.tiny.TINY`.
        heads: attention heads.
        image: side of a picture, in pixels.
        patch: side of a patch, in pixels.
        tokens: that a text may have.
        seed: of the weights.
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
            ModelError: they do not.
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
        """Return the sizes of one stack of layers, under the names that transformers' configurations have."""
        return {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.intermediate,
        }

    def pictures(self) -> dict[str, int]:
        """Return what an image encoder's configuration says of pictures."""
        return {"image_size": self.image, "patch_size": self.patch}


#: Named sizes: about as large as the bundled vilt-mini, or as small as unit tests want it.
SIZES = {
    "bundled": TinySettings(),
    "unit": TinySettings(hidden=32, layers=2, heads=2, image=32, patch=16, tokens=16),
}


def parse_settings(overrides: Sequence[str]) -> TinySettings:
    """Return settings from ``key=value`` texts; ``size=NAME``, of :data:`SIZES`, is what the others change.

    Raises:
        ModelError: a key is unknown, or a value is no whole number or does not fit.
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
