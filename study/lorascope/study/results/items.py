"""Numbers by item under several settings, how their means would vary with another draw of items, and what that says."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.format import format_number
from lorascope.analyze.stats.resampling import group_draws, percentile_interval
from lorascope.analyze.stats.summary import Word

from .units import UnitResult

N_DRAWS = 1000
LEVEL = 0.95
LEAST_ITEMS = 10
"""Items of a data set below which no interval is given: where all of them agree, that happens by chance too often."""
SOURCES = {"MIUB": "miub", "ACC": "correct", "CE": "ce", "base_ACC": "base_correct", "base_CE": "base_ce"}
"""Metric -> samples' column; hits are -1 where there is none."""
Means = Mapping[str, np.ndarray]
"""Metric -> means, float64 (setting, draw)."""
Statistic = Callable[[Means], np.ndarray]
"""A number made of means, float64 (draw,)."""


class Estimate(NamedTuple):
    """A number, its 95 % interval over items (NaN where they are too few), and how many items it is of."""

    value: float
    low: float
    high: float
    n_items: int


class Finding(NamedTuple):
    """A claim, what this study says of it, and the number behind that."""

    number: int
    """Number of the paper's claim, 0 for what isn't one of them."""
    claim: str
    verdict: Word
    because: str
    value: float = math.nan
    low: float = math.nan
    """Ends of the 95 % interval that the word rests on; NaN where there is none."""
    high: float = math.nan
    unit: str = ""
    n_items: int = 0
    n_seeds: int = 0
    """Fewest seeds of a setting; 0 where seeds have no part in it."""


@dataclass(frozen=True, eq=False)
class ItemTable:
    """Items of one or several data sets, all of them under the same metrics and settings."""

    metrics: tuple[str, ...]
    settings: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    """Data set -> float64 (item, metric x setting), means over seeds."""
    weights: Mapping[str, np.ndarray]
    """Data set -> (item, metric x setting): tokens for CE of texts, else 1."""
    seeds: Mapping[str, np.ndarray]
    """Setting -> float64 (seed,), means of the first metric, of seeds that have all items."""

    @property
    def n_items(self) -> int:
        """Items in all data sets."""
        return sum(map(len, self.values.values()))

    @property
    def n_seeds(self) -> int:
        """Fewest seeds behind any of the settings."""
        return max(1, min(map(len, self.seeds.values())))

    def means(self, counts: Callable[[int], np.ndarray] = lambda n: np.ones((1, n))) -> dict[str, np.ndarray]:
        """Means over data sets, each counting the same, of means over items that count so often, (draw, item)."""
        total = 0.0
        for values, weights in zip(self.values.values(), self.weights.values(), strict=True):
            times = counts(len(values))
            total = total + (times @ (values * weights)) / (times @ weights)
        means = np.ascontiguousarray((np.asarray(total) / len(self.values)).T)
        return dict(zip(self.metrics, means.reshape(len(self.metrics), len(self.settings), -1), strict=True))

    def estimate(self, statistic: Statistic) -> Estimate:
        """A function of means, with percentiles of its bootstrap over items, which are drawn by data set.

        All settings answer the same items, which are drawn together; the draws are always the same. Draws of n items
        vary by (n - 1)/n of the variance, and as if it were known: the interval is widened by what Student's t has for
        both (Hesterberg 2015, The American Statistician 69, section 3.2).
        """
        value, sizes = float(statistic(self.means())[0]), [len(one) for one in self.values.values()]
        if min(sizes) < LEAST_ITEMS or not np.isfinite(value):
            return Estimate(value, np.nan, np.nan, self.n_items)
        rng = np.random.default_rng(0)
        drawn = self.means(lambda n: group_draws(n, N_DRAWS, rng).counts.astype(np.float64))
        ends = np.array(percentile_interval(statistic(drawn), LEVEL))
        quantile = stats.t.ppf((1 + LEVEL) / 2, self.n_items - len(sizes)) / stats.norm.ppf((1 + LEVEL) / 2)
        low, high = value + quantile * np.sqrt(min(sizes) / (min(sizes) - 1)) * (ends - value)
        return Estimate(value, float(low), float(high), self.n_items)


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
    """Items by metric and setting, of those that all settings with items have in all seeds; None where there are none.

    `rows` are some of `item_rows`, with a column `setting`; a data set of two tasks counts as two.
    """
    known = [name for name in settings if (rows["setting"] == name).any()]
    if not known:
        return None
    rows = rows[rows["setting"].isin(known)].drop_duplicates(["setting", "run", "label", "id"])
    order = pd.MultiIndex.from_frame(rows[rows["setting"] == known[0]][["label", "id"]].drop_duplicates())
    by_item = rows.groupby(["label", "id", "setting"], sort=False)
    counts = by_item.size().unstack().reindex(order)
    means = by_item[[*metrics, "tokens"]].mean().unstack().reindex(order)
    values = means[list(itertools.product(metrics, known))]
    is_whole = counts == counts.groupby(level="label").transform("max")
    values = values[is_whole.all(axis=1) & np.isfinite(values).all(axis=1)]
    if not len(values):
        return None
    tokens = means["tokens"][known].loc[values.index]
    weights = pd.concat([tokens if name.endswith("CE") else tokens * 0 + 1 for name in metrics], axis=1)
    labels = list(dict.fromkeys(values.index.get_level_values("label")))
    kept = rows[pd.MultiIndex.from_frame(rows[["label", "id"]]).isin(values.index)]
    n_items = kept.groupby(["setting", "seed"]).size()
    by_seed = kept.groupby(["setting", "seed", "label"])[metrics[0]].mean().groupby(level=[0, 1]).mean()
    by_seed = by_seed[n_items == len(values)]
    return ItemTable(
        tuple(metrics),
        tuple(known),
        {name: values.loc[name].to_numpy() for name in labels},
        {name: weights.loc[name].to_numpy() for name in labels},
        {name: by_seed[by_seed.index.get_level_values("setting") == name].to_numpy() for name in known},
    )


def decided(
    number: int, claim: str, found: Estimate, unit: str, what: str, *, n_seeds: int, falls: bool = True
) -> Finding:
    """A claim that a number, which `what` names, lies below 0, or above unless `falls`: its interval decides."""
    is_below, is_above = found.high < 0, found.low > 0
    word: Word = "not identified"
    if is_below or is_above:
        word = "supported" if is_below == falls else "contradicted"
    is_known = math.isfinite(found.low)
    ends = f" [{format_number(found.low)}, {format_number(found.high)}]" if is_known else ""
    because = (
        f"{what} {format_number(found.value)}{ends}{f' {unit}' if unit else ''}, "
        f"{'95 % over' if is_known else 'no interval of'} {found.n_items} items; "
        f"{'one seed, whose noise is unknown' if n_seeds == 1 else f'means of {n_seeds} seeds'}"
    )
    return Finding(number, claim, word, because, *found[:3], unit, found.n_items, n_seeds)


def lacking(number: int, claim: str, why: str) -> Finding:
    """A claim on which this study has no number."""
    return Finding(number, claim, "not identified", why)


def plural(n: int) -> str:
    """`1 setting`, `2 settings`."""
    return f"{n} setting{'' if n == 1 else 's'}"
