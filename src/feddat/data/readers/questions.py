"""Questions without answers, from the records of a file of own data (:mod:`feddat.data.readers.records`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from feddat.data.readers.image_folder import ImageFolder
from feddat.data.readers.records import Record, to_example
from feddat.example import Example

#: Task -> placeholder for the right answer, which a record needs but nobody reads here.
_TOLD: Mapping[str, dict[str, Any]] = {"vqa": {"answers": "unknown"}}


def to_question(record: Record, task: str, folder: ImageFolder) -> Example:
    """Return the question of a record whose images are in ``folder``.

    Raises:
        DataError: a column is missing or of the wrong type, or an image file is missing or outside the folder.
    """
    told = _TOLD.get(task, {"label": 0})
    return to_example(dataclasses.replace(record, fields={**record.fields, **told}), task, folder)
