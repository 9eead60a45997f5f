"""Logarithmic axes of sizes and responses, with ticks that say what they are over ranges of less than a decade."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..format import format_number
from .scales import LOG_FROM, log_ticks

__all__ = ["log_axis", "size_axis", "tick_text"]

NARROW = 3.0
"""Ends of an axis nearer than this factor get ticks at even steps."""
STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
"""Ticks of a decade, on an axis of a factor between NARROW and LOG_FROM."""
PLOT_WIDTH, CHARACTER = 300.0, 7.5
"""Pixels of a plot on a phone, and of a character of a tick."""
MOST_MARKED = 20
"""Most sizes that all have a tick; of more only those with a text have one."""
MOST_DIGITS = 6
MOST_TICKS = 6
"""Most ticks at even steps."""


def size_axis(sizes: np.ndarray) -> dict[str, Any]:
    """A logarithmic axis with a tick at each size, and a text where there is room for it on a phone.

    Parameters
    ----------
    sizes
        All above zero, at least one, in any order and as often as they like.
    """
    levels = np.unique(sizes)
    low, high = math.log10(levels[0]), math.log10(levels[-1])
    room = 0.07 * (high - low) or 0.2
    texts = [tick_text(level) for level in levels]
    apart = max(map(len, texts)) * CHARACTER / PLOT_WIDTH * (high - low + 2 * room)
    kept = _apart(np.log10(levels).tolist(), apart)
    marked = range(len(levels)) if len(levels) <= MOST_MARKED else kept
    return {
        "type": "log",
        "range": [low - room, high + room],
        "tickvals": [float(levels[k]) for k in marked],
        "ticktext": [texts[k] if k in kept else "" for k in marked],
    }


def log_axis(values: np.ndarray) -> dict[str, Any]:
    """A logarithmic axis that holds all finite values above zero, with round ticks."""
    known = values[np.isfinite(values) & (values > 0)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (1.0, 1.0)
    room = max((high / low) ** 0.06, 1.01)
    ends = (low / room, high * room)
    ticks = _round_ticks(*ends)
    return {
        "type": "log",
        "range": [math.log10(end) for end in ends],
        "tickvals": ticks,
        "ticktext": [tick_text(tick) for tick in ticks],
    }


def tick_text(value: float) -> str:
    """A number with the digits that it has, up to six; else with three.

    Examples
    --------
    >>> tick_text(32.0), tick_text(65536), tick_text(2235546624), tick_text(1e9), tick_text(0.25)
    ('32', '65536', '2.24·10⁹', '10⁹', '0.25')
    """
    digits = next((n for n in range(1, MOST_DIGITS + 1) if float(f"{value:.{n - 1}e}") == value), 3)
    return format_number(value, digits=digits).removeprefix("1·")


def _apart(places: Sequence[float], least: float) -> list[int]:
    """Which of ascending places to keep so that none lies nearer than so much to the next: the ends come first."""
    kept = [0]
    for k in range(1, len(places) - 1):
        if places[k] - places[kept[-1]] >= least and places[-1] - places[k] >= least:
            kept.append(k)
    return [*kept, len(places) - 1] if len(places) > 1 else kept


def _round_ticks(low: float, high: float) -> list[float]:
    if high / low > LOG_FROM:
        return log_ticks(math.log10(low), math.log10(high))
    if high / low > NARROW:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [tick for power in powers for step in STEPS if low <= (tick := float(f"{step}e{power}")) <= high]
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(step * power for step in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if (high - low) / (step * power) <= MOST_TICKS)
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(k * step, digits) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
