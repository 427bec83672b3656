"""Tables, plots and the self-contained page of a run."""

from feddat.report.folder import read_folder
from feddat.report.page import write_report
from feddat.report.tables import score_table

__all__ = ["read_folder", "score_table", "write_report"]
