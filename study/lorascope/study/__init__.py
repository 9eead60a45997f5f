"""The paper's experiment: a grid of runs, what is fitted over it, and the paper's own printed tables."""

from typing import TYPE_CHECKING

from lorascope.stores.on_demand import import_on_demand

if TYPE_CHECKING:
    from .page.study_page import write_study_report
    from .paper_tables import paper_study, paper_table
    from .read_study import read_study
    from .results.cells import length_cells, prompt_cells, study_cells
    from .results.study_results import study_results
    from .results.tables import datasets_table, information_table, lengths_table, prompts_table, texts_table
    from .results.units import read_units

__all__ = [
    "datasets_table",
    "information_table",
    "length_cells",
    "lengths_table",
    "paper_study",
    "paper_table",
    "prompt_cells",
    "prompts_table",
    "read_study",
    "read_units",
    "study_cells",
    "study_results",
    "texts_table",
    "write_study_report",
]

import_on_demand(__name__)
