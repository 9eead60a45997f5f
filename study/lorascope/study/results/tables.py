"""The numbers of the paper's tables 1 and 2 and figures 2 and 3: a row a number, with error, unit and what it rests on.

Every table has the columns `model`, `metric`, `setting`, `value` (mean over seeds), `se` (over items), `seed_sd`
(between seeds, empty for one), `n_items`, `n_seeds`, `unit` and `runs` (names of units). What wasn't measured has no
value and 0 items; `attrs` counts these in `n_empty`, and says the `rank` of the sizes and what is `left_out`.

`se` says how another draw of items would differ; `seed_sd` says how another adapter would. Of a mean over seeds `se`
is the mean of their errors, which is no smaller than the error of that mean, since seeds answer the same items. `AVG`
is the mean over data sets, each of which counts the same and is independent of the others, of the seeds that have
all.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .layout import AVG, Layout, lay_out

__all__ = ["average", "datasets_table", "groups", "lengths_table", "prompts_table", "table_of", "texts_table", "wide"]

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
        means = average(layout, ("task",) if repeated else ())
        parts.append(means.assign(label=AVG + (" (" + means["task"] + ")" if repeated else "")))
    whole = layout._replace(cells=pd.concat(parts, ignore_index=True))
    return table_of(whole, "label", ("ACC", "CE", "MIUB")).rename(columns={"label": "dataset"})


def prompts_table(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's table 2: mean over data sets by `prompt` x {ACC, MIUB} x settings, on the same items throughout.

    Parameters
    ----------
    cells
        What `prompt_cells` returns.
    """
    layout = lay_out(cells[~cells["is_text"]])
    return table_of(layout._replace(cells=average(layout, ("prompt",))), "prompt", ("ACC", "MIUB"))


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
    table = table_of(layout._replace(cells=own, ranks=(), sizes=at_rank), "label", ("MIUB", "PPL", "CE"))
    sizes = own.drop_duplicates(["model", "column"])[["model", "column", "N", "N_non_embedding", "share", "R"]]
    merged = table.merge(sizes.rename(columns={"column": "setting"}), on=["model", "setting"], how="left")
    merged.attrs = dict(table.attrs)
    return merged.rename(columns={"label": "dataset"})


def lengths_table(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's figure 3: MIUB and ACC against length, by `dataset` and setting.

    With `bucket`, `mean_length` and `n_wanted`, the items that were asked for.

    Parameters
    ----------
    cells
        What `length_cells` returns.
    """
    layout = lay_out(cells)
    parts = [table_of(layout._replace(cells=layout.cells[:0]), "label", ())]
    for bucket in dict.fromkeys(layout.cells["bucket"]):
        own = layout.cells[layout.cells["bucket"] == bucket]
        part = table_of(layout._replace(cells=own), "label", ("MIUB", "ACC")).assign(bucket=bucket)
        # Models count tokens each in its own way, and draw other items by that.
        about = own.drop_duplicates(["label", "model"])[["label", "model", "mean_length", "n_wanted"]]
        parts.append(part.merge(about, on=["label", "model"], how="left"))
    whole = pd.concat(parts[1:] or parts, ignore_index=True)
    whole.attrs = parts[0].attrs | {"n_empty": int(whole["value"].isna().sum())}
    return whole.rename(columns={"label": "dataset"})


def table_of(layout: Layout, key: str, metrics: Sequence[str]) -> pd.DataFrame:
    """A number a row, of cells under `key` and the paper's columns, whether they are there or not."""
    cells = layout.cells
    rows = []
    for name in dict.fromkeys(cells[key]):
        for model in dict.fromkeys(cells["model"]):
            own = cells[(cells[key] == name) & (cells["model"] == model)]
            for metric in metrics:
                for column in layout.columns:
                    found = _value(own[own["column"] == column], metric)
                    rows.append({key: name, "model": model, "metric": metric, "setting": column, **found})
    table = pd.DataFrame(rows, columns=[key, *COLUMNS])
    n_empty = int(table["value"].isna().sum())
    table.attrs = {"rank": layout.rank, "left_out": list(layout.left_out), "n_empty": n_empty}
    return table


def average(layout: Layout, by: Sequence[str]) -> pd.DataFrame:
    """Means over data sets, each counting the same, by model, column and seed: where all of them are there."""
    cells, keys = layout.cells, (*by, "model", "column", "seed")
    wanted = {key: part["label"].nunique() for key, part in groups(cells, (*by, "model"))}
    rows = []
    for key, part in groups(cells, keys):
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


def groups(cells: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
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
