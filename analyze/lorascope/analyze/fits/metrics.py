"""Metrics compared as predictors of accuracy within groups."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.format import format_number
from lorascope.analyze.results.record import plain, provenance

from .correlations import (
    beyond_setting,
    concordance,
    freedom_left,
    mean_spearman,
    permutation_p,
    permuted_pearson,
    pooled_pearson,
    r_p,
    swapped_concordance,
    williams,
)
from .frame import group_labels
from .resampling import (
    Draws,
    few_groups,
    group_draws,
    group_swaps,
    percentile_interval,
    refuse_draws,
    setting_orders,
)
from .study_cells import comparable, read_cells
from .summary import Summary, Table, Verdict, Word, is_small

EXACT_DRAWS = 100_000
"""Draws of groups up to which all of them are taken, whatever `n_draws` is: 10 groups have 92,378."""
COLUMNS = (
    "p: of n_effective independent cells; low, high: bootstrap over groups; permutation_p: labels of settings "
    "permuted, alike in all groups. partial_r: given group and setting; partial_t_p: by Student's t. strict_r: the "
    "same, settings having effects of their own in each value of the column strict_by, if that makes it less sure. "
    "concordance: Kendall's W of the metric."
)
PAIR_COLUMNS = (
    "Agreement: the correlation, turned so that higher is better. williams_p: of n_effective independent cells; low, "
    "high: bootstrap over groups; permutation_p: labels of settings permuted. concordance: Kendall's W; concordance_p: "
    "of their difference, by swaps of ranks between the metrics within groups. No p is corrected for the number of "
    "metrics."
)
BRIEF = ["cells", "metric", "pearson", "p", "permutation_p", "partial_r", "partial_p", "concordance"]
"""Columns of `metrics` that the short form shows; the first one only where there are two sets of cells."""


class _Claim(NamedTuple):
    """A claim on a row of `metrics` or `pairs`, which is spoken for by small p-values and an interval above 0."""

    words: str
    tests: tuple[str, ...]
    """Columns of p-values."""
    intervals: tuple[str, ...]
    """Beginnings of the names of columns of intervals, all of which must lie on one side."""
    because: str
    stricter: str = ""
    """What follows where settings have effects by a column."""


CLAIMS = (
    _Claim(
        "{metric} follows accuracy within groups",
        ("p", "permutation_p"),
        ("",),
        "r = {pearson} [{low}, {high}], p = {p} for {n_effective} effective cells, {permutation_p} by labels of "
        "settings",
    ),
    _Claim(
        "{first} follows accuracy more closely than {second}",
        ("williams_p", "permutation_p"),
        ("",),
        "agreement {agreement_first} against {agreement_second}, difference {difference} [{low}, {high}], Williams' p "
        "= {williams_p} for {n_effective} effective cells, {permutation_p} by labels of settings",
    ),
    _Claim(
        "{metric} adds to knowing the setting, with the sign it promises",
        ("partial_p", "strict_p"),
        ("partial_", "strict_"),
        "partial r = {partial_r} [{partial_low}, {partial_high}], p = {partial_p} by labels of settings, {partial_t_p} "
        "by t",
        "; with effects of settings by {strict_by} {strict_r} [{strict_low}, {strict_high}], p = {strict_p} by t",
    ),
    _Claim(
        "{first} orders settings more alike from group to group than {second}",
        ("concordance_p",),
        ("concordance_",),
        "Kendall's W {concordance_first} against {concordance_second}, difference {concordance_difference} "
        "[{concordance_low}, {concordance_high}], p = {concordance_p} by swaps within groups",
    ),
)


@dataclass(frozen=True, eq=False)
class MetricComparison:
    """How well metrics predict accuracy within groups, from `compare_metrics`; all numbers are without unit."""

    accuracy: str
    """Column of accuracy."""
    metrics: pd.DataFrame
    """A row a set of cells and metric: its correlations with accuracy as they come, negative where lower is better."""
    pairs: pd.DataFrame
    """A row a set of cells and two metrics: correlations turned so that higher is better, their difference and tests of
    it; without columns where there is one metric."""
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    """Sentences on rows and groups that were left out, and on what p-values and intervals rest on."""
    provenance: Mapping[str, Any]
    """Settings, versions and a hash of the rows used."""
    cells: pd.DataFrame
    """Accuracy and the metrics of all cells compared, under (group, setting); `to_dict` leaves them out."""

    def summary(self) -> Summary:
        """What `print` and a notebook show."""
        title = "Correlation with accuracy, values centred within groups"
        brief = self.metrics[BRIEF[self.metrics["cells"].nunique() == 1 :]]
        tables = [Table(title, brief, digits=3), Table(title, self.metrics, COLUMNS)]
        tables += [Table("Which metric agrees more with accuracy", self.pairs, PAIR_COLUMNS)] if len(self.pairs) else []
        facts = {"groups": " x ".join(self.provenance["settings"]["groups"])}
        name = f"How well {self.metrics['metric'].iloc[0]} follows {self.accuracy} within groups"
        return Summary(name, facts, tables, self.verdicts, self.notes)

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
    higher_is_better: Sequence[str] = (),
    collapsed_below: float | None = None,
    n_draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> MetricComparison:
    """Compare how well metrics predict accuracy within groups; the first metric is compared with the others.

    Parameters
    ----------
    frame
        A row a cell: one setting of one group.
    accuracy
        Column of shares from 0 to 1.
    metrics
        Columns, first the one whose claim is tested; `ln CE` is the natural logarithm of the column `CE`, or a column
        of that name as it is if there is one. Rows in which one is empty are left out.
    groups
        Columns that together define a group. Cells are compared only within groups, and groups count as independent.
    setting
        Column that names a cell in its group; the same name in two groups means the same setting, and what settings do
        in all groups alike counts once.
    higher_is_better
        Metrics of which high values should go with high accuracy; for all other metrics low values should.
    collapsed_below
        Report everything a second time, without cells whose accuracy is below this.
    n_draws, seed
        Number of random draws of groups and orders of settings, and their seed. If there are no more than `n_draws`
        different ones, all are used. With at most 10 groups, all draws are used, so the result doesn't depend on the
        seed.
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
    another if that holds of their difference, with Williams' t. It adds to the setting if it holds of its partial
    correlation given group and setting, without t, and if Student's t and the interval say the same where settings have
    effects of their own in each value of a column of `groups`, such as in each model: a setting that harms one model
    alone would else count for the metric that it harms too. Of several columns the one with the largest p decides.

    What k settings do in all groups alike is k values, not as many as there are cells: permuted labels see that, t and
    draws of groups don't; that some settings vary more than others draws of groups see, and permuted labels don't. A
    metric orders settings more alike if the bootstrap's interval of the difference of Kendall's W leaves 0 out and its
    p over swaps of ranks within groups is at most 1 - level: draws repeat groups, which alone makes W larger. A word
    that isn't the same for both sets of cells becomes `not identified`. Pooled correlations weigh cells by their
    distance from the group's mean, so that one group may rule them; `mean_spearman` doesn't.

    Examples
    --------
    >>> from lorascope.study.paper_tables import paper_study
    >>> found = compare_metrics(paper_study(once=True))
    >>> found.metrics[["metric", "pearson"]].round(3).values.tolist()
    [['ln MIUB', -0.29], ['CE', -0.098], ['ln CE', -0.046]]
    """
    metrics, groups, higher = (
        (one,) if isinstance(one, str) else tuple(dict.fromkeys(one)) for one in (metrics, groups, higher_is_better)
    )
    refuse_draws(n_draws, seed, level)
    if collapsed_below is not None and not 0 < collapsed_below <= 1:
        raise ValueError(f"`collapsed_below` is {collapsed_below!r}; accuracy is a share above 0, at most 1")
    if unknown := [name for name in higher if name not in metrics]:
        raise ValueError(f"`higher_is_better` names {unknown[0]!r}, which isn't among the metrics {list(metrics)}")
    (rows, left_out), table = read_cells(frame, accuracy, metrics, groups, setting)
    cells, lone = comparable(table, "all")
    sets, notes = {"all": cells}, [*left_out, *lone]
    if collapsed_below is not None:
        kept, name = table[table[accuracy] >= collapsed_below], f"{accuracy} >= {collapsed_below:g}"
        sets[name], lone = comparable(kept, name)
        out = f"{len(table) - len(kept)} of {len(table)} cells are left out of the cells {name!r}"
        notes += [
            out + ", chosen by what is to be predicted, which bends correlations" * (len(kept) < len(table)),
            *lone,
        ]
    members = rows[list(groups)].groupby(group_labels(rows, groups)).first()
    resampled = [_resampled(name, one, members, n_draws, seed, level) for name, one in sets.items()]
    if (least := 1 / len(resampled[0].orders)) > 1 - level:  # of so few settings all orders are there
        notes.append(f"labels of settings have {1 / least:.0f} orders: no p by them can be below {least:.3g}")
    notes += few_groups("the bootstrap", min(len(one.accuracy) for one in resampled))
    signs = {name: 1 if name in higher else -1 for name in metrics}
    of_metric = [_metric_row(one, name, sign) for one in resampled for name, sign in signs.items()]
    of_pair = [_pair_row(one, *pair, signs) for one in resampled for pair in combinations(metrics, 2)]
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
        provenance=provenance(rows, settings),
        cells=cells,
    )


class _Resampled(NamedTuple):
    """A set of cells as tables (group, setting), with draws of groups, orders of settings and swaps within groups."""

    name: str
    n_cells: int
    n_effective: int
    """Cells, less groups, plus 1: what a correlation of values centred by group is worth."""
    accuracy: np.ndarray
    metrics: dict[str, np.ndarray]
    draws: Draws
    sets: dict[str, np.ndarray]
    """Column of groups -> which of its values each group has, integers (group,)."""
    orders: np.ndarray
    swaps: np.ndarray
    level: float

    def ends(self, values: np.ndarray, prefix: str = "") -> dict[str, float]:
        """The interval of a number over draws of groups."""
        low, high = percentile_interval(values, self.level, self.draws.weights)
        return {f"{prefix}low": low, f"{prefix}high": high}


def _resampled(
    name: str, cells: pd.DataFrame, members: pd.DataFrame, n_draws: int, seed: int, level: float
) -> _Resampled:
    accuracy, *metrics = (column.unstack() for _, column in cells.items())
    (n, n_settings), (first, second, third) = accuracy.shape, (np.random.default_rng(seed) for _ in range(3))
    n_all = math.comb(2 * n - 1, n)
    return _Resampled(
        name,
        len(cells),
        len(cells) - n + 1,
        accuracy.to_numpy(),
        {key: one.to_numpy() for key, one in zip(cells.columns[1:], metrics, strict=True)},
        group_draws(n, n_all if n_all <= EXACT_DRAWS else n_draws, first),
        {str(key): pd.factorize(one)[0] for key, one in members.loc[accuracy.index].items()},
        setting_orders(n_settings, n_draws, second),
        group_swaps(n, n_draws, third),
        level,
    )


def _metric_row(resampled: _Resampled, name: str, sign: int) -> dict[str, Any]:
    x, y, counts = resampled.metrics[name], resampled.accuracy, resampled.draws.counts
    r, a, b = float(pooled_pearson(x, y)[0]), beyond_setting(x), beyond_setting(y)
    partials = {key: _partial(resampled, name, sets) for key, sets in {"": None, **resampled.sets}.items()}
    strict = max(partials, key=lambda key: np.nan_to_num(partials[key]["t_p"], nan=-1))  # the first of equal ones
    return {
        "cells": resampled.name,
        "metric": name,
        "better": "higher" if sign > 0 else "lower",
        "n_cells": resampled.n_cells,
        "n_effective": resampled.n_effective,
        "pearson": r,
        **resampled.ends(pooled_pearson(x, y, counts)),
        "p": r_p(r, resampled.n_effective - 2),
        "permutation_p": permutation_p(permuted_pearson(x, y, resampled.orders)),
        "mean_spearman": mean_spearman(x, y),
        **{f"partial_{key}": value for key, value in partials[""].items()},
        "partial_p": permutation_p(permuted_pearson(a, b, resampled.orders)),
        "strict_by": strict,
        **{f"strict_{key.removeprefix('t_')}": value for key, value in partials[strict].items()},
        "n_common": int(np.isfinite(x).all(axis=0).sum()),
        "concordance": float(concordance(x)[0]),
    }


def _partial(resampled: _Resampled, name: str, sets: np.ndarray | None) -> dict[str, float]:
    """A metric's partial correlation with accuracy given group and setting, with its interval and p of Student's t."""
    x, y = resampled.metrics[name], resampled.accuracy
    a, b = beyond_setting(x, sets), beyond_setting(y, sets)
    r = float(pooled_pearson(a, b)[0])
    ends = resampled.ends(pooled_pearson(a, b, resampled.draws.counts))
    return {"r": r, **ends, "t_p": r_p(r, freedom_left(x, sets) - 1)}


def _pair_row(resampled: _Resampled, first: str, second: str, signs: Mapping[str, int]) -> dict[str, Any]:
    y, counts, orders = resampled.accuracy, resampled.draws.counts, resampled.orders
    a, b = (signs[name] * resampled.metrics[name] for name in (first, second))
    r_first, r_second, r_both = (float(pooled_pearson(*pair)[0]) for pair in ((a, y), (b, y), (a, b)))
    t, p_value = williams(r_first, r_second, r_both, resampled.n_effective)
    w_first, w_second = (float(concordance(one)[0]) for one in (a, b))
    return {
        "cells": resampled.name,
        "first": first,
        "second": second,
        "n_effective": resampled.n_effective,
        "agreement_first": r_first,
        "agreement_second": r_second,
        "correlation": r_both,
        "difference": r_first - r_second,
        **resampled.ends(pooled_pearson(a, y, counts) - pooled_pearson(b, y, counts)),
        "williams_t": t,
        "williams_p": p_value,
        "permutation_p": permutation_p(permuted_pearson(a, y, orders) - permuted_pearson(b, y, orders)),
        "concordance_first": w_first,
        "concordance_second": w_second,
        "concordance_difference": w_first - w_second,
        **resampled.ends(concordance(a, counts) - concordance(b, counts), "concordance_"),
        "concordance_p": permutation_p(swapped_concordance(a, b, resampled.swaps)),
    }


def _verdicts(
    of_metric: Sequence[dict[str, Any]], of_pair: Sequence[dict[str, Any]], level: float
) -> Iterator[Verdict]:
    """One for each claim and metric, or pair: its words must be the same for all sets of cells."""
    for claim in CLAIMS:
        found: dict[str, list[dict[str, Any]]] = {}
        for row in of_metric if "{metric}" in claim.words else of_pair:
            found.setdefault(claim.words.format_map(row), []).append(row)
        for words, rows in found.items():
            said = {_word(row, claim, level) for row in rows}
            because = []
            for row in rows:
                texts = {key: format_number(one) if isinstance(one, float) else one for key, one in row.items()}
                words_of = claim.because + (claim.stricter if row.get("strict_by") else "")
                because.append(f"{row['cells']}: " * (len(rows) > 1) + words_of.format_map(texts))
            yield Verdict(words, said.pop() if len(said) == 1 else "not identified", "; ".join(because))


def _word(row: Mapping[str, Any], claim: _Claim, level: float) -> Word:
    low = float(np.min([row[f"{name}low"] for name in claim.intervals]))
    high = float(np.max([row[f"{name}high"] for name in claim.intervals]))
    if row.get("better") == "lower":  # of a correlation as it comes
        low, high = -high, -low
    # Williams' p is NaN where two columns are one, which tells nothing; Python's `max` would lose it in second place.
    if not is_small(float(np.max([row[name] for name in claim.tests])), level):
        return "not identified"
    return "supported" if low > 0 else "contradicted" if high < 0 else "not identified"
