"""Metrics by item (question or text) under several settings; how means vary with other items and trainings."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.fits.resampling import group_draws, percentile_interval

from .units import UnitResult

N_DRAWS = 1000
LEAST_ITEMS = 10
"""Fewest items of a data set for an interval: fewer items too often all change alike by chance."""
SOURCES = {"MIUB": "miub", "ACC": "correct", "CE": "ce", "base_ACC": "base_correct", "base_CE": "base_ce"}
"""Metric -> samples' column; hits are -1 if not scored."""
LEVEL = 0.95
Means = Mapping[str, np.ndarray]
"""Metric -> means, float64 (setting, draw)."""
Statistic = Callable[[Means], np.ndarray]
"""Function of means that returns float64 (draw,)."""


class Training(NamedTuple):
    """One training of an adapter in a table of items: a setting with one seed."""

    setting: str
    runs: str
    """Names of its units; equal for a training that is listed under two settings."""


class Spread(NamedTuple):
    """Variation of a number if adapters were trained again with other seeds; NaN if no setting has several."""

    sd: float = math.nan
    """Standard deviation of the number, in its unit, if each setting is trained once."""
    reach: float = math.nan
    """Half of the 95 % interval around the number of the trainings at hand, by Student's t."""
    n_seeds: int = 1
    """Fewest seeds of a setting on which the number depends."""


def spread_between_trainings(
    statistic: Statistic, metrics: Sequence[str], trained: np.ndarray, trainings: Sequence[Training],
    settings: Sequence[str],
) -> Spread:  # fmt: skip
    """Return the Spread of a statistic of the settings' means if all were trained again with other seeds.

    Parameters
    ----------
    trained
        Means over items, float64 (metric, training). Trainings of other settings also help to estimate the spread.

    Notes
    -----
    The statistic is recomputed with one setting's means shifted by the deviation of one of its seeds, in all metrics at
    once. The mean square of its changes over n seeds, with n - 1 degrees of freedom, is this setting's part of the
    variance. A setting with one seed borrows the relative deviations of all settings with several seeds. Variances add
    up, since trainings count as independent, also those of two settings with one seed; degrees of freedom are as in
    Welch's test (Satterthwaite 1946, Biometrics Bulletin 2, 110).
    """
    names = [training.setting for training in trainings]
    places = {name: [k for k, other in enumerate(names) if other == name] for name in names}
    means = {name: trained[:, own].mean(axis=1, keepdims=True) for name, own in places.items()}
    seeds = [len(places[name]) for name in settings]
    # A training listed under two settings counts once.
    several = {tuple(trainings[k].runs for k in own): own for own in places.values() if len(own) > 1}.values()
    seeded, seeded_freedom = list(itertools.chain(*several)), sum(len(own) - 1 for own in several)
    if not seeded:
        return Spread()
    levels = np.concatenate([means[name] for name in names], axis=1)
    shares = np.divide(trained, levels, out=np.ones_like(trained), where=levels != 0)
    means_at_hand = np.stack([means[name] for name in settings], axis=1)  # (metric, setting, 1)
    value = statistic(dict(zip(metrics, means_at_hand, strict=True)))
    parts = []  # each setting's variance, seeds, degrees of freedom
    for place, name in enumerate(settings):
        sources, freedom = (places[name], seeds[place] - 1) if seeds[place] > 1 else (seeded, seeded_freedom)
        shifted = np.repeat(means_at_hand, len(sources), axis=2)
        shifted[:, place] *= shares[:, sources]
        changes = statistic(dict(zip(metrics, shifted, strict=True))) - value
        parts.append((float(changes @ changes) / freedom, seeds[place], freedom))
    variances = [(v / n, freedom) for v, n, freedom in parts if n > 1]
    variances.append((sum(v for v, n, _ in parts if n == 1), seeded_freedom))
    total, squares = sum(v for v, _ in variances), sum(v**2 / freedom for v, freedom in variances)
    reach = stats.t.ppf((1 + LEVEL) / 2, total**2 / squares) * math.sqrt(total) if squares > 0 else 0.0
    used = [n for v, n, _ in parts if v > 0] or seeds
    return Spread(math.sqrt(sum(v for v, *_ in parts)), float(reach), min(used))


class Estimate(NamedTuple):
    """A statistic's value with its 95 % bootstrap interval over items, and its spread between trainings."""

    value: float
    low: float
    """Ends of the interval over items; NaN for too few items."""
    high: float
    n_items: int
    spread: Spread = Spread()

    @property
    def ends(self) -> tuple[float, float]:
        """Ends (low, high) of the 95 % interval that decides a verdict, over items and, if known, trainings.

        The half-widths over items and trainings, which vary independently, are joined as the root of the sum of their
        squares (Zou and Donner 2008, Statistics in Medicine 27, 1693).
        """
        value, reach = self.value, self.spread.reach
        if not math.isfinite(reach):
            return self.low, self.high
        return value - math.hypot(value - self.low, reach), value + math.hypot(self.high - value, reach)


@dataclass(frozen=True, eq=False)
class ItemTable:
    """Metrics of the same items under several trainings (setting and seed), from one or several data sets."""

    metrics: tuple[str, ...]
    settings: tuple[str, ...]
    trainings: tuple[Training, ...]
    """Seeds of these settings, then of others, which only help to estimate how trainings differ."""
    values: Mapping[str, np.ndarray]
    """Data set -> float64 (item, metric x training)."""
    weights: Mapping[str, np.ndarray]
    """Data set -> (item, metric x training): tokens for CE of texts, else 1."""

    @property
    def n_items(self) -> int:
        """Number of items in all data sets."""
        return sum(map(len, self.values.values()))

    def select_sets(self, names: Sequence[str]) -> "ItemTable":
        """Return the table with the named data sets only."""
        values, weights = ({name: columns[name] for name in names} for columns in (self.values, self.weights))
        return replace(self, values=values, weights=weights)

    @property
    def seed_weights(self) -> np.ndarray:
        """Weights that average trainings to settings, equal for a setting's seeds; (setting, training)."""
        counts = np.array(
            [[training.setting == name for training in self.trainings] for name in self.settings], dtype=np.float64
        )
        return np.asarray(counts / counts.sum(axis=1, keepdims=True))

    def training_means(self, counts: Callable[[int], np.ndarray] = lambda n: np.ones((1, n))) -> np.ndarray:
        """Return each metric's mean over items, then data sets, by training; float64 (metric, training, draw).

        `counts(n)` says how often each of n items counts in each draw, (draw, item); by default once.
        """
        total = 0.0
        for values, weights in zip(self.values.values(), self.weights.values(), strict=True):
            times = counts(len(values))
            total = total + (times @ (values * weights)) / (times @ weights)
        means = np.ascontiguousarray((np.asarray(total) / len(self.values)).T)
        return means.reshape(len(self.metrics), len(self.trainings), -1)

    def means(self, counts: Callable[[int], np.ndarray] = lambda n: np.ones((1, n))) -> dict[str, np.ndarray]:
        """Return metric -> means over items, data sets and seeds, float64 (setting, draw).

        `counts` is as in `training_means`.
        """
        return dict(zip(self.metrics, self.seed_weights @ self.training_means(counts), strict=True))

    def estimate(self, statistic: Statistic) -> Estimate:
        """Return an Estimate of a statistic: value, bootstrap interval over items, spread between trainings.

        Items are drawn by data set, the same ones for all settings, with a fixed seed. Percentiles of draws of n items
        are too narrow, so the interval is widened as Student's t is (Hesterberg 2015, The American Statistician 69,
        section 3.2).
        """
        value, sizes = float(statistic(self.means())[0]), [len(items) for items in self.values.values()]
        spread = spread_between_trainings(
            statistic, self.metrics, self.training_means()[..., 0], self.trainings, self.settings
        )
        if min(sizes) < LEAST_ITEMS or not np.isfinite(value):
            return Estimate(value, np.nan, np.nan, self.n_items, spread)
        rng = np.random.default_rng(0)
        drawn = self.means(lambda n: group_draws(n, N_DRAWS, rng).counts.astype(np.float64))
        ends = np.array(percentile_interval(statistic(drawn), LEVEL))
        quantile = stats.t.ppf((1 + LEVEL) / 2, self.n_items - len(sizes)) / stats.norm.ppf((1 + LEVEL) / 2)
        low, high = value + quantile * np.sqrt(min(sizes) / (min(sizes) - 1)) * (ends - value)
        return Estimate(value, float(low), float(high), self.n_items, spread)


def item_rows(unit: UnitResult) -> pd.DataFrame:
    """Return a DataFrame with one row per sample of a unit (adapter), metrics as columns, its data set as `label`."""
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
    """Return metrics by training of the items that all `settings` have under all seeds; None if no item has.

    `rows` are some of `item_rows`, with a column `setting`; a data set in two tasks counts as two. A seed is excluded
    if another seed of its setting has more data sets. Trainings under other settings are included if they have all of
    these items.
    """
    known = [name for name in settings if (rows["setting"] == name).any()]
    if not known:
        return None
    is_known = rows["setting"].isin(known)
    rows = rows[is_known | ~rows["run"].isin(rows["run"][is_known])]
    rows = rows.drop_duplicates(["setting", "seed", "label", "id"])
    n_labels = rows.groupby(["setting", "seed"])["label"].transform("nunique")
    rows = rows[n_labels == n_labels.groupby(rows["setting"]).transform("max")]
    by_item = rows.pivot(index=["label", "id"], columns=["setting", "seed"], values=[*metrics, "tokens"])
    runs = rows.groupby(["setting", "seed"])["run"].agg(lambda names: " ".join(dict.fromkeys(names)))
    own = [key for name in known for key in runs.index if key[0] == name]
    others = [key for key in runs.index if key[0] not in known]
    order = pd.MultiIndex.from_frame(rows[rows["setting"] == known[0]][["label", "id"]].drop_duplicates())
    by_item = by_item.reindex(order).astype(np.float64)
    is_whole = np.isfinite(by_item[_column_keys(metrics, own)]).all(axis=1)
    by_item = by_item[is_whole]
    if not len(by_item):
        return None
    trainings = [*own, *(key for key in others if np.isfinite(by_item[_column_keys(metrics, [key])]).all(axis=None))]
    values = by_item[_column_keys(metrics, trainings)]
    tokens = by_item["tokens"][trainings]
    weights = pd.concat([tokens if name.endswith("CE") else tokens * 0 + 1 for name in metrics], axis=1)
    labels = list(dict.fromkeys(values.index.get_level_values("label")))
    return ItemTable(
        tuple(metrics),
        tuple(known),
        tuple(Training(key[0], runs[key]) for key in trainings),
        {name: values.loc[name].to_numpy() for name in labels},
        {name: weights.loc[name].to_numpy() for name in labels},
    )


def _column_keys(metrics: Sequence[str], trainings: Sequence[tuple[str, int]]) -> list[tuple[str, str, int]]:
    """Return (metric, setting, seed) for each metric and training: columns of the pivoted rows of items."""
    return [(name, *key) for name, key in itertools.product(metrics, trainings)]
