"""Plots as functions: results in, one plotly figure out."""

from .comparison import difference_map
from .fit_profiles import profile_figure
from .fit_reports import held_out_figure
from .fit_residuals import setting_residuals_figure
from .fits import scaling_figure
from .information import bound_figure, estimates_figure
from .maps import component_map, js_map, null_map
from .metric_figures import metrics_figure
from .plots import share_curve
from .profiles import depth_figure, sequence_figure
from .rival_laws import laws_figure
from .spread import sample_figure
from .training_figures import training_figure
from .trend_figures import trend_figure
from .xi import xi_figure

__all__ = [
    "bound_figure",
    "component_map",
    "depth_figure",
    "difference_map",
    "estimates_figure",
    "held_out_figure",
    "js_map",
    "laws_figure",
    "metrics_figure",
    "null_map",
    "profile_figure",
    "sample_figure",
    "scaling_figure",
    "sequence_figure",
    "setting_residuals_figure",
    "share_curve",
    "training_figure",
    "trend_figure",
    "xi_figure",
]
