"""Metrics compared as predictors of accuracy."""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from ..stats.record import provenance
from .cells import read_cells, without_collapsed
from .comparison import MetricComparison
from .drawn import Options
from .items import Items
from .judge import judge
from .remarks import common_remarks, remarks
from .roles import parse_metrics
from .tables import SetTables, set_tables

__all__ = ["compare_metrics"]

Progress = Callable[[int, int], None]
FEWEST_RESAMPLES = 100


def compare_metrics(
    frame: pd.DataFrame,
    accuracy: str = "ACC",
    metrics: Sequence[str] = ("ln MIUB", "CE", "ln CE"),
    *,
    blocks: Sequence[str] = ("dataset", "model"),
    setting: str = "setting",
    reference: str | None = None,
    higher_is_better: Sequence[str] = (),
    collapsed_below: float | None = None,
    n_items: Items | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
    significance: float = 0.05,
    progress: Progress | None = None,
) -> MetricComparison:
    """How well each metric predicts accuracy within blocks, and whether one does so better than the others.

    Parameters
    ----------
    frame
        A row a cell: one setting of one block.
    accuracy
        Column of shares from 0 to 1.
    metrics
        Columns; `ln CE` is the natural logarithm of the column `CE`, or a column of that name as it is if
        there is one. Rows in which one is empty are left out.
    blocks
        Columns whose values together make a block. Cells are compared within blocks only, and blocks count as
        independent of each other.
    setting
        Column that names a cell in its block; the same name in two blocks means the same setting, and what settings do
        in all blocks alike counts once.
    reference
        Metric whose claim is tested; the first one if None.
    higher_is_better
        Metrics that promise a high accuracy where they are high; all others do where they are low.
    collapsed_below
        Report everything a second time, without cells whose accuracy is below this.
    n_items
        Test items behind each accuracy: a number, a number by block (`ARCE/Phi3`) or by value of one of its columns
        (`ARCE`), or the name of a column. None if unknown.
    n_resamples, seed
        Random draws of the bootstrap above 10 blocks, of swaps above 14, of sign flips above 20 and of orders of
        settings above 7 settings; with fewer nothing is left to chance.
    significance
        p-values up to here count, and intervals leave this out.
    progress
        Called with the number of metrics and pairs of metrics done, and their total.

    Raises
    ------
    TypeError
        If `frame` isn't a DataFrame.
    ValueError
        If a column or an option is none of what is allowed, or too little is left to compare: fewer than two blocks,
        fewer than 4 cells after one was taken off for each further block, a column that is constant within blocks,
        or both `ln CE`, which is a metric, and `CE` are columns.

    Notes
    -----
    `within` has the correlations, `dependent` the tests of two of them, `resample` sign flips and bootstrap, `relabel`
    permuted labels of settings, `decisions`, `beyond` and `noise` what their names say, `steady` the concordance of
    blocks, `judge` the rules of verdicts. Pooled correlations weigh cells by their distance from the block's mean, so
    that one block may rule them; mean rank correlations and decisions don't. Verdicts are about the settings in the
    table. What k settings do in all blocks alike is k values, not as many as there are cells, which `setting_p` sees
    and the other p of correlations, sign flips and draws of blocks don't.

    Examples
    --------
    >>> from lorascope.study.paper_tables import paper_study
    >>> found = compare_metrics(paper_study(once=True))
    >>> found.metrics[["metric", "pearson"]].round(3).values.tolist()
    [['ln MIUB', -0.29], ['CE', -0.098], ['ln CE', -0.046]]
    """
    names, groups, higher = (_several(one) for one in (metrics, blocks, higher_is_better))
    _refuse_options(n_resamples, seed, significance, collapsed_below)
    roles = parse_metrics(names, reference, higher, accuracy)
    cells, rows, notes = read_cells(frame, accuracy, roles, groups, setting, n_items)
    sets = [cells]
    if collapsed_below is not None:
        narrowed, said = without_collapsed(cells, accuracy, collapsed_below)
        sets, notes = [cells, narrowed], (*notes, *said)
    options = Options(n_resamples, seed, significance)
    step = _steps(len(sets) * (len(roles) + len(roles) * (len(roles) - 1) // 2), progress)
    tables = [set_tables(one, roles, options, step) for one in sets]
    for one, table in zip(sets, tables, strict=True):
        notes += remarks(one, table, options)
    notes += common_remarks(groups, len(roles) - 1)
    settings = {
        "accuracy": accuracy,
        "metrics": names,
        "blocks": groups,
        "setting": setting,
        "reference": roles[0].name,
        "higher_is_better": higher,
        "collapsed_below": collapsed_below,
        "n_items": n_items,
        "n_resamples": n_resamples,
        "seed": seed,
        "significance": significance,
    }
    joined = {name: [row for table in tables for row in getattr(table, name)] for name in SetTables._fields[:-1]}
    return MetricComparison(
        accuracy=accuracy,
        reference=roles[0].name,
        **{name: pd.DataFrame(some) for name, some in joined.items()},
        verdicts=judge(roles, joined["metrics"], joined["pairs"], joined["beyond_setting"], significance),
        notes=notes,
        provenance=provenance(rows, settings),
    )


def _several(names: Sequence[str]) -> tuple[str, ...]:
    """A name alone counts as one, not as its letters."""
    return (names,) if isinstance(names, str) else tuple(names)


def _refuse_options(n_resamples: int, seed: int, significance: float, collapsed_below: float | None) -> None:
    if not _is_whole(n_resamples) or n_resamples < FEWEST_RESAMPLES:
        raise ValueError(f"`n_resamples` is {n_resamples!r}; it is a whole number from {FEWEST_RESAMPLES} on")
    if not _is_whole(seed) or seed < 0:
        raise ValueError(f"`seed` is {seed!r}; it is a whole number from 0 on")
    if not 0 < significance < 1:
        raise ValueError(f"`significance` is {significance!r}; allowed is what lies between 0 and 1, such as 0.05")
    if collapsed_below is not None and not 0 < collapsed_below <= 1:
        raise ValueError(f"`collapsed_below` is {collapsed_below!r}; it is an accuracy above 0 and up to 1, or None")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _steps(total: int, progress: Progress | None) -> Callable[[], None]:
    """What counts done steps and reports them."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return step
