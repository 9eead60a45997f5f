"""Mutual information of arrays and of a run's components: estimators, bounds, and what says how far to believe them."""

from .bound import js_lower_bound, js_upper_bound
from .classifier import classifier_js
from .estimators import ESTIMATORS, PANEL
from .evidence import VERDICTS
from .gaussian import noise_curve
from .ksg import ksg, ksg_local
from .projections import principal_axes, project
from .sample_size import sufficient_rows

__all__ = [
    "ESTIMATORS",
    "PANEL",
    "VERDICTS",
    "classifier_js",
    "js_lower_bound",
    "js_upper_bound",
    "ksg",
    "ksg_local",
    "noise_curve",
    "principal_axes",
    "project",
    "sufficient_rows",
]
