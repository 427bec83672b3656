"""The ``feddat`` command: runs, comparisons, studies, reports, predictions, and a look at the data.

Nothing heavy is imported before a command needs it: ``feddat --help`` answers at once.
"""

from feddat.cli.main import main

__all__ = ["main"]
