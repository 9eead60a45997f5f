"""Numbers by item under several settings, and how their means would vary with other items and trainings."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.fits.resampling import group_draws, percentile_interval

from .findings import Estimate
from .trainings import LEVEL, Statistic, Training, between_trainings
from .units import UnitResult

N_DRAWS = 1000
LEAST_ITEMS = 10
"""Items of a data set below which no interval is given: where all of them agree, that happens by chance too often."""
SOURCES = {"MIUB": "miub", "ACC": "correct", "CE": "ce", "base_ACC": "base_correct", "base_CE": "base_ce"}
"""Metric -> samples' column; hits are -1 where there is none."""


@dataclass(frozen=True, eq=False)
class ItemTable:
    """Items of one or several data sets, all of them under the same metrics and trainings."""

    metrics: tuple[str, ...]
    settings: tuple[str, ...]
    trainings: tuple[Training, ...]
    """Seeds of these settings; and of others, which say only how far trainings differ."""
    values: Mapping[str, np.ndarray]
    """Data set -> float64 (item, metric x training)."""
    weights: Mapping[str, np.ndarray]
    """Data set -> (item, metric x training): tokens for CE of texts, else 1."""

    @property
    def n_items(self) -> int:
        """Items in all data sets."""
        return sum(map(len, self.values.values()))

    @property
    def over_seeds(self) -> np.ndarray:
        """Weight of each training in the mean of each setting, float64 (setting, training)."""
        counts = np.array(
            [[training.setting == name for training in self.trainings] for name in self.settings], dtype=np.float64
        )
        return np.asarray(counts / counts.sum(axis=1, keepdims=True))

    def trained(self, counts: Callable[[int], np.ndarray] = lambda n: np.ones((1, n))) -> np.ndarray:
        """Means over data sets, each counting the same, of means over items that count so often, (draw, item).

        Float64 (metric, training, draw).
        """
        total = 0.0
        for values, weights in zip(self.values.values(), self.weights.values(), strict=True):
            times = counts(len(values))
            total = total + (times @ (values * weights)) / (times @ weights)
        means = np.ascontiguousarray((np.asarray(total) / len(self.values)).T)
        return means.reshape(len(self.metrics), len(self.trainings), -1)

    def means(self, counts: Callable[[int], np.ndarray] = lambda n: np.ones((1, n))) -> dict[str, np.ndarray]:
        """Metric -> means over seeds of what `trained` returns, float64 (setting, draw)."""
        return dict(zip(self.metrics, self.over_seeds @ self.trained(counts), strict=True))

    def estimate(self, statistic: Statistic) -> Estimate:
        """A function of means, its spread between trainings, and percentiles of its bootstrap over items by data set.

        All settings answer the same items, which are drawn together; the draws are always the same. Draws of n items
        vary by (n - 1)/n of the variance, and as if it were known: the interval is widened by what Student's t has for
        both (Hesterberg 2015, The American Statistician 69, section 3.2).
        """
        value, sizes = float(statistic(self.means())[0]), [len(items) for items in self.values.values()]
        spread = between_trainings(statistic, self.metrics, self.trained()[..., 0], self.trainings, self.settings)
        if min(sizes) < LEAST_ITEMS or not np.isfinite(value):
            return Estimate(value, np.nan, np.nan, self.n_items, spread)
        rng = np.random.default_rng(0)
        drawn = self.means(lambda n: group_draws(n, N_DRAWS, rng).counts.astype(np.float64))
        ends = np.array(percentile_interval(statistic(drawn), LEVEL))
        quantile = stats.t.ppf((1 + LEVEL) / 2, self.n_items - len(sizes)) / stats.norm.ppf((1 + LEVEL) / 2)
        low, high = value + quantile * np.sqrt(min(sizes) / (min(sizes) - 1)) * (ends - value)
        return Estimate(value, float(low), float(high), self.n_items, spread)


def item_rows(unit: UnitResult) -> pd.DataFrame:
    """A unit's samples, a row each, under the metrics' names; `label` is data set and task, which counts as another."""
    samples = unit.samples
    names = ("id", "dataset", "prompt", "bucket", "in_test", "in_prompts")
    frame = pd.DataFrame({name: samples[name].values for name in names})
    for metric, name in SOURCES.items():
        values = samples[name].values if name in samples else np.full(len(frame), np.nan)
        frame[metric] = values.astype(np.float64) if values.dtype.kind == "f" else np.where(values < 0, np.nan, values)
    frame["is_text"] = samples["answer"].values < 0
    frame["is_first"] = ~frame["is_text"] & (frame["prompt"] == unit.first_prompt)
    frame["tokens"] = np.where(frame["is_text"], samples["length"].values - 1.0, 1.0)
    frame["label"] = f"{unit.task}: " + frame["dataset"] + "/" + samples["split"].values
    return frame.assign(run=unit.name, seed=unit.seed)


def item_table(rows: pd.DataFrame, settings: Sequence[str], metrics: Sequence[str]) -> ItemTable | None:
    """Items by metric and training, of those that all settings with items have in all seeds; None where there are none.

    `rows` are some of `item_rows`, with a column `setting`; a data set of two tasks counts as two. A seed without a
    data set that another seed of its setting has is left out. Trainings under settings that aren't asked for are there
    where they have all of these items.
    """
    known = [name for name in settings if (rows["setting"] == name).any()]
    if not known:
        return None
    is_asked = rows["setting"].isin(known)
    rows = rows[is_asked | ~rows["run"].isin(rows["run"][is_asked])]
    rows = rows.drop_duplicates(["setting", "seed", "label", "id"])
    n_labels = rows.groupby(["setting", "seed"])["label"].transform("nunique")
    rows = rows[n_labels == n_labels.groupby(rows["setting"]).transform("max")]
    by_item = rows.pivot(index=["label", "id"], columns=["setting", "seed"], values=[*metrics, "tokens"])
    runs = rows.groupby(["setting", "seed"])["run"].agg(lambda names: " ".join(dict.fromkeys(names)))
    own = [key for name in known for key in runs.index if key[0] == name]
    others = [key for key in runs.index if key[0] not in known]
    order = pd.MultiIndex.from_frame(rows[rows["setting"] == known[0]][["label", "id"]].drop_duplicates())
    by_item = by_item.reindex(order).astype(np.float64)
    is_whole = np.isfinite(by_item[_columns(metrics, own)]).all(axis=1)
    by_item = by_item[is_whole]
    if not len(by_item):
        return None
    trainings = [*own, *(key for key in others if np.isfinite(by_item[_columns(metrics, [key])]).all(axis=None))]
    values = by_item[_columns(metrics, trainings)]
    weights = pd.concat(
        [
            by_item["tokens"][trainings] if name.endswith("CE") else by_item["tokens"][trainings] * 0 + 1
            for name in metrics
        ],
        axis=1,
    )
    labels = list(dict.fromkeys(values.index.get_level_values("label")))
    return ItemTable(
        tuple(metrics),
        tuple(known),
        tuple(Training(key[0], runs[key]) for key in trainings),
        {name: values.loc[name].to_numpy() for name in labels},
        {name: weights.loc[name].to_numpy() for name in labels},
    )


def _columns(metrics: Sequence[str], trainings: Sequence[tuple[str, int]]) -> list[tuple[str, str, int]]:
    return [(name, *key) for name, key in itertools.product(metrics, trainings)]
