"""Cells above what a metric can be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..format import format_number
from ..stats.verdict import Verdict, Word
from .grid import Grid, known
from .part import Part, joined, rows_table, spoken

__all__ = ["Ceiling", "CeilingRow", "ceilings_part"]


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The largest value that a metric can have."""

    value: float | Mapping[str, float]
    """One for all groups, or group -> its own; groups that aren't named have none."""
    because: str
    """Why it can't be larger, and under which reading of the metric."""
    reading: str = ""
    """What the metric is taken to be, as in `a mean loss a token`; the verdict names it."""

    def __post_init__(self) -> None:
        for value in self.value.values() if isinstance(self.value, Mapping) else [self.value]:
            if not math.isfinite(value):
                raise ValueError(f"a ceiling is {value!r}; give a finite number, and none to a group without ceiling")

    def of(self, group: str) -> float | None:
        """The ceiling of a group, if it has one."""
        return self.value.get(group) if isinstance(self.value, Mapping) else self.value


class CeilingRow(NamedTuple):
    """A metric of a group, against its ceiling."""

    metric: str
    group: str
    ceiling: float
    n_cells: int
    """Members' cells; averages', where there are no members."""
    n_above: int
    """Those whose number lies above the ceiling however it was rounded."""
    largest: float
    because: str


def ceilings_part(grid: Grid, ceilings: Mapping[str, Ceiling]) -> Part:
    """Rows, verdicts and findings on cells above a ceiling.

    Raises
    ------
    ValueError
        If a ceiling is for a metric or a group that the table hasn't.
    """
    known("ceilings", ceilings, grid.metrics, "metrics")
    rows: list[CeilingRow] = []
    findings: list[str] = []
    verdicts: list[Verdict] = []
    for metric, ceiling in ceilings.items():
        if isinstance(ceiling.value, Mapping):
            known(f"ceilings[{metric!r}]", ceiling.value, grid.groups, "groups")
        of_metric = _rows(grid, metric, ceiling)
        above = sum(row.n_above for row in of_metric)
        said = f"above it {joined([_count(row) for row in of_metric])}"
        rows += of_metric
        word: Word = "contradicted" if above else "supported"
        taken = f", if it is {ceiling.reading}," if ceiling.reading else ""
        verdicts += [Verdict(f"{metric}{taken} stays within its ceiling", word, said)] if of_metric else []
        findings += [f"{metric} has a ceiling, and {said}: {ceiling.because}"] if above else []
    return Part(rows_table(CeilingRow, rows), tuple(findings), tuple(verdicts))


def _rows(grid: Grid, metric: str, ceiling: Ceiling) -> list[CeilingRow]:
    m = grid.metrics.index(metric)
    values, half = (grid.values, grid.half) if grid.members else (grid.everything(), grid.everything_half())
    return [
        CeilingRow(
            metric,
            group,
            float(limit),
            int(np.isfinite(values[g, m]).sum()),
            int((values[g, m] - half[g, m] > limit).sum()),
            float(np.nanmax(values[g, m])),
            ceiling.because,
        )
        for g, group in enumerate(grid.groups)
        if (limit := ceiling.of(group)) is not None and np.isfinite(values[g, m]).any()
    ]


def _count(row: CeilingRow) -> str:
    limit, largest = (format_number(value, digits=4) for value in (row.ceiling, row.largest))
    of = f"of {row.group}" if row.group else ""
    return f"{spoken(f'{row.n_above} of {row.n_cells} cells', of)} (ceiling {limit}, largest {largest})"
