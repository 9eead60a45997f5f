"""The numbers of the paper's three tables and figures 2 and 3: one row per number, with error, unit and sample size.

Every table has the columns `model`, `metric`, `setting`, `value` (mean over seeds), `se` (over items), `seed_sd`
(between seeds, empty for one), `n_items`, `n_seeds`, `unit` and `runs` (names of units). A number that wasn't measured
has no value and 0 items; `attrs` has the `rank` of the sizes and `excluded_units`, which are in no column. ACC is
accuracy, CE cross-entropy, PPL its exponential, js a Jensen-Shannon divergence, MIUB its sum over layers, MI mutual
information. `cells` are what `study_cells` returns, unless another function is named.

`se` measures how another draw of items would differ, `seed_sd` how another adapter would. For a mean over seeds, `se`
is the mean of their errors, which is no smaller than the error of that mean, since seeds answer the same items. `AVG`
is the mean over data sets, with equal weights, of the seeds that have all data sets; data sets count as independent.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from .cells import shortest_length
from .units import UnitResult

AVG = "AVG"
"""The paper's word for the mean over data sets."""
UNITS = {"ACC": "share", "CE": "nat/token", "PPL": "1", **dict.fromkeys(("MIUB", "MI", "js", "js sum"), "nat")}


class Layout(NamedTuple):
    """Rows of a study's results, each with its column in the paper's tables: a rank or a model size."""

    cells: pd.DataFrame
    """With `column` (`r8`, `share4`) and `label` (the data set's name); a cell in two columns has two rows."""
    ranks: tuple[str, ...]
    """Columns of ranks, the smallest first."""
    sizes: tuple[str, ...]
    """Columns of model sizes at `rank`, the smallest model first; empty if no layers share weights."""
    rank: int
    """LoRA rank of the columns of model sizes."""
    excluded_units: tuple[str, ...]
    """Units in no column."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns in the paper's order: ranks such as `r8`, then model sizes such as `share4`."""
        return (*self.ranks, *self.sizes)

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the columns in which each unit occurs once: without `share1` if a rank's column has its units."""
        again = "share1" if f"r{self.rank}" in self.ranks else ""
        return tuple(name for name in self.columns if name != again)


def lay_out(cells: pd.DataFrame) -> Layout:
    """Return each of `cells` with its column in the paper's tables, a rank or a model size, as a Layout.

    `cells` are rows of `study_cells`, `prompt_cells` or `length_cells`. Ranks r... are of models whose layers share no
    weights; sizes share8 ... share1 are of the rank that was run with most sizes, or the smallest such rank. So share1
    is the run of that rank, shown a second time, as in the paper. Among units that differ in their number of training
    items, only those with the most are used, by task.
    """
    items = cells["train_items"].astype("Float64").fillna(float("inf"))
    full = cells[items == items.groupby(cells["task"]).transform("max")]
    n_sizes = full[["model", "share", "R"]].drop_duplicates().groupby("R").size()
    rank = int(n_sizes.idxmax()) if len(n_sizes) else 0  # the first of several, which is the smallest
    plain = full[full["share"] == 1]
    shared = full[(full["R"] == rank) & (full["share"] > 1).any()]
    columns = ["r" + plain["R"].astype(str), "share" + shared["share"].astype(str)]
    both = pd.concat([plain, shared], ignore_index=True).assign(column=pd.concat(columns, ignore_index=True))
    return Layout(
        both.assign(label=data_labels(both)).astype({"label": str}),
        tuple(f"r{level}" for level in sorted(plain["R"].unique().tolist())),
        tuple(f"share{level}" for level in sorted(shared["share"].unique().tolist(), reverse=True)),
        rank,
        tuple(name for name in dict.fromkeys(cells["run"]) if name not in set(both["run"])),
    )


def data_labels(cells: pd.DataFrame) -> list[str]:
    """Return the name of each row's data set, with its split or task if the name alone is ambiguous."""
    n_splits, n_tasks = (cells.groupby("dataset")[name].nunique() for name in ("split", "task"))
    return [
        dataset + (f"/{split}" if n_splits[dataset] > 1 else "") + (f" ({task})" if n_tasks[dataset] > 1 else "")
        for dataset, split, task in cells[["dataset", "split", "task"]].itertuples(index=False, name=None)
    ]


def datasets_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's table 1 of a study: ACC, CE and MIUB by data set, model and setting, and their means.

    All are under the first prompt.
    """
    layout = lay_out(cells[cells["first_prompt"] & ~cells["is_text"]])
    # If tasks share data sets, each task has its own mean.
    is_shared = layout.cells.groupby("dataset")["task"].nunique().max() > 1
    if len(layout.cells):
        means = _mean_over_data_sets(layout.cells, *(["task"] if is_shared else []))
        means["label"] = AVG + (" (" + means["task"] + ")" if is_shared else "")
        layout = layout._replace(cells=pd.concat([layout.cells, means]))
    return _numbers_table(layout, ["label"], ("ACC", "CE", "MIUB")).rename(columns={"label": "dataset"})


def prompts_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's table 2 of a study: ACC and MIUB by prompt and setting, means over data sets.

    All prompts have the same items; `cells` are what `prompt_cells` returns.
    """
    layout = lay_out(cells[~cells["is_text"]])
    return _numbers_table(
        layout._replace(cells=_mean_over_data_sets(layout.cells, "prompt")), ["prompt"], ("ACC", "MIUB")
    )


def texts_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's figure 2 of a study as a table: MIUB, PPL and CE of each text by model size.

    All are of one rank; `dataset` names the text. Further columns: `N`, `N_non_embedding`, `share` and `R`. If no
    layers share weights, the sizes are those of models.
    """
    layout = lay_out(cells[cells["is_text"]])
    at_rank = layout.sizes or tuple(name for name in layout.ranks if name == f"r{layout.rank}")
    own = layout.cells[layout.cells["column"].isin(at_rank)]
    table = _numbers_table(layout._replace(cells=own, ranks=(), sizes=at_rank), ["label"], ("MIUB", "PPL", "CE"))
    return with_sizes(table, own).rename(columns={"label": "dataset"})


def lengths_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's figure 3 of a study as a table: MIUB and ACC by length, data set and setting.

    Further columns: `bucket`, `mean_length`, and `n_wanted`, the number of items requested. `cells` are what
    `length_cells` returns.
    """
    layout = lay_out(cells)
    own = layout.cells.sort_values("bucket", key=lambda names: names.map(shortest_length), kind="stable")
    table = _numbers_table(layout._replace(cells=own), ["bucket", "label"], ("MIUB", "ACC"))
    # Models have different tokenizers, so they draw different items by length.
    keys, about = ["label", "model", "bucket"], ["mean_length", "n_wanted"]
    merged = table.drop(columns="bucket").assign(bucket=table["bucket"])
    merged = merged.merge(own.drop_duplicates(keys)[keys + about], on=keys, how="left")
    merged.attrs = table.attrs
    return merged.rename(columns={"label": "dataset"})


def information_table(cells: pd.DataFrame, units: Sequence[UnitResult]) -> pd.DataFrame:
    """Return the paper's table 3 of a study: ACC, MIUB and mutual information (MI) by task and setting.

    It is empty if mutual information was estimated of no unit. `ACC` and `MIUB` are means over the task's data sets
    with choices. `MI` is the median over components of the panel's estimate, in nats, with its quartiles `low` and
    `high`; `js` is the median of js over the same components and tokens, and `js sum` their sum, which is MIUB over
    these. `n_components` have an estimate, `n_clean` of them with the verdict `ok`; another verdict means a lower
    bound, or less.

    The mutual information of whole states is infinite, and each number here is of a few axes: see
    `measure_information`. It compares settings, and is no property of the model.
    """
    known = {unit.name: unit.information for unit in units if unit.information is not None}
    layout = lay_out(cells[cells["first_prompt"] & ~cells["is_text"]])
    own = layout.cells[layout.cells["run"].isin(list(known))]
    ranks, sizes = (
        tuple(name for name in columns if (own["column"] == name).any()) for columns in (layout.ranks, layout.sizes)
    )
    layout = layout._replace(cells=_mean_over_data_sets(own, "task"), ranks=ranks, sizes=sizes)
    scores = _numbers_table(layout, ["task"], ("ACC", "MIUB"))
    if not known:
        return scores
    numbers = pd.concat([_information_quartiles(information).assign(run=name) for name, information in known.items()])
    runs = own[["task", "model", "column", "run"]].drop_duplicates()
    estimates = _mean_over_seeds(runs.merge(numbers, on="run"), ["task", "model", "column", "metric"]).reset_index()
    table = pd.concat([scores, estimates.rename(columns={"column": "setting"})], ignore_index=True)
    table.attrs = scores.attrs
    return table


def with_sizes(table: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Return `table` with N (parameters), N_non_embedding, share and R (rank) by setting, from a Layout's `cells`."""
    sizes = cells.drop_duplicates(["model", "column"])[["model", "column", "N", "N_non_embedding", "share", "R"]]
    merged = table.merge(sizes.rename(columns={"column": "setting"}), on=["model", "setting"], how="left")
    merged.attrs = dict(table.attrs)
    return merged


def _numbers_table(layout: Layout, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Return a long table: one row per name in `by`, model, metric and column of the layout, NaN if missing."""
    cells, keys = layout.cells, [*by, "model", "metric", "column"]
    numbers = pd.concat(
        cells.assign(
            metric=name,
            value=cells[name].astype(float),
            se=cells[f"{name}_se"].astype(float),
            n_items=cells["n_samples" if name == "MIUB" else "n_scored"],
        )
        for name in metrics
    )
    names = list(cells[list(by)].drop_duplicates().itertuples(index=False, name=None))
    product = itertools.product(names, dict.fromkeys(cells["model"]), metrics, layout.columns)
    whole = pd.MultiIndex.from_tuples([(*name, *rest) for name, *rest in product], names=keys)
    table = _mean_over_seeds(numbers, keys).reindex(whole).reset_index().astype(dict.fromkeys(keys, str))
    table = table.rename(columns={"column": "setting"})
    table["unit"], table["runs"] = table["metric"].map(UNITS), table["runs"].fillna("")
    table[["n_items", "n_seeds"]] = table[["n_items", "n_seeds"]].fillna(0).astype(int)
    table.attrs = {"rank": layout.rank, "excluded_units": list(layout.excluded_units)}
    return table


def _mean_over_data_sets(cells: pd.DataFrame, *by: str) -> pd.DataFrame:
    """Return means over data sets, by `by`, model, column and seed; seeds that lack a data set are excluded."""
    n_datasets = cells.groupby([*by, "model"])["label"].transform("nunique")
    groups = cells.assign(n_datasets=n_datasets).groupby([*by, "model", "column", "seed"], sort=False)
    how = {"n_samples": "sum", "n_scored": "sum", "run": _join_runs}
    for name in ("ACC", "CE", "MIUB"):
        how[name] = lambda values: values.mean(skipna=False)
        how[f"{name}_se"] = lambda errors: np.sqrt((errors**2).sum(skipna=False)) / len(errors)
    means = groups.agg(how)
    return means[groups["label"].nunique() == groups["n_datasets"].first()].reset_index()


def _mean_over_seeds(numbers: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return means over seeds by `keys`, with errors, sample sizes and runs; NaN if a seed has no number."""
    groups = numbers.groupby(list(keys), sort=False)
    means = groups[["value", "se"]].mean()
    means["seed_sd"], means["n_items"], means["n_seeds"] = groups["value"].std(), groups["n_items"].min(), groups.size()
    means["unit"], means["runs"] = means.index.get_level_values("metric").map(UNITS), groups["run"].agg(_join_runs)
    for names, mean in ((("n_components", "n_clean", "n_tokens"), "min"), (("low", "high"), "mean")):
        for name in (name for name in names if name in numbers):
            means[name] = groups[name].agg(mean)
    is_lacking = groups["value"].count() < means["n_seeds"]
    means.loc[is_lacking, ["value", "se", "seed_sd"]] = np.nan
    means.loc[is_lacking, ["n_items", "n_seeds"]] = 0
    return means


def _join_runs(names: pd.Series) -> str:
    """Return the distinct names of units (adapters of a study) as one text, separated by spaces."""
    return " ".join(dict.fromkeys(names))


def _information_quartiles(information: xr.Dataset) -> pd.DataFrame:
    """Return quartiles over components as rows `MI`, `js` and `js sum` (a sum), in nats; unknown ones are excluded."""
    panel = information.sel(estimator="panel")
    columns = {"MI": panel["value"], "js": panel["js"], "is_clean": panel["verdict"].astype(str) == "ok"}
    columns |= {name: panel[name] for name in ("n_tokens", "n_samples") if name in panel}
    frame = pd.DataFrame({name: values.values for name, values in columns.items()})
    frame = frame[np.isfinite(frame[["MI", "js"]].astype(float)).all(axis=1)]
    quartiles = frame[["MI", "js"]].quantile([0.25, 0.5, 0.75]).T.set_axis(["low", "value", "high"], axis=1)
    quartiles.loc["js sum", "value"] = frame["js"].sum() if len(frame) else np.nan
    counts = {name: frame[name].min() if name in frame and len(frame) else 0 for name in ("n_tokens", "n_samples")}
    sizes = {"n_items": counts["n_samples"], "n_tokens": counts["n_tokens"], "n_components": len(frame)}
    return quartiles.assign(**sizes, n_clean=frame["is_clean"].sum(), se=np.nan).rename_axis("metric").reset_index()
