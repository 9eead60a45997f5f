"""Averages recomputed: plain means of the members, and whether rounding explains how far they are from the printed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..stats.verdict import Verdict, Word
from .grid import Grid
from .part import Part, joined, rows_table

__all__ = ["ROUNDING", "AverageRow", "PlainMeans", "averages_part", "plain_means"]

ROUNDING = 1e-6
"""By which share of what rounding of the table allows float64, and a linear program, may miss it."""


class PlainMeans(NamedTuple):
    """Plain means and printed averages, all (group, metric, setting); NaN where an average or a member is missing."""

    mean: np.ndarray
    """Of the members as printed."""
    half: np.ndarray
    """By how much rounding of the members may have moved it."""
    units: np.ndarray
    """|printed - mean| in units of what rounding of the average and its members allows: up to 1 is no contradiction."""
    own_units: np.ndarray
    """The same in half units of the average's last decimal: what its own rounding allows if members are exact."""
    n_members: np.ndarray
    """How many members the average is over."""


class AverageRow(NamedTuple):
    """An average that can be recomputed."""

    group: str
    metric: str
    setting: str
    n_members: int
    printed: float
    plain_mean: float
    difference: float
    """printed - plain_mean."""
    rounding_units: float
    """Its size in units of what rounding of average and members allows."""
    within_rounding: bool
    """Whether that is up to 1."""
    within_own_rounding: bool
    """Whether rounding of the average alone would do, as if members were exact."""


def plain_means(grid: Grid) -> PlainMeans:
    """Plain means of the members of each printed average.

    Notes
    -----
    A number printed with d decimals lies within half a unit of its last decimal, h = 10^-d/2. The plain mean of members
    then lies within the mean of their h, and so does every weighted mean of numbers with one h. Average and mean may
    differ by h of the average plus h of the members: one unit of the last decimal where both have the same decimals.
    """
    over = grid.expected()[:, :, None, :]
    n = np.broadcast_to(over.sum(-1), grid.averages.shape)
    complete = (np.isfinite(grid.values) | ~over).all(-1) & (n > 0) & np.isfinite(grid.averages)
    n_safe = np.where(complete, n, 1)
    mean = np.where(complete, np.where(over, grid.values, 0).sum(-1) / n_safe, np.nan)
    half = np.where(complete, np.where(over, grid.half, 0).sum(-1) / n_safe, np.nan)
    difference = np.abs(grid.averages - mean)
    units, own_units = difference / (grid.half_averages + half), difference / grid.half_averages
    return PlainMeans(mean, half, units, own_units, np.where(complete, n, 0))


def averages_part(grid: Grid) -> Part:
    """Rows, a verdict and a finding on averages as plain means."""
    rows = _rows(grid, plain_means(grid))
    wrong, own = sum(not row.within_rounding for row in rows), sum(not row.within_own_rounding for row in rows)
    said = f"{wrong} of {len(rows)} differ by more than rounding of average and members allows"
    finding = (
        f"{grid.average} isn't the plain mean of its members: {said} ({_by_metric(grid, rows)}), {own} by more than "
        "rounding of the average alone does"
    )
    word: Word = "contradicted" if wrong else "supported"
    verdict = Verdict(f"{grid.average} is the plain mean of its members", word, said)
    n_printed = int(np.isfinite(grid.averages).sum())
    lacking = f"{n_printed - len(rows)} of {n_printed} averages lack a member and aren't recomputed"
    return Part(
        rows_table(AverageRow, rows),
        (finding,) if wrong else (),
        (verdict,) if rows else (),
        (lacking,) if n_printed > len(rows) else (),
    )


def _rows(grid: Grid, found: PlainMeans) -> list[AverageRow]:
    return [
        AverageRow(
            grid.groups[g],
            grid.metrics[m],
            grid.settings[s],
            int(found.n_members[g, m, s]),
            float(grid.averages[g, m, s]),
            float(found.mean[g, m, s]),
            float(grid.averages[g, m, s] - found.mean[g, m, s]),
            float(found.units[g, m, s]),
            bool(found.units[g, m, s] <= 1 + ROUNDING),
            bool(found.own_units[g, m, s] <= 1 + ROUNDING),
        )
        for g, m, s in np.argwhere(np.isfinite(found.mean))
    ]


def _by_metric(grid: Grid, rows: Sequence[AverageRow]) -> str:
    within = {metric: [row.within_rounding for row in rows if row.metric == metric] for metric in grid.metrics}
    return joined([f"{metric} {one.count(False)} of {len(one)}" for metric, one in within.items() if one])
