"""Fit a law again to some cells: prediction errors on the others, and bootstrap over groups."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.options import require_whole
from lorascope.stores.progress import Progress

from .design import APART, Design, is_determined
from .estimate import Estimate, estimate
from .resampling import group_draws, percentile_interval
from .solve import column_basis


class Bootstrap(NamedTuple):
    """Parameters of a law that was fitted again to groups drawn with replacement."""

    n_groups: int
    """Number of groups, which is also the number of groups per draw."""
    values: pd.DataFrame
    """(draw, parameter) of the parameters that all groups share, as in the printed law."""
    weights: np.ndarray | None
    """(draw,) probabilities that sum to 1, if every possible draw was made; None for random draws."""
    n_undetermined: int
    """Number of draws that were skipped because their groups don't determine the law."""
    bounds: Mapping[str, tuple[float, float]]
    """Exponent -> range that was searched."""

    def intervals(self, level: float) -> pd.DataFrame:
        """Return percentiles of each parameter: `low`, `high`, `low_open`, `high_open` (at a bound of an exponent)."""
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
    """Return the parameters of a law that was fitted again to groups drawn with replacement, see `ScalingFit`."""
    require_whole("n_draws", n_draws)
    design = fit.design
    rows = [np.flatnonzero(design.groups == name) for name in dict.fromkeys(design.groups)]
    if len(rows) < 2:
        raise ValueError("a bootstrap over groups needs at least two groups; name the columns that distinguish them")
    counts, weights = group_draws(len(rows), n_draws, random)
    shared, values, determined_draws = design.names[design.n_groups :], [], []
    for draw, count in enumerate(counts):
        redrawn = design.select_rows(np.concatenate([np.tile(group, n) for group, n in zip(rows, count, strict=True)]))
        if is_determined(redrawn, spare=0):
            refit = estimate(redrawn, starts=(fit.solution.exponents,), grid="coarse").values
            values.append([refit[name] for name in shared])
            determined_draws.append(draw)
        if progress is not None:
            progress(draw + 1, len(counts), "bootstrap")
    if not values:
        raise ValueError("no draw of groups determines the law; groups need more settings each")
    if weights is not None:
        weights = weights[determined_draws] / weights[determined_draws].sum()
    n_undetermined = len(counts) - len(values)
    return Bootstrap(len(rows), pd.DataFrame(values, columns=list(shared)), weights, n_undetermined, design.limits)


def held_out(fit: Estimate, *, progress: Progress | None = None) -> pd.DataFrame:
    """Return prediction errors of held-out cells, one row per cell and way of holding out, see `ScalingFit`."""
    splits, parts = list(_splits(fit.design)), []
    for done, split in enumerate(splits, 1):
        parts.append(_predict_split(fit, *split))
        if progress is not None:
            progress(done, len(splits), "held out")
    return pd.concat(parts, ignore_index=True)


def cross_validate(errors: pd.DataFrame) -> pd.DataFrame:
    """Return root mean squared errors of held-out cells from a table of `errors`, one row per way of holding out.

    Columns: `split`; `n` predicted cells; `n_undetermined` cells without a prediction; `rmse` and `rmse_plain` (of
    simpler predictions of the same cells), in units of the fit.
    """
    squares = errors.set_index("split")[["error", "error_plain"]] ** 2
    squares.loc[squares["error"].isna()] = math.nan  # both errors are of the same cells
    by_split = squares.groupby(level=0, sort=False)
    n, rmse = by_split["error"].count(), np.sqrt(by_split.mean())
    columns = {"n": n, "n_undetermined": by_split.size() - n, "rmse": rmse["error"], "rmse_plain": rmse["error_plain"]}
    return pd.DataFrame(columns).reset_index()


def _splits(design: Design) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yield (way of holding out, name of what is held out, mask of its cells, mask of the cells that predict them)."""
    for row, is_out in zip(design.frame.index, np.eye(len(design.frame), dtype=bool), strict=True):
        yield "cell", str(row), is_out, ~is_out
    for way, labels in {"setting": design.settings, "group": design.groups}.items():
        for name in dict.fromkeys(labels) if way == "setting" or len(set(labels)) > 1 else ():
            yield way, name, labels == name, labels != name
    for axis, column in design.sizes.items():
        values = design.frame[column].to_numpy()
        for size in np.unique(values)[2:]:
            yield f"ordered {axis}", f"{size:.6g}", values == size, values < size


def _predict_split(fit: Estimate, way: str, name: str, is_out: np.ndarray, is_in: np.ndarray) -> pd.DataFrame:
    """Predict the cells `is_out` by a law fitted to the cells `is_in`; return rows of the table of errors."""
    design = fit.design
    train, test = design.select_rows(is_in), design.select_rows(is_out)
    basis = column_basis(train.levels.T, APART)
    known = np.abs(test.levels - test.levels @ basis @ basis.T).max(axis=1) < 1e-9  # the level is known from other rows
    known |= way == "group"
    constant = [axis for axis in train.logs if train.frame[design.sizes[axis]].nunique() == 1]
    for axis in constant:  # a constant size is part of the level
        column = design.sizes[axis]
        known &= (test.frame[column] == train.frame[column].iloc[0]).to_numpy()
    train, test = train.without_sizes(constant), test.without_sizes(constant)
    law = plain = np.full(len(known), math.nan)
    if known.any() and is_determined(train, spare=0):
        start = np.array([fit.values[exponent] for exponent in train.exponents])
        law = estimate(train, starts=(start,), grid="coarse").predicted(test)
        sizes = [way.removeprefix("ordered ")] if way.startswith("ordered") else train.logs
        plain = estimate(train.without_sizes(sizes)).predicted(test.without_sizes(sizes))
        if way == "group":
            law, plain = _with_own_level(test, law), _with_own_level(test, plain)
        law, plain = np.where(known, law, math.nan), np.where(known, plain, math.nan)
    error, error_plain = ((test.y - values) * test.weights for values in (law, plain))
    return pd.DataFrame({
        "split": way, "held_out": name, "row": test.frame.index.astype(str), "group": test.groups,
        "setting": test.settings, "observed": test.y, "predicted": law, "error": error, "error_plain": error_plain,
    })  # fmt: skip


def _with_own_level(test: Design, predicted: np.ndarray) -> np.ndarray:
    """Return predictions (n,) of a held-out group, each shifted to the level of the group's other cells."""
    if len(predicted) < 2:
        return np.full(len(predicted), math.nan)
    rest, weights = test.y - predicted, test.weights**2
    total, mass = (weights * rest).sum(), weights.sum()
    return np.asarray(predicted + (total - weights * rest) / (mass - weights))
