"""How to read pictures: the settings in a run's ``pictures:``, which a client's own can override."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

#: Settings that decide whether a picture is read, but not what it looks like.
_LIMITS = frozenset({"max_pixels", "outside"})
#: Settings that a client with its own file takes from no server. A server that chooses them learns from whether the
#: client fails how large its largest picture is, how many pictures a file has, and where records lead.
CLIENTS_OWN = ("max_pixels", "frame", "outside")


class PictureSettings(BaseModel):
    """How to read a client's pictures (docs/data.md)."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)

    max_pixels: int = Field(
        100_000_000, ge=1, description="refuse pictures with more pixels before decoding them: a pixel takes 7 bytes"
    )
    truncated: bool = Field(False, description="read truncated files as far as they go; the rest is black or grey")
    grey: Literal["declared", "percentiles"] = Field(
        "declared",
        description="for greys of more than 8 bits, the range to map to 0 to 255: the one that the file declares, or "
        "the one between the picture's own percentiles 0.5 and 99.5",
    )
    frame: Annotated[int, Field(ge=1)] | Literal["middle"] = Field(
        1, description="which picture to read from a file with several (TIFF, DICOM, GIF, WebP, PNG, AVIF), from 1"
    )
    pad: bool = Field(
        False, description="pad pictures that are too narrow for the model with white instead of refusing them"
    )
    outside: bool = Field(False, description="allow records to name pictures outside the images folder")

    def updated(self, values: Mapping[str, Any]) -> PictureSettings:
        """Return a copy with other values.

        Raises:
            ValueError: a key is unknown or a value is invalid; the message names them in one line.
        """
        try:
            return PictureSettings.model_validate(self.model_dump() | dict(values))
        except ValidationError as error:
            known = ", ".join(PictureSettings.model_fields)
            told = []
            for item in error.errors():
                key = str(item["loc"][0])
                unknown = item["type"] == "extra_forbidden"
                told.append(f"unknown key {key!r}; known: {known}" if unknown else f"{key}: {item['msg']}")
            raise ValueError("; ".join(dict.fromkeys(told))) from None

    def from_server(self) -> PictureSettings:
        """Return a copy as a client with its own file takes it from a server: with the defaults of what is its own."""
        return self.updated({key: PictureSettings.model_fields[key].default for key in CLIENTS_OWN})

    def deciding(self) -> dict[str, Any]:
        """Return the settings that affect what a picture looks like and differ from their defaults."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude=set(_LIMITS))

    def fingerprint(self, encoder: str) -> str:
        """Return the fingerprint of an encoder's output with these settings; by default, the encoder's own."""
        deciding = self.deciding()
        if not deciding:
            return encoder
        return hashlib.blake2b(f"{encoder}{json.dumps(deciding, sort_keys=True)}".encode(), digest_size=16).hexdigest()
