"""Metrics compared as predictors of accuracy within groups."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..format import format_number, format_percent
from .correlations import (
    beyond_setting,
    concordance,
    correlation_p,
    mean_spearman,
    permutation_p,
    permuted_pearson,
    pooled_pearson,
    swapped_concordance,
    williams,
)
from .metric_verdicts import judge
from .noise import noise_row
from .record import plain, provenance
from .resampling import group_draws, percentile_interval, setting_orders
from .study_cells import Metric, StudyCells, lay_out, parse_metrics, read_rows
from .summary import Summary, Table
from .verdict import Verdict

__all__ = ["MetricComparison", "compare_metrics"]

FEWEST_DRAWS = 100
"""Fewest draws of groups and orders of settings that are worth a p-value or an interval."""
FEW_GROUPS = 8
"""Number of groups below which intervals from draws of groups are known to be too narrow."""
SHOWN = {
    "metrics": (
        "Correlation with accuracy, values centred within groups",
        "p: of n_effective independent cells; low, high: bootstrap of groups; permutation_p: labels of settings "
        "permuted, alike in all groups. partial_r: given group and setting. concordance: Kendall's W of the metric.",
    ),
    "pairs": (
        "Which metric agrees more with accuracy",
        "Agreement: the correlation, turned so that higher is better. williams_p: of n_effective independent cells; "
        "low, high: bootstrap of groups; permutation_p: labels of settings permuted. concordance: Kendall's W; "
        "concordance_p: of their difference, by swaps of ranks between the metrics within groups.",
    ),
    "noise": (
        "Chance in accuracy",
        "items_needed: test items at which the median pair of settings is 2 standard errors apart. noise_share: of "
        "the variance within groups. attainable_r: sqrt(1 - noise_share).",
    ),
}
"""Table -> its title and what its columns are."""

EXACT_DRAWS = 100_000
"""Draws of groups up to which all of them are taken, whatever `n_draws` is: 10 groups have 92,378."""

BRIEF = ["cells", "metric", "pearson", "p", "permutation_p", "partial_r", "partial_p", "concordance"]
"""Columns of `metrics` that the short form shows; the first one only where there are two sets of cells."""


@dataclass(frozen=True, eq=False)
class MetricComparison:
    """How well metrics predict accuracy within groups, from `compare_metrics`; all numbers are without unit."""

    accuracy: str
    """Column of accuracy."""
    reference: str
    """Metric whose claim is tested."""
    metrics: pd.DataFrame
    """A row a set of cells and metric: its correlations with accuracy as they come, negative where lower is better."""
    pairs: pd.DataFrame
    """A row a set of cells and two metrics: correlations turned so that higher is better, their difference and tests of
    it; without columns where there is one metric."""
    noise: pd.DataFrame
    """A row a set of cells: how accuracy varies, and what sampling of test items explains of that."""
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    """Sentences on what was assumed, left out or isn't defined."""
    provenance: Mapping[str, Any]
    """Settings, versions and a hash of the rows used."""
    cells: StudyCells
    """All cells compared, which `metrics_figure` draws; `to_dict` leaves them out."""

    def summary(self) -> Summary:
        """What `print` and a notebook show."""
        others = ", ".join(name for name in self.metrics["metric"].unique() if name != self.reference)
        facts = {
            "accuracy": self.accuracy,
            "reference": self.reference,
            "compared with": others or "nothing else",
            "groups": " x ".join(self.provenance["settings"]["groups"]),
            "cells": "; ".join(f"{name}: {n}" for name, n in self.noise[["cells", "n_cells"]].itertuples(index=False)),
        }
        tables = [
            Table(title, getattr(self, name), note) for name, (title, note) in SHOWN.items() if len(getattr(self, name))
        ]
        brief = Table(tables[0].title, self.metrics[BRIEF[len(self.noise) == 1 :]], digits=3)
        title = f"How well {self.reference} follows {self.accuracy} within groups"
        return Summary(title, facts, [brief, *tables], self.verdicts, self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON has it, at full precision; NaN is null."""
        names = [one.name for one in fields(self) if one.name != "cells"]
        return {"result": "metric comparison", **{name: plain(getattr(self, name)) for name in names}}


def compare_metrics(
    frame: pd.DataFrame,
    accuracy: str = "ACC",
    metrics: Sequence[str] = ("ln MIUB", "CE", "ln CE"),
    *,
    groups: Sequence[str] = ("dataset", "model"),
    setting: str = "setting",
    reference: str | None = None,
    higher_is_better: Sequence[str] = (),
    collapsed_below: float | None = None,
    n_items: int | str | None = None,
    n_draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> MetricComparison:
    """How well each metric predicts accuracy within groups, and whether one does so better than the others.

    Parameters
    ----------
    frame
        A row a cell: one setting of one group.
    accuracy
        Column of shares from 0 to 1.
    metrics
        Columns; `ln CE` is the natural logarithm of the column `CE`, or a column of that name as it is if
        there is one. Rows in which one is empty are left out.
    groups
        Columns whose values together make a group. Cells are compared within groups only, and groups count as
        independent of each other.
    setting
        Column that names a cell in its group; the same name in two groups means the same setting, and what settings do
        in all groups alike counts once.
    reference
        Metric whose claim is tested; the first one if None.
    higher_is_better
        Metrics that promise a high accuracy where they are high; all others do where they are low.
    collapsed_below
        Report everything a second time, without cells whose accuracy is below this.
    n_items
        Test items behind each accuracy: a number, or the name of a column. None if unknown.
    n_draws, seed
        Random draws of groups, and orders of settings. All that differ are taken where they are no more than `n_draws`,
        and all draws of at most 10 groups in any case, so that nothing depends on the seed.
    level
        Share of draws inside an interval; p-values up to 1 - level count.

    Raises
    ------
    TypeError
        If `frame` isn't a DataFrame.
    ValueError
        If a column or an option is none of what is allowed, or too little is left to compare: fewer than two groups,
        fewer than 4 cells after one was taken off for each further group, or a column that is constant within groups.

    Notes
    -----
    A metric follows accuracy if its pooled correlation has the promised sign, the p of both Student's t and permuted
    labels of settings are at most 1 - level, and the bootstrap's interval leaves 0 out. It does so more closely than
    another if that holds of their difference, with Williams' t, and adds to the setting if it holds of its partial
    correlation given group and setting, without t. What k settings do in all groups alike is k values, not as many as
    there are cells: permuted labels see that, t and draws of groups don't; that some settings vary more than others
    draws of groups see, and permuted labels don't. A metric orders settings more alike if the bootstrap's interval of
    the difference of Kendall's W leaves 0 out and its p over swaps of ranks within groups is at most 1 - level: draws
    repeat groups, which alone makes W larger. A word that isn't the same for both sets of cells becomes `not
    identified`. Pooled correlations weigh cells by their distance from the group's mean, so that one group may rule
    them; `mean_spearman` doesn't.

    Examples
    --------
    >>> from lorascope.study.paper_tables import paper_study
    >>> found = compare_metrics(paper_study(once=True))
    >>> found.metrics[["metric", "pearson"]].round(3).values.tolist()
    [['ln MIUB', -0.29], ['CE', -0.098], ['ln CE', -0.046]]
    """
    names, columns, higher = (
        (one,) if isinstance(one, str) else tuple(one) for one in (metrics, groups, higher_is_better)
    )
    _refuse_options(n_draws, seed, level, collapsed_below)
    roles = parse_metrics(names, reference, higher, accuracy, getattr(frame, "columns", ()))
    read = (accuracy, roles, columns, setting, n_items)
    rows, notes = read_rows(frame, *read)
    cells, said = lay_out(rows, "all", *read)
    sets, notes = [cells], (*notes, *said)
    if collapsed_below is not None:
        kept = rows[rows[accuracy] >= collapsed_below]
        narrowed, said = lay_out(kept, f"{accuracy} >= {collapsed_below:g}", *read)
        n_out = len(rows) - len(kept)
        chosen = "; cells are chosen by what is to be predicted, which bends correlations" if n_out else ""
        notes += (f"{n_out} of {len(rows)} cells are left out of the cells {narrowed.name!r}{chosen}", *said)
        sets.append(narrowed)
    of_metric, of_pair, noise = [], [], []
    for one in sets:
        drawn = _Drawn(one, n_draws, seed, level)
        of_metric += [_metric_row(drawn, metric) for metric in roles]
        of_pair += [_pair_row(drawn, *pair) for pair in combinations(roles, 2)]
        noise.append(noise_row(one))
        notes += tuple(f"{one.name}: {said}" for said in _remarks(one, noise[-1], level))
    if len(columns) > 1:
        notes += (f"groups that share a value of {' or '.join(map(repr, columns))} count as independent all the same",)
    if len(roles) > 2:
        notes += (f"p-values aren't corrected for {len(roles) - 1} comparisons with the reference",)
    settings = {
        "accuracy": accuracy, "metrics": names, "groups": columns, "setting": setting, "reference": roles[0].name,
        "higher_is_better": higher, "collapsed_below": collapsed_below, "n_items": n_items, "n_draws": n_draws,
        "seed": seed, "level": level,
    }  # fmt: skip
    return MetricComparison(
        accuracy=accuracy,
        reference=roles[0].name,
        metrics=pd.DataFrame(of_metric),
        pairs=pd.DataFrame(of_pair),
        noise=pd.DataFrame(noise),
        verdicts=judge(of_metric, of_pair, level),
        notes=notes,
        provenance=provenance(rows, settings),
        cells=cells,
    )


class _Drawn:
    """A set of cells with its draws of groups and orders of settings."""

    def __init__(self, cells: StudyCells, n_draws: int, seed: int, level: float) -> None:
        self.cells, self.level = cells, level
        n_all = math.comb(2 * len(cells.groups) - 1, len(cells.groups))
        n_wanted = n_all if n_all <= EXACT_DRAWS else n_draws
        self.draws = group_draws(len(cells.groups), n_wanted, np.random.default_rng(seed))
        self.orders = setting_orders(len(cells.settings), n_draws, np.random.default_rng(seed))
        self.seed, self.n_draws = seed, n_draws

    def correlated(self, first: np.ndarray, second: np.ndarray) -> tuple[float, tuple[float, float]]:
        """Pooled Pearson of two tables, and the ends of its interval."""
        return pooled_pearson(first, second)[0], self.interval(pooled_pearson(first, second, self.draws.counts))

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Ends of the interval of a number over draws; NaN if no draw defines it."""
        if np.isnan(values).all():
            return math.nan, math.nan
        return percentile_interval(values, self.level, self.draws.weights)


def _metric_row(drawn: _Drawn, metric: Metric) -> dict[str, Any]:
    cells = drawn.cells
    x, y = cells.metrics[metric.name], cells.accuracy
    a, b = (beyond_setting(one) for one in (x, y))
    r, ends = drawn.correlated(x, y)
    partial, partial_ends = drawn.correlated(a, b)
    return {
        "cells": cells.name,
        "metric": metric.name,
        "better": "higher" if metric.sign > 0 else "lower",
        "n_cells": cells.n_cells,
        "n_effective": cells.n_effective,
        "pearson": r,
        "low": ends[0],
        "high": ends[1],
        "p": correlation_p(r, cells.n_effective),
        "permutation_p": permutation_p(permuted_pearson(x, y, drawn.orders)),
        "mean_spearman": mean_spearman(x, y),
        "partial_r": partial,
        "partial_low": partial_ends[0],
        "partial_high": partial_ends[1],
        "partial_p": permutation_p(permuted_pearson(a, b, drawn.orders)),
        "n_common": int(np.isfinite(x).all(axis=0).sum()),
        "concordance": float(concordance(x)[0]),
    }


def _pair_row(drawn: _Drawn, first: Metric, second: Metric) -> dict[str, Any]:
    cells = drawn.cells
    a, b = (one.sign * cells.metrics[one.name] for one in (first, second))
    y, counts = cells.accuracy, drawn.draws.counts
    r = [pooled_pearson(one, y)[0] for one in (a, b)]
    shared = pooled_pearson(a, b)[0]
    t, p_value = williams(r[0], r[1], shared, cells.n_effective)
    permuted = [permuted_pearson(one, y, drawn.orders) for one in (a, b)]
    ends = drawn.interval(pooled_pearson(a, y, counts) - pooled_pearson(b, y, counts))
    alike_ends = drawn.interval(concordance(a, counts) - concordance(b, counts))
    swapped = swapped_concordance(a, b, drawn.n_draws, np.random.default_rng(drawn.seed))
    return {
        "cells": cells.name,
        "first": first.name,
        "second": second.name,
        "n_effective": cells.n_effective,
        "agreement_first": r[0],
        "agreement_second": r[1],
        "correlation": shared,
        "difference": r[0] - r[1],
        "low": ends[0],
        "high": ends[1],
        "williams_t": t,
        "williams_p": p_value,
        "permutation_p": permutation_p(permuted[0] - permuted[1]),
        "concordance_first": float(concordance(a)[0]),
        "concordance_second": float(concordance(b)[0]),
        "concordance_low": alike_ends[0],
        "concordance_high": alike_ends[1],
        "concordance_p": permutation_p(swapped),
    }


def _remarks(cells: StudyCells, noise: Mapping[str, Any], level: float) -> Iterator[str]:
    """Sentences on what one set of cells leaves open."""
    n_groups, k = len(cells.groups), len(cells.settings)
    if noise["like_groups"] < n_groups / 2:
        yield (
            f"{format_percent(noise['largest_share'])} of accuracy's variance within groups is that of "
            f"{noise['largest_group']!r}, as if there were {format_number(noise['like_groups'])} groups: pooled "
            "correlations follow few groups, mean_spearman doesn't"
        )
    if cells.n_items is None:
        yield "`n_items` isn't given: how much of accuracy's variation is chance is unknown"
    if n_groups < FEW_GROUPS:
        yield f"intervals are percentiles over draws of {n_groups} groups, which makes them too narrow"
    if (floor := 1 / math.factorial(k)) > 1 - level:
        yield f"labels of {k} settings have {math.factorial(k)} orders: no p can be below {format_number(floor)}"


def _refuse_options(n_draws: int, seed: int, level: float, collapsed_below: float | None) -> None:
    for name, value, least in (("n_draws", n_draws, FEWEST_DRAWS), ("seed", seed, 0)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"`{name}` is {value!r}; it must be a whole number of at least {least}")
    if not 0 < level < 1:
        raise ValueError(f"`level` is {level!r}; it must lie between 0 and 1, such as 0.95")
    if collapsed_below is not None and not 0 < collapsed_below <= 1:
        raise ValueError(f"`collapsed_below` is {collapsed_below!r}; it must be an accuracy above 0, at most 1")
