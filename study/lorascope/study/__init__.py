"""The paper's experiment: a grid of runs, what is fitted over it, and the paper's own printed tables."""

from .cells import study_cells
from .paper_tables import paper_study, paper_table
from .read_study import read_study
from .reading import read_units
from .report import write_study_report
from .study import study_results

__all__ = [
    "paper_study",
    "paper_table",
    "read_study",
    "read_units",
    "study_cells",
    "study_results",
    "write_study_report",
]
