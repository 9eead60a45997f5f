"""A law fitted again to some of its cells: what it predicts of the others, and how far redrawn groups move it."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.stores.progress import Progress

from .design import APART, Design, determined
from .estimate import Estimate, estimate, residuals_of
from .resampling import few_groups, group_draws, percentile_interval
from .solve import spanned


class Bootstrap(NamedTuple):
    """Parameters of refits on redrawn groups."""

    is_exact: bool
    """Whether every possible draw is among them, with its probability as its weight."""
    n_groups: int
    """How many groups there are, and were drawn each time."""
    values: pd.DataFrame
    """(draw, parameter), as printed, of those that all groups share: levels of groups aren't drawn."""
    weights: np.ndarray | None
    """(draw,) probabilities that sum to 1; None where all are alike."""
    n_undetermined: int
    """Draws left out because too few different groups were among them."""
    bounds: Mapping[str, tuple[float, float]]
    """Exponent -> where it was looked for."""

    @property
    def notes(self) -> list[str]:
        """How far its intervals can be trusted, if groups are few."""
        return few_groups("the bootstrap", self.n_groups)

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
    rows = [np.flatnonzero(design.groups == name) for name in dict.fromkeys(design.groups)]
    if len(rows) < 2:
        raise ValueError("a bootstrap over groups needs at least two groups; name the columns that tell them apart")
    counts, weights = group_draws(len(rows), n_draws, random)
    shared, values, kept = design.names[design.n_groups :], [], []
    for place, count in enumerate(counts):
        drawn = design.take(np.concatenate([np.tile(part, n) for part, n in zip(rows, count, strict=True)]))
        if determined(drawn, spare=0):
            found = estimate(drawn, delta=fit.delta, starts=(fit.parts[2],), grid="coarse").values
            values.append([found[name] for name in shared])
            kept.append(place)
        if progress is not None:
            progress(place + 1, len(counts), "bootstrap")
    if not values:
        raise ValueError("no draw of groups determines the law; groups need more settings each")
    if weights is not None:
        weights = weights[kept] / weights[kept].sum()
    found_values = pd.DataFrame(values, columns=list(shared))
    return Bootstrap(weights is not None, len(rows), found_values, weights, len(counts) - len(kept), design.limits)


def held_out(fit: Estimate, *, progress: Progress | None = None) -> pd.DataFrame:
    """Errors of prediction of cells held out, a row for each cell and way of holding out; see `ScalingFit.held_out`."""
    splits, parts = list(_splits(fit.design)), []
    for done, split in enumerate(splits, 1):
        parts.append(_predicted(fit, *split))
        if progress is not None:
            progress(done, len(splits), "held out")
    return pd.concat(parts, ignore_index=True)


def cross_validate(errors: pd.DataFrame) -> pd.DataFrame:
    """The errors of `held_out` in short, a row for each way of holding out.

    Returns
    -------
    DataFrame
        `split`, `n` cells predicted, `n_undetermined` cells that weren't, `rmse`, `mae`, `bias` (mean error),
        `rmse_plain` (of the plainer predictions of the same cells), all in units of the fit.
    """
    rows = []
    for split, part in errors.groupby("split", sort=False):
        known = part[part["error"].notna()]
        error, plain = known["error"], known["error_plain"]
        rmse, rmse_plain = math.sqrt((error**2).mean()), math.sqrt((plain**2).mean())
        rows.append((split, len(known), len(part) - len(known), rmse, error.abs().mean(), error.mean(), rmse_plain))
    return pd.DataFrame(rows, columns=["split", "n", "n_undetermined", "rmse", "mae", "bias", "rmse_plain"])


def influence(fit: Estimate, errors: pd.DataFrame) -> pd.DataFrame:
    """How far each single cell pulls the exponents and amplitudes, from what `held_out` returns, the furthest first."""
    cells = errors[errors["split"] == "cell"]
    names = list(fit.design.term_names)
    moved = cells[names] - [fit.values[name] for name in names]
    pull = (moved.abs() / [max(fit.standard_errors[name], 1e-300) for name in names]).max(axis=1)
    found = cells[["row", "group", "setting"]].assign(residual=fit.residuals, left_out_residual=cells["error"])
    found = pd.concat([found, moved.add_prefix("d_"), pull.rename("pull")], axis=1)
    return found.sort_values("pull", ascending=False, ignore_index=True)


def _splits(design: Design) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Ways of holding out, names, cells held out (n,), and cells to predict them from (n,)."""
    ways = {"cell": design.frame.index.astype(str).to_numpy(), "setting": design.settings, "group": design.groups}
    for way, labels in ways.items():
        names = range(len(labels)) if way == "cell" else dict.fromkeys(labels)
        for name in names if way != "group" or len(names) > 1 else ():
            held = np.arange(len(labels)) == name if way == "cell" else labels == name
            yield way, labels[held][0], held, ~held
    for axis, column in design.sizes.items():
        values = design.frame[column].to_numpy()
        for size in np.unique(values)[2:]:
            yield f"ordered {axis}", f"{size:.6g}", values == size, values < size


def _predicted(fit: Estimate, way: str, name: str, held: np.ndarray, others: np.ndarray) -> pd.DataFrame:
    design = fit.design
    train, test = design.take(others), design.take(held)
    basis = spanned(train.levels.T, APART)
    known = np.abs(test.levels - test.levels @ basis @ basis.T).max(axis=1) < 1e-9  # the level is that of other rows
    known |= way == "group"
    for axis in train.parts:  # a size that doesn't vary in what is left is part of the level there
        sizes = train.frame[design.sizes[axis]].to_numpy()
        if len(set(sizes)) == 1:
            known &= test.frame[design.sizes[axis]].to_numpy() == sizes[0]
            train, test = train.without(axis), test.without(axis)
    law = plain = np.full(len(known), math.nan)
    values: dict[str, float] = {}
    if known.any() and determined(train, spare=0):
        before = dict(zip(design.exponents, fit.parts[2], strict=True))
        start = np.array([before[one] for one in train.exponents])
        again = estimate(train, delta=fit.delta, starts=(start,), grid="coarse")
        law, values = again.predicted(test), again.values
        plainer, plain_test = train, test
        for axis in (way.removeprefix("ordered "),) if way.startswith("ordered") else train.parts:
            plainer, plain_test = plainer.without(axis), plain_test.without(axis)
        plain = estimate(plainer, delta=fit.delta).predicted(plain_test)
        if way == "group":
            law, plain = _with_own_level(test, law), _with_own_level(test, plain)
        law, plain = np.where(known, law, math.nan), np.where(known, plain, math.nan)
    error, error_plain = (np.where(np.isnan(one), math.nan, residuals_of(test, one)) for one in (law, plain))
    return pd.DataFrame(
        {
            "split": way, "held_out": name, "row": test.frame.index.astype(str), "group": test.groups,
            "setting": test.settings, "observed": test.y, "predicted": law, "error": error,
            "error_plain": error_plain, **{one: values.get(one, math.nan) for one in design.term_names},
        }
    )  # fmt: skip


def _with_own_level(test: Design, predicted: np.ndarray) -> np.ndarray:
    """(n,) predictions shifted by what the other cells of the group that was held out say of its level."""
    if len(predicted) < 2:
        return np.full(len(predicted), math.nan)
    rest, weights = test.y - predicted, test.weights**2
    total, mass = (weights * rest).sum(), weights.sum()
    return np.asarray(predicted + (total - weights * rest) / (mass - weights))
