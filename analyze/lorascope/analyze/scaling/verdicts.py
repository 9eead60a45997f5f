"""What a fit says of the law's claims, in one of three words, and in sentences of its search."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..format import format_number
from ..stats.verdict import Verdict, Word
from .design import applied
from .estimate import Estimate
from .laws import BOUNDS
from .profile import Interval

__all__ = ["interval_text", "search_notes", "verdicts"]

DECISIVE = 2.0
"""Difference of AIC that one model must have before it is spoken for."""
NOISY = 0.07
"""Sigma of relative residuals above which weights by the observed response do harm (by simulation: 10 % noise)."""


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


def interval_text(interval: Sequence[Any], digits: int = 4) -> str:
    """Low, high, whether each is open, and, if known, whether it is in parts, in words: `(open) to 0.5`."""
    low, high, low_open, high_open = interval[:4]
    ends = ["(open)" if is_open else format_number(end, digits=digits)
            for end, is_open in ((low, low_open), (high, high_open))]  # fmt: skip
    return " to ".join(ends) + (", in parts" if any(interval[4:]) else "")


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
