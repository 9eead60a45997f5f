"""Where exponents are looked for, as far as powers of the sizes can be computed."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np

from .columns import Column
from .laws import BOUNDS

__all__ = ["exponent_bounds"]

LARGEST_POWER = 250.0
"""Logarithm of the largest power of a size that a search may meet: exponents are held below it."""


def exponent_bounds(
    columns: Sequence[Column], exponents: Sequence[str], given: Mapping[str, tuple[float, float]]
) -> tuple[np.ndarray, list[str]]:
    """(q, 2) and a sentence on each exponent that can't be looked for as far as was asked."""
    unknown = set(given) - set(BOUNDS)
    if unknown:
        raise ValueError(f"`bounds` names {sorted(unknown)[0]!r}; exponents are {list(BOUNDS)}")
    ends, said = [], []
    for place, name in enumerate(exponents):
        own = given.get(name, BOUNDS[name])
        if not _is_range(own):
            raise ValueError(f"`bounds` of {name!r} are {own!r}; give two finite numbers, the lower first")
        least, most = _computable([one for one in columns if place in one.exponents])
        low, high = max(own[0], least), min(own[1], most)
        if low >= high:
            raise ValueError(
                f"`bounds` of {name!r} are {own!r}, where powers of these sizes, over their reference, can't be "
                f"computed; they can from {least:.3g} to {most:.3g}"
            )
        if (low, high) != tuple(own):
            said.append(f"{name} is looked for from {low:.3g} to {high:.3g} only: powers beyond it can't be computed")
        ends.append((float(low), float(high)))
    return np.array(ends).reshape(-1, 2), said


def _computable(columns: Sequence[Column]) -> tuple[float, float]:
    """Exponents between which the powers of these columns stay below e**LARGEST_POWER, also as they are printed."""
    logs = np.concatenate([np.ravel(getattr(one, "log_x", np.zeros(1))) for one in columns])
    shifts = np.concatenate([np.ravel(getattr(one, "shift", getattr(one, "shifts", 0.0))) for one in columns])
    widest = float(np.abs(logs).max())
    up, down = (widest + max(float((sign * shifts).max()), 0.0) for sign in (1, -1))
    return -LARGEST_POWER / max(down, 1e-9), LARGEST_POWER / max(up, 1e-9)


def _is_range(value: object) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return False
    return all(isinstance(end, Real) and math.isfinite(end) for end in value) and bool(value[0] < value[1])
