"""Slopes of a law that is straight, with an intercept for each group: OLS, Huber's norm, a random intercept."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .resampling import few_groups

ABSENT = 1e-8
"""Errors, and what is left of 1 - leverage, that count as zero below it, relative to what they are beside."""
BOUNDARY = 1e-6
"""Ratio of the intercepts' variance to the residuals', or of its inverse, that counts as zero."""


class LinearModels(NamedTuple):
    """Slopes that all groups share, by several models."""

    slopes: pd.DataFrame
    """A row a model, kind of error and slope: `model` (OLS, RLM, MixedLM), `covariance` (plain, HC3, CR1, H1, REML),
    `slope`, `estimate`, `se`, `df` (infinity: normal), `t`, `p` (two-sided), `low`, `high`."""
    notes: tuple[str, ...]
    """Sentences on what was left out and why, and on how far errors can be trusted."""


def linear_models(
    y: np.ndarray, x: np.ndarray, names: list[str], groups: np.ndarray, *, level: float = 0.95
) -> LinearModels:
    """Slopes of y (n,) on the columns of x (n, k) with an intercept for each group, by statsmodels.

    Notes
    -----
    OLS has G intercepts and k slopes, K = G + k; its errors are plain and HC3, with Student's t of n - K, and CR1: by
    group, times G/(G - 1) (n - 1)/(n - K), with t of G - 1. RLM is Huber's M-estimate, its scale the median absolute
    residual. MixedLM has a random intercept for each group, by restricted maximum likelihood; where its variance is
    zero or very large it is no third model, and isn't among the slopes. Groups of a single row are left out.

    References
    ----------
    MacKinnon and White 1985, Journal of Econometrics 29, 305: HC3. Cameron and Miller 2015, Journal of Human Resources
    50, 317: CR1, few groups and what K counts.
    """
    import statsmodels.api as sm  # type: ignore[import-untyped]
    from statsmodels.tools.sm_exceptions import ModelWarning  # type: ignore[import-untyped]

    kept = pd.Series(groups).groupby(groups).transform("size").to_numpy() > 1
    codes, kinds = pd.factorize(groups[kept])
    unit, (k, n_groups), notes = y[kept].std(), (len(names), len(kinds)), list[str]()
    y, x = (y[kept] - y[kept].mean()) / unit, x[kept] - x[kept].mean(axis=0)
    whole = np.column_stack([x, np.eye(n_groups)[codes]])
    ordinary = sm.OLS(y, whole).fit()
    found = [("OLS", "plain", ordinary, ordinary.df_resid)]
    if (ordinary.get_influence().hat_matrix_diag < 1 - ABSENT).all():
        found.append(("OLS", "HC3", ordinary.get_robustcov_results("HC3"), ordinary.df_resid))
    by = pd.DataFrame(x).groupby(codes)
    if n_groups > 1 and ((by.max() > by.min()).sum() > 1).all():
        by_group = ordinary.get_robustcov_results("cluster", groups=codes, use_correction=True)
        if (by_group.bse[:k] > ABSENT * ordinary.bse[:k]).all():  # else scores cancel by group
            found.append(("OLS", "CR1", by_group, n_groups - 1))
            notes += few_groups("CR1", n_groups)
    with warnings.catch_warnings():
        # RLM's where residuals have no scale; MixedLM's boundary is a variance below 0.01, whatever y's unit
        warnings.simplefilter("ignore", ModelWarning)
        robust = sm.RLM(y, whole, M=sm.robust.norms.HuberT()).fit(maxiter=2000, tol=1e-10, conv="coefs")
        if robust.scale > ABSENT * math.sqrt(ordinary.scale):
            found.append(("RLM", "H1", robust, math.inf))
        if n_groups > 1:
            columns = np.column_stack([x, np.ones(len(y))])
            try:
                mixed = sm.MixedLM(y, columns, groups=codes).fit(reml=True, method=["bfgs", "powell"])
                ratio = float(mixed.cov_re[0, 0]) / float(mixed.scale)
            except np.linalg.LinAlgError:
                notes.append("MixedLM isn't among the slopes: its search met a singular matrix")
            else:
                what = "zero, where it is one intercept for all groups" if ratio < 1 else "so large that it is fixed"
                if BOUNDARY < ratio < 1 / BOUNDARY:
                    found.append(("MixedLM", "REML", mixed, math.inf))
                else:
                    notes.append(f"MixedLM isn't among the slopes: the variance of a random intercept is {what}")
    table = [_rows(*one, names, unit, level) for one in found]
    return LinearModels(pd.concat(table, ignore_index=True), tuple(notes))


def _rows(model: str, covariance: str, found: Any, df: float, names: list[str], unit: float, level: float) -> Any:
    """A row a slope, from what statsmodels found of y over its unit."""
    slopes = np.column_stack([found.params, found.bse, found.tvalues, found.pvalues, found.conf_int(1 - level)])
    table = pd.DataFrame(slopes[: len(names)], columns=["estimate", "se", "t", "p", "low", "high"])
    table[["estimate", "se", "low", "high"]] *= unit
    table.insert(2, "df", float(df))
    for place, (name, value) in enumerate({"model": model, "covariance": covariance, "slope": names}.items()):
        table.insert(place, name, value)
    return table
