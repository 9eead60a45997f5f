"""What speaks for and against a law: tests, residuals by setting, criteria, and verdicts, each of one number."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.format import format_number

from .design import APART, applied
from .estimate import Estimate, estimate
from .laws import BOUNDS
from .profile import Interval, interval_text
from .solve import spanned
from .summary import Verdict, Word

DECISIVE = 2.0
"""Difference of AIC that one model must have before it is spoken for."""
NOISY = 0.07
"""Sigma of relative residuals above which weights by the observed response do harm (by simulation: 10 % noise)."""


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


def verdicts(
    fit: Estimate, intervals: Mapping[str, Interval], axis_tests: pd.DataFrame, lack_of_fit: pd.DataFrame, level: float
) -> tuple[Verdict, ...]:
    """Direction along each size, each exponent, and the form of the law.

    `intervals` are profile intervals by F of exponents and slopes, empty with Huber's loss.
    """
    names = [name for name in fit.design.term_names if name in BOUNDS and name in intervals]
    return (
        *(_direction(fit, row, 1 - level) for row in axis_tests.itertuples()),
        *(_exponent(name, fit, intervals[name], level) for name in names),
        _form(fit, lack_of_fit.iloc[0], 1 - level),
    )


def search_notes(fit: Estimate) -> list[str]:
    """How the search went, where it isn't as it should be, and what a fit's numbers can't be taken for."""
    search, said = fit.search, []
    if not search.converged:
        said.append("the search ended before it converged: numbers are what it had reached")
    for name in search.at_bound:
        low, high = fit.design.limits[name]
        said.append(f"{name} is at an end of its range, {low:g} to {high:g}: it isn't an estimate")
    if search.share_of_starts < 0.5:
        share = 100 * search.share_of_starts
        said.append(f"only {share:.0f} % of {search.n_starts} random starts ended at the optimum")
    if fit.design.residual == "relative" and fit.sigma >= NOISY:
        said.append(
            f"relative residuals divide by the observed response; with as much noise, sigma {fit.sigma:.2g}, that "
            "pulls the fit down and makes tests reject too often: compare residuals of the logarithm"
        )
    if math.isfinite(fit.delta):
        said.append("what each size adds and lack of fit are tests of least squares, beside parameters by Huber's loss")
    return said


def _direction(fit: Estimate, row: Any, alpha: float) -> Verdict:
    """Whether the response falls as a size grows; rises, as more layers share their weights."""
    design, column, is_share = fit.design, fit.design.sizes[row.axis], row.axis == "share"
    sizes = design.frame[column]
    others = {name: design.references.get(axis, 1.0) for axis, name in design.sizes.items()}
    ends = pd.concat([design.frame.iloc[:1]] * 2).assign(**others | {column: [sizes.min(), sizes.max()]})
    change = float(np.diff(fit.predicted(applied(design, ends)))[0])
    because = (
        f"from the smallest to the largest {column} it changes by {format_number(change)} of "
        f"{'ln ' if design.law.logarithmic else ''}{design.response}; "
        f"F({row.n_more}, {row.df}) = {format_number(row.F)}, p = {format_number(row.p)}, n = {fit.n}"
    )
    as_claimed = (change > 0) == is_share
    word: Word = "not identified" if not row.p <= alpha else "supported" if as_claimed else "contradicted"
    return Verdict(f"{design.response} {'rises' if is_share else 'falls'} as {column} grows", word, because)


def _exponent(name: str, fit: Estimate, interval: Interval, level: float) -> Verdict:
    """Whether the interval is closed, and doesn't hold the power that is a constant."""
    because = (
        f"{name} = {format_number(fit.values[name])}, {100 * level:g} % profile interval by F "
        f"{interval_text(interval, 3)}, n = {fit.n}"
    )
    word: Word = "not identified" if interval.low_open or interval.high_open else "supported"
    if word == "supported" and interval.low <= 0 <= interval.high and name in fit.design.exponents:
        word, because = "not identified", f"{because}, 0 included: its term may be a logarithm as well"
    return Verdict(f"under this law, these data determine {name}", word, because)


def _form(fit: Estimate, row: Any, alpha: float) -> Verdict:
    """Whether settings follow the law as closely as cells of one setting follow each other."""
    claim = f"settings follow {fit.design.equation} as closely as cells of one setting follow each other"
    if math.isnan(row["p"]):
        return Verdict(claim, "not identified", row["note"])
    # Akaike's price for the freedom of the settings: a law that does as well without it is spoken for.
    gain = 2 * row["n_more"] - fit.n * math.log1p(row["F"] * row["n_more"] / row["df"])
    because = (
        f"lack of fit F({row['n_more']}, {row['df']}) = {format_number(row['F'])}, "
        f"p = {format_number(row['p'])}, against free effects of {row['n_settings']} settings, AIC of "
        f"the law {format_number(abs(gain))} {'below' if gain > 0 else 'above'} theirs, n = {fit.n}"
    )
    word: Word = "contradicted" if row["p"] <= alpha else "supported" if gain > DECISIVE else "not identified"
    return Verdict(claim, word, because)


def _least_squares(fit: Estimate) -> Estimate:
    return fit if not math.isfinite(fit.delta) else estimate(fit.design, starts=(fit.parts[2],))
