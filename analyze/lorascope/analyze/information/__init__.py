"""Mutual information of arrays and of a run's components: estimators, bounds, and what says how far to believe them."""

from .bound import (
    Dependence,
    discrete_dependence,
    gaussian_dependence,
    js_lower_bound,
    js_upper_bound,
    mi_upper_bound,
)
from .classifier import classifier_information, classifier_js
from .estimators import ESTIMATORS, PANEL
from .gaussian import gaussian_information, noise_curve, normal_scores
from .ksg import ksg, ksg_ceiling, ksg_local
from .projections import canonical_axes, principal_axes, project
from .symbols import symbol_information
from .verdict_rules import VERDICTS

__all__ = [
    "ESTIMATORS",
    "PANEL",
    "VERDICTS",
    "Dependence",
    "canonical_axes",
    "classifier_information",
    "classifier_js",
    "discrete_dependence",
    "gaussian_dependence",
    "gaussian_information",
    "js_lower_bound",
    "js_upper_bound",
    "ksg",
    "ksg_ceiling",
    "ksg_local",
    "mi_upper_bound",
    "noise_curve",
    "normal_scores",
    "principal_axes",
    "project",
    "symbol_information",
]
