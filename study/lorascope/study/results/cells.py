"""A study's table: a row a unit, data set and prompt, and the rows by length."""

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
COLUMNS = (
    *("run", "adapter", "model", *LABELS, "setting", "N", "N_non_embedding", "share", "R", "D", "seed", "task"),
    *("train_items", "first_prompt", "is_text"),
    *("ACC", "ACC_se", "ACC_per_token", "ACC_per_character", "ACC_written", "CE", "CE_se", "PPL", "PPL_se"),
    *("base_ACC", "base_ACC_se", "base_ACC_per_token", "base_ACC_per_character", "base_ACC_written"),
    *("base_CE", "base_CE_se", "base_PPL", "base_PPL_se", "ACC_change", "ACC_change_se", "CE_change", "CE_change_se"),
    *("MIUB", "MIUB_se", "n_samples", "n_scored"),
)
LACKING = re.compile(r"(.+): \d+ of (\d+) items of (\d+) to (\d+) \w+")
"""Form of a unit's note on a bucket that isn't full."""


def study_cells(units: Sequence[UnitResult]) -> pd.DataFrame:
    """A row a unit, data set, split and prompt, over whole test sets; items drawn for their length alone aren't in it.

    Returns
    -------
    DataFrame
        Columns as in `read_study`: `run` and `adapter` (the unit's name), `model`, `dataset`, `split`, `prompt`,
        `setting` (rank and what else differs, as text), `N` (parameters, each counted once), `N_non_embedding`,
        `share`, `R` (rank), `D` (training samples), `seed`, `task`; `train_items` (a data set, empty for all),
        `first_prompt` (whether it is the prompt of all test items; texts count), `is_text`. `ACC` and its kin are
        shares, `CE` is in nats a token, `MIUB` in nats; `_se` are standard errors over items; `base_` is without
        adapter, `_change` is with less without it, paired. `n_samples` enter MIUB, `n_scored` the scores.

    Notes
    -----
    `scores` says what ACC, CE and PPL are: CE of items is the mean over samples, CE of texts the mean over tokens. A
    MIUB that isn't finite in one sample is empty in its cell.
    """
    return _frame(units, [row for unit in units for row in _rows(unit, unit.samples["in_test"].values > 0)])


def prompt_cells(units: Sequence[UnitResult]) -> pd.DataFrame:
    """Rows over the items that every prompt was put to, so that prompts can be compared; none with one prompt."""
    return _frame(units, [row for unit in units for row in _rows(unit, unit.samples["in_prompts"].values > 0)])


def length_cells(units: Sequence[UnitResult]) -> pd.DataFrame:
    """A row a unit, data set and bucket of lengths, with the first prompt; columns as in `study_cells`.

    Further columns: `bucket`, `n_wanted` (items that were asked for) and `mean_length`, in the unit of the buckets. A
    bucket of which a data set has no item has a row without numbers.
    """
    rows: list[dict[str, Any]] = []
    for unit in units:
        samples, notes = unit.samples, filter(None, map(LACKING.fullmatch, unit.notes))
        requested = {(note[1], f"{note[3]}-{note[4]}"): int(note[2]) for note in notes}
        is_first, buckets = samples["prompt"].values == unit.first_prompt, samples["bucket"].values
        for bucket in sorted(set(buckets[is_first].tolist()) - {""}, key=first_length):
            for row in _rows(unit, is_first & (buckets == bucket)):
                n_wanted = requested.pop((row["dataset"], bucket), row["n_samples"])
                rows.append(row | {"bucket": bucket, "n_wanted": n_wanted})
        for (dataset, bucket), n_wanted in requested.items():
            splits = samples["split"].values[samples["dataset"].values == dataset].tolist()
            labels = {"dataset": dataset, "split": (splits or [""])[0], "prompt": unit.first_prompt}
            kind = {"first_prompt": True, "is_text": False, "n_samples": 0, "n_scored": 0}
            rows.append(_about(unit) | labels | kind | {"bucket": bucket, "n_wanted": n_wanted})
    frame = _frame(units, rows, "bucket", "n_wanted", "mean_length")
    return frame.sort_values("bucket", key=lambda names: names.map(first_length), kind="stable", ignore_index=True)


def cell_values(samples: xr.Dataset, miub: np.ndarray) -> dict[str, Any]:
    """Columns of a cell that are measured: scores of its samples, and the mean of their MIUB, with standard errors."""
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


def first_length(bucket: str) -> int:
    """The shortest length of a bucket such as `101-200`; -1 where its name doesn't say it."""
    first = bucket.partition("-")[0]
    return int(first) if first.isdecimal() else -1


def parts(samples: xr.Dataset, chosen: np.ndarray) -> Iterator[tuple[dict[str, str], xr.Dataset]]:
    """Data set, split and prompt with the samples of each, in their order."""
    labels = pd.DataFrame({name: samples[name].values for name in LABELS})[chosen]
    for key, members in labels.groupby(list(LABELS), sort=False):
        yield dict(zip(LABELS, map(str, key), strict=True)), samples.isel(sample=members.index)


def _rows(unit: UnitResult, chosen: np.ndarray) -> Iterator[dict[str, Any]]:
    for labels, part in parts(unit.samples, chosen):
        is_text = bool((part["answer"].values < 0).all())
        kind: dict[str, Any] = {"first_prompt": is_text or labels["prompt"] == unit.first_prompt, "is_text": is_text}
        kind["mean_length"] = float(part["item_length"].mean())
        yield _about(unit) | labels | kind | cell_values(part, part["miub"].values)


def _about(unit: UnitResult) -> dict[str, Any]:
    own = {name: getattr(unit, name) for name in ("model", "share", "seed", "task", "train_items")}
    return {"run": unit.name, "adapter": unit.name, "R": unit.rank} | own | unit.sizes


def _frame(units: Sequence[UnitResult], rows: list[dict[str, Any]], *more: str) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *more])
    items = frame["train_items"].map(lambda n: "dall" if pd.isna(n) else f"d{int(n)}")
    share = ("share" + frame["share"].astype(str) + " ") if frame["share"].nunique() > 1 else ""
    several = items.groupby(frame["task"]).transform("nunique") > 1
    frame["setting"] = share + "r" + frame["R"].astype(str) + (" " + items).where(several, "")
    for name in ("N", "N_non_embedding", "D", "train_items"):  # whole numbers, of which some may be lacking
        frame[name] = frame[name].astype("Int64")
    for name in ("first_prompt", "is_text"):  # also of a table without rows
        frame[name] = frame[name].astype(bool)
    frame.attrs["source"] = f"{len(units)} unit{'' if len(units) == 1 else 's'} of a study"
    return frame
