"""Verdicts of a comparison of metrics: what its rows say of each claim, in every set of cells."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..format import format_number as text
from .study_cells import Metric
from .verdict import Verdict, Word, word_of

__all__ = ["judge"]

Row = Mapping[str, Any]
Told = tuple[float, float, float, str]
"""p-value, ends of an interval turned so that above 0 speaks for the claim, and the numbers in words."""


def judge(
    metrics: Sequence[Metric], of_metric: Sequence[Row], of_pair: Sequence[Row], level: float
) -> tuple[Verdict, ...]:
    """Verdicts on metrics, the first of which is the reference; `compare_metrics` says by which rule.

    Parameters
    ----------
    metrics
        As `parse_metrics` gives them.
    of_metric, of_pair
        Rows of the tables `metrics` and `pairs`, of all sets of cells.
    level
        p-values up to 1 - level count.
    """
    reference, *others = metrics
    own = {one: [row for row in of_metric if row["metric"] == one.name] for one in metrics}
    against = {
        one: [row for row in of_pair if row["first"] == reference.name and row["second"] == one.name] for one in others
    }
    found = [_verdict(f"{one.name} follows accuracy within groups", own[one], _follows(one), level) for one in metrics]
    for one in others:
        claim = f"{reference.name} follows accuracy more closely than {one.name}"
        found.append(_verdict(claim, against[one], _closer, level))
    for one in metrics:
        claim = f"{one.name} adds to knowing the setting, with the sign it promises"
        found.append(_verdict(claim, own[one], _adds(one), level))
    for one in others:
        claim = f"{reference.name} orders settings more alike from group to group than {one.name}"
        found.append(_verdict(claim, against[one], _more_alike, level))
    return tuple(found)


def _verdict(claim: str, rows: Sequence[Row], tell: Callable[[Row], Told], level: float) -> Verdict:
    words: set[Word] = set()
    reasons = []
    for row in rows:
        p_value, low, high, because = tell(row)
        words.add(word_of(p_value, low, high, level))
        reasons.append(because if len(rows) == 1 else f"{row['cells']}: {because}")
    return Verdict(claim, words.pop() if len(words) == 1 else "not identified", "; ".join(reasons))


def _follows(metric: Metric) -> Callable[[Row], Told]:
    def tell(row: Row) -> Told:
        because = (
            f"r = {text(row['pearson'])} {_ends(row)}, p = {text(row['p'])} for {row['n_effective']} effective cells, "
            f"{text(row['permutation_p'])} by labels of settings"
        )
        return max(row["p"], row["permutation_p"]), *_turned(metric, row["low"], row["high"]), because

    return tell


def _adds(metric: Metric) -> Callable[[Row], Told]:
    def tell(row: Row) -> Told:
        if math.isnan(row["partial_r"]):
            return math.nan, math.nan, math.nan, "group and setting leave nothing to tell"
        because = (
            f"partial r = {text(row['partial_r'])} {_ends(row, 'partial_')}, p = {text(row['partial_p'])} by labels of "
            "settings"
        )
        return row["partial_p"], *_turned(metric, row["partial_low"], row["partial_high"]), because

    return tell


def _turned(metric: Metric, low: float, high: float) -> tuple[float, float]:
    """An interval of a correlation, turned so that above 0 is what the metric promises."""
    return (low, high) if metric.sign > 0 else (-high, -low)


def _closer(row: Row) -> Told:
    because = (
        f"agreement {text(row['agreement_first'])} against {text(row['agreement_second'])}, difference "
        f"{text(row['difference'])} {_ends(row)}, Williams' p = {text(row['williams_p'])} for {row['n_effective']} "
        f"effective cells, {text(row['permutation_p'])} by labels of settings"
    )
    # Williams' p is NaN where two columns are one, and NaN tells nothing; `max` would lose it in second place.
    return max(row["williams_p"], row["permutation_p"]), row["low"], row["high"], because


def _more_alike(row: Row) -> Told:
    low, high = row["concordance_low"], row["concordance_high"]
    if math.isnan(low):
        return math.nan, low, high, "groups don't have three settings in common that some group tells apart"
    because = (
        f"Kendall's W {text(row['concordance_first'])} against {text(row['concordance_second'])}, difference "
        f"{text(row['concordance_first'] - row['concordance_second'])} {_ends(row, 'concordance_')}"
    )
    return 0.0, low, high, because


def _ends(row: Row, prefix: str = "") -> str:
    return f"[{text(row[f'{prefix}low'])}, {text(row[f'{prefix}high'])}]"
