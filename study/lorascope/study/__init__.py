"""The paper's experiment: a grid of runs, what is fitted over it, and the paper's own printed tables."""

from typing import TYPE_CHECKING

from lorascope.stores.on_demand import import_on_demand

if TYPE_CHECKING:
    from .public import *  # noqa: F403

__all__ = [  # noqa: F405
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
    "wide",
    "write_study_report",
]

import_on_demand(__name__, __all__)
