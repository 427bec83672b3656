"""``feddat predict``: answer one question, or a file of questions, with a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from feddat.cli.common import err, out, print_paths
from feddat.cli.runs import AcceptChanges

if TYPE_CHECKING:
    from feddat.experiment.exports.answerer import Answerer


def predict(
    run: Annotated[Path, typer.Option(metavar="DIR", help="Folder of a run or an exported model.")],
    client: Annotated[str | None, typer.Option(help="For a run: client whose model answers.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Picture; give two for the task nlvr2.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="Question, sentence or hypothesis.")] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="Possible answer, for models of the task vcr; give four.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="File of questions in the form of own data: .jsonl, .csv or .parquet."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder that image names in FILE are relative to; default: FILE's."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="File for answers: .jsonl, .csv or .parquet; default: print JSON Lines."
        ),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Write an error for each unusable record and go on.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Number of answers to show.")] = 5,
    batch: Annotated[int | None, typer.Option(min=1, help="Questions per batch; default: the run's.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="For an exported model: folder or name of its foundation model, if that has moved."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Device that computes, for example cpu or cuda; default: the run's, or cpu for an export."),
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="On a client's machine: its client.yaml; DIR is then a copy of the server's run."
        ),
    ] = None,
    accept_changes: AcceptChanges = False,
) -> None:
    """Ask a trained model one question about a picture, or all questions of a file."""
    from feddat.config import ConfigError
    from feddat.data.answer_files import check_format
    from feddat.example import DataError

    if file is not None:
        if image or question is not None or choice:
            raise ConfigError("--file holds the pictures and questions; leave out --image and --question")
        if not file.is_file():
            raise DataError(f"{file}: no such file")
        if to is not None:
            check_format(to)
    elif not image or question is None:
        raise ConfigError("give one question with --image and --question, or many with --file")
    elif images is not None or to is not None or keep_going:
        raise ConfigError("--images, --out and --keep-going need --file; leave them out or give --file")
    for path in image or ():
        if not path.is_file():
            raise DataError(f"{path}: no such image file")
    from feddat.experiment.exports.answerer import open_answerer
    from feddat.experiment.exports.asked import as_example

    # Before the model is loaded: a wrong question takes no time.
    asked = [] if file is not None else [as_example("question", list(image or ()), question or "", choice or ())]
    answerer = open_answerer(run, client, model, device, site, accept_changes)
    answerer.batch_size = batch or answerer.batch_size
    if file is not None:
        _answer_file(answerer, file, images or file.parent, to, top, keep_going)
        return
    answers = answerer.answers(asked, top)[0]
    width = max(len(answer) for answer, _ in answers)
    for answer, probability in answers:
        bar = "█" * round(30 * probability) or "▏"
        out.print(Text.assemble(f"{answer:<{width}}  {100 * probability:5.1f} %  ", (bar, "cyan")))


def _answer_file(answerer: Answerer, file: Path, images: Path, to: Path | None, top: int, keep_going: bool) -> None:
    from feddat.data.answer_files import open_writer
    from feddat.experiment.exports.batch import answer_records, count_records

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    failed = 0
    with open_writer(to) as write, Progress(*columns, console=err) as progress:
        task = progress.add_task(file.name, total=count_records(file))
        for rows in answer_records(answerer, file, images, top, keep_going):
            write(rows)
            failed += sum(row.error is not None for row in rows)
            progress.advance(task, len(rows))
    if to is not None:
        print_paths(answers=to)
    if failed:
        err.print(f"{failed} record{'s'[: failed > 1]} could not be used; see `error` in the output")
