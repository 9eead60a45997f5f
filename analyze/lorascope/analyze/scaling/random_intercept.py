"""A random intercept for each group by restricted maximum likelihood, and what optimisers of MixedLM make of it."""

import math
import warnings
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .group_design import GroupDesign

__all__ = ["RandomIntercept", "random_intercept"]

OPTIMISERS = ("bfgs", "lbfgs", "cg", "nm", "powell")
RATIOS = np.exp(np.arange(math.log(1e-9), math.log(1e12), 0.25))
"""Variance of intercepts over that of residuals, where the likelihood is looked at first."""
ZERO = 1e-6
"""A ratio below counts as zero."""
HUGE = 1e6
"""A ratio above counts as infinite: slopes are some 1/sqrt(ratio) standard errors from those of fixed intercepts."""
SHORT = 1e-4
"""Log likelihood by which an optimiser may miss the maximum."""
ASTRAY = 1e-4
"""Standard errors by which its coefficients may miss those of generalised least squares at its own variances."""


@dataclass(frozen=True)
class RandomIntercept:
    """The model whose intercepts are drawn from a normal distribution, a group each."""

    slopes: np.ndarray
    """(k,) by generalised least squares at the variances below."""
    errors: np.ndarray
    """(k,) their standard errors, which take the variances as known."""
    intercept: float
    """Mean of the groups' intercepts, where all columns are 0."""
    group_variance: float
    """Of the intercepts, in the unit of y squared; 0 where `place` is zero, at most 1e12 of the residual one."""
    residual_variance: float
    """Within groups, in the unit of y squared."""
    place: Literal["inside", "zero", "huge"]
    """Where the ratio of the two lies: `zero` below 1e-6, `huge` above 1e6."""
    likelihood_ratio: float
    """Twice the restricted log likelihood above that of one intercept for all, 0 or more."""
    likelihood_ratio_p: float
    """P of it or more were there one intercept for all: half chi-square(1), and 1 at 0; of many groups, see Notes."""
    optimisers: pd.DataFrame
    """`optimiser`, `outcome`, `group_variance`, `residual_variance` as MixedLM reports them, and `short_by`, what its
    restricted log likelihood misses of the maximum. Outcomes: agrees; singular matrix; did not converge; stopped short
    of the maximum (by more than 1e-4); coefficients off (by more than 1e-4 standard errors from generalised least
    squares at its own variances)."""

    @property
    def boundary(self) -> bool:
        """Whether the variances lie at an end, where this model is no third one beside one intercept and many."""
        return self.place != "inside"

    @property
    def agreeing(self) -> tuple[str, ...]:
        """Optimisers of MixedLM that arrive here."""
        return tuple(self.optimisers.loc[self.optimisers["outcome"] == "agrees", "optimiser"])


def random_intercept(design: GroupDesign) -> RandomIntercept:
    """Slopes and variances of a model with a random intercept for each group, by restricted maximum likelihood.

    Parameters
    ----------
    design
        Of two groups or more.

    Raises
    ------
    ValueError
        If there is a single group.

    Notes
    -----
    With r the ratio of the variances, a group of m rows has covariance s (I + r 11'), whose inverse leaves deviations
    from the group's mean as they are and weighs the mean by w = 1/(1 + m r). Slopes, s and the restricted likelihood
    follow from r by least squares of deviations and weighted means together, so that a single number is searched for:
    on a grid from 1e-9 to 1e12 and at 0, then between the best point's neighbours. Nothing depends on where a search
    begins, and r = 0 is a candidate as any other.

    Optimisers of statsmodels' MixedLM are run for comparison, on y and x as given. They search the same likelihood in
    the root of r: near 0 some stop on a singular matrix, and where r is large some stop early or lose digits. Below r =
    1e-10 MixedLM inverts 0 as 0, which gives the slopes of fixed intercepts and an intercept of 0 in place of those of
    r = 0 (statsmodels issue 10239). So nothing that it reports is taken over; `outcome` says what each came to.

    The mixture is the limit for many groups; with few it is conservative.

    References
    ----------
    Patterson and Thompson 1971, Biometrika 58, 545: restricted likelihood. Self and Liang 1987, JASA 82, 605, case 5:
    the mixture. Crainiceanu and Ruppert 2004, JRSS B 66, 165: few groups.
    """
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
    from scipy.stats import chi2  # type: ignore[import-untyped]

    if len(design.groups) < 2:
        raise ValueError("a random intercept needs two groups or more; there is one")
    model = _Centred.of(design)
    best = int(np.argmin([model.at(ratio).deviance for ratio in RATIOS]))
    around = np.log(RATIOS[[max(best - 1, 0), min(best + 1, len(RATIOS) - 1)]])
    search = minimize_scalar(
        lambda log: model.at(math.exp(log)).deviance, bounds=around, method="bounded", options={"xatol": 1e-10}
    )
    none, ratio = model.at(0.0), math.exp(search.x)
    place: Literal["inside", "zero", "huge"] = "huge" if ratio > HUGE else "inside"
    if ratio < ZERO or none.deviance <= model.at(ratio).deviance:
        place, ratio = "zero", 0.0
    fit = model.at(ratio)
    lr = none.deviance - fit.deviance
    slopes = fit.coefficients[1:] / design.spreads
    return RandomIntercept(
        slopes,
        fit.errors[1:] / design.spreads,
        float(fit.coefficients[0] + design.y.mean() - design.x.mean(axis=0) @ slopes),
        ratio * fit.variance,
        fit.variance,
        place,
        lr,
        float(chi2.sf(lr, 1) / 2) if lr > 0 else 1.0,
        pd.DataFrame([_optimised(model, name, fit.deviance) for name in OPTIMISERS]),
    )


class _Fit(NamedTuple):
    """Generalised least squares at a ratio of variances."""

    coefficients: np.ndarray
    """(1 + k,) of the centred columns, the intercept first."""
    errors: np.ndarray
    variance: float
    """Of residuals, restricted."""
    deviance: float
    """-2 restricted log likelihood, less a constant."""


class _Centred(NamedTuple):
    """Columns (n, 1 + k), the intercept first, others about their mean and of unit spread within groups."""

    design: GroupDesign
    y: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, design: GroupDesign) -> "_Centred":
        x = (design.x - design.x.mean(axis=0)) / design.spreads
        return cls(design, design.y - design.y.mean(), np.column_stack([np.ones(design.n), x]))

    def at(self, ratio: float) -> _Fit:
        """The fit where intercepts have `ratio` times the variance of residuals."""
        inflation = 1 + self.design.sizes * ratio
        weights = np.sqrt(self.design.sizes / inflation)
        rows, values = (
            np.concatenate([self.design.within(part), (self.design.means(part).T * weights).T])
            for part in (self.columns, self.y)
        )
        q, r = np.linalg.qr(rows)
        coefficients = np.linalg.solve(r, q.T @ values)
        left = float(((values - rows @ coefficients) ** 2).sum())
        n_free = self.design.n - len(coefficients)
        log_determinant = 2 * np.log(np.abs(np.diag(r))).sum()
        errors = np.linalg.norm(np.linalg.inv(r), axis=1) * math.sqrt(left / n_free)
        deviance = n_free * math.log(left) + np.log(inflation).sum() + log_determinant
        return _Fit(coefficients, errors, left / n_free, float(deviance))


def _optimised(model: _Centred, name: str, least: float) -> dict[str, object]:
    """What one optimiser of MixedLM reports, held against generalised least squares at its own variances."""
    from statsmodels.regression.mixed_linear_model import MixedLM  # type: ignore[import-untyped]
    from statsmodels.tools.sm_exceptions import (  # type: ignore[import-untyped]
        ConvergenceWarning,
        SingularMatrixWarning,
    )

    design = model.design
    columns = np.column_stack([np.ones(design.n), design.x])
    row = {"optimiser": name, "group_variance": math.nan, "residual_variance": math.nan, "short_by": math.nan}
    with warnings.catch_warnings():
        # what they say stands in `outcome`; their test of the boundary is a variance below 0.01, whatever y's unit
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", SingularMatrixWarning)
        try:
            found = MixedLM(design.y, columns, groups=design.codes).fit(reml=True, method=name)
        except np.linalg.LinAlgError as error:
            return {**row, "outcome": str(error).lower()}
    group, residual = float(found.cov_re[0, 0]), float(found.scale)
    fit = model.at(group / residual)
    short = (fit.deviance - least) / 2
    level = (columns @ found.fe_params).mean() - design.y.mean()
    theirs = np.append(level, found.fe_params[1:] * design.spreads)  # of the centred columns
    if not found.converged:
        outcome = "did not converge"
    elif (np.abs(theirs - fit.coefficients) > ASTRAY * fit.errors).any():
        outcome = "coefficients off"
    else:
        outcome = "agrees" if short <= SHORT else "stopped short of the maximum"
    return {**row, "outcome": outcome, "group_variance": group, "residual_variance": residual, "short_by": short}
