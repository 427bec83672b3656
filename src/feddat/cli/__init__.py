"""The ``feddat`` command: runs, comparisons, studies, reports, predictions, and views of the data.

Commands import heavy libraries only when they need them, so ``feddat --help`` answers at once.
"""

from feddat.cli.program import main

__all__ = ["main"]
