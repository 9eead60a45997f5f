"""Analysis of a run without its model: MIUB, other measures in the same trip, and what qualifies them."""

from typing import TYPE_CHECKING

from lorascope.stores.on_demand import import_on_demand

if TYPE_CHECKING:
    from .public import *  # noqa: F403

__all__ = [  # noqa: F405
    "adapter_report",
    "compare_metrics",
    "export_pairs",
    "fit_report",
    "fit_scaling_law",
    "group_by",
    "identifiability",
    "jensen_shannon",
    "js_lower_bound",
    "js_upper_bound",
    "measure_information",
    "measure_run",
    "miub",
    "miub_readings",
    "mutual_information",
    "open_result",
    "paired",
    "qualify",
    "save",
    "scores_table",
    "side_by_side",
    "to_dataframe",
    "token_measure",
    "trend_tests",
]

import_on_demand(__name__, __all__)
