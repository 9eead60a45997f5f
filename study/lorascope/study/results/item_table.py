"""Numbers by item under several settings, and how their means would vary with another draw of items."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.stats.resampling import group_draws, percentile_interval

from .units import UnitResult

__all__ = ["LEVEL", "Chosen", "Estimate", "ItemTable", "Means", "Statistic", "item_table"]

N_DRAWS = 1000
LEVEL = 0.95
LEAST_ITEMS = 10
"""Items of a data set below which no interval is given: where all of them agree, that happens by chance too often."""
SOURCES = {"MIUB": "miub", "ACC": "correct", "CE": "ce", "base_ACC": "base_correct", "base_CE": "base_ce"}
"""Metric -> samples' column; hits are -1 where there is none."""
Key = tuple[str, str]
Means = Mapping[Key, np.ndarray]
"""(metric, setting) -> means, float64 (draw,)."""
Statistic = Callable[[Means, tuple[str, ...]], np.ndarray]
"""A number made of means and the names of the settings, float64 (draw,)."""
Chosen = Callable[[xr.Dataset], np.ndarray]
"""Which samples of a unit, bool (sample,)."""


class Estimate(NamedTuple):
    """A number, its 95 % interval over items (NaN where they are too few), and how many items it is of."""

    value: float
    low: float
    high: float
    n_items: int


@dataclass(frozen=True, eq=False)
class ItemTable:
    """Items of one or several data sets, all of them under the same columns: a metric and a setting."""

    columns: tuple[Key, ...]
    values: Mapping[str, np.ndarray]
    """Data set -> float64 (item, column), means over seeds."""
    weights: Mapping[str, np.ndarray]
    """Data set -> (item, column): tokens for CE of texts, else 1."""
    seeds: Mapping[Key, Mapping[int, float]]
    """Column -> seed -> the mean of that seed alone."""

    @property
    def n_items(self) -> int:
        """Items in all data sets."""
        return sum(map(len, self.values.values()))

    @property
    def n_seeds(self) -> int:
        """Fewest seeds behind any of the settings."""
        return max(1, min(map(len, self.seeds.values())))

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings in the order in which they were given."""
        return tuple(dict.fromkeys(setting for _, setting in self.columns))

    def means(self, counts: Callable[[int], np.ndarray] = lambda n: np.ones((1, n))) -> dict[Key, np.ndarray]:
        """Means over data sets, each counting the same, of means over items that count so often, (draw, item)."""
        total = 0.0
        for values, weights in zip(self.values.values(), self.weights.values(), strict=True):
            times = counts(len(values))
            total = total + (times @ (values * weights)) / (times @ weights)
        means = np.asarray(total) / len(self.values)
        return {column: means[:, place] for place, column in enumerate(self.columns)}

    def estimate(self, statistic: Statistic) -> Estimate:
        """A function of means, with percentiles of its bootstrap over items, which are drawn by data set.

        All settings answer the same items, which are drawn together; the draws are always the same. Draws of n items
        vary by (n - 1)/n of the variance, and as if it were known: the interval is widened by what Student's t has for
        both (Hesterberg 2015, The American Statistician 69, section 3.2).
        """
        value, sizes = float(statistic(self.means(), self.settings)[0]), [len(one) for one in self.values.values()]
        if min(sizes) < LEAST_ITEMS or not np.isfinite(value):
            return Estimate(value, np.nan, np.nan, self.n_items)
        rng = np.random.default_rng(0)
        drawn = self.means(lambda n: group_draws(n, N_DRAWS, rng).counts.astype(np.float64))
        ends = np.array(percentile_interval(statistic(drawn, self.settings), LEVEL))
        quantile = stats.t.ppf((1 + LEVEL) / 2, self.n_items - len(sizes)) / stats.norm.ppf((1 + LEVEL) / 2)
        low, high = value + quantile * np.sqrt(min(sizes) / (min(sizes) - 1)) * (ends - value)
        return Estimate(value, float(low), float(high), self.n_items)


def item_table(
    units: Mapping[str, Sequence[UnitResult]], metrics: Sequence[str], chosen: Mapping[str, Chosen]
) -> ItemTable | None:
    """Items by (metric, setting), of those that all settings and seeds have; None where there are none.

    Parameters
    ----------
    units
        Setting -> its units, which differ in seed, or in task.
    metrics
        Some of `MIUB`, `ACC`, `CE`, `base_ACC` and `base_CE`.
    chosen
        Setting -> which samples count. A data set of two tasks counts as two.
    """
    whole = {name: pd.concat([_frame(one, metrics, chosen[name]) for one in some]) for name, some in units.items()}
    index = None
    for frame in whole.values():
        n_seeds = frame.groupby(level=[0, 1], sort=False).size()
        kept = n_seeds[n_seeds == n_seeds.groupby(level=0).transform("max")].index
        index = kept if index is None else index[index.isin(kept)]
    if index is None or not len(index):
        return None
    columns = [(metric, setting) for metric in metrics for setting in units]
    means = {name: frame.groupby(level=[0, 1], sort=False).mean().loc[index] for name, frame in whole.items()}
    values = pd.DataFrame({key: means[key[1]][key[0]] for key in columns})
    weights = pd.DataFrame({key: _weights(means[key[1]], key[0]) for key in columns})
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        return None
    index, names = values.index, list(dict.fromkeys(values.index.get_level_values(0)))
    return ItemTable(
        tuple(columns),
        {name: values.loc[name].to_numpy() for name in names},
        {name: weights.loc[index].loc[name].to_numpy() for name in names},
        {(metric, setting): dict(_by_seed(whole[setting], metric, index)) for metric, setting in columns},
    )


def _frame(unit: UnitResult, metrics: Sequence[str], chosen: Chosen) -> pd.DataFrame:
    """A row an item, under its data set and id."""
    part = unit.samples.isel(sample=np.flatnonzero(chosen(unit.samples)))
    frame = pd.DataFrame({metric: _numbers(part, SOURCES[metric]) for metric in metrics})
    frame["tokens"] = np.where(part["answer"].values < 0, part["length"].values - 1.0, 1.0)
    frame["seed"] = unit.seed
    names = zip(part["dataset"].values.tolist(), part["split"].values.tolist(), strict=True)
    labels = [f"{unit.task}: {dataset}/{split}" for dataset, split in names]
    frame.index = pd.MultiIndex.from_arrays([labels, part["id"].values.tolist()], names=["label", "id"])
    return frame[~frame.index.duplicated()]


def _numbers(part: xr.Dataset, name: str) -> np.ndarray:
    if name not in part:
        return np.full(part.sizes["sample"], np.nan)
    values = part[name].values
    return np.asarray(values, np.float64) if values.dtype.kind == "f" else np.where(values < 0, np.nan, values * 1.0)


def _weights(frame: pd.DataFrame, metric: str) -> pd.Series:
    return frame["tokens"] if metric.endswith("CE") else pd.Series(1.0, frame.index)


def _by_seed(frame: pd.DataFrame, metric: str, index: pd.MultiIndex) -> Iterator[tuple[int, float]]:
    """Mean over data sets of each seed's own items, of seeds that have all of them."""
    for seed, part in frame.groupby("seed"):
        if index.isin(part.index).all():
            rows = part.loc[index]
            weights = _weights(rows, metric)
            sums = (rows[metric] * weights).groupby(level=0).sum() / weights.groupby(level=0).sum()
            yield int(seed), float(sums.mean())
