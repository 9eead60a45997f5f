"""Analysis of a run without its model: MIUB, other measures, mutual information, scaling laws."""

from typing import TYPE_CHECKING

from lorascope.stores.on_demand import import_on_demand

if TYPE_CHECKING:
    from lorascope.stores import open_run

    from . import figures as figures
    from . import report as report
    from .adapters.adapter import adapter_experts, adapter_report
    from .against.judge import verify_against
    from .against.server import server_nll
    from .changes.changes import changes
    from .changes.forgetting import forgetting
    from .changes.reply_words import reply_lengths, reply_words
    from .directions.directions import contexts, directions
    from .fits.fit import fit_report, fit_scaling_law
    from .fits.metrics import compare_metrics
    from .importance.compare_measures import compare_measures
    from .importance.importance import importance
    from .importance.truncate import truncate_adapter
    from .information.bound import js_lower_bound, js_upper_bound
    from .information.measure_information import export_pairs, measure_information
    from .information.mutual_information import mutual_information
    from .measuring.jensen_shannon import jensen_shannon
    from .measuring.measures import token_measure
    from .measuring.run import measure_run
    from .miub.compare_runs import paired
    from .miub.experts import experts
    from .miub.groups import group_by, to_dataframe
    from .miub.miub import miub, miub_readings
    from .miub.qualify import qualify
    from .report.explain import explain
    from .results.digests import verify_result
    from .results.null_adapters import null_adapters
    from .results.save import open_result, save, save_table
    from .results.scores import scores_table
    from .viewing.view import view

__all__ = [
    "adapter_experts",
    "adapter_report",
    "changes",
    "compare_measures",
    "compare_metrics",
    "contexts",
    "directions",
    "experts",
    "explain",
    "export_pairs",
    "fit_report",
    "fit_scaling_law",
    "forgetting",
    "group_by",
    "importance",
    "jensen_shannon",
    "js_lower_bound",
    "js_upper_bound",
    "measure_information",
    "measure_run",
    "miub",
    "miub_readings",
    "mutual_information",
    "null_adapters",
    "open_result",
    "open_run",
    "paired",
    "qualify",
    "reply_lengths",
    "reply_words",
    "save",
    "save_table",
    "scores_table",
    "server_nll",
    "to_dataframe",
    "token_measure",
    "truncate_adapter",
    "verify_against",
    "verify_result",
    "view",
]

import_on_demand(__name__)
