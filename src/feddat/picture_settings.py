"""How pictures are read: what a run's ``pictures:`` sets, and a client's own may set otherwise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

#: Settings that decide whether a picture is read, not what it looks like then.
_LIMITS = frozenset({"max_pixels", "outside"})


class PictureSettings(BaseModel):
    """How a client's pictures are read (docs/data.md)."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)

    max_pixels: int = Field(
        100_000_000, ge=1, description="refuse pictures of more pixels, before they are decoded: each takes 7 bytes"
    )
    truncated: bool = Field(
        False, description="read what there is of files that are cut short; the rest is black or grey"
    )
    grey: Literal["declared", "percentiles"] = Field(
        "declared",
        description="greys of more than 8 bits: the range that the file declares becomes 0 to 255, or the range "
        "between the picture's own percentiles 0.5 and 99.5",
    )
    frame: Annotated[int, Field(ge=1)] | Literal["middle"] = Field(
        1, description="which picture of a file that holds several (TIFF, DICOM, GIF, WebP, PNG, AVIF), from 1"
    )
    pad: bool = Field(False, description="put white beside pictures that are too narrow for the model, not refuse them")
    outside: bool = Field(False, description="let records name pictures outside the images folder")

    def updated(self, values: Mapping[str, Any]) -> PictureSettings:
        """Return a copy with other values.

        Raises:
            ValueError: a key is unknown or a value does not fit; one line that names them.
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

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide what a picture looks like, as far as they are not the default ones."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude=set(_LIMITS))

    def fingerprint(self, encoder: str) -> str:
        """Return the fingerprint of what an encoder makes of pictures that are read so: its own by default."""
        deciding = self.deciding()
        if not deciding:
            return encoder
        return hashlib.blake2b(f"{encoder}{json.dumps(deciding, sort_keys=True)}".encode(), digest_size=16).hexdigest()
