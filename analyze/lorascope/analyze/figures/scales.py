"""Ends and ticks of colour scales, and round steps of any scale."""

import math
import sys
from typing import Any

import numpy as np

from ..format import format_number

__all__ = ["LOG_FROM", "colorbar", "ends", "log_ticks", "whole_ticks"]

SMALLEST, LARGEST = -323.0, 308.0
"""Powers of ten that float64 holds."""
LOG_FROM = 30.0
"""Values that lie further apart than this factor go on a logarithmic axis."""


def ends(shown: np.ndarray, limits: tuple[float, float] | None, is_log: bool) -> tuple[float, float]:
    """Values, or their powers of ten, at the ends of a colour scale; see `component_map`."""
    if limits is not None and is_log:
        if not 0 < limits[0] < limits[1] < math.inf:
            raise ValueError(
                f"`limits` are {limits}; on a logarithmic scale the first must be above 0 and below the second: give "
                "others, or a lower one of 0 for a linear scale"
            )
        return math.log10(limits[0]), math.log10(limits[1])
    known = shown[np.isfinite(shown)]
    # a quarter of each, so that no difference is beyond float64
    low, high = (4 * float(np.quantile(known / 4, 0.02)), float(known.max())) if len(known) else (0.0, 1.0)
    low = max(low, high - 6) if is_log else low
    room = max(0.5, 1e-6 * abs(low))
    return (low, high) if high > low else (low - room, min(low + room, sys.float_info.max))


def colorbar(low: float, high: float, is_log: bool) -> dict[str, Any]:
    """A colour bar below a map, with round values where its scale is logarithmic."""
    bar = {"orientation": "h", "thickness": 10, "y": 0, "yref": "container", "yanchor": "bottom", "outlinewidth": 0}
    if not is_log:
        return bar
    ticks = log_ticks(low, high)
    texts = [format_number(tick, digits=1 if len(ticks) > 2 else 3).removeprefix("1·") for tick in ticks]
    return {**bar, "tickvals": [math.log10(tick) for tick in ticks], "ticktext": texts}


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
