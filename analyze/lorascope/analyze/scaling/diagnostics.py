"""What speaks against a law: free effects of settings, residuals by setting; and what each size adds."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .design import APART
from .estimate import Estimate, estimate
from .solve import spanned

__all__ = ["Criteria", "axis_tests", "criteria", "f_test", "lack_of_fit", "residuals_by_setting"]


class Criteria(NamedTuple):
    """Fit and price of one law; comparable between laws of the same cells, whatever their residuals."""

    minus_two_log_likelihood: float
    """It is of the response, not of its logarithm; the spread is at its maximum."""
    n_parameters: int
    """The spread counts as one."""
    aic: float
    aicc: float
    """NaN where there are too few cells for it."""
    bic: float


def criteria(fit: Estimate) -> Criteria:
    """Information criteria of a fit, its residuals taken for normal.

    Twice the sum of ln y brings the likelihood of relative and logarithmic residuals to that of the response. With
    Huber's loss it is that of its residuals' sum of squares, larger than the least.
    """
    n, k = fit.n, len(fit.parameters) + 1
    relative = fit.design.residual in ("relative", "log") or fit.design.law.logarithmic
    scale = 2 * float(np.log(fit.design.frame[fit.design.response]).sum()) if relative else 0.0
    deviance = n * math.log(2 * math.pi * fit.ssr / n) + n + scale if fit.ssr > 0 else -math.inf
    aic = deviance + 2 * k
    aicc = aic + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.nan
    return Criteria(deviance, k, aic, aicc, deviance + k * math.log(n))


def f_test(larger: float, smaller: float, n_more: int, df: int) -> tuple[float, float]:
    """F and its p of nested fits, by their sums of squares: the wider one has `n_more` parameters and leaves `df`."""
    from scipy import stats  # type: ignore[import-untyped]

    if smaller <= 0:
        return (math.inf, 0.0) if larger > 0 else (math.nan, math.nan)
    f = max(larger - smaller, 0.0) / n_more / (smaller / df)
    return float(f), float(stats.f.sf(f, n_more, df))


def lack_of_fit(fit: Estimate) -> pd.DataFrame:
    """The law against free effects of settings beside the same levels, by least squares; see `ScalingFit`."""
    design = fit.design
    settings = [design.settings == one for one in dict.fromkeys(design.settings)]
    levels = spanned(np.column_stack([design.levels, *settings]), APART)
    n_more, df = levels.shape[1] - len(fit.parameters), fit.n - levels.shape[1]
    f = p = sigma = math.nan
    note = ""
    if n_more <= 0:
        note = f"{len(settings)} settings leave the law no freedom to be wrong"
    elif fit.is_exact:
        note = "the law goes through every cell, but for rounding"
    elif df <= 0:
        note = "no setting was measured in several groups or several times, so nothing tells error from lack of fit"
    else:
        names = tuple(f"level {k}" for k in range(levels.shape[1]))
        ssr = estimate(replace(design, logs={}, levels=levels, level_names=names)).ssr
        f, p = f_test(_least_squares(fit).ssr, ssr, n_more, df)
        sigma = math.sqrt(ssr / df)
    row = {"F": f, "n_more": n_more, "df": df, "p": p, "sigma_free": sigma, "n_settings": len(settings), "note": note}
    return pd.DataFrame([row])


def axis_tests(fit: Estimate) -> pd.DataFrame:
    """What each size adds to the others, by least squares; see `ScalingFit`."""
    full, rows = _least_squares(fit), []
    for axis in fit.design.parts:
        without = estimate(fit.design.without(axis))
        n_more = len(full.parameters) - len(without.parameters)
        f, p = (math.nan, math.nan) if without.is_exact else f_test(without.ssr, full.ssr, n_more, full.df)
        ratio = without.ssr / full.ssr if full.ssr else math.inf
        rows.append({"axis": axis, "F": f, "n_more": n_more, "df": full.df, "p": p, "ssr_ratio": ratio})
    return pd.DataFrame(rows)


def residuals_by_setting(fit: Estimate) -> pd.DataFrame:
    """Mean residual of each setting over its cells; see `ScalingFit`."""
    from scipy import stats

    cells = pd.DataFrame({"setting": fit.design.settings, "residual": fit.residuals})
    found = cells.groupby("setting", sort=False)["residual"].agg(n="size", mean="mean", se="sem").reset_index()
    found["t"] = found["mean"] / found["se"].where(found["se"] > 0)
    found["p"] = 2 * stats.t.sf(found["t"].abs(), found["n"] - 1)
    return found


def _least_squares(fit: Estimate) -> Estimate:
    return fit if not math.isfinite(fit.delta) else estimate(fit.design, starts=(fit.parts[2],))
