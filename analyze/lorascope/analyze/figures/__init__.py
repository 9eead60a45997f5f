"""Plots as functions: results in, one plotly figure out."""

from .fit_profiles import profile_figure
from .fits import scaling_figure
from .information import bound_figure, estimates_figure
from .maps import component_map, js_map, null_map
from .plots import depth_figure, position_figure, sample_figure, share_curve
from .stats_figures import metrics_figure
from .theme import DIVERGING
from .training_figures import training_figure

__all__ = [
    "DIVERGING",
    "bound_figure",
    "component_map",
    "depth_figure",
    "estimates_figure",
    "js_map",
    "metrics_figure",
    "null_map",
    "position_figure",
    "profile_figure",
    "sample_figure",
    "scaling_figure",
    "share_curve",
    "training_figure",
]
