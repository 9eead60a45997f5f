"""Looking at the numbers of one row of one array: NaN, Inf, zero, constant, out of range, blank."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import Problem

__all__ = ["RANGES", "value_problems"]

LN2 = float(np.log(2)) * (1 + 1e-6)
"""Largest JS, with room for float32."""
RANGES = {
    "js": (0.0, LN2, "js outside of [0, ln 2]"),
    "kl": (-1e-5, np.inf, "negative kl"),
    "swallowed": (0.0, 1.0, "share of swallowed features outside of [0, 1]"),
    "base_norm": (0.0, np.inf, "negative norm"),
    "delta_norm": (0.0, np.inf, "negative norm"),
    "effective_width": (1 - 1e-3, np.inf, "effective width below 1"),
}
"""Last name of an array of reductions -> (lowest, largest, what a value outside is)."""
MAY_BE_NAN = frozenset({"js", "kl", "swallowed"})
"""Reductions that are measured on a share of the tokens only."""


def value_problems(
    key: str, block: np.ndarray, *, row: int, position: np.ndarray | None, untouched: np.ndarray | None = None
) -> Iterator[Problem]:
    """Every value of a block that no sound capture writes.

    Parameters
    ----------
    key
        Key of the chunk that the block was decoded from.
    block
        Float32 (token, ...).
    row
        Which row it is.
    position
        Place of each token in its sample, int (token,); None where it isn't known.
    untouched
        Bool (component,): components that the array's adapter leaves alone, for an array by component.
    """
    path = key.rpartition("/")[0]
    name = path.rpartition("/")[2]
    if path == "tokens/nll":
        expected = np.isnan(block) if position is None else position == 0
        yield from _count(key, "nan", np.isnan(block) & ~expected, "is NaN though a token stands before it")
        yield from _count(key, "range", (block < -1e-3) | np.isinf(block), "has a nll outside of [0, inf)")
    elif name in RANGES and not path.startswith("states/"):
        yield from _reduction_problems(key, name, block.reshape(len(block), -1), untouched)
    else:
        yield from _vector_problems(key, block, row, is_state=path.startswith("states/"))


def _reduction_problems(key: str, name: str, block: np.ndarray, untouched: np.ndarray | None) -> Iterator[Problem]:
    lowest, largest, what = RANGES[name]
    if name not in MAY_BE_NAN:
        touched = block if untouched is None else block[:, ~untouched]
        yield from _count(key, "nan", np.isnan(touched).any(axis=1), "has a NaN")
    outside = (block < lowest) | (block > largest) | np.isinf(block)
    yield from _count(key, "range", outside.any(axis=1), f"has a {what}")


def _vector_problems(key: str, block: np.ndarray, row: int, *, is_state: bool) -> Iterator[Problem]:
    nan, inf = np.isnan(block), np.isinf(block)
    if nan.all():
        yield Problem(key, "blank", f"{key!r}: row {row} is blank, all NaN")
        return
    yield from _count(key, "nan", nan.any(axis=1), "has a NaN")
    yield from _count(key, "inf", inf.any(axis=1), "has an Inf")
    if not is_state:  # a delta is 0 where B is
        return
    zero = ~block.any(axis=1)
    constant = (block == block[:, :1]).all(axis=1) & ~zero & (block.shape[1] > 1)
    for kind, bad, what, blank in (
        ("zero", zero, "is all zero", "all zero"),
        ("constant", constant, "has one value in all features", "one value in all features of a token"),
    ):
        if bad.all():
            yield Problem(key, "blank", f"{key!r}: row {row} is blank, {blank}")
        else:
            yield from _count(key, kind, bad, what)


def _count(key: str, kind: str, bad: Any, what: str) -> Iterator[Problem]:
    places = np.flatnonzero(bad)
    if len(places):
        more = f", and {len(places) - 1} more" if len(places) > 1 else ""
        yield Problem(key, kind, f"{key!r}: token {places[0]} of the row {what}{more}")
