"""Slopes of a law that is straight, with an intercept for each group: OLS, Huber's norm, a random intercept."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

__all__ = ["LinearModels", "from_own_reference", "linear_models"]

HUBER = 1.345
"""Huber's corner over the scale of the residuals."""
FEW_GROUPS = 20
"""Groups below which errors by group are known to be too small."""
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
    residual. MixedLM has a random intercept for each group, by restricted maximum likelihood, of columns scaled to unit
    spread within groups; where its variance is zero or very large it is no third model, and isn't among the slopes.
    Groups of a single row are left out.

    References
    ----------
    MacKinnon and White 1985, Journal of Econometrics 29, 305: HC3. Cameron and Miller 2015, Journal of Human Resources
    50, 317: CR1, few groups and what K counts.
    """
    from statsmodels.regression.linear_model import OLS  # type: ignore[import-untyped]

    codes = pd.factorize(groups)[0]
    kept = np.bincount(codes)[codes] > 1
    y, x, codes = y[kept], x[kept], pd.factorize(groups[kept])[0]
    dummies = np.asarray(codes[:, None] == np.arange(codes.max() + 1), np.float64)
    centred = x - dummies @ np.linalg.lstsq(dummies, x, rcond=None)[0]
    unit = np.linalg.norm(centred, axis=0)
    k, n_groups, notes = len(names), dummies.shape[1], []
    whole = np.column_stack([centred / unit, dummies])
    ordinary = OLS(y, whole).fit()
    df, scale = float(ordinary.df_resid), math.sqrt(ordinary.scale)
    found = [("OLS", "plain", ordinary, 1.0, df)]
    if (ordinary.get_influence().hat_matrix_diag < 1 - ABSENT).all():
        found.append(("OLS", "HC3", ordinary.get_robustcov_results("HC3"), 1.0, df))
    if n_groups > 1:
        by_group = ordinary.get_robustcov_results("cluster", groups=codes, use_correction=True)
        n_varying = sum(np.ptp(x[codes == place], axis=0) > 0 for place in range(n_groups))
        if (n_varying > 1).all() and (
            by_group.bse[:k] > ABSENT * ordinary.bse[:k]
        ).all():  # else scores cancel by group
            found.append(("OLS", "CR1", by_group, 1.0, n_groups - 1.0))
            if n_groups < FEW_GROUPS:
                notes.append(f"CR1 rests on {n_groups} groups; of fewer than {FEW_GROUPS} it tends to be too small")
    robust = _huber(y / scale, whole)
    if robust.scale > ABSENT:
        found.append(("RLM", "H1", robust, scale, math.inf))
    if n_groups > 1:
        mixed, said = _random_intercept((y - y.mean()) / y.std(), x / unit, codes)
        found += [("MixedLM", "REML", mixed, float(y.std()), math.inf)] if mixed is not None else []
        notes += said
    table = pd.concat([_rows(*one, unit, names, level) for one in found], ignore_index=True)
    return LinearModels(table, tuple(notes))


def _huber(y: np.ndarray, whole: np.ndarray) -> Any:
    from statsmodels.robust.norms import HuberT  # type: ignore[import-untyped]
    from statsmodels.robust.robust_linear_model import RLM  # type: ignore[import-untyped]
    from statsmodels.tools.sm_exceptions import ConvergenceWarning  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # where half of the residuals are 0, and there is no scale
        return RLM(y, whole, M=HuberT(t=HUBER)).fit(maxiter=2000, tol=1e-10, conv="coefs")


def _random_intercept(y: np.ndarray, x: np.ndarray, codes: np.ndarray) -> tuple[Any, list[str]]:
    """A mixed model, or None and a sentence where the variance lies at an end."""
    from statsmodels.regression.mixed_linear_model import MixedLM  # type: ignore[import-untyped]
    from statsmodels.tools.sm_exceptions import ConvergenceWarning, SingularMatrixWarning

    columns = np.column_stack([x - x.mean(axis=0), np.ones(len(y))])
    with warnings.catch_warnings():
        # its test of the boundary is a variance below 0.01, whatever y's unit; ours is below
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", SingularMatrixWarning)
        try:
            found = MixedLM(y, columns, groups=codes).fit(reml=True, method=["bfgs", "powell"])
        except np.linalg.LinAlgError:
            return None, ["MixedLM isn't among the slopes: its search met a singular matrix"]
    ratio = float(found.cov_re[0, 0]) / float(found.scale)
    if BOUNDARY < ratio < 1 / BOUNDARY:
        return found, []
    what = "zero, where it is one intercept for all groups" if ratio <= BOUNDARY else "so large that it is fixed"
    return None, [f"MixedLM isn't among the slopes: the variance of a random intercept is {what}"]


def _rows(
    model: str, covariance: str, found: Any, scale: float, df: float, unit: np.ndarray, names: list[str], level: float
) -> pd.DataFrame:
    """A row a slope, from what statsmodels found of y over a scale and columns over their unit."""
    k = len(names)
    low, high = found.conf_int(1 - level)[:k].T * scale / unit
    return pd.DataFrame(
        {
            "model": model, "covariance": covariance, "slope": names, "estimate": found.params[:k] * scale / unit,
            "se": found.bse[:k] * scale / unit, "df": df, "t": found.tvalues[:k], "p": found.pvalues[:k],
            "low": low, "high": high,
        }
    )  # fmt: skip


def from_own_reference(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(n,) a column less what it is in the row of the group where it is nearest to 0."""
    moved = x.copy()
    for group in dict.fromkeys(groups):
        rows = np.flatnonzero(groups == group)
        moved[rows] -= x[rows[np.abs(x[rows]).argmin()]]
    return moved
