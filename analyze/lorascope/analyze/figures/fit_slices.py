"""A fit along one of its sizes, the others held: cells, what the law says between them, and local exponents of both."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..scaling.result import ScalingFit

__all__ = ["Curve", "Series", "Slice", "Steps", "slice_along"]

N_POINTS = 61
"""Of a curve."""


class Curve(NamedTuple):
    """What the law says from the smallest to the largest size of a series."""

    x: np.ndarray
    """(61,) sizes."""
    mean: np.ndarray
    """In the unit of the response."""
    low: np.ndarray
    high: np.ndarray

    def slopes(self, is_log: bool) -> np.ndarray:
        """Local exponents, d ln y / d ln x, or d y / d ln x; NaN where the law isn't above zero."""
        known = np.where(self.mean > 0, self.mean, np.nan)
        return np.gradient(np.log(known) if is_log else self.mean, np.log(self.x), edge_order=2)


class Steps(NamedTuple):
    """From each size to the next."""

    low: np.ndarray
    high: np.ndarray
    slope: np.ndarray
    """Of ln y, or y, by ln x; cells of one size are averaged first."""

    @property
    def middle(self) -> np.ndarray:
        """On a logarithmic axis."""
        return np.asarray(np.sqrt(self.low * self.high))


class Series(NamedTuple):
    """Cells of one group and offset along a size."""

    group: str
    offset: str
    """Such as `sweep=size`; empty without offsets."""
    places: np.ndarray
    """Of its rows in the fit."""
    x: np.ndarray
    y: np.ndarray
    curve: Curve | None
    """None of a single size."""

    def steps(self, is_log: bool) -> Steps:
        """What the cells say of the local exponent."""
        levels = np.unique(self.x)
        values = np.log(self.y) if is_log else self.y
        means = np.array([values[self.x == level].mean() for level in levels])
        return Steps(levels[:-1], levels[1:], np.diff(means) / np.diff(np.log(levels)))


class Slice(NamedTuple):
    """The cells whose other sizes are held."""

    column: str
    """Of the size."""
    series: tuple[Series, ...]
    held: Mapping[str, tuple[float, ...]]
    """Column of another size -> where it is held: where `column` varies, as near to its reference as a group has it."""
    n_cells: int
    n_elsewhere: int
    """Cells of other sizes."""

    @property
    def y(self) -> np.ndarray:
        """Of all cells."""
        return np.concatenate([one.y for one in self.series])

    @property
    def is_log(self) -> bool:
        """Whether all responses have a logarithm."""
        return bool((self.y > 0).all())


def slice_along(fit: ScalingFit, along: str | None) -> Slice:
    """Cells along an axis: N, R, D, share, or the law's first one.

    Raises
    ------
    ValueError
        If the law doesn't have this size, or it is the same in all cells.
    """
    design = fit.design
    columns = {**({"share": design.share} if design.share else {}), **design.axes}
    axis = next(iter(columns)) if along is None else along
    if axis not in columns:
        raise ValueError(f"`along` is {along!r}; the sizes of this fit are {list(columns)}")
    column = columns[axis]
    sizes = design.frame[column].to_numpy()
    if len(set(sizes)) < 2:
        raise ValueError(f"{column!r} is {sizes[0]:g} in every cell; there is nothing to draw along it: take another")
    others = {name: design.references.get(one, 1.0) for one, name in columns.items() if one != axis}
    kept = _held(design.frame, design.groups, column, others)
    chosen = design.frame[kept]
    held = {name: tuple(sorted(set(chosen[name]))) for name in others}
    parts = _parts(fit, np.flatnonzero(kept))
    return Slice(column, _with_curves(fit, column, parts), held, int(kept.sum()), int((~kept).sum()))


def _held(frame: pd.DataFrame, groups: np.ndarray, column: str, others: Mapping[str, float]) -> np.ndarray:
    """(n,) the cells of each group whose other sizes are nearest to their references, where `column` varies."""
    kept = np.ones(len(frame), bool)
    if not others:
        return kept
    sizes = frame[list(others)].to_numpy()
    distance = np.abs(np.log(sizes / np.array(list(others.values())))).sum(axis=1)
    for group in dict.fromkeys(groups):
        inside = np.flatnonzero(groups == group)
        n_levels = frame.iloc[inside].groupby(list(others))[column].transform("nunique").to_numpy()
        inside = inside[n_levels > 1] if (n_levels > 1).any() else inside
        nearest = sizes[inside[distance[inside].argmin()]]
        kept[groups == group] = (sizes[groups == group] == nearest).all(axis=1)
    return kept


def _parts(fit: ScalingFit, places: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """(group, offset) -> places of its rows; offsets of more cells first."""
    columns = list(fit.design.offset_columns)
    rows = fit.design.frame[columns].iloc[places]
    offsets = [", ".join(f"{name}={value}" for name, value in zip(columns, row, strict=True)) for row in rows.values]
    by_number = sorted(dict.fromkeys(offsets), key=lambda name: -offsets.count(name))
    groups, names = fit.design.groups[places], np.array(offsets, object)
    found = {}
    for offset in by_number:
        for group in dict.fromkeys(groups):
            inside = (groups == group) & (names == offset)
            if inside.any():
                found[group, offset] = places[inside]
    return found


def _with_curves(fit: ScalingFit, column: str, parts: Mapping[tuple[str, str], np.ndarray]) -> tuple[Series, ...]:
    frame, response = fit.design.frame, fit.design.response
    sizes = {key: frame[column].to_numpy()[places] for key, places in parts.items()}
    several = [key for key, x in sizes.items() if len(set(x)) > 1]
    asked = [
        frame.iloc[[parts[key][0]] * N_POINTS].assign(
            **{column: np.geomspace(sizes[key].min(), sizes[key].max(), N_POINTS)}
        )
        for key in several
    ]
    curves: dict[tuple[str, str], Curve] = {}
    if asked:
        told = fit.predict(pd.concat(asked, ignore_index=True))
        for k, key in enumerate(several):
            part = told.iloc[k * N_POINTS : (k + 1) * N_POINTS]
            curves[key] = Curve(
                asked[k][column].to_numpy(), *(part[name].to_numpy() for name in ("mean", "mean_low", "mean_high"))
            )
    y = frame[response].to_numpy()
    return tuple(Series(*key, places, sizes[key], y[places], curves.get(key)) for key, places in parts.items())
