"""A small tree of published files, for tests that prepare it."""

from pathlib import Path

from data.readers.layouts import write_tree
from feddat.benchmarks.paper import FEDERATIONS


def write_published(root: Path, benchmark: str) -> Path:
    """Write the datasets of a federation below ``root``, 40 questions per split, and return it."""
    for part in FEDERATIONS[benchmark].parts:
        write_tree(part.source, root / part.folder, ["train", part.test], 40)
    return root
