"""What ``feddat data prepare`` kept and dropped, client by client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

#: Heading -> what became of questions: the key of a split's counts.
_COLUMNS = {"published": "published", "no frequent answer": "outside", "unreadable": "unreadable", "kept": "kept"}


def prepared_table(manifest: Mapping[str, Any]) -> Table:
    """Return the counts in ``prepare.json`` as a table with a row per client and split.

    *Published* questions that are neither dropped nor kept were not drawn.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("client", "split"):
        table.add_column(heading, no_wrap=True)
    for heading in (*_COLUMNS, "skipped", "answers"):
        table.add_column(heading, justify="right")
    for client, about in manifest["clients"].items():
        for split, counts in about["counts"].items():
            first = split == "train"
            numbers = [str(counts[key]) for key in _COLUMNS.values()]
            skipped = ", ".join(f"{count} {reason}" for reason, count in counts["skipped"].items()) or "0"
            answers = str(len(about["answers"]) or "") if first else ""
            table.add_row(Text(client if first else ""), split, *numbers, Text(skipped), answers)
    return table
