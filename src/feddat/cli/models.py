"""Commands that make model folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from feddat.cli.common import Overrides, interruptible, out, print_paths, say_loading


def pretrain(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Checkpoints and log; the model comes to DIR/model.")],
    overrides: Overrides = None,
) -> None:
    """Pretrain a small ViLT on the plain mini world, as vilt-mini was; the same command again resumes."""
    from feddat.pretrain.train import PretrainSettings
    from feddat.pretrain.train import pretrain as train

    settings = PretrainSettings.parse(overrides or [])

    def show(event: dict[str, Any]) -> None:
        losses = "  ".join(f"{key} {value:.3f}" for key, value in event["losses"].items())
        quality = "  ".join(f"{key} {value:.0f} %" for key, value in event["quality"].items())
        left = f"{event['seconds_left'] / 60:.0f} min left"
        out.print(f"[bold]step {event['step']}/{event['steps']}[/]  {left}  {losses}", soft_wrap=True)
        if quality:
            out.print(f"  [cyan]{quality}[/]", soft_wrap=True)

    with interruptible("the same command again"):
        quality = train(folder, settings, show)
    for name, value in quality.items():
        out.print(f"{name:<20}{value:6.1f} %")
    print_paths(model=folder / "model")


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", help="ALBEF's .pth: pretrained, or fine-tuned for VQA.")
    ],
    bert: Annotated[Path, typer.Option(metavar="DIR", help="bert-base-uncased: its configuration and vocabulary.")],
    to: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Model folder to write.")],
    image_size: Annotated[int, typer.Option(min=1, help="Side of the images that the model sees, in pixels.")] = 384,
) -> None:
    """Make a model folder of a published ALBEF checkpoint, for `model=DIR`."""
    say_loading()
    from feddat.models.albef.convert import convert as make_folder

    report = make_folder(checkpoint, bert, to, image_size)
    out.print(f"positions of {report.image_size} pixels, answer decoder from the {report.decoder}")
    parts = Counter(name.partition(".")[0] for name in report.unused)
    unused = ", ".join(f"{part} ({count})" for part, count in parts.items()) or "none"
    out.print(f"tensors not used: {unused}", soft_wrap=True)
    print_paths(folder=to)
