"""Numbers by item under several settings, and how their means would vary with another draw of items."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr
from scipy import stats  # type: ignore[import-untyped]

from .reading import UnitResult

__all__ = ["Chosen", "Estimate", "ItemTable", "Means", "item_table"]

DRAWS = 1000
LEVEL = 0.95
LEAST_ITEMS = 10
"""Items below which no interval is given: where all of them agree, that happens by chance too often."""
CHUNK = 2**22
"""Draws times items that are in memory at once."""
SOURCES = {"MIUB": "miub", "ACC": "correct", "CE": "ce", "base_ACC": "base_correct", "base_CE": "base_ce"}
"""Metric -> samples' column; of those that are hits -1 means that there is none."""
Key = tuple[str, str]
Means = Mapping[Key, np.ndarray]
"""(metric, setting) -> means, float64 (draw,)."""
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
    values: tuple[np.ndarray, ...]
    """A data set each: float64 (item, column), means over seeds."""
    weights: tuple[np.ndarray, ...]
    """(item, column): tokens for CE of texts, else 1."""
    datasets: tuple[str, ...]
    seeds: Mapping[Key, Mapping[int, float]]
    """Column -> seed -> the mean of that seed alone."""
    n_left_out: int
    """Items that lack a finite number in some column."""

    @property
    def n_items(self) -> int:
        """In all data sets."""
        return sum(len(one) for one in self.values)

    @property
    def settings(self) -> tuple[str, ...]:
        """In the order in which they were given."""
        return tuple(dict.fromkeys(setting for _, setting in self.columns))

    @property
    def ends(self) -> tuple[str, str]:
        """The first setting and the last."""
        return self.settings[0], self.settings[-1]

    def n_seeds(self, *settings: str) -> int:
        """Fewest seeds behind any of these settings."""
        return max(1, min(len(found) for key, found in self.seeds.items() if not settings or key[1] in settings))

    def mean(self, metric: str, setting: str) -> float:
        """Mean over data sets, each counting the same, of the mean over items."""
        return float(self._means(lambda n: np.ones((1, n)))[metric, setting][0])

    def estimate(self, statistic: Callable[[Means], np.ndarray]) -> Estimate:
        """A function of means, with percentiles of its bootstrap over items, which are drawn by data set.

        All settings answer the same items, which are drawn together; the draws are always the same. Draws of n items
        vary by (n - 1)/n of the variance, and as if it were known: the interval is widened by what Student's t has for
        both (Hesterberg 2015, The American Statistician 69, section 3.2). No interval below `LEAST_ITEMS`.
        """
        value = float(statistic(self._means(lambda n: np.ones((1, n))))[0])
        fewest = min(len(one) for one in self.values)
        if fewest < 2 or self.n_items < LEAST_ITEMS:
            return Estimate(value, np.nan, np.nan, self.n_items)
        random = np.random.default_rng(0)
        most = max(1, CHUNK // max(len(one) for one in self.values))
        drawn = np.concatenate(
            [statistic(self._means(_draws(random, min(most, DRAWS - k)))) for k in range(0, DRAWS, most)]
        )
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        quantile = stats.t.ppf((1 + LEVEL) / 2, self.n_items - len(self.values)) / stats.norm.ppf((1 + LEVEL) / 2)
        wider = float(quantile * np.sqrt(fewest / (fewest - 1)))
        return Estimate(
            value, value - wider * (value - float(low)), value + wider * (float(high) - value), self.n_items
        )

    def _means(self, counts: Callable[[int], np.ndarray]) -> dict[Key, np.ndarray]:
        """Of items that count so often, (draw, item), in each data set."""
        total = 0.0
        for values, weights in zip(self.values, self.weights, strict=True):
            times = counts(len(values))
            total = total + (times @ (values * weights)) / (times @ weights)
        means = np.asarray(total) / len(self.values)
        return {column: means[:, place] for place, column in enumerate(self.columns)}


def item_table(
    units: Mapping[str, Sequence[UnitResult]], metrics: Sequence[str], chosen: Chosen | Mapping[str, Chosen]
) -> ItemTable | None:
    """Items by (metric, setting), of those that all settings and seeds have; None where there are none.

    Parameters
    ----------
    units
        Setting -> its units, which differ in seed, or in task.
    metrics
        Of `MIUB`, `ACC`, `CE`, `base_ACC` and `base_CE`.
    chosen
        Which samples count, for all settings or for each. A data set of two tasks counts as two.
    """
    which = chosen if isinstance(chosen, Mapping) else dict.fromkeys(units, chosen)
    whole = {name: pd.concat([_frame(one, metrics, which[name]) for one in some]) for name, some in units.items()}
    index = None
    for frame in whole.values():
        n_seeds = frame.groupby(level=[0, 1], sort=False).size()
        kept = n_seeds[n_seeds == n_seeds.groupby(level=0).transform("max")].index
        index = kept if index is None else index[index.isin(kept)]
    if index is None or not len(index):
        return None
    columns = [(metric, setting) for metric in metrics for setting in units]
    averaged = {name: frame.groupby(level=[0, 1], sort=False).mean().loc[index] for name, frame in whole.items()}
    values = np.stack([averaged[setting][metric].to_numpy() for metric, setting in columns], axis=1)
    weights = np.stack([_weights(averaged[setting], metric) for metric, setting in columns], axis=1)
    known = np.isfinite(values).all(axis=1)
    if not known.any():
        return None
    labels = index.get_level_values(0).to_numpy()[known]
    names = tuple(dict.fromkeys(labels.tolist()))
    return ItemTable(
        tuple(columns),
        tuple(values[known][labels == name] for name in names),
        tuple(weights[known][labels == name] for name in names),
        names,
        {(metric, setting): dict(_by_seed(whole[setting], metric, index[known])) for metric, setting in columns},
        int((~known).sum()),
    )


def _draws(random: np.random.Generator, n_draws: int) -> Callable[[int], np.ndarray]:
    return lambda n: random.multinomial(n, np.full(n, 1 / n), size=n_draws).astype(np.float64)


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


def _weights(frame: pd.DataFrame, metric: str) -> np.ndarray:
    return np.asarray(frame["tokens"] if metric.endswith("CE") else np.ones(len(frame)), np.float64)


def _by_seed(frame: pd.DataFrame, metric: str, index: pd.MultiIndex) -> Iterator[tuple[int, float]]:
    """Mean over data sets of each seed's own items, of seeds that have all of them."""
    for seed, part in frame.groupby("seed"):
        if index.isin(part.index).all():
            rows = part.loc[index]
            weights = pd.Series(_weights(rows, metric), rows.index)
            sums = (rows[metric] * weights).groupby(level=0).sum() / weights.groupby(level=0).sum()
            yield int(seed), float(sums.mean())
