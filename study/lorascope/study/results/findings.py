"""What is said of a number: a claim, a word that its interval decides, and what the number rests on."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.format import format_number
from lorascope.analyze.stats.summary import Verdict, Word

from .item_table import Estimate, ItemTable

__all__ = ["SCALES", "UNITS", "Finding", "finding", "lacking", "seeds_finding"]

UNITS = {"MIUB": "nat", "CE": "nat/token", "ACC": "points"}
"""Metric -> unit of its differences; a point is a hundredth."""
SCALES = {"MIUB": 1.0, "CE": 1.0, "ACC": 100.0}


class Finding(NamedTuple):
    """A claim, what this study says of it, and the number behind that."""

    number: int
    """Number of the paper's claim, as `docs/study-report.md` counts them; 0 for what isn't one of them."""
    verdict: Verdict
    value: float = math.nan
    low: float = math.nan
    """Ends of the 95 % interval that the word rests on; NaN where there is none."""
    high: float = math.nan
    unit: str = ""
    n_items: int = 0
    n_seeds: int = 0
    """Fewest seeds of a setting; 0 where seeds have no part in it."""


def finding(number: int, claim: str, found: Estimate, unit: str, what: str, *, n_seeds: int, falls: bool) -> Finding:
    """A claim that a number lies below 0, or above unless `falls`: its interval decides.

    `what` names the number in front of it.
    """
    is_below, is_above = found.high < 0, found.low > 0
    word: Word = "not identified"
    if is_below or is_above:
        word = "supported" if is_below == falls else "contradicted"
    is_known = math.isfinite(found.low)
    ends = f" [{format_number(found.low)}, {format_number(found.high)}]" if is_known else ""
    because = (
        f"{what} {format_number(found.value)}{ends}{f' {unit}' if unit else ''}, "
        f"{'95 % over' if is_known else 'no interval of'} {found.n_items} items; "
        f"{'one seed, whose noise is unknown' if n_seeds == 1 else f'means of {n_seeds} seeds'}"
    )
    return Finding(number, Verdict(claim, word, because), *found[:3], unit, found.n_items, n_seeds)


def lacking(number: int, claim: str, why: str) -> Finding:
    """A claim on which this study has no number."""
    return Finding(number, Verdict(claim, "not identified", why))


def seeds_finding(number: int, table: ItemTable, metric: str, of: str) -> Finding:
    """Whether a metric falls, over all settings, by more than seeds do: Student's t of their means, spread pooled."""
    first, last = table.settings[0], table.settings[-1]
    claim = f"{metric}{of} falls from {first} to {last} by more than seeds differ"
    one, other = (np.array(list(table.seeds[metric, name].values())) for name in (first, last))
    if min(len(one), len(other)) < 2:
        return lacking(number, claim, "fewer than two seeds a setting: how far another adapter would lie is unknown")
    found, scale = stats.ttest_ind(other, one), SCALES[metric]
    low, high = found.confidence_interval(0.95)
    value = scale * float(other.mean() - one.mean())
    estimate = Estimate(value, scale * float(low), scale * float(high), table.n_items)
    what = f"t over {len(one)} and {len(other)} seeds:"
    return finding(number, claim, estimate, UNITS[metric], what, n_seeds=min(len(one), len(other)), falls=True)
