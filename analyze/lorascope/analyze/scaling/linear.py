"""Linear models of a law that is straight in logarithms, with group effects: slopes and several kinds of errors."""

import math
import warnings
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .group_design import GroupDesign, check_level, group_design
from .objective import HUBER
from .random_intercept import RandomIntercept, random_intercept

__all__ = ["LinearModels", "linear_models"]

FEW_GROUPS = 20
"""Below it errors by group are known to be too small."""
ROUNDS = 2000
"""Of reweighting."""
ABSENT = 1e-8
"""An error, a scale or what is left of 1 - leverage counts as zero below it, relative to what it is compared with."""


@dataclass(frozen=True)
class LinearModels:
    """Slopes that all groups share, by several models."""

    slopes: pd.DataFrame
    """A row a model, kind of error and slope: `model` (OLS, RLM, MixedLM), `covariance` (plain, HC3, CR1, H1, REML),
    `slope`, `estimate`, `se`, `df` (infinity: normal), `t`, `p` (two-sided), `low`, `high`."""
    intercepts: pd.Series
    """Of each group by OLS, where all columns are 0; in the unit of y."""
    n: int
    """Rows of groups of two and more."""
    n_groups: int
    """Such groups."""
    r2_within: float
    """Share of y's squares about the groups' means that the columns account for."""
    sigma: float
    """Residual standard deviation of OLS with n - n_groups - k degrees of freedom; in the unit of y."""
    mixed: RandomIntercept | None
    """The model with a random intercept, whose slopes are a row of `slopes` unless `mixed.boundary`; None of one
    group."""
    notes: tuple[str, ...]
    """Sentences on what was left out and why, and on how far errors can be trusted."""


def linear_models(
    y: np.ndarray, x: np.ndarray, names: Sequence[str], groups: Sequence[Hashable], *, level: float = 0.95
) -> LinearModels:
    """Slopes of y on x with an intercept for each group, by least squares, Huber's norm and a random intercept.

    Parameters
    ----------
    y
        (n,) response, such as ln MIUB; a slope has its unit over that of the column.
    x
        (n, k) columns, such as ln(N0/N).
    names
        Of the k columns.
    groups
        (n,) label of each row's group.
    level
        Of confidence.

    Raises
    ------
    ValueError
        If `group_design` refuses the arrays, or `level` isn't between 0 and 1.

    Notes
    -----
    Groups of a single row are set aside first: n rows in G groups of two and more are left.

    OLS has G intercepts and k slopes, K = G + k. With residuals e and leverages h (of the intercepts, too) its errors
    are plain, sum(e^2)/(n - K); HC3, the sandwich of (e/(1 - h))^2; both with Student's t of n - K. CR1 is the sandwich
    of sums over groups times G/(G - 1) (n - 1)/(n - K), with t of G - 1. Here K counts every intercept. Programs that
    leave out intercepts nested in the groups have n - k - 1 for n - K and get errors smaller by sqrt((n - K)/(n - k -
    1)).

    RLM is Huber's M-estimate with corner 1.345 by reweighting, its scale the median |residual| over 0.6745 in each
    round, without a correction for the K parameters; its covariance is H1 of Huber, its p normal.

    MixedLM is `random_intercept`; normal p. Where its variance lies at an end, it isn't among the slopes, and a note
    says so.

    References
    ----------
    MacKinnon and White 1985, Journal of Econometrics 29, 305: HC3. Cameron and Miller 2015, Journal of Human Resources
    50, 317, sections II and III: CR1, few groups and what K counts. Huber 1973, Annals of Statistics 1, 799.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0], [2.0]] * 2)
    >>> y = np.array([1.0, 0.6, -0.1, 5.0, 4.4, 4.1])
    >>> found = linear_models(y, x, ["ln N"], ["a", "a", "a", "b", "b", "b"])
    >>> found.slopes.loc[0, ["model", "covariance"]].tolist(), round(float(found.slopes["estimate"][0]), 6)
    (['OLS', 'plain'], -0.5)
    """
    check_level(level)
    design = group_design(y, x, names, groups)
    notes = _about_alone(design)
    ordinary = _ordinary(design)
    rows, said = _ordinary_rows(design, ordinary, level)
    notes += said
    rows_robust, said = _robust_rows(design, math.sqrt(ordinary.scale), level)
    notes += said
    mixed = random_intercept(design) if len(design.groups) > 1 else None
    rows_mixed: list[dict[str, Any]] = []
    if mixed is None:
        notes.append("There is one group: no errors by group (CR1), and no random intercept (MixedLM).")
    else:
        notes += _about_mixed(mixed)
        if not mixed.boundary:
            rows_mixed = _rows(design, "MixedLM", "REML", mixed.slopes, mixed.errors, math.inf, level)
    k = len(design.names)
    slopes = ordinary.params[:k] / design.spreads
    return LinearModels(
        slopes=pd.DataFrame([*rows, *rows_robust, *rows_mixed]),
        intercepts=pd.Series(
            ordinary.params[k:] - design.means(design.x) @ slopes,
            index=pd.Index(list(design.groups), name="group", tupleize_cols=False),
            name="intercept",
        ),
        n=design.n,
        n_groups=len(design.groups),
        r2_within=1 - float(ordinary.ssr / (design.within(design.y) ** 2).sum()),
        sigma=math.sqrt(ordinary.scale),
        mixed=mixed,
        notes=tuple(notes),
    )


def _ordinary(design: GroupDesign) -> Any:
    """OLS of y on the unit columns, then the groups: its last G parameters are the groups' means of y."""
    from statsmodels.regression.linear_model import OLS  # type: ignore[import-untyped]

    return OLS(design.y, np.column_stack([design.x_unit, design.dummies])).fit()


def _ordinary_rows(design: GroupDesign, found: Any, level: float) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of the three kinds of errors, and sentences on those that can't be had."""
    k, df = len(design.names), design.n - design.n_parameters
    n_groups = len(design.groups)
    slopes, plain = found.params[:k] / design.spreads, found.bse[:k] / design.spreads
    rows = _rows(design, "OLS", "plain", slopes, plain, df, level)
    notes = []
    leverage = 1 / design.sizes[design.codes] + (np.linalg.qr(design.x_unit)[0] ** 2).sum(axis=1)
    full = leverage > 1 - ABSENT
    if full.any():
        notes.append(
            f"HC3 isn't given: {int(full.sum())} of {design.n} rows have leverage 1, that is, parameters of their own "
            f"fit them exactly; the first is in group {str(design.groups[design.codes[full.argmax()]])!r}."
        )
    else:
        rows += _rows(design, "OLS", "HC3", slopes, found.HC3_se[:k] / design.spreads, df, level)
    if n_groups == 1:
        return rows, notes
    by_group = found.get_robustcov_results("cluster", groups=design.codes, use_correction=True).bse[:k] / design.spreads
    none = (design.n_varying < 2) | (by_group <= ABSENT * plain)
    if none.any():
        notes.append(
            f"CR1 isn't given: the scores of {_listed(np.array(design.names)[none])} cancel within each group, as they "
            f"do where a column varies in a single group; there are {n_groups} groups."
        )
        return rows, notes
    rows += _rows(design, "OLS", "CR1", slopes, by_group, n_groups - 1, level)
    if n_groups < FEW_GROUPS:
        notes.append(
            f"CR1 rests on {n_groups} groups; with fewer than {FEW_GROUPS} such errors tend to be too small, and "
            "`wild_cluster_test` is the test to read."
        )
    return rows, notes


def _robust_rows(design: GroupDesign, sigma: float, level: float) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of Huber's norm, or a sentence on why there are none."""
    from statsmodels.robust.norms import HuberT  # type: ignore[import-untyped]
    from statsmodels.robust.robust_linear_model import RLM  # type: ignore[import-untyped]
    from statsmodels.tools.sm_exceptions import ConvergenceWarning  # type: ignore[import-untyped]

    model = RLM(design.within(design.y) / sigma, np.column_stack([design.x_unit, design.dummies]), M=HuberT(t=HUBER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a scale of zero, which is looked at below
        found = model.fit(maxiter=ROUNDS, tol=1e-10, conv="coefs")
    if found.scale < ABSENT:
        return [], ["RLM isn't given: half of the rows or more are fitted exactly, so that the residuals' scale is 0."]
    if found.fit_history["iteration"] >= ROUNDS:
        return [], [f"RLM isn't given: after {ROUNDS} rounds of reweighting it still moves."]
    k, unit = len(design.names), sigma / design.spreads
    notes = [] if (found.weights < 1).any() else ["RLM is OLS here: no residual exceeds 1.345 of its scale."]
    return _rows(design, "RLM", "H1", found.params[:k] * unit, found.bse[:k] * unit, math.inf, level), notes


def _rows(
    design: GroupDesign, model: str, covariance: str, slopes: np.ndarray, se: np.ndarray, df: float, level: float
) -> list[dict[str, Any]]:
    """A row for each slope; normal where df is infinite."""
    from scipy.stats import t as student  # type: ignore[import-untyped]

    ratio = slopes / se
    half = student.isf((1 - level) / 2, df) * se
    p = 2 * student.sf(np.abs(ratio), df)
    numbers = np.column_stack([slopes, se, np.full(len(se), df), ratio, p, slopes - half, slopes + half])
    columns = ("estimate", "se", "df", "t", "p", "low", "high")
    return [
        {"model": model, "covariance": covariance, "slope": name, **dict(zip(columns, map(float, row), strict=True))}
        for name, row in zip(design.names, numbers, strict=True)
    ]


def _about_alone(design: GroupDesign) -> list[str]:
    if not design.alone:
        return []
    return [f"Groups of a single row say nothing of slopes and are set aside: {_listed(design.alone)}."]


def _about_mixed(mixed: RandomIntercept) -> list[str]:
    """Where the variance lies, and which optimisers of MixedLM fail."""
    notes = []
    if mixed.place == "zero":
        notes.append(
            "MixedLM isn't among the slopes: the variance of a random intercept is estimated at zero, the boundary "
            "(below 1e-6 of the residual one), where it is one intercept for all groups. Read the fixed effects of OLS."
        )
    if mixed.place == "huge":
        notes.append(
            f"MixedLM isn't among the slopes: the variance of a random intercept is {mixed.group_variance:.3g}, above "
            f"1e6 times the residual one, {mixed.residual_variance:.3g}, where it comes to fixed effects: read OLS."
        )
    failed = mixed.optimisers[mixed.optimisers["outcome"] != "agrees"]
    if len(failed):
        each = ", ".join(f"{row.optimiser} ({row.outcome})" for row in failed.itertuples())
        notes.append(
            f"Of {len(mixed.optimisers)} optimisers of MixedLM these miss the maximum of the restricted likelihood: "
            f"{each}. The numbers are those of the maximum."
        )
    return notes


def _listed(names: Iterable[Hashable]) -> str:
    return ", ".join(repr(str(name)) for name in names)
