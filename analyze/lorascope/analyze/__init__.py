"""Analysis of a run without its model: MIUB, other measures, mutual information, scaling laws."""

from typing import TYPE_CHECKING

from lorascope.stores.on_demand import import_on_demand

if TYPE_CHECKING:
    from lorascope.stores import open_run

    from . import figures as figures
    from . import report as report
    from .adapters.adapter import adapter_report
    from .adapters.truncate import truncate_adapter
    from .compare_measures import compare_measures
    from .compare_runs import paired, side_by_side
    from .contexts import contexts
    from .directions import directions
    from .explain import explain
    from .groups import group_by, to_dataframe
    from .information.bound import js_lower_bound, js_upper_bound
    from .jensen_shannon import jensen_shannon
    from .lens import lens, save_steering
    from .measure_information import export_pairs, measure_information
    from .measuring.measures import token_measure
    from .measuring.run import measure_run
    from .miub import miub
    from .mutual_information import mutual_information
    from .overlaps import base_overlap, compare_directions
    from .qualify import qualify
    from .readings import miub_readings
    from .save import open_result, save
    from .save_table import save_table
    from .scaling.fit import fit_report, fit_scaling_law
    from .scaling.identify import identifiability
    from .scores import scores_table
    from .stats.metrics import compare_metrics
    from .stats.trends import trend_tests
    from .viewing.view import view

__all__ = [
    "adapter_report",
    "base_overlap",
    "compare_directions",
    "compare_measures",
    "compare_metrics",
    "contexts",
    "directions",
    "explain",
    "export_pairs",
    "fit_report",
    "fit_scaling_law",
    "group_by",
    "identifiability",
    "jensen_shannon",
    "js_lower_bound",
    "js_upper_bound",
    "lens",
    "measure_information",
    "measure_run",
    "miub",
    "miub_readings",
    "mutual_information",
    "open_result",
    "open_run",
    "paired",
    "qualify",
    "save",
    "save_steering",
    "save_table",
    "scores_table",
    "side_by_side",
    "to_dataframe",
    "token_measure",
    "trend_tests",
    "truncate_adapter",
    "view",
]

import_on_demand(__name__)
