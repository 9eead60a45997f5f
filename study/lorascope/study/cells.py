"""A study's table: a row a unit, data set and prompt, and the same by length."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.analyze.scores import Score, sample_scores

from .reading import UnitResult

__all__ = ["first_length", "length_cells", "prompt_cells", "study_cells"]

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
        Columns as of `read_study`: `run` and `adapter` (the unit's name), `model`, `dataset`, `split`, `prompt`,
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
    return _table(units, _whole_sets)


def prompt_cells(units: Sequence[UnitResult]) -> pd.DataFrame:
    """The same over the items that every prompt was put to, so that prompts can be compared; empty with one prompt."""
    return _table(units, lambda unit: unit.samples["in_prompts"].values > 0)


def length_cells(units: Sequence[UnitResult]) -> pd.DataFrame:
    """A row a unit, data set and bucket of lengths, with the first prompt; columns as of `study_cells`.

    Beside them `bucket`, `n_wanted` (items that were asked for) and `mean_length`, in the unit of the buckets. A bucket
    of which a data set has no item has a row without numbers.
    """
    rows: list[dict[str, Any]] = []
    for unit in units:
        samples = unit.samples
        is_first = samples["prompt"].values == unit.first_prompt
        lacking = {key: counts for note in unit.notes if (found := _lacking(note)) for key, counts in [found]}
        buckets = samples["bucket"].values
        seen = set()
        for bucket in sorted(set(buckets[is_first].tolist()) - {""}, key=first_length):
            for labels, part in _parts(samples, is_first & (buckets == bucket)):
                n = part.sizes["sample"]
                seen.add((labels["dataset"], bucket))
                n_wanted = lacking.get((labels["dataset"], bucket), (n, n))[1]
                about = {"bucket": bucket, "n_wanted": n_wanted, "mean_length": float(part["item_length"].mean())}
                rows.append(_row(unit, labels, part) | about)
        for (dataset, bucket), (_, wanted) in lacking.items():
            if (dataset, bucket) not in seen:
                labels = {"dataset": dataset, "split": _split_of(unit, dataset), "prompt": unit.first_prompt}
                rows.append(_row(unit, labels, None) | {"bucket": bucket, "n_wanted": wanted, "mean_length": np.nan})
    frame = _framed(units, rows, (*COLUMNS, "bucket", "n_wanted", "mean_length"))
    order = frame["bucket"].map(first_length) if len(frame) else frame["bucket"]
    return frame.assign(_order=order).sort_values("_order", kind="stable", ignore_index=True).drop(columns="_order")


def _whole_sets(unit: UnitResult) -> np.ndarray:
    return np.asarray(unit.samples["in_test"].values > 0)


def _table(units: Sequence[UnitResult], chosen: Any) -> pd.DataFrame:
    rows = [_row(unit, labels, part) for unit in units for labels, part in _parts(unit.samples, chosen(unit))]
    return _framed(units, rows, COLUMNS)


def _framed(units: Sequence[UnitResult], rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows), columns=list(columns))
    frame["setting"] = _settings(frame)
    for name in ("N", "N_non_embedding", "D", "train_items"):  # whole numbers, of which some may be lacking
        frame[name] = frame[name].astype("Int64")
    for name in ("first_prompt", "is_text"):  # also of a table without rows
        frame[name] = frame[name].astype(bool)
    frame.attrs["source"] = f"{len(units)} unit{'' if len(units) == 1 else 's'} of a study"
    return frame


def _parts(samples: xr.Dataset, chosen: np.ndarray) -> Iterator[tuple[dict[str, str], xr.Dataset]]:
    """Data set, split and prompt with the samples of each, in their order."""
    places = np.flatnonzero(chosen)
    keys = list(zip(*(samples[name].values[places].tolist() for name in LABELS), strict=True))
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, key in zip(places.tolist(), keys, strict=True):
        groups.setdefault(key, []).append(place)
    for key, members in groups.items():
        yield dict(zip(LABELS, key, strict=True)), samples.isel(sample=members)


def _row(unit: UnitResult, labels: dict[str, str], part: xr.Dataset | None) -> dict[str, Any]:
    about = {
        "run": unit.name, "adapter": unit.name, "model": unit.model, **labels, **unit.sizes, "share": unit.share,
        "R": unit.rank, "seed": unit.seed, "task": unit.task, "train_items": unit.train_items,
    }  # fmt: skip
    if part is None:
        return about | {"first_prompt": True, "is_text": False, "n_samples": 0, "n_scored": 0}
    is_text = bool((part["answer"].values < 0).all())
    miub = part["miub"].values.astype(np.float64)
    miub[~np.isfinite(miub)] = np.nan
    n = len(miub)
    found = {score.measure: score for score in sample_scores("", part)}
    return about | {
        "first_prompt": is_text or labels["prompt"] == unit.first_prompt,
        "is_text": is_text,
        **_scores(found),
        "MIUB": float(miub.mean()),
        "MIUB_se": float(miub.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan,
        "n_samples": n,
        "n_scored": max((score.n for score in found.values()), default=0),
    }


def _scores(found: dict[str, Score]) -> dict[str, float]:
    """Values and errors, accuracies as shares."""
    row: dict[str, float] = {}
    for column, measure in SCORES.items():
        if measure not in found:
            continue
        score = found[measure]
        scale = 100.0 if score.unit == "%" else 1.0
        for name, estimate in (("", score.adapted), ("base_", score.base)):
            row[f"{name}{column}"] = estimate.value / scale
            row[f"{name}{column}_se"] = estimate.error / scale
        row[f"{column}_change"], row[f"{column}_change_se"] = score.change.value / scale, score.change.error / scale
    return row


def _settings(frame: pd.DataFrame) -> list[str]:
    """What a unit was made with, as text: `r8`, `share4 r8`, `r8 d2000` where a task's training items vary."""
    told = frame.assign(items=frame["train_items"].map(lambda n: "dall" if pd.isna(n) else f"d{int(n)}"))
    has_share = frame["share"].nunique() > 1
    varies = told.groupby("task")["items"].transform("nunique") > 1
    return [
        " ".join(part for part in (f"share{share}" if has_share else "", f"r{rank}", items if vary else "") if part)
        for share, rank, items, vary in zip(told["share"], told["R"], told["items"], varies, strict=True)
    ]


def _lacking(note: str) -> tuple[tuple[str, str], tuple[int, int]] | None:
    """((data set, bucket), (items there are, items wanted)) of a note about a bucket."""
    found = LACKING.fullmatch(note)
    if found is None:
        return None
    return (found["dataset"], f"{found['first']}-{found['last']}"), (int(found["n"]), int(found["wanted"]))


def first_length(bucket: str) -> int:
    """The shortest length of a bucket such as `101-200`; -1 where its name doesn't say it."""
    first = bucket.partition("-")[0]
    return int(first) if first.isdecimal() else -1


def _split_of(unit: UnitResult, dataset: str) -> str:
    splits = unit.samples["split"].values[unit.samples["dataset"].values == dataset]
    return str(splits[0]) if len(splits) else ""
