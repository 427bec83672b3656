"""A contact sheet: some examples of each client, with their questions and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from feddat.example import ClientData, Example
from feddat.pictures import PictureReader
from feddat.report.plots import LIGHT

#: Sizes in pixels: side of a picture's square, gap, text, line height, heading.
PICTURE, GAP, TEXT, LINE, HEADING = 200, 16, 15, 19, 22
PAPER, GROUND, INK, MUTED, ANSWER = "#ffffff", "#f1f3f6", LIGHT["--ink"], LIGHT["--muted"], "#0a7a50"
#: Most lines of a question and of an answer; longer ones end in an ellipsis.
LINES = 3


def contact_sheet(
    clients: Sequence[ClientData],
    split: str = "train",
    columns: int = 6,
    rows: int = 2,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> PIL.Image.Image:
    """Return a picture with a block per client: its name, and examples spread evenly over the split.

    Args:
        clients: clients whose examples to draw.
        split: ``train``, ``validation`` or ``test``.
        columns: examples side by side.
        rows: rows of examples per client.
        classes: task -> class names in index order, for tasks whose examples have only a class index.

    Raises:
        DataError: an image cannot be read; the message names the file.
    """
    width = GAP + columns * (PICTURE + GAP)
    named = classes or {}
    blocks = [
        _block(client, _spread(client.split(split), columns * rows), columns, width, named.get(client.task, ()))
        for client in clients
    ]
    sheet = PIL.Image.new("RGB", (width, sum(block.height for block in blocks) + GAP), PAPER)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def question_and_answer(example: Example, classes: Sequence[str] = ()) -> tuple[str, str]:
    """Return the question and the right answer as readable text."""
    if example.choices:
        return example.text, example.choices[example.label or 0]
    if example.label is not None:
        return example.text, classes[example.label] if classes else f"class {example.label}"
    best = sorted(example.answers.items(), key=lambda item: -item[1])
    return example.text, ", ".join(answer if score == 1 else f"{answer} ({score:.1f})" for answer, score in best[:3])


def _block(
    client: ClientData, examples: Sequence[Example], columns: int, width: int, classes: Sequence[str]
) -> PIL.Image.Image:
    small, bold = _font(TEXT), _font(HEADING, bold=True)
    measure = PIL.ImageDraw.Draw(PIL.Image.new("RGB", (1, 1)))
    captions = [_caption(measure, question_and_answer(example, classes), small) for example in examples]
    lines = [max(map(len, captions[start : start + columns])) for start in range(0, len(captions), columns)]
    heights = [PICTURE + 6 + count * LINE + GAP for count in lines]

    top = GAP + HEADING + TEXT + 2 * GAP
    block = PIL.Image.new("RGB", (width, top + sum(heights) + GAP), PAPER)
    draw = PIL.ImageDraw.Draw(block)
    draw.text((GAP, GAP), client.name, INK, bold)
    sizes = f"{len(client.train)} train · {len(client.validation)} validation · {len(client.test)} test"
    facts = [client.description, client.task, sizes, f"{len(client.answers)} answers" if client.answers else ""]
    fact = " · ".join(filter(None, facts))
    reader = PictureReader(client.pictures)
    draw.text((GAP, GAP + HEADING + 8), _wrap(draw, fact, small, width - 2 * GAP, 1)[0], MUTED, small)
    for place, (example, caption) in enumerate(zip(examples, captions, strict=True)):
        left, y = GAP + place % columns * (PICTURE + GAP), top + sum(heights[: place // columns])
        _draw_images(block, example, reader, left, y)
        for number, (text, colour) in enumerate(caption):
            draw.text((left, y + PICTURE + 6 + number * LINE), text, colour, small)
    return block


def _caption(
    draw: PIL.ImageDraw.ImageDraw, texts: tuple[str, str], font: PIL.ImageFont.FreeTypeFont
) -> list[tuple[str, str]]:
    """Return the lines of text below a picture, each with its colour."""
    coloured = zip(texts, (INK, ANSWER), strict=True)
    return [(line, colour) for text, colour in coloured for line in _wrap(draw, text, font, PICTURE, LINES)]


def _draw_images(block: PIL.Image.Image, example: Example, reader: PictureReader, left: int, top: int) -> None:
    """Fit the example's images, side by side, into the square at (left, top)."""
    share = PICTURE // len(example.images)
    PIL.ImageDraw.Draw(block).rectangle((left, top, left + PICTURE - 1, top + PICTURE - 1), GROUND)
    for number, image in enumerate(example.images):
        picture = PIL.Image.fromarray(reader.read(image))
        scale = min(share / picture.width, PICTURE / picture.height)
        # Even an extremely narrow picture keeps at least one pixel.
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
        x, y = left + number * share + (share - picture.width) // 2, top + (PICTURE - picture.height) // 2
        block.paste(picture, (x, y))


def _spread(examples: Sequence[Example], count: int) -> list[Example]:
    """Return ``count`` evenly spaced examples, so that even a sorted file shows its variety."""
    count = min(count, len(examples))
    return [examples[index * len(examples) // count] for index in range(count)]


def _wrap(
    draw: PIL.ImageDraw.ImageDraw, text: str, font: PIL.ImageFont.FreeTypeFont, width: int, lines: int
) -> list[str]:
    """Break a text into at most ``lines`` lines of ``width`` pixels; an ellipsis marks omitted text."""
    wrapped = [""]
    for word in text.split():
        longer = f"{wrapped[-1]} {word}".strip()
        if wrapped[-1] and draw.textlength(longer, font) > width:
            wrapped.append(word)
        else:
            wrapped[-1] = longer
    shown = wrapped[:lines]
    cut = len(wrapped) > lines
    for index, line in enumerate(shown):
        ellipsis = "…" if cut and index == lines - 1 else ""
        while line and draw.textlength(line + ellipsis, font) > width:
            line, ellipsis = line[:-1], "…"
        shown[index] = line + ellipsis
    return shown


def _font(size: int, bold: bool = False) -> PIL.ImageFont.FreeTypeFont:
    # matplotlib ships DejaVu: the same font on every machine, with many scripts beyond Latin.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return PIL.ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
