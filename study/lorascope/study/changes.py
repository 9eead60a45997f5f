"""What is said of a change between settings: its interval over items, and over seeds where there are several."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.format import format_number
from lorascope.analyze.stats.verdict import Verdict, Word

from .items import Estimate, ItemTable

__all__ = [
    "SCALES",
    "UNITS",
    "Finding",
    "change",
    "finding",
    "interval_text",
    "lacking",
    "log_ratio",
    "percent",
    "seeds_finding",
]

UNITS = {"MIUB": "nat", "CE": "nat/token", "ACC": "points"}
"""Of differences; a point is a hundredth."""
SCALES = {"MIUB": 1.0, "CE": 1.0, "ACC": 100.0}


class Finding(NamedTuple):
    """A claim, what this study says of it, and the number behind that."""

    number: int
    """Of the paper's claim, as `docs/study-report.md` counts them; 0 for what isn't one of them."""
    verdict: Verdict
    value: float
    low: float
    """Ends of the 95 % interval that the word rests on; NaN where there is none."""
    high: float
    unit: str
    n_items: int
    n_seeds: int
    """Fewest seeds of a setting; 0 where seeds have no part in it."""


def finding(number: int, claim: str, found: Estimate, unit: str, what: str, *, n_seeds: int, falls: bool) -> Finding:
    """A claim that a number lies below 0, or above unless `falls`: its interval decides.

    `what` names the number in front of it.
    """
    is_below, is_above = found.high < 0, found.low > 0
    word: Word = "not identified"
    if is_below or is_above:
        word = "supported" if is_below == falls else "contradicted"
    over = f"95 % over {found.n_items} items" if math.isfinite(found.low) else f"no interval of {found.n_items} items"
    because = (
        f"{what} {interval_text(found, unit)}, {over}; "
        f"{'one seed, whose noise is unknown' if n_seeds == 1 else f'means of {n_seeds} seeds'}"
    )
    return Finding(number, Verdict(claim, word, because), *found[:3], unit, found.n_items, n_seeds)


def lacking(number: int, claim: str, why: str) -> Finding:
    """A claim on which this study has no number."""
    return Finding(number, Verdict(claim, "not identified", why), math.nan, math.nan, math.nan, "", 0, 0)


def change(table: ItemTable, metric: str, first: str, last: str) -> Estimate:
    """From one setting to another, in percent of the first."""
    return table.estimate(lambda means: percent(means[metric, first], means[metric, last]))


def percent(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Change from the first to the last, in percent of the first; NaN where that is 0."""
    return np.asarray(100 * (np.divide(last, first, out=np.full_like(last, np.nan), where=first != 0) - 1))


def log_ratio(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Logarithm of last over first; NaN where one of them isn't above 0."""
    is_known = (first > 0) & (last > 0)
    ratio = np.divide(last, first, out=np.ones_like(last), where=is_known)
    return np.where(is_known, np.log(ratio, where=is_known, out=np.zeros_like(ratio)), np.nan)


def seeds_finding(
    number: int, table: ItemTable, metric: str, first: str, last: str, *, falls: bool, of: str
) -> Finding:
    """Whether a change is larger than what seeds do: Student's t of seeds' means, their spread pooled."""
    claim = f"{metric}{of} {'falls' if falls else 'rises'} from {first} to {last} by more than seeds differ"
    one, other = (np.array(list(table.seeds[metric, name].values())) for name in (first, last))
    n = min(len(one), len(other))
    if n < 2:
        return lacking(number, claim, "fewer than two seeds a setting: how far another adapter would lie is unknown")
    df = len(one) + len(other) - 2
    spread = ((one - one.mean()) ** 2).sum() + ((other - other.mean()) ** 2).sum()
    reach = float(stats.t.ppf(0.975, df)) * math.sqrt(spread / df * (1 / len(one) + 1 / len(other)))
    value, scale = float(other.mean() - one.mean()), SCALES[metric]
    found = Estimate(scale * value, scale * (value - reach), scale * (value + reach), table.n_items)
    what = f"t over {len(one)} and {len(other)} seeds:"
    return finding(number, claim, found, UNITS[metric], what, n_seeds=n, falls=falls)


def interval_text(found: Estimate, unit: str) -> str:
    """A number with its interval and unit."""
    ends = f" [{format_number(found.low)}, {format_number(found.high)}]" if math.isfinite(found.low) else ""
    return f"{format_number(found.value)}{ends}{f' {unit}' if unit else ''}"
