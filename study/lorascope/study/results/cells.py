"""Tables of scores and MIUB with one row (a cell) per unit (an adapter), data set and prompt, or bucket of lengths.

MIUB is the Jensen-Shannon divergence (js) of base and adapted outputs, summed over layers: the paper's "mutual
information upper bound".
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.analyze.results.scores import sample_scores

from .units import UnitResult

LABELS = ("dataset", "split", "prompt")
SCORES = {
    "ACC": "ACC",
    "ACC_per_token": "ACC per token",
    "ACC_per_character": "ACC per character",
    "ACC_written": "ACC by generation",
    "CE": "CE",
    "PPL": "PPL",
}
"""Column -> measure of `sample_scores`."""
SETTING = ("run", "adapter", "model", *LABELS, "setting", "N", "N_non_embedding", "share", "R", "D")
"""Columns that say what was run, of units and of runs."""
MIUB_COLUMNS = ("MIUB", "MIUB_se", "n_samples", "n_scored")
COLUMNS = (
    *(*SETTING, "seed", "task", "train_items", "first_prompt", "is_text"),
    *("ACC", "ACC_se", "ACC_per_token", "ACC_per_character", "ACC_written", "CE", "CE_se", "PPL", "PPL_se"),
    *("base_ACC", "base_ACC_se", "base_ACC_per_token", "base_ACC_per_character", "base_ACC_written"),
    *("base_CE", "base_CE_se", "base_PPL", "base_PPL_se", "ACC_change", "ACC_change_se", "CE_change", "CE_change_se"),
    *MIUB_COLUMNS,
)
"""Columns of the tables of a study's units."""
SHORTFALL_NOTE = re.compile(r"(.+): \d+ of (\d+) items of (\d+) to (\d+) \w+")
"""Pattern of a unit's note that a bucket has too few items, with the number that was requested."""


def study_cells(units: Sequence[UnitResult]) -> pd.DataFrame:
    """Return scores and MIUB over test items, one row per unit (adapter), data set, split and prompt.

    Items drawn only for their length are excluded. Columns are as in `read_study`, with the unit's name as `run` and
    `adapter`, and `seed`, `task`, `train_items` (per data set, empty for all), `first_prompt` (whether it is the prompt
    of all test items; True for texts), `is_text`. `ACC` and its kin are shares, `CE` is in nats per token, `MIUB` in
    nats; `_se` are standard errors over items; `base_` is without adapter, `_change` is with minus without it, paired.
    `n_samples` enter MIUB, `n_scored` the scores.

    `scores` defines ACC, CE and PPL: CE of items is the mean over samples, CE of texts the mean over tokens. MIUB of a
    cell is empty if it isn't finite in one sample.
    """
    return _cells_frame(units, [row for unit in units for row in _unit_rows(unit, unit.samples["in_test"].values > 0)])


def prompt_cells(units: Sequence[UnitResult]) -> pd.DataFrame:
    """Return scores and MIUB over items asked under every prompt, one row per unit (adapter), data set and prompt.

    Columns are as in `study_cells`; there are no rows if there is one prompt.
    """
    return _cells_frame(
        units, [row for unit in units for row in _unit_rows(unit, unit.samples["in_prompts"].values > 0)]
    )


def length_cells(units: Sequence[UnitResult]) -> pd.DataFrame:
    """Return scores and MIUB by items' length, one row per unit (adapter), data set and bucket of lengths.

    All are under the first prompt. Columns are as in `study_cells`, and `bucket`, `n_wanted` (number of items
    requested) and `mean_length`, in the unit of the buckets. A bucket without items of a data set has a row without
    numbers.
    """
    rows: list[dict[str, Any]] = []
    for unit in units:
        samples, notes = unit.samples, filter(None, map(SHORTFALL_NOTE.fullmatch, unit.notes))
        requested = {(note[1], f"{note[3]}-{note[4]}"): int(note[2]) for note in notes}
        is_first, buckets = samples["prompt"].values == unit.first_prompt, samples["bucket"].values
        for bucket in sorted(set(buckets[is_first].tolist()) - {""}, key=shortest_length):
            for row in _unit_rows(unit, is_first & (buckets == bucket)):
                n_requested = requested.pop((row["dataset"], bucket), row["n_samples"])
                rows.append(row | {"bucket": bucket, "n_wanted": n_requested})
        for (dataset, bucket), n_requested in requested.items():
            splits = samples["split"].values[samples["dataset"].values == dataset].tolist()
            labels = {"dataset": dataset, "split": (splits or [""])[0], "prompt": unit.first_prompt}
            kind = {"first_prompt": True, "is_text": False, "n_samples": 0, "n_scored": 0}
            rows.append(_unit_columns(unit) | labels | kind | {"bucket": bucket, "n_wanted": n_requested})
    frame = _cells_frame(units, rows, "bucket", "n_wanted", "mean_length")
    return frame.sort_values("bucket", key=lambda names: names.map(shortest_length), kind="stable", ignore_index=True)


def cell_values(samples: xr.Dataset, miub: np.ndarray) -> dict[str, Any]:
    """Return one row of a table (column -> value): samples' scores and mean MIUB in nats, with standard errors."""
    row: dict[str, Any] = {}
    scores = {score.measure: score for score in sample_scores("", samples)}
    for column, score in ((column, scores[measure]) for column, measure in SCORES.items() if measure in scores):
        scale = 100.0 if score.unit == "%" else 1.0
        for name, estimate in (("{}", score.adapted), ("base_{}", score.base), ("{}_change", score.change)):
            row[name.format(column)] = estimate.value / scale
            row[f"{name.format(column)}_se"] = estimate.error / scale
    values, n = np.where(np.isfinite(miub), miub, np.nan).astype(np.float64), len(miub)
    return row | {
        "MIUB": float(values.mean()) if n else np.nan,
        "MIUB_se": float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan,
        "n_samples": n,
        "n_scored": max((score.n for score in scores.values()), default=0),
    }


def shortest_length(bucket: str) -> int:
    """Return the shortest length in a bucket's name, 101 for `101-200`; -1 if the name has no number."""
    first = bucket.partition("-")[0]
    return int(first) if first.isdecimal() else -1


def group_samples(samples: xr.Dataset, chosen: np.ndarray) -> Iterator[tuple[dict[str, str], xr.Dataset]]:
    """Yield (labels, samples) for each data set, split and prompt among the chosen samples of a run or unit.

    The order is that of first appearance.
    """
    labels = pd.DataFrame({name: samples[name].values for name in LABELS})[chosen]
    for key, members in labels.groupby(list(LABELS), sort=False):
        yield dict(zip(LABELS, map(str, key), strict=True)), samples.isel(sample=members.index)


def _unit_rows(unit: UnitResult, chosen: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield one row (column -> value) per data set, split and prompt over the chosen samples of a unit (adapter)."""
    for labels, part in group_samples(unit.samples, chosen):
        is_text = bool((part["answer"].values < 0).all())
        kind: dict[str, Any] = {"first_prompt": is_text or labels["prompt"] == unit.first_prompt, "is_text": is_text}
        kind["mean_length"] = float(part["item_length"].mean())
        yield _unit_columns(unit) | labels | kind | cell_values(part, part["miub"].values)


def _unit_columns(unit: UnitResult) -> dict[str, Any]:
    """Return the columns that all rows of a unit (adapter) share: model, rank, seed, task, sizes."""
    columns = {name: getattr(unit, name) for name in ("model", "share", "seed", "task", "train_items")}
    return {"run": unit.name, "adapter": unit.name, "R": unit.rank} | columns | unit.sizes


def name_settings(cells: pd.DataFrame) -> pd.Series:
    """Return each row's rank as text such as `r8`, or `share2 r8` if the number of sharing layers varies."""
    share = ("share" + cells["share"].astype(str) + " ") if cells["share"].nunique() > 1 else ""
    return share + "r" + cells["R"].astype(str)


def _cells_frame(units: Sequence[UnitResult], rows: list[dict[str, Any]], *more: str) -> pd.DataFrame:
    """Return rows as a DataFrame with columns `COLUMNS` and `more`, and a name in `setting`, such as `r8`."""
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *more])
    items = frame["train_items"].map(lambda n: "dall" if pd.isna(n) else f"d{int(n)}")
    varies = items.groupby(frame["task"]).transform("nunique") > 1
    frame["setting"] = name_settings(frame) + (" " + items).where(varies, "")
    for name in ("N", "N_non_embedding", "D", "train_items"):  # whole numbers, some unknown
        frame[name] = frame[name].astype("Int64")
    for name in ("first_prompt", "is_text"):  # even without rows
        frame[name] = frame[name].astype(bool)
    frame.attrs["source"] = f"{len(units)} unit{'' if len(units) == 1 else 's'} of a study"
    return frame
