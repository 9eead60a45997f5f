"""Slopes of a law that is straight, with an intercept for each group: OLS, Huber's norm, a random intercept."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

__all__ = ["LinearModels", "linear_models"]

HUBER = 1.345
"""Huber's corner over the scale of the residuals."""
FEW_GROUPS = 20
"""Groups below which errors by group are known to be too small."""
ABSENT = 1e-8
"""Errors, scales and what is left of 1 - leverage that count as zero below it, relative to what they are beside."""
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
    """Slopes of y on x with an intercept for each group, by statsmodels.

    Parameters
    ----------
    y
        (n,) response, such as ln MIUB; a slope has its unit over that of the column.
    x
        (n, k) columns whose slopes all groups share, such as ln(N0/N).
    names
        Names of the k columns.
    groups
        (n,) label of each row's group; groups of a single row are left out.
    level
        Level of confidence of intervals.

    Notes
    -----
    OLS has G intercepts and k slopes, K = G + k; its errors are plain and HC3, with Student's t of n - K, and CR1: by
    group, times G/(G - 1) (n - 1)/(n - K), with t of G - 1. RLM is Huber's M-estimate, its scale the median absolute
    residual. MixedLM has a random intercept for each group, by restricted maximum likelihood, of columns scaled to unit
    spread within groups; where its variance is zero or very large it is no third model, and isn't among the slopes.

    References
    ----------
    MacKinnon and White 1985, Journal of Econometrics 29, 305: HC3. Cameron and Miller 2015, Journal of Human Resources
    50, 317: CR1, few groups and what K counts. Huber 1973, Annals of Statistics 1, 799.
    """
    from statsmodels.regression.linear_model import OLS  # type: ignore[import-untyped]
    from statsmodels.robust.norms import HuberT  # type: ignore[import-untyped]
    from statsmodels.robust.robust_linear_model import RLM  # type: ignore[import-untyped]
    from statsmodels.tools.sm_exceptions import ConvergenceWarning  # type: ignore[import-untyped]

    codes = pd.factorize(groups)[0]
    kept = np.bincount(codes)[codes] > 1
    y, x, codes = y[kept], x[kept], pd.factorize(groups[kept])[0]
    dummies = np.asarray(codes[:, None] == np.arange(codes.max() + 1), np.float64)
    centred = x - dummies @ np.linalg.lstsq(dummies, x, rcond=None)[0]
    unit = np.linalg.norm(centred, axis=0)
    k, n_groups = len(names), dummies.shape[1]
    whole = np.column_stack([centred / unit, dummies])
    ordinary = OLS(y, whole).fit()
    df, scale = float(ordinary.df_resid), math.sqrt(ordinary.scale)
    rows = [("OLS", "plain", ordinary.params, ordinary.bse, df)]
    if (ordinary.get_influence().hat_matrix_diag < 1 - ABSENT).all():
        rows.append(("OLS", "HC3", ordinary.params, ordinary.HC3_se, df))
    notes = []
    if n_groups > 1:
        by_group = ordinary.get_robustcov_results("cluster", groups=codes, use_correction=True).bse
        n_varying = sum(np.ptp(x[codes == place], axis=0) > 0 for place in range(n_groups))
        if (n_varying > 1).all() and (by_group[:k] > ABSENT * ordinary.bse[:k]).all():  # else scores cancel by group
            rows.append(("OLS", "CR1", ordinary.params, by_group, n_groups - 1.0))
            if n_groups < FEW_GROUPS:
                notes.append(f"CR1 rests on {n_groups} groups; of fewer than {FEW_GROUPS} it tends to be too small")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # where half of the residuals are 0, and there is no scale
        robust = RLM(y / scale, whole, M=HuberT(t=HUBER)).fit(maxiter=2000, tol=1e-10, conv="coefs")
    if robust.scale > ABSENT:
        rows.append(("RLM", "H1", robust.params * scale, robust.bse * scale, math.inf))
    if n_groups > 1:
        mixed, said = _random_intercept(y, x / unit, codes)
        rows += [("MixedLM", "REML", *mixed, math.inf)] if mixed else []
        notes += said
    table = [
        _row(*row[:2], names[j], row[2][j] / unit[j], row[3][j] / unit[j], row[4], level) for row in rows
        for j in range(k)
    ]  # fmt: skip
    return LinearModels(pd.DataFrame(table), tuple(notes))


def _random_intercept(
    y: np.ndarray, x: np.ndarray, codes: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray] | None, list[str]]:
    """Slopes and errors (k,), or None and a sentence where the variance lies at an end."""
    from statsmodels.regression.mixed_linear_model import MixedLM  # type: ignore[import-untyped]
    from statsmodels.tools.sm_exceptions import (
        ConvergenceWarning,
        SingularMatrixWarning,
    )

    centre, spread = y.mean(), y.std()
    columns = np.column_stack([np.ones(len(y)), x - x.mean(axis=0)])
    with warnings.catch_warnings():
        # its test of the boundary is a variance below 0.01, whatever y's unit; ours is below
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", SingularMatrixWarning)
        try:
            found = MixedLM((y - centre) / spread, columns, groups=codes).fit(reml=True, method=["bfgs", "powell"])
        except np.linalg.LinAlgError:
            return None, ["MixedLM isn't among the slopes: its search met a singular matrix"]
    ratio = float(found.cov_re[0, 0]) / float(found.scale)
    if not BOUNDARY < ratio < 1 / BOUNDARY:
        what = "zero, where it is one intercept for all groups" if ratio <= BOUNDARY else "so large that it is fixed"
        return None, [f"MixedLM isn't among the slopes: the variance of a random intercept is {what}"]
    return (found.fe_params[1:] * spread, found.bse_fe[1:] * spread), []


def _row(model: str, covariance: str, name: str, slope: float, se: float, df: float, level: float) -> dict[str, object]:
    from scipy.stats import t as student  # type: ignore[import-untyped]

    half = float(student.isf((1 - level) / 2, df)) * se
    t = slope / se
    return {
        "model": model, "covariance": covariance, "slope": name, "estimate": float(slope), "se": float(se), "df": df,
        "t": float(t), "p": float(2 * student.sf(abs(t), df)), "low": float(slope - half), "high": float(slope + half),
    }  # fmt: skip
