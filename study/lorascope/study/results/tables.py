"""The numbers of the paper's three tables and figures 2 and 3: a row a number, with error, unit and what it rests on.

Every table has the columns `model`, `metric`, `setting`, `value` (mean over seeds), `se` (over items), `seed_sd`
(between seeds, empty for one), `n_items`, `n_seeds`, `unit` and `runs` (names of units). What wasn't measured has no
value and 0 items; `attrs` counts these in `n_empty`, and says the `rank` of the sizes and what is `left_out`.

`se` says how another draw of items would differ; `seed_sd` says how another adapter would. Of a mean over seeds `se`
is the mean of their errors, which is no smaller than the error of that mean, since seeds answer the same items. `AVG`
is the mean over data sets, each of which counts the same and is independent of the others, of the seeds that have
all.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from .layout import AVG, Layout, lay_out
from .units import UnitResult

__all__ = [
    "datasets_table",
    "information_table",
    "lengths_table",
    "prompts_table",
    "texts_table",
    "wide",
    "with_sizes",
]

COLUMNS = ("model", "metric", "setting", "value", "se", "seed_sd", "n_items", "n_seeds", "unit", "runs")
UNITS = {"ACC": "share", "CE": "nat/token", "PPL": "1", "MIUB": "nat"}


def datasets_table(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's table 1: `dataset` x {ACC, CE, MIUB} x settings, with the first prompt, and the mean over data sets.

    Parameters
    ----------
    cells
        What `study_cells` returns.
    """
    layout = lay_out(cells[cells["first_prompt"] & ~cells["is_text"]])
    parts = [layout.cells]
    if len(layout.cells):  # where tasks share data sets, each task has a mean of its own
        repeated = layout.cells.groupby("dataset")["task"].nunique().max() > 1
        means = _average(layout, ("task",) if repeated else ())
        parts.append(means.assign(label=AVG + (" (" + means["task"] + ")" if repeated else "")))
    whole = layout._replace(cells=pd.concat(parts, ignore_index=True))
    return _table_of(whole, "label", ("ACC", "CE", "MIUB")).rename(columns={"label": "dataset"})


def prompts_table(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's table 2: mean over data sets by `prompt` x {ACC, MIUB} x settings, on the same items throughout.

    Parameters
    ----------
    cells
        What `prompt_cells` returns.
    """
    layout = lay_out(cells[~cells["is_text"]])
    return _table_of(layout._replace(cells=_average(layout, ("prompt",))), "prompt", ("ACC", "MIUB"))


def texts_table(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's figure 2: MIUB, PPL and CE of each text (`dataset`) against model size, all of one rank.

    With `N`, `N_non_embedding`, `share` and `R`. Where no layers share weights, models stand beside each other.

    Parameters
    ----------
    cells
        What `study_cells` returns.
    """
    layout = lay_out(cells[cells["is_text"]])
    at_rank = layout.sizes or tuple(name for name in layout.ranks if name == f"r{layout.rank}")
    own = layout.cells[layout.cells["column"].isin(at_rank)]
    table = _table_of(layout._replace(cells=own, ranks=(), sizes=at_rank), "label", ("MIUB", "PPL", "CE"))
    return with_sizes(table, own).rename(columns={"label": "dataset"})


def lengths_table(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's figure 3: MIUB and ACC against length, by `dataset` and setting.

    With `bucket`, `mean_length` and `n_wanted`, the items that were asked for.

    Parameters
    ----------
    cells
        What `length_cells` returns.
    """
    layout = lay_out(cells)
    parts = [_table_of(layout._replace(cells=layout.cells[:0]), "label", ())]
    for bucket in dict.fromkeys(layout.cells["bucket"]):
        own = layout.cells[layout.cells["bucket"] == bucket]
        part = _table_of(layout._replace(cells=own), "label", ("MIUB", "ACC")).assign(bucket=bucket)
        # Models count tokens each in its own way, and draw other items by that.
        about = own.drop_duplicates(["label", "model"])[["label", "model", "mean_length", "n_wanted"]]
        parts.append(part.merge(about, on=["label", "model"], how="left"))
    whole = pd.concat(parts[1:] or parts, ignore_index=True)
    whole.attrs = parts[0].attrs | {"n_empty": int(whole["value"].isna().sum())}
    return whole.rename(columns={"label": "dataset"})


def information_table(cells: pd.DataFrame, units: Sequence[UnitResult]) -> pd.DataFrame:
    """The paper's table 3: {ACC, MIUB, MI} by `task` and setting, of those whose mutual information was estimated.

    Parameters
    ----------
    cells
        What `study_cells` returns.
    units
        The same study's units.

    Returns
    -------
    DataFrame
        As the other `tables`. `ACC` and `MIUB` are means over the task's data sets with choices. `MI` is the median
        over components of the panel's estimate, in nats, with `low` and `high`, its quartiles; `js` the median of js
        over the same components and tokens; `js sum` their sum, to which MIUB would come. `n_components` have an
        estimate, and of `n_clean` the verdict is `ok`; another one says that the number is a lower bound, or less.

    Notes
    -----
    The mutual information of whole states is infinite, and each number here is that of a few axes: see
    `measure_information`. It compares settings, and is no property of the model.
    """
    known = {unit.name: unit.information for unit in units if unit.information is not None}
    rows = cells[cells["first_prompt"] & ~cells["is_text"]]
    layout = lay_out(rows)
    own = layout.cells[layout.cells["run"].isin(list(known))]
    ranks, sizes = (tuple(one for one in some if (own["column"] == one).any()) for some in (layout.ranks, layout.sizes))
    narrow = layout._replace(cells=own, ranks=ranks, sizes=sizes)
    scores = _table_of(narrow._replace(cells=_average(narrow, ("task",))), "task", ("ACC", "MIUB"))
    estimates = []
    for (task, model, column), part in _groups(own, ("task", "model", "column")):
        runs = list(dict.fromkeys(part["run"]))
        about = {"task": task, "model": model, "setting": column, "n_seeds": len(runs), "runs": " ".join(runs)}
        found = [_over_components(known[run]) for run in runs]
        estimates += [about | _over_seeds(found, metric) for metric in ("MI", "js", "js sum")]
    table = pd.concat([scores, pd.DataFrame(estimates)], ignore_index=True) if estimates else scores
    table.attrs = dict(scores.attrs)
    return table


def _table_of(layout: Layout, key: str, metrics: Sequence[str]) -> pd.DataFrame:
    """A number a row, of cells under `key` and the paper's columns, whether they are there or not."""
    cells = layout.cells
    rows = []
    for name, model in itertools.product(dict.fromkeys(cells[key]), dict.fromkeys(cells["model"])):
        own = cells[(cells[key] == name) & (cells["model"] == model)]
        for metric, column in itertools.product(metrics, layout.columns):
            found = _value(own[own["column"] == column], metric)
            rows.append({key: name, "model": model, "metric": metric, "setting": column, **found})
    table = pd.DataFrame(rows, columns=[key, *COLUMNS])
    n_empty = int(table["value"].isna().sum())
    table.attrs = {"rank": layout.rank, "left_out": list(layout.left_out), "n_empty": n_empty}
    return table


def _average(layout: Layout, by: Sequence[str]) -> pd.DataFrame:
    """Means over data sets, each counting the same, by model, column and seed: where all of them are there."""
    cells, keys = layout.cells, (*by, "model", "column", "seed")
    wanted = {key: part["label"].nunique() for key, part in _groups(cells, (*by, "model"))}
    rows = []
    for key, part in _groups(cells, keys):
        if part["label"].nunique() < wanted[key[: len(by) + 1]]:
            continue
        row: dict[str, Any] = dict(zip(keys, key, strict=True))
        for name in ("ACC", "CE", "MIUB"):
            errors = part[f"{name}_se"].to_numpy(dtype=np.float64)
            row[name] = float(part[name].mean(skipna=False))
            row[f"{name}_se"] = float(np.sqrt((errors**2).sum()) / len(errors))
        row |= {name: int(part[name].sum()) for name in ("n_samples", "n_scored")}
        rows.append(row | {"run": " ".join(dict.fromkeys(part["run"])), "label": AVG})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*keys, "label"])


def wide(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """The paper's layout of one of these tables: values with a column a setting, empty where nothing was measured."""
    names = [key, "model", "metric"]
    found = table.pivot(index=names, columns="setting", values="value")
    order = pd.MultiIndex.from_frame(table[names].drop_duplicates())
    found = found.reindex(index=order, columns=list(dict.fromkeys(table["setting"]))).reset_index()
    found.columns.name = None
    return found


def with_sizes(table: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """A table with the sizes of its settings, from cells that are laid out."""
    sizes = cells.drop_duplicates(["model", "column"])[["model", "column", "N", "N_non_embedding", "share", "R"]]
    merged = table.merge(sizes.rename(columns={"column": "setting"}), on=["model", "setting"], how="left")
    merged.attrs = dict(table.attrs)
    return merged


def _groups(cells: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Groups in the order in which they come, their keys as tuples."""
    if len(cells):
        yield from cells.groupby(list(by), sort=False)


def _value(rows: pd.DataFrame, metric: str) -> dict[str, Any]:
    """Mean over seeds, with what it rests on."""
    about = {"unit": UNITS[metric], "runs": " ".join(dict.fromkeys(rows["run"])) if len(rows) else ""}
    if not len(rows) or rows[metric].isna().any():
        return {"value": np.nan, "se": np.nan, "seed_sd": np.nan, "n_items": 0, "n_seeds": 0, **about}
    values = rows[metric].astype(float)
    return {
        "value": float(values.mean()),
        "se": float(rows[f"{metric}_se"].astype(float).mean(skipna=False)),
        "seed_sd": float(values.std(ddof=1)) if len(values) > 1 else np.nan,
        "n_items": int(rows["n_samples" if metric == "MIUB" else "n_scored"].min()),
        "n_seeds": len(values),
        **about,
    }


def _over_seeds(found: Sequence[dict[str, float]], metric: str) -> dict[str, Any]:
    """Means over seeds of what each seed's components come to, and the smallest of their counts."""
    values = [one[metric] for one in found]
    row: dict[str, Any] = {
        "metric": metric,
        "value": float(np.mean(values)),
        "se": np.nan,
        "seed_sd": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
        "n_items": min(int(one["n_samples"]) for one in found),
        "unit": "nat",
    }
    row |= {name: min(int(one[name]) for one in found) for name in ("n_components", "n_clean", "n_tokens")}
    if metric != "js sum":
        row |= {end: float(np.mean([one[f"{metric} {end}"] for one in found])) for end in ("low", "high")}
    return row


def _over_components(information: xr.Dataset) -> dict[str, float]:
    """Medians and quartiles over the components that have a finite estimate."""
    panel = information.sel(estimator="panel")
    values, js = panel["value"].values.astype(np.float64), information["js"].values.astype(np.float64)
    kept = np.isfinite(values) & np.isfinite(js)
    found: dict[str, float] = {
        "n_components": int(kept.sum()),
        "n_clean": int((panel["verdict"].values[kept].astype(str) == "ok").sum()),
        "js sum": float(js[kept].sum()) if kept.any() else np.nan,
    }
    for name, one in (("MI", values), ("js", js)):
        ends = np.quantile(one[kept], [0.25, 0.5, 0.75]) if kept.any() else np.full(3, np.nan)
        found |= {f"{name} low": float(ends[0]), name: float(ends[1]), f"{name} high": float(ends[2])}
    for name in ("n_tokens", "n_samples"):
        counts = information[name].values[kept] if name in information else np.zeros(0)
        found[name] = int(counts.min()) if len(counts) else 0
    return found
