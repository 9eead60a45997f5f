"""Eq. 8 on a study, as far as its settings can tell it, and metrics against accuracy."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.scaling.fit import FitReport, fit_report
from lorascope.analyze.stats.metrics import MetricComparison, compare_metrics

from .layout import data_labels, lay_out

__all__ = ["Compared", "Fitted", "compared_metrics", "study_law"]

N_DRAWS = 200
"""Draws of a bootstrap over groups, where they are too many to look at all."""


class Fitted(NamedTuple):
    """A fit to some of a study's cells, or why there is none."""

    name: str
    """Which sizes of which cells."""
    report: FitReport | None
    refused: str
    """What the fit said of these cells, in words; nothing where there is a report."""


class Compared(NamedTuple):
    """MIUB and CE as predictors of accuracy, or why they weren't compared."""

    comparison: MetricComparison | None
    refused: str
    """What the comparison said of these cells; nothing where there is one."""


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
    whole = _fit("all settings", rows, varied)
    if whole.report is not None or len(varied) < 2:
        return [whole]
    layout = lay_out(rows)
    by_items = rows[(rows["share"] == rows["share"].min()) & (rows["R"] == layout.rank)]
    parts = {
        "N": (f"model size, at rank {layout.rank}", layout.cells[layout.cells["column"].isin(layout.sizes)]),
        "R": ("rank, of the model as it is", layout.cells[layout.cells["column"].isin(layout.ranks)]),
        "D": (f"training samples, at rank {layout.rank}", by_items),
    }
    return [whole, *(_fit(*parts[size], [size]) for size in varied)]


def compared_metrics(cells: pd.DataFrame) -> Compared:
    """MIUB and CE as predictors of accuracy, on means over seeds; `cells` are what `study_cells` returns."""
    rows = _choices(cells)
    keys = ["dataset", "model", "setting"]
    table = rows.groupby(keys, sort=False)[["ACC", "MIUB", "CE", "n_scored"]].mean().reset_index()
    table["n_scored"] = table["n_scored"].round().astype(int)
    known = {name: table[name].dropna() for name in ("MIUB", "CE")}
    metrics = [f"ln {name}" for name in known if len(known[name]) and (known[name] > 0).all()]
    metrics[1:1] = ["CE"] * bool(len(known["CE"]))
    try:
        return Compared(compare_metrics(table, metrics=metrics, n_items="n_scored"), "")
    except ValueError as error:
        return Compared(None, str(error))


def _choices(cells: pd.DataFrame) -> pd.DataFrame:
    rows = cells[cells["first_prompt"] & ~cells["is_text"]].copy()
    rows["dataset"] = data_labels(rows)
    return rows


def _fit(name: str, rows: pd.DataFrame, sizes: Sequence[str]) -> Fitted:
    if not sizes:
        why = "no size varies: a law needs several model sizes, ranks or numbers of training samples"
        return Fitted(name, None, why)
    frame = rows.astype(dict.fromkeys(sizes, float))
    # A model's own level would take all that N can tell, unless each model has several sizes.
    varies = "N" not in sizes or bool((frame.groupby("model")["N"].nunique() > 1).any())
    groups = [one for one in ("dataset", "model") if frame[one].nunique() > 1 and (one != "model" or varies)]
    options: dict[str, Any] = {size: size for size in sizes}
    options |= {"repeat": "seed"} if frame["seed"].nunique() > 1 else {}
    try:
        return Fitted(name, fit_report(frame, "MIUB", groups=groups, n_draws=N_DRAWS, **options), "")
    except ValueError as error:
        return Fitted(name, None, str(error))
