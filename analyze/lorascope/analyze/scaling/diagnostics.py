"""What speaks against a law: free effects of settings, residuals by setting; and what each size adds."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .design import Design
from .estimate import Estimate, estimate

__all__ = ["Criteria", "axis_tests", "criteria", "f_test", "lack_of_fit", "residuals_by_setting"]

DEPENDENT = 1e-9
"""Singular values below this share of the norm count as zero, where free effects of settings are told from levels."""


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
    """Information criteria of a fit.

    Notes
    -----
    Residuals are taken for normal: n ln(2 pi SSR / n) + n, and, for relative and logarithmic ones, twice the sum of
    ln y, which brings their likelihood to that of the response. Relative weights 1/y count as given. With Huber's loss
    it is that of its residuals' sum of squares, larger than the least.
    """
    n, k = fit.n, len(fit.parameters) + 1
    relative = fit.design.residual in ("relative", "log") or fit.design.law.logarithmic
    scale = 2 * float(np.log(fit.design.frame[fit.design.response]).sum()) if relative else 0.0
    deviance = n * math.log(2 * math.pi * fit.ssr / n) + n + scale if fit.ssr > 0 else -math.inf
    aic = deviance + 2 * k
    aicc = aic + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.nan
    return Criteria(deviance, k, aic, aicc, deviance + k * math.log(n))


def f_test(larger: float, smaller: float, n_more: int, df: int) -> tuple[float, float]:
    """F and its p of nested least-squares fits: sums of squares of the narrower and the wider one.

    `n_more` parameters are added by the wider one, which leaves `df` degrees of freedom.
    """
    from scipy import stats  # type: ignore[import-untyped]

    if smaller <= 0:
        return (math.inf, 0.0) if larger > 0 else (math.nan, math.nan)
    f = max(larger - smaller, 0.0) / n_more / (smaller / df)
    return float(f), float(stats.f.sf(f, n_more, df))


def lack_of_fit(fit: Estimate) -> pd.DataFrame:
    """The law against free effects of settings beside the same levels, as one row: F, its p, and what it stands on.

    Returns
    -------
    DataFrame
        `F`, `n_more` (parameters that free settings have more than the law), `df`, `p`, `sigma_free` (of what even free
        settings leave), `n_settings`, `note`. F is NaN, and the note says why, where settings have no more parameters
        than the law, or leave no degrees of freedom: the law then can't be put to this test.

    Notes
    -----
    Both are least squares, of an estimate with Huber's loss too. A small p says that no parameters of this law make it
    follow the settings as closely as cells of one setting follow each other.
    """
    free = _free_settings(fit.design)
    n_settings, n_free = len(set(fit.design.settings)), len(free.level_names)
    n_more, df = n_free - len(fit.parameters), fit.n - n_free
    f = p = sigma = math.nan
    note = ""
    if n_more <= 0:
        note = f"{n_settings} settings leave the law no freedom to be wrong"
    elif fit.is_exact:
        note = "the law goes through every cell, but for rounding"
    elif df <= 0:
        note = "no setting was measured in several groups or several times, so nothing tells error from lack of fit"
    else:
        ssr = estimate(free).ssr
        f, p = f_test(_least_squares(fit).ssr, ssr, n_more, df)
        sigma = math.sqrt(ssr / df)
    row = {"F": f, "n_more": n_more, "df": df, "p": p, "sigma_free": sigma, "n_settings": n_settings, "note": note}
    return pd.DataFrame([row])


def axis_tests(fit: Estimate) -> pd.DataFrame:
    """What each size adds to the others: F of the law against the law without its terms, a row for each.

    Returns
    -------
    DataFrame
        `axis`, `F`, `n_more`, `df`, `p`, `ssr_ratio` (sum of squares without the terms over that with them).

    Notes
    -----
    Least squares. Without a term its exponent means nothing, so that F isn't distributed quite as said (Davies 1987,
    Biometrika 74, 33): p is a rough one.
    """
    full = _least_squares(fit)
    rows = []
    for axis in fit.design.terms.names:
        without = estimate(fit.design.without(axis))
        n_more = len(full.parameters) - len(without.parameters)
        f, p = (math.nan, math.nan) if without.is_exact else f_test(without.ssr, full.ssr, n_more, full.df)
        ratio = without.ssr / full.ssr if full.ssr else math.inf
        rows.append({"axis": axis, "F": f, "n_more": n_more, "df": full.df, "p": p, "ssr_ratio": ratio})
    return pd.DataFrame(rows)


def residuals_by_setting(fit: Estimate) -> pd.DataFrame:
    """Mean residual of each setting over its cells: `setting`, `n`, `mean`, `se`, `t`, `p`.

    In units of the fit: relative, of the logarithm or of the response. p is of a two-sided t-test that takes cells for
    independent, and NaN for a single cell.
    """
    from scipy import stats

    rows = []
    for setting in dict.fromkeys(fit.design.settings):
        values = fit.residuals[np.asarray(fit.design.settings == setting)]
        n, mean = len(values), float(values.mean())
        error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
        t = mean / error if error and not math.isnan(error) else math.nan
        p = float(2 * stats.t.sf(abs(t), n - 1)) if not math.isnan(t) else math.nan
        rows.append({"setting": setting, "n": n, "mean": mean, "se": error, "t": t, "p": p})
    return pd.DataFrame(rows)


def _least_squares(fit: Estimate) -> Estimate:
    return fit if not math.isfinite(fit.delta) else estimate(fit.design, starts=(fit.parts[2],))


def _free_settings(design: Design) -> Design:
    """Levels and a level for each setting, as many of them as don't follow from the others, and no terms."""
    settings = [design.settings == one for one in dict.fromkeys(design.settings)]
    kept: list[np.ndarray] = []
    for column in [*design.levels.T, *np.array(settings, np.float64)]:
        trial = np.stack([*kept, column], axis=1)
        if np.linalg.matrix_rank(trial, tol=DEPENDENT * np.linalg.norm(trial)) == trial.shape[1]:
            kept.append(column)
    names = tuple(f"level {k}" for k in range(len(kept)))
    none = np.zeros((0, 2))
    return replace(
        design, columns=(), exponents=(), bounds=none, levels=np.stack(kept, axis=1), level_names=names, n_offsets=0
    )
