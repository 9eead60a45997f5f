"""Which figures a result has; each is made when it is asked for."""

from collections.abc import Sequence
from functools import partial

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.figures.fit_profiles import profile_figure
from lorascope.analyze.figures.fit_reports import held_out_figure
from lorascope.analyze.figures.fit_residuals import setting_residuals_figure
from lorascope.analyze.figures.fits import scaling_figure
from lorascope.analyze.figures.rival_laws import laws_figure
from lorascope.analyze.figures.trend_figures import trend_figure
from lorascope.analyze.scaling.report import FitReport
from lorascope.analyze.scaling.result import ScalingFit
from lorascope.analyze.stats.trends import TrendResult

from .results import Figure

__all__ = ["fit_figures", "trend_figures"]


def fit_figures(found: ScalingFit | FitReport) -> list[Figure]:
    """Of a fit, and of what puts it to the test."""
    fitted = found if isinstance(found, ScalingFit) else found.fit
    sizes = [*fitted.design.axes, *(["share"] if fitted.design.share else [])]
    figures: list[Figure] = [(f"Along {size}", partial(scaling_figure, fitted, along=size)) for size in sizes]
    figures += [
        ("Profiles", partial(profile_figure, fitted)),
        ("Residuals by setting", partial(setting_residuals_figure, fitted)),
    ]
    if isinstance(found, FitReport):
        figures += [
            ("Cells held out", partial(held_out_figure, found)),
            ("Laws on the same cells", partial(laws_figure, found)),
        ]
    return figures


def trend_figures(tested: Sequence[TrendResult], frame: pd.DataFrame) -> list[Figure]:
    """Of tests of trend on this table."""
    return [(f"Trend along {one.along}", partial(trend_figure, one, frame)) for one in tested]
