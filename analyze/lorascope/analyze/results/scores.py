"""Accuracy, cross-entropy and perplexity of the model on a run's data, without and with the adapter."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.stores import Run
from lorascope.stores.reading.read import RunLike, as_run

from .format import format_change, format_error, format_number
from .weights import ratio, ratio_error

_ACCURACIES = {
    "correct": "ACC",
    "correct_per_token": "ACC per token",
    "correct_per_character": "ACC per character",
    "written_correct": "ACC by generation",
    "not_read": "not read",
}
"""Column of samples -> name of the measure that is its mean."""


class Estimate(NamedTuple):
    """A number and its standard error, which is NaN if it isn't known."""

    value: float
    error: float


class Score(NamedTuple):
    """Score of one data set (accuracy, CE or perplexity), without and with the adapter, and its change."""

    dataset: str
    """Name of the data set, then `/split` if it has one, then `, prompt` if the run has several prompts for it."""
    measure: str
    """`ACC`, `ACC per token`, `ACC per character`, `ACC by generation`, `not read`, `CE` or `PPL`."""
    unit: str
    """`%`, `nat/token`, or empty for PPL."""
    n: int
    """Number of samples: items, or windows of text."""
    base: Estimate
    """Without the adapter."""
    adapted: Estimate
    """With the adapter."""
    change: Estimate
    """Adapted minus base, with the standard error of paired differences over samples."""


def scores(run: Run) -> list[Score]:
    """Return accuracy and cross-entropy for each data set of a run, and perplexity for text, chats and completions.

    Accuracies are in percent, with binomial standard errors; CE is in nats per token, its errors over samples. The list
    is empty if nothing was scored.

    Notes
    -----
    ACC counts items whose right choice has the highest log-likelihood, plain, per token or per character of its text
    (the `acc_norm` of EleutherAI's harness, `lm_eval/api/_metrics/ll.py`). ACC by generation counts items whose right
    choice is read in the text that the model wrote, if it was asked to write. `not read` counts items whose text names
    no choice; they count as wrong.

    CE of items is the mean over samples of the answer's mean negative log-likelihood; of text and chats, the mean over
    the tokens to be predicted, and PPL = exp(CE) (arXiv 2501.03152, eq. 10 and 11).
    """
    samples = run.samples
    for prefix in [prefix for prefix in ("", "base_") if f"{prefix}loglik" in run.choices]:
        correct = correct_per_character(run, f"{prefix}loglik")
        samples = samples.assign({f"{prefix}correct_per_character": ("sample", correct)})
    return [score for name, table in _samples_by_dataset(samples) for score in sample_scores(name, table)]


def shared_scores(first: Run, second: Run) -> list[Score]:
    """Return a `Score` per data set and measure that compares two adapters on the samples that both runs scored.

    `base` is the first adapter, `adapted` the second, and `change` has the error of paired differences. Samples are
    matched by data set, split, prompt and id; if these aren't unique the list is empty.
    """
    names = [run.samples[["dataset", "split", "prompt", "id"]].to_dataframe() for run in (first, second)]
    first_names, second_names = (pd.MultiIndex.from_frame(frame.astype(str)) for frame in names)
    if not (first_names.is_unique and second_names.is_unique):
        return []
    places = first_names.get_indexer(second_names)
    both, table = first.samples.isel(sample=places[places >= 0]), second.samples.isel(sample=places >= 0)
    compared = table[
        [name for name in ("dataset", "split", "prompt", "answer", "length", "n_targets") if name in table]
    ]
    for name, unknown in {"correct": -1, "written_correct": -1, "ce": np.nan}.items():
        if name in table and name in both:
            compared[f"base_{name}"] = ("sample", both[name].values)
            compared[name] = table[name].where(_is_scored(both[name].values), unknown)
    return [
        score
        for name, part in _samples_by_dataset(compared)
        for score in sample_scores(name, part)
        if score.measure != "PPL"
    ]


def scores_table(run: RunLike) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return column names, and rows of texts that show the scores of a run with errors and units."""
    run = as_run(run)
    columns = ("data set", "measure", "n", "without adapter", "with adapter", "change")
    rows = []
    for score in scores(run):
        unit = f" ({score.unit})" if score.unit else ""
        cells = [format_error(*score.base), format_error(*score.adapted), format_change(*score.change)]
        if score.measure == "PPL":
            cells = [format_perplexity(score.base), format_perplexity(score.adapted), ""]
        rows.append((score.dataset, score.measure + unit, str(score.n), *cells))
    return columns, rows


def format_perplexity(ppl: Estimate) -> str:
    """Return a perplexity as text, with the asymmetric interval exp(CE ± standard error) in brackets."""
    ends = [format_number(ppl.value * math.exp(sign * ppl.error / ppl.value)) for sign in (-1, 1)]
    return format_number(ppl.value) + (f" ({' to '.join(ends)})" if ppl.error > 0 else "")


def _samples_by_dataset(samples: xr.Dataset) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield the name and the samples of each data set, split and prompt; a prompt is named if there are several."""
    datasets, splits = samples["dataset"].values, samples["split"].values
    names = np.array(
        [f"{dataset}/{split}" if split else dataset for dataset, split in zip(datasets, splits, strict=True)]
    )
    for name in dict.fromkeys(names.tolist()):
        table = samples.isel(sample=np.flatnonzero(names == name))
        prompts = table["prompt"].values
        for prompt in dict.fromkeys(prompts.tolist()):
            asked = f"{name}, {prompt}" if (prompts != prompt).any() else name
            yield asked, table.isel(sample=np.flatnonzero(prompts == prompt))


def correct_per_character(run: Run, loglik: str) -> np.ndarray:
    """Return int8 (sample,): 1 if the right choice has the highest log-likelihood per character, else 0; -1 unscored.

    Of equal choices the first counts as the highest.
    """
    correct = np.full(run.samples.sizes["sample"], -1, np.int8)
    owners, texts = run.choices["sample"].values, run.choices["text"].values
    values = run.choices[loglik].values / np.maximum([len(text) for text in texts], 1)
    for sample in np.unique(owners[np.isfinite(values)]):
        correct[sample] = np.argmax(values[owners == sample]) == run.samples["answer"].values[sample]
    return correct


def sample_scores(name: str, table: xr.Dataset) -> Iterator[Score]:
    """Yield a `Score` of the data set `name` for each measure that was taken of the samples in `table`."""
    if "written_correct" in table and "written_prediction" in table:
        wrote, names = table["written_correct"] >= 0, ("", "base_")
        predictions = {f"{name}not_read": table.get(f"{name}written_prediction") for name in names}
        table = table.assign(
            {
                name: (prediction < 0).where(wrote, -1)
                for name, prediction in predictions.items()
                if prediction is not None
            }
        )
    for column, measure in _ACCURACIES.items():
        if column not in table:
            continue
        adapted, base = _scored_values(table, column)
        if len(adapted):
            change = _weighted_mean(100 * (adapted - base), np.ones(len(adapted)))
            yield Score(name, measure, "%", len(adapted), _percentage(base), _percentage(adapted), change)
    is_text = table["answer"].values < 0
    for has_text in (False, True):
        some = table.isel(sample=is_text == has_text)
        adapted, base = _scored_values(some, "ce")
        if not len(adapted):
            continue
        n_targets = some.get("n_targets", some["length"] - 1).values[_is_scored(some["ce"].values)]
        weights = n_targets.astype(np.float64) if has_text else np.ones(len(adapted))
        ce = [_weighted_mean(values, weights) for values in (base, adapted, adapted - base)]
        yield Score(name, "CE", "nat/token", len(adapted), *ce)
        if has_text:
            base_ppl, ppl = (Estimate(float(np.exp(e.value)), float(np.exp(e.value) * e.error)) for e in ce[:2])
            yield Score(name, "PPL", "", len(adapted), base_ppl, ppl, Estimate(ppl.value - base_ppl.value, np.nan))


def _is_scored(values: np.ndarray) -> Any:
    """Return which values of a column are scores, bool (sample,): finite floats, or integers of at least 0."""
    return np.isfinite(values) if values.dtype.kind == "f" else values >= 0


def _scored_values(table: xr.Dataset, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a column with and without the adapter, float64 (scored sample,) each; an unscored base is NaN."""
    adapted = table[column].values
    base = table[f"base_{column}"].values if f"base_{column}" in table else np.full(len(adapted), np.nan)
    is_scored = _is_scored(adapted)
    return adapted[is_scored].astype(np.float64), np.where(_is_scored(base), base, np.nan)[is_scored].astype(np.float64)


def _percentage(values: np.ndarray) -> Estimate:
    """Return the mean of 0s and 1s in percent, with its binomial standard error."""
    share = values.mean()
    return Estimate(float(100 * share), float(100 * np.sqrt(share * (1 - share) / len(values))))


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> Estimate:
    """Return the weighted mean over samples, and its standard error as a ratio estimate; NaN for one sample."""
    mean, residual = ratio((weights * values)[:, None], weights[:, None])
    return Estimate(float(mean[0]), float(ratio_error(residual)[0]))
