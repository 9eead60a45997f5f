"""Eq. 8 and its rivals on a study, as far as its settings can tell them apart."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.scaling.report import FitReport, fit_report
from lorascope.analyze.stats.metrics import MetricComparison, compare_metrics

from .layout import data_labels, laid_out

__all__ = ["Fitted", "compared_metrics", "study_law"]

N_DRAWS = 200
"""Of each bootstrap over groups, where they are too many to look at all."""
LABELS = ("dataset", "model")


class Fitted(NamedTuple):
    """A fit to some of a study's cells, or why there is none."""

    name: str
    """Which sizes of which cells."""
    report: FitReport | None
    refused: str
    """What the fit said of these cells, in words; nothing where there is a report."""


def study_law(cells: pd.DataFrame) -> list[Fitted]:
    """Eq. 8 of MIUB on all cells with the first prompt; where these can't tell it, along each size alone.

    Parameters
    ----------
    cells
        What `study_cells` returns. Each data set has a level of its own; seeds are repeats.
    """
    rows = _choices(cells)
    if not len(rows):
        return [Fitted("all settings", None, "there is no data set with choices")]
    varied = [name for name in ("N", "R", "D") if not rows[name].isna().any() and rows[name].nunique() > 1]
    whole = _fitted("all settings", rows, varied)
    if whole.report is not None or len(varied) < 2:
        return [whole]
    layout = laid_out(rows)
    parts = {
        "N": (f"model size, at rank {layout.rank}", layout.cells[layout.cells["column"].isin(layout.sizes)]),
        "R": ("rank, of the model as it is", layout.cells[layout.cells["column"].isin(layout.ranks)]),
        "D": (
            f"training samples, at rank {layout.rank}",
            rows[(rows["share"] == rows["share"].min()) & (rows["R"] == layout.rank)],
        ),
    }
    alone = [_fitted(name, part, [size]) for size, (name, part) in parts.items() if size in varied]
    return [whole, *alone]


def compared_metrics(cells: pd.DataFrame) -> tuple[MetricComparison | None, str]:
    """MIUB and CE as predictors of accuracy, and why there is no comparison.

    Cells are means over seeds, with the first prompt.
    """
    rows = _choices(cells)
    keys = ["dataset", "model", "setting"]
    table = rows.groupby(keys, sort=False)[["ACC", "MIUB", "CE", "n_scored"]].mean().reset_index()
    table["n_scored"] = table["n_scored"].round().astype(int)
    metrics = [name for name in ("ln MIUB", "CE", "ln CE") if _is_usable(table, name)]
    try:
        return compare_metrics(table, metrics=metrics, n_items="n_scored"), ""
    except ValueError as error:
        return None, str(error)


def _choices(cells: pd.DataFrame) -> pd.DataFrame:
    rows = cells[cells["first_prompt"] & ~cells["is_text"]].copy()
    rows["dataset"] = data_labels(rows)
    return rows


def _is_usable(table: pd.DataFrame, metric: str) -> bool:
    """A logarithm needs values above 0."""
    values = table[metric.removeprefix("ln ")].dropna()
    return len(values) > 0 and (not metric.startswith("ln ") or bool((values > 0).all()))


def _fitted(name: str, rows: pd.DataFrame, sizes: Sequence[str]) -> Fitted:
    if not sizes:
        return Fitted(
            name, None, "no size varies: a law needs several model sizes, ranks or numbers of training samples"
        )
    frame = rows.assign(**{size: rows[size].astype(float) for size in sizes})
    # A model's own level would take all that N can tell, unless each model has several sizes.
    varies = "N" not in sizes or bool((frame.groupby("model")["N"].nunique() > 1).any())
    groups = [one for one in LABELS if frame[one].nunique() > 1 and (one != "model" or varies)]
    options: dict[str, Any] = {size: size for size in sizes}
    options |= {"repeat": "seed"} if frame["seed"].nunique() > 1 else {}
    try:
        report = fit_report(frame, "MIUB", groups=groups, n_draws=N_DRAWS, **options)
    except ValueError as error:
        return Fitted(name, None, str(error))
    return Fitted(name, report, "")
