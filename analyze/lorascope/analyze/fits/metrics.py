"""Compare metrics as predictors of accuracy within groups."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.format import format_number
from lorascope.analyze.results.save import result_provenance

from .correlations import (
    correlation_p,
    permutation_p,
    permuted_pearson,
    pooled_pearson,
    setting_residuals,
    williams,
)
from .frame import comparable_cells, group_labels, read_cells
from .resampling import Draws, few_groups_note, group_draws, percentile_interval, refuse_draws, setting_orders
from .verdicts import Summary, Verdict, Word, is_small

EXACT_DRAWS = 100_000
"""Number of different draws of groups up to which all are made, whatever `n_draws` is: 10 groups have 92,378."""
CLAIMS = {
    "{metric} follows accuracy within groups": (("pearson", "", ("p", "permutation_p")),),
    "{first} follows accuracy more closely than {second}": (("difference", "", ("williams_p", "permutation_p")),),
    "{metric} adds to knowing the setting, with the sign it promises": (
        ("partial_r", "partial_", ("partial_p",)),
        ("strict_r", "strict_", ("strict_p",)),
    ),
}
"""Claim on a row of `metrics` or `pairs` -> its numbers: each one's column, the prefix of `low` and `high` of its
interval, and columns of its p-values. The largest p decides, and all intervals must be on one side of 0."""


@dataclass(frozen=True, eq=False)
class MetricComparison:
    """Comparison of metrics as predictors of accuracy within groups; all numbers are without unit."""

    accuracy: str
    """Column of accuracy."""
    metrics: pd.DataFrame
    """One row per set of cells and metric: its correlations with accuracy, negative if lower is better.

    `p`: Student's t of `n_effective` independent cells. `low`, `high`: bootstrap over groups. `permutation_p`: labels
    of settings permuted in all groups alike. `partial_r`: given group and setting, with `partial_t_p` by Student's t.
    `strict_r`: the same with effects of settings in each value of the column `strict_by`, if that is less sure."""
    pairs: pd.DataFrame
    """One row per set of cells and pair of metrics: agreement (correlation with a sign so that higher is better), their
    difference, its bootstrap interval, Williams' t and p, and p by permuted labels of settings. No p is corrected for
    the number of metrics. The table is empty if there is one metric."""
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    """Sentences on excluded rows and groups, and on limits of p-values and intervals."""
    provenance: Mapping[str, Any]
    """Settings, versions and a hash of the rows in use."""
    cells: pd.DataFrame
    """Accuracy and the metrics of all cells compared, indexed by (group, setting)."""

    def summary(self) -> Summary:
        """Return the verdicts and tables of the comparison, ready to print."""
        brief = ["cells", "metric", "pearson", "p", "permutation_p", "partial_r", "partial_p"]
        tables = {
            "correlation with accuracy, values centred within groups": self.metrics[brief],
            "the same with intervals and partial correlations": self.metrics,
        }
        if len(self.pairs):
            tables["agreement with accuracy by pair of metrics"] = self.pairs
        title = f"How well {self.metrics['metric'].iloc[0]} follows {self.accuracy} within groups"
        return Summary(title, self.verdicts, tables, self.notes, self.provenance)


def compare_metrics(
    frame: pd.DataFrame,
    accuracy: str = "ACC",
    metrics: Sequence[str] = ("ln MIUB", "CE", "ln CE"),
    *,
    groups: Sequence[str] = ("dataset", "model"),
    setting: str = "setting",
    higher_is_better: Sequence[str] = (),
    collapsed_below: float | None = None,
    n_draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> MetricComparison:
    """Compare how well metrics predict accuracy within groups; verdicts compare the first metric with the others.

    Parameters
    ----------
    frame
        One row per cell, which is a setting of a group.
    accuracy
        Column of shares from 0 to 1.
    metrics
        Columns; the claim of the first one is tested. `ln CE` is a column of that name if it exists, else the
        natural logarithm of the column `CE`. Rows with an empty value are excluded.
    groups
        Columns that together define a group. Cells are compared only within groups, which count as independent.
    setting
        Column that names a cell in its group; the same name in two groups means the same setting.
    higher_is_better
        Metrics whose high values should go with high accuracy; for all other metrics, low values should.
    collapsed_below
        Report everything a second time, without cells whose accuracy is below this.
    n_draws, seed
        Number of random draws of groups and of orders of settings, and their seed. If at most `n_draws` are different,
        all of them are used; so are all draws of up to 10 groups, so that the result doesn't depend on the seed.
    level
        Confidence level of intervals; p-values up to 1 - level are significant.

    Raises
    ------
    TypeError
        If `frame` isn't a DataFrame.
    ValueError
        If a column or an option isn't allowed, or too little remains to compare: fewer than two groups, cells - groups
        + 1 below 4, or a column that is constant within groups.

    Notes
    -----
    A metric follows accuracy if its pooled correlation has the promised sign, the p-values of both Student's t and
    permuted labels of settings are at most 1 - level, and the bootstrap's interval excludes 0. It follows accuracy more
    closely than another metric if the same holds for their difference, with Williams' t. It adds to the setting if the
    partial correlation given group and setting has a small p by permuted labels, and if Student's t and the interval
    agree when settings have separate effects in each value of a column of `groups`, such as each model (the column with
    the largest p decides). A verdict has the largest p of its tests; its word must hold for both sets of cells.

    Effects of k settings in all groups are k independent values, not one per cell. Permuted labels account for that,
    but t and draws of groups don't; draws of groups account for settings that vary more than others, but permuted
    labels don't. Pooled correlations weigh cells by their distance from the group's mean, so one group may dominate.

    Examples
    --------
    >>> from lorascope.study.paper_tables import paper_study
    >>> comparison = compare_metrics(paper_study(once=True))
    >>> comparison.metrics[["metric", "pearson"]].round(3).values.tolist()
    [['ln MIUB', -0.29], ['CE', -0.098], ['ln CE', -0.046]]
    """
    metrics, groups, higher = (
        (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
        for names in (metrics, groups, higher_is_better)
    )
    refuse_draws(n_draws, seed, level)
    if collapsed_below is not None and not 0 < collapsed_below <= 1:
        raise ValueError(f"`collapsed_below` is {collapsed_below!r}; accuracy is a share above 0, at most 1")
    if unknown := [name for name in higher if name not in metrics]:
        raise ValueError(f"`higher_is_better` names {unknown[0]!r}, which isn't among the metrics {list(metrics)}")
    rows, notes, table = read_cells(frame, accuracy, metrics, groups, setting)
    cells, lone = comparable_cells(table, "all")
    sets, notes = {"all": cells}, [*notes, *lone]
    if collapsed_below is not None:
        above, name = table[table[accuracy] >= collapsed_below], f"{accuracy} >= {collapsed_below:g}"
        sets[name], lone = comparable_cells(above, name)
        excluded = f"{len(table) - len(above)} of {len(table)} cells are excluded from the cells {name!r}"
        bias = ", chosen by what is to be predicted, which bends correlations" * (len(above) < len(table))
        notes += [excluded + bias, *lone]
    members = rows[list(groups)].groupby(group_labels(rows, groups)).first()
    resampled = [_resample(name, cells, members, n_draws, seed, level) for name, cells in sets.items()]
    if (least := 1 / len(resampled[0].orders)) > 1 - level:  # so few settings have all their orders
        notes.append(f"labels of settings have {1 / least:.0f} orders: no p by them can be below {least:.3g}")
    notes += few_groups_note("the bootstrap", min(len(tables.accuracy) for tables in resampled))
    signs = {name: 1 if name in higher else -1 for name in metrics}
    of_metric = [_metric_row(tables, name, sign) for tables in resampled for name, sign in signs.items()]
    of_pair = [_pair_row(tables, *pair, signs) for tables in resampled for pair in combinations(metrics, 2)]
    settings = {
        "accuracy": accuracy, "metrics": metrics, "groups": groups, "setting": setting, "higher_is_better": higher,
        "collapsed_below": collapsed_below, "n_draws": n_draws, "seed": seed, "level": level,
    }  # fmt: skip
    return MetricComparison(
        accuracy=accuracy,
        metrics=pd.DataFrame(of_metric),
        pairs=pd.DataFrame(of_pair),
        verdicts=tuple(_verdicts(of_metric, [row for row in of_pair if row["first"] == metrics[0]], level)),
        notes=tuple(notes),
        provenance=result_provenance(rows, settings),
        cells=cells,
    )


class _Resampling(NamedTuple):
    """A set of cells as tables (group, setting), with bootstrap draws of groups and permutations of settings."""

    cells: str
    """Name of the set, such as `all`."""
    accuracy: np.ndarray
    metrics: dict[str, np.ndarray]
    draws: Draws
    sets: dict[str, np.ndarray | None]
    """Column of `groups` -> number of each group's value (group,); no column -> None."""
    orders: np.ndarray
    level: float

    @property
    def n_effective(self) -> int:
        """Cells - groups + 1: the number of independent cells with the same degrees of freedom."""
        return int(np.isfinite(self.accuracy).sum()) - len(self.accuracy) + 1

    def interval(self, values: np.ndarray) -> dict[str, float]:
        """Return the bootstrap interval, `low` and `high`, of a statistic by its values (draw,)."""
        return dict(zip(("low", "high"), percentile_interval(values, self.level, self.draws.weights), strict=True))

    def correlation(self, x: np.ndarray, y: np.ndarray, df: int) -> dict[str, float]:
        """Return Pearson's `r` of two tables, its bootstrap interval, and its p by Student's t, `t_p`."""
        r = float(pooled_pearson(x, y)[0])
        return {"r": r, **self.interval(pooled_pearson(x, y, self.draws.counts)), "t_p": correlation_p(r, df)}


def _resample(
    name: str, cells: pd.DataFrame, members: pd.DataFrame, n_draws: int, seed: int, level: float
) -> _Resampling:
    """Return a set of cells with its draws and permutations; `members` has the columns of `groups`, by group."""
    accuracy, *metrics = (column.unstack() for _, column in cells.items())
    n, n_settings = accuracy.shape
    n_all = math.comb(2 * n - 1, n)
    sets = {str(key): pd.factorize(column)[0] for key, column in members.loc[accuracy.index].items()}
    return _Resampling(
        name,
        accuracy.to_numpy(),
        {key: table.to_numpy() for key, table in zip(cells.columns[1:], metrics, strict=True)},
        group_draws(n, n_all if n_all <= EXACT_DRAWS else n_draws, np.random.default_rng(seed)),
        {"": None, **sets},
        setting_orders(n_settings, n_draws, np.random.default_rng(seed)),
        level,
    )


def _metric_row(resampling: _Resampling, name: str, sign: int) -> dict[str, Any]:
    """Return a row of the table of metrics: correlations of one metric with accuracy, and their tests."""
    x, y, n_effective = resampling.metrics[name], resampling.accuracy, resampling.n_effective
    pearson = resampling.correlation(x, y, n_effective - 2)
    residuals = {key: (setting_residuals(x, sets), setting_residuals(y, sets)) for key, sets in resampling.sets.items()}
    partials = {key: resampling.correlation(a, b, df - 1) for key, ((a, df), (b, _)) in residuals.items()}
    strict = max(partials, key=lambda key: np.nan_to_num(partials[key]["t_p"], nan=-1))  # the first of equal ones
    (a, _), (b, _) = residuals[""]
    return {
        "cells": resampling.cells,
        "metric": name,
        "better": "higher" if sign > 0 else "lower",
        "n_cells": n_effective + len(y) - 1,
        "n_effective": n_effective,
        **dict(zip(("pearson", "low", "high", "p"), pearson.values(), strict=True)),
        "permutation_p": permutation_p(permuted_pearson(x, y, resampling.orders)),
        **{f"partial_{key}": value for key, value in partials[""].items()},
        "partial_p": permutation_p(permuted_pearson(a, b, resampling.orders)),
        "strict_by": strict,
        **{f"strict_{key.removeprefix('t_')}": value for key, value in partials[strict].items()},
    }


def _pair_row(resampling: _Resampling, first: str, second: str, signs: Mapping[str, int]) -> dict[str, Any]:
    """Return a row of the table of pairs: how closely two metrics follow accuracy, and tests of the difference."""
    y, counts, orders = resampling.accuracy, resampling.draws.counts, resampling.orders
    a, b = (signs[name] * resampling.metrics[name] for name in (first, second))
    r_first, r_second, r_both = (float(pooled_pearson(*pair)[0]) for pair in ((a, y), (b, y), (a, b)))
    t, p_value = williams(r_first, r_second, r_both, resampling.n_effective)
    return {
        "cells": resampling.cells,
        "first": first,
        "second": second,
        "n_effective": resampling.n_effective,
        "agreement_first": r_first,
        "agreement_second": r_second,
        "correlation": r_both,
        "difference": r_first - r_second,
        **resampling.interval(pooled_pearson(a, y, counts) - pooled_pearson(b, y, counts)),
        "williams_t": t,
        "williams_p": p_value,
        "permutation_p": permutation_p(permuted_pearson(a, y, orders) - permuted_pearson(b, y, orders)),
    }


def _verdicts(
    of_metric: Sequence[dict[str, Any]], of_pair: Sequence[dict[str, Any]], level: float
) -> Iterator[Verdict]:
    """Yield one verdict per claim and metric or pair; it is `not identified` if sets of cells disagree.

    A claim on a set of cells is `not identified` too unless its largest p is small and all intervals are on one side
    of 0.
    """
    for claim, numbers in CLAIMS.items():
        by_sentence: dict[str, list[dict[str, Any]]] = {}
        for row in of_metric if "{metric}" in claim else of_pair:
            by_sentence.setdefault(claim.format_map(row), []).append(row)
        for sentence, rows in by_sentence.items():
            words, reasons = set[Word](), []
            for row in rows:
                estimates: dict[tuple[float, float, float], float] = {}  # (number, low, high) -> largest p
                for value, prefix, tests in numbers:
                    ends = row[value], row[f"{prefix}low"], row[f"{prefix}high"]
                    # NaN if any p is: Williams' p is of two equal columns
                    estimates[ends] = float(np.max([estimates.get(ends, 0.0), *(row[name] for name in tests)]))
                sign = -1 if row.get("better") == "lower" else 1  # of a correlation as it is computed
                intervals = sign * np.array([ends[1:] for ends in estimates])
                is_significant = is_small(float(np.max([*estimates.values()])), level)
                is_above, is_below = (is_significant and bool(side.all()) for side in (intervals > 0, intervals < 0))
                words.add("supported" if is_above else "contradicted" if is_below else "not identified")
                texts = ["{} [{}, {}], p = {}".format(*map(format_number, (*ends, p))) for ends, p in estimates.items()]
                text = f", and with effects of settings by {row.get('strict_by')} ".join(texts)
                text += f", n = {row['n_effective']}"
                reasons.append(f"{row['cells']}: {text}" if len(rows) > 1 else text)
            yield Verdict(sentence, words.pop() if len(words) == 1 else "not identified", "; ".join(reasons))
