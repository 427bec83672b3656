"""Answer the questions of a file, one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from feddat.data.answer_files import Answered
from feddat.data.readers.image_folder import ImageFolder
from feddat.data.readers.own import read_records
from feddat.data.readers.questions import to_question
from feddat.data.readers.records import Record
from feddat.example import DataError, Example
from feddat.experiment.exports.answerer import Answerer


def count_records(file: Path) -> int:
    """Return the number of records in a file of own data.

    Raises:
        DataError: the file is missing, malformed or of an unknown format.
    """
    if file.suffix.lower() == ".parquet":
        try:
            from pyarrow import ArrowException, parquet

            with parquet.ParquetFile(file) as opened:
                return int(opened.metadata.num_rows)
        except (ImportError, ArrowException, OSError):
            pass  # read_records below reports the error
    return sum(1 for _ in read_records(file))


def answer_records(
    answerer: Answerer, file: Path, images: Path, k: int = 3, keep_going: bool = False
) -> Iterator[list[Answered]]:
    """Yield the answers to the questions of a file, ``answerer.batch_size`` records at a time, in file order.

    Args:
        answerer: the model.
        file: JSON lines, CSV or Parquet with the columns of own data; its answers and labels are ignored.
        images: folder of the images.
        k: number of most likely answers to each question.
        keep_going: give an unusable record an error instead of answers.

    Raises:
        DataError: the file is malformed, or a record is unusable and ``keep_going`` is off.
    """
    records, folder = iter(read_records(file)), ImageFolder(images, answerer.pictures.outside)
    while batch := list(islice(records, answerer.batch_size)):
        yield _answered(answerer, batch, folder, k, keep_going)


def _answered(
    answerer: Answerer, records: Sequence[Record], images: ImageFolder, k: int, keep_going: bool
) -> list[Answered]:
    found: list[Answered | None] = []
    examples: list[Example] = []
    for record in records:
        try:
            examples.append(to_question(record, answerer.task, images))
            found.append(None)
        except DataError as error:
            if not keep_going:
                raise
            question = record.fields.get("question")
            found.append(Answered(record.place.replace(" ", "-"), str(question or ""), error=str(error)))
    answers = iter(_answers(answerer, examples, k, keep_going))
    return [next(answers) if row is None else row for row in found]


def _answers(answerer: Answerer, examples: Sequence[Example], k: int, keep_going: bool) -> list[Answered]:
    """Return the answers to a batch; if a picture in it cannot be read, answer each question separately."""
    try:
        found = answerer.answers(examples, k)
        return [Answered(e.id, e.text, tuple(answers)) for e, answers in zip(examples, found, strict=True)]
    except DataError as error:
        if not keep_going:
            raise
        if len(examples) == 1:
            return [Answered(examples[0].id, examples[0].text, error=str(error))]
        return [row for example in examples for row in _answers(answerer, [example], k, keep_going)]
