"""Averages that are asked for one vector of weights: which metrics they come from, and their members."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .averages import ROUNDING, plain_means
from .grid import Grid, known
from .weights import Rows, least_left_out, worst_misfit

__all__ = ["Family", "families_of", "left_out_sets", "unplain"]


@dataclass(frozen=True)
class Family:
    """Averages of one group, of one metric or several, which would have one vector of weights.

    Where members of an average have unlike decimals, the coarsest counts for all of them.
    """

    group: int
    metrics: tuple[int, ...]
    members: tuple[int, ...]
    places: list[tuple[int, int]]
    """(metric, setting) of each average."""
    rows: Rows
    equal: bool
    """Whether the weights are taken to be equal; else they may be any."""
    searched: bool
    """Whether slips are looked for if it doesn't fit."""

    @property
    def weights(self) -> np.ndarray | None:
        """The weights (member,), if they are known."""
        return np.full(len(self.members), 1 / len(self.members)) if self.equal else None

    def names(self, grid: Grid) -> str:
        """Its metrics."""
        return ", ".join(grid.metrics[m] for m in self.metrics)


def unplain(grid: Grid) -> tuple[str, ...]:
    """Metrics of whose averages, over all groups, more than half aren't plain means."""
    units = plain_means(grid).units
    wrong = (units > 1 + ROUNDING).sum(axis=(0, 2))
    return tuple(np.array(grid.metrics)[2 * wrong > np.isfinite(units).sum(axis=(0, 2))].tolist())


def families_of(grid: Grid, weighted: Sequence[Sequence[str]] | None) -> list[Family]:
    """What is asked of each group.

    Parameters
    ----------
    grid
        The table.
    weighted
        Metrics that would share one vector of weights, a sequence for each vector; by default `unplain` ones together.
        All other metrics are taken as plain means.

    Returns
    -------
    list of Family
        For each group: equal weights for every metric; one vector for each of `weighted`, and for each of its metrics
        alone; one vector for all metrics, unless that has been asked for. Slips are searched for in `weighted` and in
        metrics that aren't in it. Without averages it is empty.

    Raises
    ------
    ValueError
        If a metric isn't in the table, or `weighted` has an empty sequence.
    """
    asked = [tuple(one) for one in weighted] if weighted is not None else [unplain(grid)] if unplain(grid) else []
    for one in weighted or ():
        if isinstance(one, str):
            raise ValueError(
                f"`weighted` holds {one!r}; give a sequence of metrics for each vector, such as [({one!r},)]"
            )
    for one in asked:
        known("weighted", one, grid.metrics, "metrics")
        if not one:
            raise ValueError("`weighted` holds an empty sequence; give the metrics that share one vector of weights")
    taken = {name for one in asked for name in one}
    plans = [((name,), True, name not in taken) for name in grid.metrics] + [(one, False, True) for one in asked]
    wider = [(name,) for one in asked if len(one) > 1 for name in one] + ([grid.metrics] if asked else [])
    plans += [(one, False, False) for one in dict.fromkeys(wider) if one not in asked]
    found = [_family(grid, g, *plan) for g in range(len(grid.groups)) for plan in plans]
    return [one for one in found if one.places]


def left_out_sets(family: Family) -> list[tuple[int, ...]]:
    """Smallest sets of averages without which the rest fits; with known weights all that don't fit, if they are few."""
    gaps = family.rows.gaps()
    if family.weights is None:
        return least_left_out(gaps)
    wrong = tuple(worst_misfit(gaps, family.weights).binding.tolist())
    return [wrong] if 0 < 2 * len(wrong) < len(gaps) else []


def _family(grid: Grid, group: int, names: tuple[str, ...], equal: bool, searched: bool) -> Family:
    metrics = tuple(grid.metrics.index(name) for name in names)
    over = grid.expected()[group, list(metrics)].any(axis=0)
    complete = np.isfinite(grid.values[group][..., over]).all(-1) & np.isfinite(grid.averages[group]) & over.any()
    places = [(m, int(s)) for m in metrics for s in np.flatnonzero(complete[m])]
    at = (np.full(len(places), group), *np.array(places, int).reshape(-1, 2).T)
    allowed = grid.half_averages[at] + grid.half[at][:, over].max(axis=1, initial=0)
    rows = Rows(grid.values[at][:, over], grid.averages[at], allowed)
    return Family(group, metrics, tuple(np.flatnonzero(over).tolist()), places, rows, equal, searched)
