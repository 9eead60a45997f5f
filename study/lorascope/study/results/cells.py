"""A study's table: a row a unit, data set and prompt, and the rows by length."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.analyze.scores import sample_scores

from .units import UnitResult

__all__ = ["cell_values", "first_length", "length_cells", "parts", "prompt_cells", "study_cells"]

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
LACKING = re.compile(r"(?P<dataset>.+): (?P<n>\d+) of (?P<wanted>\d+) items of (?P<first>\d+) to (?P<last>\d+) \w+")
"""What a unit's notes say of a bucket that isn't full."""


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
    return _table(units, lambda samples: samples["in_test"].values > 0)


def prompt_cells(units: Sequence[UnitResult]) -> pd.DataFrame:
    """Rows over the items that every prompt was put to, so that prompts can be compared; none with one prompt."""
    return _table(units, lambda samples: samples["in_prompts"].values > 0)


def length_cells(units: Sequence[UnitResult]) -> pd.DataFrame:
    """A row a unit, data set and bucket of lengths, with the first prompt; columns as in `study_cells`.

    Beside them `bucket`, `n_wanted` (items that were asked for) and `mean_length`, in the unit of the buckets. A bucket
    of which a data set has no item has a row without numbers.
    """
    rows: list[dict[str, Any]] = []
    for unit in units:
        samples = unit.samples
        is_first, buckets = samples["prompt"].values == unit.first_prompt, samples["bucket"].values
        wanted = {
            (found["dataset"], f"{found['first']}-{found['last']}"): int(found["wanted"])
            for note in unit.notes
            if (found := LACKING.fullmatch(note))
        }
        seen = set()
        for bucket in sorted(set(buckets[is_first].tolist()) - {""}, key=first_length):
            for labels, part in parts(samples, is_first & (buckets == bucket)):
                seen.add((labels["dataset"], bucket))
                n_wanted = wanted.get((labels["dataset"], bucket), part.sizes["sample"])
                about = {"bucket": bucket, "n_wanted": n_wanted, "mean_length": float(part["item_length"].mean())}
                rows.append(_row(unit, labels, part) | about)
        for dataset, bucket in [key for key in wanted if key not in seen]:
            splits = samples["split"].values[samples["dataset"].values == dataset].tolist()
            labels = {"dataset": dataset, "split": (splits or [""])[0], "prompt": unit.first_prompt}
            empty = {"first_prompt": True, "is_text": False, "n_samples": 0, "n_scored": 0}
            about = {"bucket": bucket, "n_wanted": wanted[dataset, bucket], "mean_length": np.nan}
            rows.append(_about(unit, labels) | empty | about)
    frame = _frame_of(units, rows, (*COLUMNS, "bucket", "n_wanted", "mean_length"))
    return frame.sort_values("bucket", key=lambda names: names.map(first_length), kind="stable", ignore_index=True)


def cell_values(samples: xr.Dataset, miub: np.ndarray) -> dict[str, Any]:
    """Columns of a cell that are measured: scores of its samples, and the mean of their MIUB, with standard errors."""
    row: dict[str, Any] = {}
    found = {score.measure: score for score in sample_scores("", samples)}
    for column, score in ((column, found[measure]) for column, measure in SCORES.items() if measure in found):
        scale = 100.0 if score.unit == "%" else 1.0
        for name, estimate in (("{}", score.adapted), ("base_{}", score.base), ("{}_change", score.change)):
            row[name.format(column)] = estimate.value / scale
            row[f"{name.format(column)}_se"] = estimate.error / scale
    values, n = np.where(np.isfinite(miub), miub, np.nan).astype(np.float64), len(miub)
    return row | {
        "MIUB": float(values.mean()) if n else np.nan,
        "MIUB_se": float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan,
        "n_samples": n,
        "n_scored": max((score.n for score in found.values()), default=0),
    }


def first_length(bucket: str) -> int:
    """The shortest length of a bucket such as `101-200`; -1 where its name doesn't say it."""
    first = bucket.partition("-")[0]
    return int(first) if first.isdecimal() else -1


def _table(units: Sequence[UnitResult], chosen: Callable[[xr.Dataset], np.ndarray]) -> pd.DataFrame:
    rows = [_row(unit, labels, part) for unit in units for labels, part in parts(unit.samples, chosen(unit.samples))]
    return _frame_of(units, rows, COLUMNS)


def _frame_of(units: Sequence[UnitResult], rows: list[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(columns))
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


def parts(samples: xr.Dataset, chosen: np.ndarray) -> Iterator[tuple[dict[str, str], xr.Dataset]]:
    """Data set, split and prompt with the samples of each, in their order."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place in np.flatnonzero(chosen).tolist():
        groups.setdefault(tuple(str(samples[name].values[place]) for name in LABELS), []).append(place)
    for key, members in groups.items():
        yield dict(zip(LABELS, key, strict=True)), samples.isel(sample=members)


def _row(unit: UnitResult, labels: dict[str, str], part: xr.Dataset) -> dict[str, Any]:
    is_text = bool((part["answer"].values < 0).all())
    kind = {"first_prompt": is_text or labels["prompt"] == unit.first_prompt, "is_text": is_text}
    return _about(unit, labels) | kind | cell_values(part, part["miub"].values)


def _about(unit: UnitResult, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "run": unit.name, "adapter": unit.name, "model": unit.model, **labels, **unit.sizes, "share": unit.share,
        "R": unit.rank, "seed": unit.seed, "task": unit.task, "train_items": unit.train_items,
    }  # fmt: skip
