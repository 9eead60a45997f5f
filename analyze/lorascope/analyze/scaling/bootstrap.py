"""Refits of a law on redrawn groups: all possible draws where they can be counted, else random ones."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.stores.progress import Progress

from ..stats.resampling import group_draws, percentile_interval
from .design import determined
from .estimate import Estimate, estimate

__all__ = ["Bootstrap", "bootstrap"]


class Bootstrap(NamedTuple):
    """Parameters of refits."""

    is_exact: bool
    """Whether every possible draw is among them, with its probability as its weight."""
    values: pd.DataFrame
    """(draw, parameter), as printed, of those that all groups share: levels of groups aren't drawn."""
    weights: np.ndarray | None
    """(draw,) probabilities that sum to 1; None where all are alike."""
    n_undetermined: int
    """Draws left out because too few different groups were among them."""
    bounds: Mapping[str, tuple[float, float]]
    """Exponent -> where it was looked for."""

    def intervals(self, level: float) -> pd.DataFrame:
        """Percentiles, a row a parameter: `low`, `high`, `low_open`, `high_open` (at a bound of an exponent)."""
        rows = {}
        for name, values in self.values.items():
            low, high = percentile_interval(values.to_numpy(), level, self.weights)
            least, most = self.bounds.get(name, (-math.inf, math.inf))
            margin = 1e-6 * (most - least) if name in self.bounds else 0.0
            rows[name] = (low, high, low - least <= margin, most - high <= margin)
        return pd.DataFrame.from_dict(rows, orient="index", columns=["low", "high", "low_open", "high_open"])


def bootstrap(
    fit: Estimate, *, n_draws: int, random: np.random.Generator, progress: Progress | None = None
) -> Bootstrap:
    """Refits of a law on as many groups as there are, drawn with replacement; see `ScalingFit.bootstrap`."""
    if isinstance(n_draws, bool) or not isinstance(n_draws, int) or n_draws < 1:
        raise ValueError(f"`n_draws` is {n_draws!r}; give a whole number of at least 1, some hundreds for an interval")
    design = fit.design
    names = list(dict.fromkeys(design.groups))
    if len(names) < 2:
        raise ValueError("a bootstrap over groups needs at least two groups; name the columns that tell them apart")
    counts, weights = group_draws(len(names), n_draws, random)
    rows = [np.flatnonzero(design.groups == name) for name in names]
    shared = design.names[len(design.level_names) - design.n_offsets :]
    values, kept = [], []
    for place, count in enumerate(counts):
        drawn = design.take(np.concatenate([np.tile(part, n) for part, n in zip(rows, count, strict=True)]))
        if determined(drawn, spare=0):
            found = estimate(drawn, delta=fit.delta, starts=(fit.parts[2],), grid="coarse").values
            values.append({name: found[name] for name in shared})
            kept.append(place)
        if progress is not None:
            progress(place + 1, len(counts), "bootstrap")
    if not values:
        raise ValueError("no draw of groups determines the law; groups need more settings each")
    if weights is not None:
        weights = weights[kept] / weights[kept].sum()
    return Bootstrap(weights is not None, pd.DataFrame(values), weights, len(counts) - len(kept), design.limits)
