"""Ends and ticks of colour scales and of axes of values, sizes and responses."""

import math
from typing import Any, NamedTuple

import numpy as np

from lorascope.analyze.results.format import format_number

PLOT_WIDTH, CHARACTER = 300.0, 7.5
"""Width in pixels of a plot on a phone, and of a character of a tick."""
MOST_MARKED = 20
"""Largest number of sizes that all have a tick; with more, only sizes with a text have one."""
MOST_DIGITS = 6
"""Largest number of digits of a tick that is written in full."""
MOST_LOG_TICKS = 8
"""Largest number of ticks of a logarithmic axis of values."""
LOG_FROM = 30.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""


def ends(shown: np.ndarray, limits: tuple[float, float] | None, is_log: bool) -> tuple[float, float]:
    """Return the values at the ends of a colour scale, or their powers of ten if it is logarithmic.

    `limits` are those of `component_figure`, `shown` the values or their powers of ten; ValueError if limits can't be
    logarithmic.
    """
    if limits is not None and is_log:
        if not 0 < limits[0] < limits[1] < math.inf:
            raise ValueError(
                f"`limits` are {limits}; on a logarithmic scale the first must be above 0 and below the second: give "
                "others, or a lower one of 0 for a linear scale"
            )
        return math.log10(limits[0]), math.log10(limits[1])
    known = shown[np.isfinite(shown)]
    low, high = (float(np.quantile(known, 0.02)), float(known.max())) if len(known) else (0.0, 1.0)
    low = max(low, high - 6) if is_log else low
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def colorbar(low: float, high: float, is_log: bool) -> dict[str, Any]:
    """Return plotly's options of a colour bar below a map, with round values if its scale is logarithmic."""
    bar = {"orientation": "h", "thickness": 10, "y": 0, "yref": "container", "yanchor": "bottom", "outlinewidth": 0}
    if not is_log:
        return {**bar, "exponentformat": "power", "nticks": 6}
    ticks = log_ticks(low, high)
    texts = [format_number(tick, digits=1 if len(ticks) > 2 else 3).removeprefix("1·") for tick in ticks]
    return {**bar, "tickvals": [math.log10(tick) for tick in ticks], "ticktext": texts}


def whole_ticks(low: int, high: int) -> dict[str, Any]:
    """Return plotly's options of an axis with ticks at whole numbers only, from `low` to `high`.

    For ranges of ten or more, plotly's own ticks are whole numbers.
    """
    return {"dtick": 1} if high - low < 10 else {}


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values from 10^low to 10^high: powers of ten, and over few decades also 3, or 2 and 5."""
    steps: tuple[int, ...] = (1,) if high - low > 3 else (1, 3) if high - low > 1.5 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]
    inside = [tick for tick in ticks if low - 1e-9 <= math.log10(tick) <= high + 1e-9]
    return inside if len(inside) > 1 else [10**low, 10**high]


class ValueAxis(NamedTuple):
    """Values at both ends of a figure's axis, and whether it is logarithmic."""

    low: float
    high: float
    is_log: bool

    def inside(self, values: np.ndarray) -> np.ndarray:
        """Return values, clipped to the ends of the axis."""
        return np.asarray(np.clip(values, self.low, self.high))

    def layout(self) -> dict[str, Any]:
        """Return plotly's options for the axis: its type, range and ticks."""
        if not self.is_log:
            return {"range": [self.low, self.high], "nticks": 6}
        low, high = math.log10(self.low), math.log10(self.high)
        ticks = log_ticks(low, high)
        ticks = ticks[:: -(-len(ticks) // MOST_LOG_TICKS)]
        texts = [format_number(tick, digits=1 if len(ticks) > 2 else 3).removeprefix("1·") for tick in ticks]
        return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": texts}


def value_axis(values: np.ndarray, *, is_log: bool | None = None) -> ValueAxis:
    """Return an axis for `values` and 0, or a logarithmic one for positive values if they differ too much."""
    known = values[np.isfinite(values)]
    positive = known[known > 0]
    if is_log is None:
        is_log = len(positive) > 0 and bool(positive.max() > LOG_FROM * positive.min())
    if is_log:
        low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
        room = max((high / low) ** 0.05, 1.01)
        return ValueAxis(low / room, high * room, is_log)
    low, high = (min(0.0, float(known.min())), max(0.0, float(known.max()))) if len(known) else (0.0, 1.0)
    room = 0.05 * (high - low) or 1.0
    return ValueAxis(low - room / 2, high + room, is_log)


def size_axis(sizes: np.ndarray) -> dict[str, Any]:
    """Return plotly's options of a logarithmic axis with a tick at each size, and texts as far as a phone has room."""
    levels = np.unique(sizes)
    low, high = math.log10(levels[0]), math.log10(levels[-1])
    room = 0.07 * (high - low) or 0.2
    texts = [tick_text(level) for level in levels]
    apart = max(map(len, texts)) * CHARACTER / PLOT_WIDTH * (high - low + 2 * room)
    labelled, places = [0], np.log10(levels)
    for k in range(1, len(places) - 1):  # the ends come first
        if places[k] - places[labelled[-1]] >= apart and places[-1] - places[k] >= apart:
            labelled.append(k)
    labelled.append(len(places) - 1)
    marked = range(len(levels)) if len(levels) <= MOST_MARKED else labelled
    return {
        "type": "log",
        "range": [low - room, high + room],
        "tickvals": [float(levels[k]) for k in marked],
        "ticktext": [texts[k] if k in labelled else "" for k in marked],
    }


def tick_text(value: float) -> str:
    """Return a number as text, with all its digits if they are at most six, else with three.

    Examples
    --------
    >>> tick_text(32.0), tick_text(65536), tick_text(2235546624), tick_text(1e9), tick_text(0.25)
    ('32', '65536', '2.24·10⁹', '10⁹', '0.25')
    """
    digits = next((n for n in range(1, MOST_DIGITS + 1) if float(f"{value:.{n - 1}e}") == value), 3)
    return format_number(value, digits=digits).removeprefix("1·")
