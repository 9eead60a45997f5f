"""The paper's three tables of a study: a number a row, each with its error, its unit and what it rests on."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .layout import AVG, Layout, laid_out
from .reading import UnitResult

__all__ = ["METRICS", "Metric", "averaged", "laid", "paper_table_1", "paper_table_2", "paper_table_3", "table_of"]

COLUMNS = ("model", "metric", "setting", "value", "se", "seed_sd", "n_items", "n_seeds", "unit", "runs")


class Metric(NamedTuple):
    """A column of cells, its error's column, and its unit."""

    value: str
    error: str
    unit: str
    n_items: str = "n_scored"


METRICS = {
    "ACC": Metric("ACC", "ACC_se", "share"),
    "CE": Metric("CE", "CE_se", "nat/token"),
    "PPL": Metric("PPL", "PPL_se", "1"),
    "MIUB": Metric("MIUB", "MIUB_se", "nat", "n_samples"),
}


def paper_table_1(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's table 1: each data set, and their mean, x {ACC, CE, MIUB} x settings, with the first prompt.

    Parameters
    ----------
    cells
        What `study_cells` returns.

    Returns
    -------
    DataFrame
        A number a row, in the columns of `paper_table(1)` and more: `dataset`, `model`, `metric`, `setting`, `value`
        (mean over seeds), `se`, `seed_sd` (between seeds, empty for one), `n_items`, `n_seeds`, `unit`, `runs` (names
        of units). A cell that wasn't measured has no value and 0 items; `attrs` counts these in `n_empty`, and says the
        `rank` of the sizes and what is `left_out`.

    Notes
    -----
    `AVG` is the mean over data sets, each of which counts the same, of the seeds that have all of them. `se` is over
    items: of a mean over seeds the mean of their errors, which is no smaller than the error of that mean, since seeds
    answer the same items; of AVG from independent data sets. It says how another draw of items would differ; `seed_sd`
    says how another adapter would.
    """
    layout = laid_out(cells[cells["first_prompt"] & ~cells["is_text"]])
    return table_of(layout, "label", ("ACC", "CE", "MIUB"), average=AVG).rename(columns={"label": "dataset"})


def paper_table_2(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's table 2: the mean over data sets by prompt x {ACC, MIUB} x settings, on the same items throughout.

    Parameters
    ----------
    cells
        What `prompt_cells` returns.

    Returns
    -------
    DataFrame
        As of `paper_table_1`, with `prompt` in place of `dataset`.
    """
    layout = laid_out(cells[~cells["is_text"]])
    means = averaged(layout, ("prompt",))
    return table_of(layout._replace(cells=means), "prompt", ("ACC", "MIUB"))


def paper_table_3(cells: pd.DataFrame, units: Sequence[UnitResult]) -> pd.DataFrame:
    """The paper's table 3: {ACC, MIUB, MI} by setting, of those whose mutual information was estimated.

    Parameters
    ----------
    cells
        What `study_cells` returns.
    units
        The same study's units.

    Returns
    -------
    DataFrame
        As of `paper_table_1`, with `task` in place of `dataset`. `ACC` and `MIUB` are means over the task's data sets
        with choices. `MI` is the median over components of the panel's estimate, in nats, with `low` and `high`, its
        quartiles; `js` the median of js over the same components and tokens; `js sum` their sum, to which MIUB would
        come over these. `n_components` have an estimate, and of `n_clean` the verdict is `ok`; another one says that
        the number is a lower bound, or less.

    Notes
    -----
    The mutual information of whole states is infinite, and each number here is that of a few axes: see
    `measure_information`. It compares settings, and is no property of the model.
    """
    known = {unit.name: unit.information for unit in units if unit.information is not None}
    rows = cells[cells["first_prompt"] & ~cells["is_text"]]
    informed = rows["run"].isin(list(known))
    layout = laid_out(rows)
    own = layout.cells[layout.cells["run"].isin(list(known))]
    columns = [name for name in layout.columns if (own["column"] == name).any()]
    narrow = layout._replace(
        cells=own,
        ranks=tuple(name for name in layout.ranks if name in columns),
        sizes=tuple(name for name in layout.sizes if name in columns),
    )
    means = averaged(narrow, ("task",))
    scores = table_of(narrow._replace(cells=means), "task", ("ACC", "MIUB"))
    information = pd.DataFrame(
        [row for key, part in _parts(own, ("task", "model", "column")) for row in _information_rows(key, part, known)]
    )
    table = pd.concat([scores, information], ignore_index=True) if len(information) else scores
    table.attrs = scores.attrs | {"n_units": int(rows[informed]["run"].nunique())}
    return table


def table_of(layout: Layout, key: str, metrics: Sequence[str], *, average: str = "") -> pd.DataFrame:
    """A number a row, of cells under `key` and the paper's columns, whether they are there or not.

    `average` names rows of means over data sets, one set of them a task where tasks share data sets; "" for none.
    """
    cells = layout.cells
    if average and len(cells):
        repeated = cells.groupby("dataset")["task"].nunique().max() > 1
        means = averaged(layout, ("task",) if repeated else ())
        names = average + (" (" + means["task"] + ")" if repeated else "")
        cells = pd.concat([cells, means.assign(label=names)], ignore_index=True)
    rows = []
    for name in dict.fromkeys(cells[key]):
        for model in dict.fromkeys(cells["model"]):
            own = cells[(cells[key] == name) & (cells["model"] == model)]
            for metric in metrics:
                for column in layout.columns:
                    found = _value(own[own["column"] == column], METRICS[metric])
                    rows.append({key: name, "model": model, "metric": metric, "setting": column, **found})
    table = pd.DataFrame(rows, columns=[key, *COLUMNS])
    n_empty = int(table["value"].isna().sum())
    table.attrs = {"rank": layout.rank, "left_out": list(layout.left_out), "n_empty": n_empty}
    return table


def averaged(layout: Layout, by: Sequence[str]) -> pd.DataFrame:
    """Means over data sets, each counting the same, by model, column and seed: where all of them are there."""
    cells = layout.cells
    rows = []
    wanted = {key: part["label"].nunique() for key, part in _parts(cells, (*by, "model"))}
    for key, part in _parts(cells, (*by, "model", "column", "seed")):
        if part["label"].nunique() < wanted[key[: len(by) + 1]]:
            continue
        row = dict(zip((*by, "model", "column", "seed"), key, strict=True))
        row |= {name: float(part[name].mean(skipna=False)) for name in ("ACC", "CE", "MIUB")}
        row |= {f"{name}_se": _error_of_mean(part[f"{name}_se"]) for name in ("ACC", "CE", "MIUB")}
        row |= {name: int(part[name].sum()) for name in ("n_samples", "n_scored")}
        rows.append(row | {"run": " ".join(dict.fromkeys(part["run"])), "label": AVG})
    names = (*by, "model", "column", "seed", "ACC", "CE", "MIUB", "ACC_se", "CE_se", "MIUB_se")
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*names, "n_samples", "n_scored", "run", "label"])))


def laid(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """The paper's layout of one of these tables: values with a column a setting, empty where nothing was measured."""
    wide = table.pivot(index=[key, "model", "metric"], columns="setting", values="value")
    order = list(dict.fromkeys(table[[key, "model", "metric"]].itertuples(index=False, name=None)))
    found = wide.loc[order, list(dict.fromkeys(table["setting"]))].reset_index() if order else wide.reset_index()
    found.columns.name = None
    return found


def _value(rows: pd.DataFrame, metric: Metric) -> dict[str, Any]:
    """Mean over seeds, with what it rests on."""
    about = {"unit": metric.unit, "runs": " ".join(dict.fromkeys(rows["run"])) if len(rows) else ""}
    if not len(rows) or rows[metric.value].isna().any():
        return {"value": np.nan, "se": np.nan, "seed_sd": np.nan, "n_items": 0, "n_seeds": 0, **about}
    values = rows[metric.value].astype(float)
    return {
        "value": float(values.mean()),
        "se": float(rows[metric.error].astype(float).mean(skipna=False)),
        "seed_sd": float(values.std(ddof=1)) if len(values) > 1 else np.nan,
        "n_items": int(rows[metric.n_items].min()),
        "n_seeds": len(values),
        **about,
    }


def _information_rows(key: tuple[Any, ...], rows: pd.DataFrame, known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """MI, and js of the same components, as means over seeds of what each seed's components come to."""
    task, model, column = key
    runs = list(dict.fromkeys(rows["run"]))
    found = [_over_components(known[run]) for run in runs]
    about = {"task": task, "model": model, "setting": column, "n_seeds": len(runs), "runs": " ".join(runs)}
    for metric in ("MI", "js", "js sum"):
        values = [one[metric] for one in found]
        row = {
            "metric": metric,
            "value": float(np.mean(values)),
            "se": np.nan,
            "seed_sd": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
            "n_items": min(int(one["n_samples"]) for one in found),
            "unit": "nat",
            "n_components": min(int(one["n_components"]) for one in found),
            "n_clean": min(int(one["n_clean"]) for one in found),
            "n_tokens": min(int(one["n_tokens"]) for one in found),
        }
        if metric != "js sum":
            row |= {end: float(np.mean([one[f"{metric} {end}"] for one in found])) for end in ("low", "high")}
        yield about | row


def _over_components(information: Any) -> dict[str, float]:
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


def _parts(cells: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Groups in the order in which they come, their keys as tuples."""
    if not len(cells):
        return
    for key, part in cells.groupby(list(by), sort=False):
        yield tuple(key), part


def _error_of_mean(errors: pd.Series) -> float:
    """Of a mean over independent data sets."""
    values = errors.to_numpy(dtype=np.float64)
    return float(np.sqrt((values**2).sum()) / len(values))
