"""Functions that draw a result as a plotly figure; `docs/gallery.md` shows each."""

from typing import TYPE_CHECKING

from lorascope.stores.on_demand import import_on_demand

if TYPE_CHECKING:
    from .fits import profile_figure, scaling_figure
    from .information import estimates_figure
    from .maps import component_figure, expert_figure, js_figure, null_figure
    from .plots import depth_figure, position_figure, sample_figure
    from .predictors import metrics_figure
    from .training import training_figure

__all__ = [
    "component_figure",
    "depth_figure",
    "estimates_figure",
    "expert_figure",
    "js_figure",
    "metrics_figure",
    "null_figure",
    "position_figure",
    "profile_figure",
    "sample_figure",
    "scaling_figure",
    "training_figure",
]

import_on_demand(__name__)
