"""Refits of a law on redrawn groups, or on residuals whose signs are flipped by group: exact where they can be counted.

Cameron, Gelbach, Miller (2008), Rev. Econ. Stat. 90, 414; Efron, Tibshirani (1993), An Introduction to the Bootstrap.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations_with_replacement, product
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .design import Design, determined
from .estimate import Estimate, solved
from .objective import Objective

__all__ = ["Bootstrap", "BootstrapKind", "bootstrap", "weighted_quantile"]

BootstrapKind = Literal["cluster", "wild"]
MOST_SETS = 500
"""Sets of groups that are all looked at in place of drawing some: those of up to six groups."""
MOST_SIGNS = 1024
"""Of ten groups."""

Progress = Callable[[int, int], None]


class Bootstrap(NamedTuple):
    """Parameters of refits."""

    kind: BootstrapKind
    exact: bool
    """Whether every possible draw is among them, with its probability as its weight."""
    values: pd.DataFrame
    """(draw, parameter), as printed, of those that all groups share: levels of groups aren't drawn."""
    weights: np.ndarray
    """(draw,) that sum to 1."""
    n_undetermined: int
    """Draws left out because too few different groups were among them."""
    bounds: dict[str, tuple[float, float]]
    """Of exponents."""

    def interval(self, name: str, level: float) -> tuple[float, float, bool, bool]:
        """Percentile interval of a parameter, and whether each end lies at a bound of an exponent, that is, is open."""
        values = self.values[name].to_numpy()
        tail = (1 - level) / 2
        low, high = (weighted_quantile(values, self.weights, share) for share in (tail, 1 - tail))
        ends = self.bounds.get(name, (-math.inf, math.inf))
        margin = 1e-6 * (ends[1] - ends[0]) if name in self.bounds else 0.0
        return low, high, low - ends[0] <= margin, ends[1] - high <= margin


def bootstrap(
    estimate: Estimate, kind: BootstrapKind, *, n_draws: int, random: np.random.Generator,
    progress: Progress | None = None,
) -> Bootstrap:  # fmt: skip
    """Refits of an estimate.

    Parameters
    ----------
    estimate
        A fit over at least two groups.
    kind
        `cluster`: groups are drawn with replacement. `wild`: the residuals of a group keep or flip their sign together;
        settings stay as they are, and so do the weights of relative residuals.
    n_draws
        How many where there are too many to look at all: more than six groups to draw, or ten to flip.
    random
        Draws these.
    progress
        Called with how many refits are done and of how many.

    Raises
    ------
    ValueError
        If there is one group, or `kind` or `n_draws` isn't one of these.

    Notes
    -----
    With G groups there are (2 G - 1)! / (G! (G - 1)!) sets and 2^G signs: with five 126 and 32, so that intervals from
    them are coarse, and their ends are extremes. An interval of a nonlinear parameter from so few is a contrast to the
    profile, not a replacement. Flipped residuals aren't enlarged for the parameters that they were fitted with, which
    makes intervals a little narrow.
    """
    if kind not in ("cluster", "wild"):
        raise ValueError(f"`kind` is {kind!r}; it is 'cluster' or 'wild'")
    if isinstance(n_draws, bool) or not isinstance(n_draws, int) or n_draws < 1:
        raise ValueError(f"`n_draws` is {n_draws!r}; it is a whole number from 1 on, some hundreds for an interval")
    names = list(dict.fromkeys(estimate.design.groups))
    if len(names) < 2:
        raise ValueError("a bootstrap over groups needs at least two groups; name the columns that tell them apart")
    member = np.array([names.index(name) for name in estimate.design.groups])
    refits, n_all, exact = (_cluster if kind == "cluster" else _wild)(estimate, len(names), member, n_draws, random)
    shared = estimate.design.names[len(estimate.design.level_names) - estimate.design.n_offsets :]
    rows, weights = [], []
    for done, (values, weight) in enumerate(refits, 1):
        if values is not None:
            rows.append({name: values[name] for name in shared})
            weights.append(weight)
        if progress is not None:
            progress(done, n_all)
    if not rows:
        raise ValueError("no draw of groups determines the law; groups need more settings each")
    design = estimate.design
    ends = {name: (float(low), float(high)) for name, (low, high) in zip(design.exponents, design.bounds, strict=True)}
    total = np.array(weights)
    return Bootstrap(kind, exact, pd.DataFrame(rows), total / total.sum(), n_all - len(rows), ends)


Refit = tuple[dict[str, float] | None, float]
"""Values, none where they aren't determined, and the weight of the draw."""


def _cluster(
    estimate: Estimate, n_groups: int, member: np.ndarray, n_draws: int, random: np.random.Generator
) -> tuple[Iterator[Refit], int, bool]:
    n_sets = math.comb(2 * n_groups - 1, n_groups)
    exact = n_sets <= MOST_SETS
    if exact:
        sets = combinations_with_replacement(range(n_groups), n_groups)
        counts = np.stack([np.bincount(one, minlength=n_groups) for one in sets])
        weights = np.array([math.exp(-sum(math.lgamma(count + 1) for count in row)) for row in counts])
    else:
        counts = random.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_draws)
        weights = np.ones(n_draws)

    def refits() -> Iterator[Refit]:
        for row, weight in zip(counts, weights, strict=True):
            kept = np.flatnonzero(row[member] > 0)
            if not determined(estimate.design.take(kept), spare=0):
                yield None, float(weight)
                continue
            yield _refitted(estimate, estimate.design, row[member].astype(np.float64)), float(weight)

    return refits(), len(counts), exact


def _wild(
    estimate: Estimate, n_groups: int, member: np.ndarray, n_draws: int, random: np.random.Generator
) -> tuple[Iterator[Refit], int, bool]:
    exact = 2**n_groups <= MOST_SIGNS
    signs = np.array(list(product((1.0, -1.0), repeat=n_groups))) if exact else (
        1.0 - 2.0 * random.integers(0, 2, size=(n_draws, n_groups))
    )  # fmt: skip

    def refits() -> Iterator[Refit]:
        for row in signs:
            flipped = row[member] * estimate.residuals
            if estimate.design.residual == "log":
                target = estimate.fitted * np.exp(flipped)
            else:
                target = estimate.fitted + flipped / estimate.design.weights
            yield _refitted(estimate, estimate.design, estimate.counts, target), 1.0

    return refits(), len(signs), exact


def _refitted(
    estimate: Estimate, design: Design, counts: np.ndarray | None, target: np.ndarray | None = None
) -> dict[str, float]:
    problem = design.problem if target is None else replace(design.problem, target=target)
    objective = Objective(problem, design.residual, estimate.delta, counts)
    _, found = solved(objective, (estimate.parts[2],), grid="coarse")
    return replace(estimate, parameters=found.parameters).values


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The least value at or below which this share of the weight lies."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    place = int(np.searchsorted(reached, share * reached[-1] * (1 - 1e-12)))
    return float(values[order][min(place, len(values) - 1)])
