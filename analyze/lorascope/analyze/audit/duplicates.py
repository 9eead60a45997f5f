"""Runs printed twice: settings whose values agree in all cells, or in most."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ..stats.verdict import Verdict
from .grid import Grid
from .part import Part, joined, rows_table, spoken

__all__ = ["LEAST_CELLS", "Agreement", "DuplicateRow", "agreement", "duplicates_part"]

Run = tuple[str, str]
"""Group and setting."""
LEAST_CELLS = 3
"""Two runs with fewer cells in common aren't compared: they could agree by chance."""


class Agreement(NamedTuple):
    """How often runs agree, both int64 (run, run)."""

    n_equal: np.ndarray
    """Cells with the same number."""
    n_shared: np.ndarray
    """Cells where both have a number."""


class DuplicateRow(NamedTuple):
    """Two runs, of one group or of two, that agree in more than half of their common cells."""

    group: str
    setting: str
    other_group: str
    other_setting: str
    n_equal: int
    n_shared: int
    whole: bool
    """Whether they agree in all."""


def agreement(runs: np.ndarray) -> Agreement:
    """In how many cells two runs have the same number.

    Parameters
    ----------
    runs
        Float64 (run, cell), NaN where a run has no number; at least one run.

    Examples
    --------
    >>> import numpy as np
    >>> agreement(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, np.nan]])).n_equal.tolist()
    [[3, 2], [2, 2]]
    """
    there = np.isfinite(runs).astype(np.int64)
    return Agreement(np.stack([(runs == one).sum(axis=-1) for one in runs]), there @ there.T)


def duplicates_part(grid: Grid) -> Part:
    """Rows, a verdict and findings on runs with the same numbers.

    Notes
    -----
    Cells are the metrics of the members and of their average. Single cells that agree aren't counted as anything: an
    accuracy of three decimals on a few hundred items does so often.
    """
    n_cells = len(grid.metrics) * len(grid.everyone())
    found = agreement(grid.everything().transpose(0, 2, 1, 3).reshape(-1, n_cells))
    names = [(group, setting) for group in grid.groups for setting in grid.settings]
    rows = [
        DuplicateRow(*names[a], *names[b], int(equal), int(shared), bool(equal == shared))
        for a, b in combinations(range(len(names)), 2)
        if (shared := found.n_shared[a, b]) >= LEAST_CELLS and 2 * (equal := found.n_equal[a, b]) > shared
    ]
    same = _same_runs(rows)
    covered = {pair for runs in same for pair in combinations(runs, 2)}
    findings = [_sentence(row) for row in rows if (row[:2], row[2:4]) not in covered]
    n_whole, n_runs = sum(row.whole for row in rows), int((found.n_shared.diagonal() >= LEAST_CELLS).sum())
    said = f"{n_whole} of {n_runs * (n_runs - 1) // 2} pairs of runs agree in all cells"
    verdict = Verdict("every setting is a run of its own", "contradicted" if n_whole else "supported", said)
    found_same = [_together(runs, rows) for runs in same]
    return Part(rows_table(DuplicateRow, rows), (*found_same, *findings), (verdict,) if n_runs > 1 else ())


def _same_runs(rows: Sequence[DuplicateRow]) -> list[list[Run]]:
    """Runs of which any two agree in all cells, three or more together, each in one group at most."""
    pairs = {(row[:2], row[2:4]) for row in rows if row.whole}
    left = list(dict.fromkeys(run for row in rows if row.whole for run in (row[:2], row[2:4])))
    groups: list[list[Run]] = []
    while left:
        some: list[Run] = []
        for run in left:
            some += [run] if all((one, run) in pairs or (run, one) in pairs for one in some) else []
        left = [run for run in left if run not in some]
        groups += [some] if len(some) > 2 else []
    return groups


def _together(runs: Sequence[Run], rows: Sequence[DuplicateRow]) -> str:
    shared = sorted({row.n_shared for row in rows if row[:2] in runs and row[2:4] in runs})
    cells = f"{shared[0]}" if len(shared) == 1 else f"{shared[0]} to {shared[-1]} common"
    return f"{len(runs)} runs have the same numbers in all {cells} cells: {joined([spoken(*run) for run in runs])}"


def _sentence(row: DuplicateRow) -> str:
    cells = f"all {row.n_shared} cells" if row.whole else f"{row.n_equal} of {row.n_shared} cells"
    other = spoken(row.other_group, row.other_setting)
    return f"{spoken(row.group, row.setting)} and {other} have the same numbers in {cells}"
