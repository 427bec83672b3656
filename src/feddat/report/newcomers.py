"""The table of newcomers (``newcomers.json``): a row per method, a column per client that joined late."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feddat.files import write_atomic
from feddat.report import method_table
from feddat.report.folder import KINDS, check_summaries, read_keys
from feddat.report.left_out import left_out
from feddat.report.methods import method_name

FILE = KINDS["newcomers"]


def read_newcomers(folder: Path) -> dict[str, Any]:
    """Return the content of ``newcomers.json``.

    Raises:
        DataError: the file cannot be read, or is not that of newcomers.
    """
    result = read_keys(folder / FILE, ("benchmark", "epochs", "runs"))
    check_summaries(result["runs"], folder / FILE, ("method", "clients", "seed"))
    return result


def newcomers_table(result: Mapping[str, Any]) -> method_table.MethodTable:
    """Return the table method x newcomer, with differences to FedDAT."""
    return method_table.method_table(result["runs"])


def newcomers_title(result: Mapping[str, Any]) -> str:
    """Return what the table shows, in one line."""
    source = result["benchmark"] or "own data"
    epochs = result["epochs"]
    trained = f", trained as {method_name(result['train_as'])}" if result.get("train_as") else ""
    return f"Newcomers of {source} after {epochs} epoch{'s'[: epochs != 1]}{trained}: test scores (%)"


def newcomers_markdown(result: Mapping[str, Any]) -> str:
    """Return the table in Markdown, and what it lacks."""
    lacking = " ".join(left_out(result["runs"]))
    table = method_table.to_markdown(newcomers_table(result))
    return f"{newcomers_title(result)}\n\n{table}" + (f"\n{lacking}\n" if lacking else "")


def write_newcomers(folder: Path) -> Path:
    """Write ``newcomers.md`` beside ``newcomers.json``; return its path.

    Raises:
        DataError: see :func:`read_newcomers`.
    """
    path = folder / "newcomers.md"
    write_atomic(path, newcomers_markdown(read_newcomers(folder)).encode())
    return path
