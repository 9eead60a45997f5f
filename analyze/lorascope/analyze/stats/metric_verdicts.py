"""Verdicts of a comparison of metrics: what its rows say of each claim, in every set of cells."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..format import format_number as text
from .verdict import Verdict, word_of

__all__ = ["judge"]

Row = Mapping[str, Any]
Told = tuple[float, float, float, str]
"""p-value, ends of an interval turned so that above 0 speaks for the claim, and the numbers in words."""


def judge(of_metric: Sequence[Row], of_pair: Sequence[Row], level: float) -> tuple[Verdict, ...]:
    """Verdicts on metrics, the first of which is the reference; `compare_metrics` says by which rule.

    Parameters
    ----------
    of_metric, of_pair
        Rows of the tables `metrics` and `pairs`, of all sets of cells.
    level
        p-values up to 1 - level count.
    """
    reference, *others = dict.fromkeys(row["metric"] for row in of_metric)
    own = {name: [row for row in of_metric if row["metric"] == name] for name in (reference, *others)}
    against = {name: [row for row in of_pair if (row["first"], row["second"]) == (reference, name)] for name in others}
    adds = "adds to knowing the setting, with the sign it promises"
    alike = f"{reference} orders settings more alike from group to group than"
    claims = [
        *((f"{name} follows accuracy within groups", rows, _follows) for name, rows in own.items()),
        *((f"{reference} follows accuracy more closely than {name}", rows, _closer) for name, rows in against.items()),
        *((f"{name} {adds}", rows, _adds) for name, rows in own.items()),
        *((f"{alike} {name}", rows, _more_alike) for name, rows in against.items()),
    ]
    return tuple(_verdict(*claim, level) for claim in claims)


def _verdict(claim: str, rows: Sequence[Row], tell: Callable[[Row], Told], level: float) -> Verdict:
    told = [tell(row) for row in rows]
    words = {word_of(p_value, low, high, level) for p_value, low, high, _ in told}
    because = [one[3] if len(rows) == 1 else f"{row['cells']}: {one[3]}" for row, one in zip(rows, told, strict=True)]
    return Verdict(claim, words.pop() if len(words) == 1 else "not identified", "; ".join(because))


def _follows(row: Row) -> Told:
    because = (
        f"r = {text(row['pearson'])} {_ends(row)}, p = {text(row['p'])} for {row['n_effective']} effective cells, "
        f"{text(row['permutation_p'])} by labels of settings"
    )
    return max(row["p"], row["permutation_p"]), *_turned(row), because


def _adds(row: Row) -> Told:
    if math.isnan(row["partial_r"]):
        return math.nan, math.nan, math.nan, "group and setting leave nothing to tell"
    because = (
        f"partial r = {text(row['partial_r'])} {_ends(row, 'partial_')}, p = {text(row['partial_p'])} by labels of "
        "settings"
    )
    return row["partial_p"], *_turned(row, "partial_"), because


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
        f"{text(row['concordance_first'] - row['concordance_second'])} {_ends(row, 'concordance_')}, "
        f"p = {text(row['concordance_p'])} by swaps within groups"
    )
    return row["concordance_p"], low, high, because


def _turned(row: Row, prefix: str = "") -> tuple[float, float]:
    """An interval of a correlation, turned so that above 0 is what the metric promises."""
    low, high = row[f"{prefix}low"], row[f"{prefix}high"]
    return (low, high) if row["better"] == "higher" else (-high, -low)


def _ends(row: Row, prefix: str = "") -> str:
    return f"[{text(row[f'{prefix}low'])}, {text(row[f'{prefix}high'])}]"
