"""Ends and ticks of colour scales and axes."""

import math
import sys
from typing import Any, NamedTuple

import numpy as np

from ..format import format_number

__all__ = ["ValueAxis", "colorbar", "ends", "log_ticks", "value_axis", "whole_ticks"]

SMALLEST, LARGEST = -323.0, 308.0
"""Powers of ten that float64 holds."""
LOG_FROM = 30.0
"""Values that lie further apart than this factor go on a logarithmic axis."""


class ValueAxis(NamedTuple):
    """Values at both ends of an axis."""

    low: float
    high: float
    is_log: bool

    def inside(self, values: np.ndarray) -> np.ndarray:
        """Values, those beyond an end moved to it."""
        return np.asarray(np.clip(values, self.low, self.high))

    def layout(self) -> dict[str, Any]:
        """What plotly is told of it."""
        if not self.is_log:
            return {"range": [self.low, self.high], "nticks": 6}
        low, high = math.log10(self.low), math.log10(self.high)
        ticks = log_ticks(low, high)
        texts = [format_number(tick, digits=1).removeprefix("1·") for tick in ticks]
        return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": texts}


def value_axis(values: np.ndarray, *, is_log: bool | None = None) -> ValueAxis:
    """An axis from 0 or below that holds all finite values; a logarithmic one, all above 0, where that is needed."""
    known = values[np.isfinite(values)]
    positive = known[known > 0]
    if is_log is None:
        is_log = len(positive) > 0 and bool(positive.max() > LOG_FROM * positive.min())
    if is_log:
        low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
        room = max((high / low) ** 0.05, 1.2)
        return ValueAxis(low / room, high * room, is_log)
    low, high = (min(0.0, float(known.min())), max(0.0, float(known.max()))) if len(known) else (0.0, 1.0)
    room = 0.05 * (high - low) or 1.0
    return ValueAxis(low - room / 2, high + room, is_log)


def ends(shown: np.ndarray, limits: tuple[float, float] | None, is_log: bool) -> tuple[float, float]:
    """Values, or their powers of ten, at the ends of a colour scale; see `component_map`."""
    if limits is not None and is_log:
        if not 0 < limits[0] < limits[1] < math.inf:
            raise ValueError(
                f"`limits` are {limits}; on a logarithmic scale the first must be above 0 and below the second: give "
                "others, or `log=False`"
            )
        return math.log10(limits[0]), math.log10(limits[1])
    known = shown[np.isfinite(shown)]
    # a quarter of each, so that no difference is beyond float64
    low, high = (4 * float(np.quantile(known / 4, 0.02)), float(known.max())) if len(known) else (0.0, 1.0)
    low = max(low, high - 6) if is_log else low
    room = max(0.5, 1e-6 * abs(low))
    return (low, high) if high > low else (low - room, min(low + room, sys.float_info.max))


def colorbar(low: float, high: float, is_log: bool) -> dict[str, object]:
    """A colour bar below a map, with round values where its scale is logarithmic."""
    bar: dict[str, object] = {
        "orientation": "h",
        "thickness": 10,
        "y": 0,
        "yref": "container",
        "yanchor": "bottom",
        "outlinewidth": 0,
    }
    if is_log:
        ticks = log_ticks(low, high)
        digits = 1 if len(ticks) > 2 else 3
        bar["tickvals"] = [math.log10(tick) for tick in ticks]
        bar["ticktext"] = [format_number(tick, digits=digits).removeprefix("1·") for tick in ticks]
    return bar


def whole_ticks(low: int, high: int) -> dict[str, Any]:
    """What makes an axis show at most a dozen whole numbers, or eight of three digits, as fit a phone's width."""
    most = 11 if high < 100 else 7
    steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    return {"tick0": 0, "dtick": next(step for step in steps if (high - low) / step <= most)}


def log_ticks(low: float, high: float) -> list[float]:
    """Round values between two powers of ten: whole powers if there are enough of them, else 1, 2, 5."""
    steps: tuple[int, ...] = (1,) if high - low > 3 else (1, 3) if high - low > 1.5 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]  # 0 or infinite beyond float64
    inside = [tick for tick in ticks if 0 < tick < math.inf and low - 1e-9 <= math.log10(tick) <= high + 1e-9]
    return inside if len(inside) > 1 else [10 ** min(max(power, SMALLEST), LARGEST) for power in (low, high)]
