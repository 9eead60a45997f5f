"""The paper's experiment: a grid of runs, what is fitted over it, and the paper's own printed tables."""

from typing import TYPE_CHECKING

from lorascope.stores.on_demand import import_on_demand

if TYPE_CHECKING:
    from .page.study_page import write_study_report
    from .paper_tables import paper_study, paper_table
    from .read_study import read_study
    from .results.study_results import study_results
    from .results.units import read_units

__all__ = [
    "paper_study",
    "paper_table",
    "read_study",
    "read_units",
    "study_results",
    "write_study_report",
]

import_on_demand(__name__)
