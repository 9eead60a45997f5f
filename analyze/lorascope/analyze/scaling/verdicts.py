"""What a fit says of the law's claims, in one of three words."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..format import format_number
from ..stats.verdict import Verdict, Word
from .estimate import Estimate
from .laws import AXES
from .profile import Interval

__all__ = ["verdicts"]

DECISIVE = 2.0
"""Difference of AIC from which one model is spoken for."""


def verdicts(
    estimate: Estimate,
    intervals: Mapping[str, Interval],
    axis_tests: pd.DataFrame,
    lack_of_fit: pd.DataFrame,
    level: float,
) -> tuple[Verdict, ...]:
    """Direction along each size, each exponent, and the form of the law.

    `intervals` are profile intervals by F of exponents and slopes, empty with Huber's loss.
    """
    alpha = 1 - level
    found = [_direction(estimate, row, alpha) for row in axis_tests.itertuples() if row.axis in (*AXES, "share")]
    found += [
        _exponent(name, estimate, intervals[name], level) for name in _exponent_names(estimate) if name in intervals
    ]
    return (*found, _form(estimate, lack_of_fit, alpha))


def _direction(estimate: Estimate, row: object, alpha: float) -> Verdict:
    """Whether the response falls as a size grows."""
    axis, p = str(row.axis), float(row.p)  # type: ignore[attr-defined]
    change = _change(estimate, axis)
    design = estimate.design
    column = design.share if axis == "share" else design.axes[axis]
    way = "rises" if axis == "share" else "falls"
    because = (
        f"from the smallest to the largest {column} it changes by {format_number(change)} of "
        f"{'ln ' if design.law.logarithmic else ''}{design.response}; "
        f"F({row.n_more}, {row.df}) = {format_number(row.F)}, p = {format_number(p)}, n = {estimate.n}"  # type: ignore[attr-defined]
    )
    as_claimed = (change > 0) == (axis == "share")
    word: Word = "not identified" if not p <= alpha else "supported" if as_claimed else "contradicted"
    return Verdict(f"{design.response} {way} as {column} grows", word, because)


def _change(estimate: Estimate, axis: str) -> float:
    """What the law says between the ends of one size, the others at their references."""
    design = estimate.design
    terms = design.terms
    if axis == "share":
        assert terms.share is not None
        return estimate.values["slope_share"] * float(terms.share.max() - terms.share.min())
    logs = {name: values[[values.argmax(), values.argmin()]] * (name == axis) for name, values in terms.logs.items()}
    share = None if terms.share is None else terms.share[:2] * 0
    ratio = None if terms.log_data_per_rank is None else _ratio_at_ends(estimate, axis)
    columns, _ = design.law.terms(type(terms)(logs, share, ratio, terms.shifts))
    at = estimate.parts[2]
    ends = sum(c * one.centred(at) for c, one in zip(estimate.parts[1], columns, strict=True))
    return float(ends[1] - ends[0])


def _ratio_at_ends(estimate: Estimate, axis: str) -> np.ndarray:
    """(2,) ln(D/R) where one size goes from its smallest to its largest."""
    design = estimate.design
    sizes = {name: design.frame[design.axes[name]].to_numpy() for name in ("D", "R")}
    ends = {
        name: np.array([values.min(), values.max()]) if name == axis else np.full(2, design.within[name])
        for name, values in sizes.items()
    }
    return np.asarray(np.log(ends["D"] / ends["R"] / design.within["D/R"]))


def _exponent_names(estimate: Estimate) -> list[str]:
    straight = [one.amplitude for one in estimate.design.columns if one.amplitude in ("alpha", "beta", "gamma")]
    return [*straight, *estimate.design.exponents]


def _exponent(name: str, estimate: Estimate, interval: Interval, level: float) -> Verdict:
    """Whether the interval is closed, and doesn't hold the power that is a constant."""
    claim, value = f"under this law, these data determine {name}", estimate.values[name]
    low, high, low_open, high_open, in_parts = interval
    ends = (
        f"{'(open) ' if low_open else ''}{format_number(low)} to {format_number(high)}{' (open)' if high_open else ''}"
        f"{', in parts' if in_parts else ''}"
    )
    because = f"{name} = {format_number(value)}, {100 * level:g} % profile interval by F {ends}, n = {estimate.n}"
    if low_open or high_open:
        return Verdict(claim, "not identified", because)
    if low <= 0 <= high and name in estimate.design.exponents:
        return Verdict(claim, "not identified", f"{because}, 0 included: its term may be a logarithm as well")
    return Verdict(claim, "supported", because)


def _form(estimate: Estimate, lack_of_fit: pd.DataFrame, alpha: float) -> Verdict:
    row = lack_of_fit.iloc[0]
    claim = f"settings follow {estimate.design.equation} as closely as cells of one setting follow each other"
    if math.isnan(row["p"]):
        return Verdict(claim, "not identified", str(row["note"]))
    # Akaike's price for the freedom of the settings: a law that does as well without it is spoken for.
    gain = 2 * row["n_more"] - estimate.n * math.log1p(row["F"] * row["n_more"] / row["df"])
    because = (
        f"lack of fit F({int(row['n_more'])}, {int(row['df'])}) = {format_number(row['F'])}, "
        f"p = {format_number(row['p'])}, against free effects of {int(row['n_settings'])} settings, AIC of "
        f"the law {format_number(abs(gain))} {'below' if gain > 0 else 'above'} theirs, n = {estimate.n}"
    )
    word: Word = "contradicted" if row["p"] <= alpha else "supported" if gain > DECISIVE else "not identified"
    return Verdict(claim, word, because)
