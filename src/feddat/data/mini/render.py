"""Render scenes: in one plain style for pretraining, and in visual domains that are new to the bundled model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from feddat.data.mini.atlas import GLYPH, load_atlas
from feddat.data.mini.concepts import COLOURS
from feddat.data.mini.scene import EMPTY, Scenes

#: Side of a tile and of the whole image in pixels.
CELL = 32
CANVAS = 2 * CELL
_SLACK = CELL - GLYPH

Pixels = NDArray[np.floating[Any]]
#: Draws cells (N, 4, 3, CELL, CELL) from tile colour, premultiplied glyph colour, glyph alpha, and glyph ink.
Draw = Callable[[Pixels, Pixels, Pixels, Pixels], Pixels]
#: Changes whole images (N, CANVAS, CANVAS, 3), given a source of randomness.
Finish = Callable[[Pixels, np.random.Generator], Pixels]


def render(scenes: Scenes, domain: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw scenes in a visual domain.

    Args:
        scenes: N scenes.
        domain: key of :data:`DOMAINS`.
        rng: source of noise and lighting.

    Returns:
        uint8 images, shape (N, 64, 64, 3), RGB.
    """
    if domain not in DOMAINS:
        raise ValueError(f"unknown visual domain {domain!r}; known: {', '.join(DOMAINS)}")
    objects = np.where(scenes.objects == EMPTY, len(load_atlas()), scenes.objects)
    offset = _SLACK - scenes.shifts
    glyphs = _windows()[objects, offset[..., 0], offset[..., 1]]  # (N, 4, RGBA + ink, CELL, CELL)
    tiles = _palette()[scenes.colours][..., None, None]  # (N, 4, 3, 1, 1)
    cells = DOMAINS[domain](tiles, glyphs[:, :, :3], glyphs[:, :, 3:4], glyphs[:, :, 4:5])
    image = cells.reshape(-1, 2, 2, 3, CELL, CELL).transpose(0, 1, 4, 2, 5, 3).reshape(-1, CANVAS, CANVAS, 3)
    finish = _FINISH.get(domain)
    if finish is not None:
        image = finish(image, rng)
    noise = rng.standard_normal(image.shape, np.float32)
    image = image + noise * np.float32(_NOISE.get(domain, 0.012))
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def cover(images: NDArray[np.uint8], cells: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return copies of ``images`` (N, 64, 64, 3) with one cell each, ``cells`` (N,), hidden under a hatched cloth."""
    rows, columns = np.mgrid[:CELL, :CELL]
    cloth = np.where(
        ((rows + columns) // 4 % 2 == 0)[..., None], np.array([60, 60, 66], np.uint8), np.array([96, 96, 104], np.uint8)
    )
    covered = images.copy()
    for image, cell in zip(covered, cells, strict=True):
        top, left = int(cell) // 2 * CELL, int(cell) % 2 * CELL
        image[top : top + CELL, left : left + CELL] = cloth
    return covered


@cache
def _palette() -> Pixels:
    return np.array(list(COLOURS.values()), np.float32) / 255


@cache
def _windows() -> Pixels:
    """Every glyph at every shift as one zero-copy view, (concepts + 1, 7, 7, 5, CELL, CELL); the last one is empty."""
    atlas = load_atlas()
    sheet = np.zeros((len(atlas) + 1, GLYPH + 2 * _SLACK, GLYPH + 2 * _SLACK, 5), np.float32)
    sheet[:-1, _SLACK:-_SLACK, _SLACK:-_SLACK, :4] = atlas
    # Ink: where the brightness of the glyph on white changes, i.e. its outlines and inner strokes.
    bright = sheet[..., :3].mean(-1) + 1 - sheet[..., 3]
    dy, dx = np.gradient(bright, axis=(1, 2))
    sheet[..., 4] = (2.6 * np.hypot(dy, dx)).clip(0, 1)
    return sliding_window_view(sheet, (CELL, CELL), axis=(1, 2))


@cache
def _frame() -> Pixels:
    frame = np.zeros((CELL, CELL), np.float32)
    frame[:3], frame[-3:], frame[:, :3], frame[:, -3:] = 1, 1, 1, 1
    return frame


def _plain(tile: Pixels, colour: Pixels, alpha: Pixels, _ink: Pixels) -> Pixels:
    return tile * (1 - alpha) + colour


def _sketch(tile: Pixels, _colour: Pixels, _alpha: Pixels, ink: Pixels) -> Pixels:
    paper = 0.96 * (1 - _frame()) + tile * _frame()
    return paper * (1 - ink) + 0.15 * ink


def _silhouette(tile: Pixels, _colour: Pixels, alpha: Pixels, _ink: Pixels) -> Pixels:
    return tile * (1 - alpha) + 0.1 * alpha


def _chalk(tile: Pixels, _colour: Pixels, _alpha: Pixels, ink: Pixels) -> Pixels:
    board = np.array([0.14, 0.22, 0.19], np.float32)[:, None, None]
    stroke = np.maximum(ink, _frame())
    drawn: Pixels = board * (1 - stroke) + (0.75 * tile + 0.25) * stroke
    return drawn


def _xray(tile: Pixels, colour: Pixels, alpha: Pixels, _ink: Pixels) -> Pixels:
    negative = alpha - colour.mean(axis=2, keepdims=True)
    cell: Pixels = tile * (1 - alpha) + negative * np.array([0.8, 0.95, 1.0], np.float32)[:, None, None]
    return cell


def _over_plain(style: Draw, strength: float) -> Draw:
    """Blend a style with the plain style; ``strength`` is the share of the former."""

    def draw(tile: Pixels, colour: Pixels, alpha: Pixels, ink: Pixels) -> Pixels:
        return strength * style(tile, colour, alpha, ink) + (1 - strength) * _plain(tile, colour, alpha, ink)

    return draw


def _night(image: Pixels, _rng: np.random.Generator) -> Pixels:
    dark: Pixels = 0.8 * image**1.3 + np.array([0.01, 0.02, 0.06], np.float32)
    return dark


def _photo(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Slanting light, low contrast, and the blur of a cheap lens."""
    slope = rng.uniform(-0.35, 0.35, size=(len(image), 2)).astype(np.float32)
    axis = np.linspace(-1, 1, CANVAS, dtype=np.float32)
    light = 1 + slope[:, 0, None, None] * axis[:, None] + slope[:, 1, None, None] * axis
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = sum(padded[:, y : y + CANVAS, x : x + CANVAS] for y in range(3) for x in range(3)) / np.float32(9)
    return (0.15 + 0.7 * blurred) * light[..., None]


def _water(depth: float, waves: float, length: float) -> Finish:
    """Ripples of ``waves`` pixels that bend rows and columns, seen through blue-green water that hides ``depth``."""

    def finish(image: Pixels, rng: np.random.Generator) -> Pixels:
        phase = rng.uniform(0, 2 * np.pi, size=(len(image), 2, 1))
        axis = np.arange(CANVAS)
        bend = np.rint(waves * np.sin(axis * (2 * np.pi / length) + phase)).astype(np.int64)
        rows = (axis[:, None] + bend[:, 0][:, None, :]).clip(0, CANVAS - 1)
        columns = (axis[None, :] + bend[:, 1][:, :, None]).clip(0, CANVAS - 1)
        bent = image[np.arange(len(image))[:, None, None], rows, columns]
        wet: Pixels = (1 - depth) * bent + depth * np.array([0.05, 0.42, 0.5], np.float32)
        return wet

    return finish


def _frost(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Frosted glass: every pixel moves by up to four pixels, and the whole image is pale."""
    away = rng.integers(-4, 5, size=(2, *image.shape[:3]))
    axis = np.arange(CANVAS)
    rows = (axis[:, None] + away[0]).clip(0, CANVAS - 1)
    columns = (axis[None, :] + away[1]).clip(0, CANVAS - 1)
    scattered = image[np.arange(len(image))[:, None, None], rows, columns]
    pale: Pixels = 0.4 + 0.5 * scattered
    return pale


def _frosted(finish: Finish | None = None) -> Finish:
    """Frosted glass in front of another domain."""

    def through(image: Pixels, rng: np.random.Generator) -> Pixels:
        return _frost(image if finish is None else finish(image, rng), rng)

    return through


#: domain -> function that draws a cell. ``plain`` is the pretraining world; all others are new to the bundled model.
#: Domains before ``blackboard`` are weak enough that the untrained model still names 20 to 45 % of the objects. From
#: ``blackboard`` on, they are strong enough that local and centralised training at the published scale differ
#: (docs/mini-suite.md).
DOMAINS: dict[str, Draw] = {
    "plain": _plain,
    "sketch": _over_plain(_sketch, 0.5),
    "night": _plain,
    "photo": _plain,
    "silhouette": _over_plain(_silhouette, 0.65),
    "chalk": _over_plain(_chalk, 0.35),
    "underwater": _plain,
    "xray": _over_plain(_xray, 0.42),
    "blackboard": _over_plain(_chalk, 0.6),
    "rapids": _plain,
    "radiograph": _over_plain(_xray, 0.8),
    "frost": _plain,
    "frosted-sketch": _over_plain(_sketch, 0.5),
    "frosted-night": _plain,
    "frosted-photo": _plain,
    "frosted-silhouette": _over_plain(_silhouette, 0.65),
}
_FINISH: dict[str, Finish] = {
    "night": _night,
    "photo": _photo,
    "underwater": _water(0.38, 2, 21),
    "rapids": _water(0.5, 3, 17),
    "frost": _frost,
    "frosted-sketch": _frosted(),
    "frosted-night": _frosted(_night),
    "frosted-photo": _frosted(_photo),
    "frosted-silhouette": _frosted(),
}
_NOISE: dict[str, float] = {"photo": 0.08, "sketch": 0.02, "night": 0.015}
