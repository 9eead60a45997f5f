"""Verdicts on claims, F tests of a fitted law, and the printed summary of a result."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.format import format_number
from lorascope.analyze.results.save import json_value

from .design import apply_design
from .estimate import Estimate, estimate
from .laws import BOUNDS
from .profile import Interval

Word = Literal["supported", "not identified", "contradicted"]
WORDS: tuple[str, ...] = get_args(Word)
ROUNDING = 1e-12
"""Excess of a p-value over 1 - level that is ignored, because 1 - 0.95 isn't 0.05 to the last bit."""
NOISY = 0.07
"""Sigma of relative residuals above which dividing by the observed response does harm (simulated: 10 % noise)."""


class Verdict(NamedTuple):
    """A claim, whether the data support or contradict it, and the number behind that."""

    claim: str
    """A sentence that could be wrong."""
    word: Word
    """Whether the data support the claim, contradict it, or can't decide (`not identified`)."""
    because: str
    """Number behind the word, with its interval or test and the number of values."""

    def __str__(self) -> str:
        """Return the verdict as one line: word, claim and, in brackets, the reason."""
        return f"{self.word}: {self.claim} ({self.because})"


def is_small(p_value: float, level: float) -> bool:
    """Return whether a p-value is at most 1 - level, up to rounding; NaN isn't."""
    return p_value <= 1 - level + ROUNDING


@dataclass(frozen=True, repr=False)
class Summary:
    """Parts of a result in the order in which they are printed; as text, its verdicts and first table."""

    title: str
    verdicts: Sequence[Verdict]
    tables: Mapping[str, pd.DataFrame]
    """Title -> rows, with numbers at full precision."""
    notes: Sequence[str]
    """Sentences on methods, assumptions and excluded rows."""
    provenance: Mapping[str, Any]
    """Settings, versions, and a hash of the rows in use."""

    def __repr__(self) -> str:
        """Return the title, the verdicts and the first table as text."""
        title, rows = next(iter(self.tables.items()))
        text = rows.to_string(index=False, float_format=lambda value: format_number(value))
        return "\n".join([self.title, *map(str, self.verdicts), "", title, text])

    def to_dict(self) -> dict[str, Any]:
        """Return all parts as values of JSON, at full precision; NaN becomes null."""
        parts: dict[str, Any] = json_value(self)
        return parts


def f_test(larger: float, smaller: float, n_more: int, df: int) -> tuple[float, float]:
    """Return F and p of two nested fits from their sums of squared residuals, as `compare_f_test` of statsmodels.

    `larger` is that of the restricted law. The full law has `n_more` more parameters and `df` residual df.
    """
    from scipy import stats  # type: ignore[import-untyped]

    if smaller <= 0:
        return (math.inf, 0.0) if larger > 0 else (math.nan, math.nan)
    f = max(larger - smaller, 0.0) / n_more / (smaller / df)
    return float(f), float(stats.f.sf(f, n_more, df))


def axis_tests(fit: Estimate) -> pd.DataFrame:
    """Return F tests of the law against the law without each size, see `ScalingFit.axis_tests`."""
    rows = []
    for axis in fit.design.logs:
        without = estimate(fit.design.without_sizes([axis]))
        n_more = without.df - fit.df
        f, p = (math.nan, math.nan) if without.is_exact else f_test(without.ssr, fit.ssr, n_more, fit.df)
        ratio = without.ssr / fit.ssr if fit.ssr else math.inf
        rows.append({"axis": axis, "F": f, "n_more": n_more, "df": fit.df, "p": p, "ssr_ratio": ratio})
    return pd.DataFrame(rows)


def verdicts(
    fit: Estimate, intervals: Mapping[str, Interval], axis_tests: pd.DataFrame, level: float
) -> tuple[Verdict, ...]:
    """Return verdicts on the direction along each size, and on whether the data determine each exponent.

    `intervals` are profile intervals of exponents and slopes; empty if the law goes through every cell.
    """
    names = [name for name in fit.design.term_names if name in BOUNDS and name in intervals]
    return (
        *(_direction_verdict(fit, row, level) for row in axis_tests.itertuples()),
        *(_exponent_verdict(name, fit, intervals[name], level) for name in names),
    )


def search_notes(fit: Estimate) -> list[str]:
    """Return sentences on problems of the search, and on limits of the fit's numbers."""
    notes = []
    if not fit.solution.converged:
        notes.append("the search ended before it converged: numbers are what it had reached")
    for name in fit.at_bound:
        low, high = fit.design.limits[name]
        notes.append(f"{name} is at an end of its range, {low:g} to {high:g}: it isn't an estimate")
    if fit.design.residual == "relative" and fit.sigma >= NOISY:
        notes.append(
            f"relative residuals divide by the observed response; with this much noise, sigma {fit.sigma:.2g}, that "
            "pulls the fit down and makes tests reject too often: compare `residuals` 'absolute'"
        )
    return notes


def _direction_verdict(fit: Estimate, row: Any, level: float) -> Verdict:
    """Return the verdict on whether the response falls as a size grows (or rises with shared layers)."""
    design, column, is_share = fit.design, fit.design.sizes[row.axis], row.axis == "share"
    sizes = design.frame[column]
    others = {name: design.references.get(axis, 1.0) for axis, name in design.sizes.items()}
    ends = pd.concat([design.frame.iloc[:1]] * 2).assign(**others | {column: [sizes.min(), sizes.max()]})
    change = float(np.diff(fit.predicted(apply_design(design, ends)))[0])
    because = (
        f"from the smallest to the largest {column} it changes by {format_number(change)} of "
        f"{'ln ' if design.law.logarithmic else ''}{design.response}; "
        f"F({row.n_more}, {row.df}) = {format_number(row.F)}, p = {format_number(row.p)}, n = {fit.n}"
    )
    as_claimed = (change > 0) == is_share
    word: Word = "not identified" if not is_small(row.p, level) else "supported" if as_claimed else "contradicted"
    return Verdict(f"{design.response} {'rises' if is_share else 'falls'} as {column} grows", word, because)


def _exponent_verdict(name: str, fit: Estimate, interval: Interval, level: float) -> Verdict:
    """Return the verdict on whether data determine an exponent: yes if its interval is closed and excludes 0."""
    because = (
        f"{name} = {format_number(fit.values[name])}, {100 * level:g} % profile interval by F "
        f"{interval.text()}, n = {fit.n}"
    )
    word: Word = "not identified" if interval.low_open or interval.high_open else "supported"
    if word == "supported" and interval.low <= 0 <= interval.high and name in fit.design.exponents:
        word, because = "not identified", f"{because}, 0 included: its term may be a logarithm as well"
    return Verdict(f"under this law, these data determine {name}", word, because)
