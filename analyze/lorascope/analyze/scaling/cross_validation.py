"""How well a law predicts cells that it hasn't seen: single ones, whole settings, whole groups, larger sizes."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .design import APART, Design, determined
from .estimate import Estimate, estimated, residuals_of

__all__ = ["SPLITS", "cross_validate", "held_out"]

SPLITS = ("cell", "setting", "group", "ordered")
Progress = Callable[[int, int], None]


class _Split(NamedTuple):
    kind: str
    label: str
    test: np.ndarray
    """Places of the rows held out."""
    train: np.ndarray
    own_level: bool = False
    """Whether the rows held out bring a level that no other row has."""
    axis: str = ""
    """That larger sizes of are held out."""


def held_out(estimate: Estimate, *, progress: Progress | None = None) -> pd.DataFrame:
    """Errors of prediction of cells held out, a row for each cell and way of holding out.

    Returns
    -------
    DataFrame
        `split`: `cell` (each alone), `setting` (a setting in all groups), `group` (a group), `ordered N` and so on (all
        cells of a size, from those of smaller sizes alone, from the third size on). `held_out`: its name. `row`,
        `group`, `setting` of the cell; `observed`; `predicted`; `error`: observed less predicted, in units of the fit;
        `error_plain`: the same of a plainer prediction: the group's level alone; of `ordered N` and so on, the law
        without the terms of that size. Splits that leave the law undetermined have NaN.

    Notes
    -----
    A group that is held out has a level that nothing else tells: each of its cells is predicted with the terms from the
    other groups and the level from the group's other cells.
    """
    splits = list(_splits(estimate.design))
    rows: list[dict[str, object]] = []
    for done, split in enumerate(splits, 1):
        rows += _predicted(estimate, split)
        if progress is not None:
            progress(done, len(splits))
    return pd.DataFrame(rows)


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
        values, plain = known["error"].to_numpy(), known["error_plain"].to_numpy()
        some = len(known) > 0
        rows.append(
            {
                "split": split,
                "n": len(known),
                "n_undetermined": len(part) - len(known),
                "rmse": float(np.sqrt((values**2).mean())) if some else math.nan,
                "mae": float(np.abs(values).mean()) if some else math.nan,
                "bias": float(values.mean()) if some else math.nan,
                "rmse_plain": float(np.sqrt((plain**2).mean())) if some else math.nan,
            }
        )
    return pd.DataFrame(rows)


def _splits(design: Design) -> Iterator[_Split]:
    every = np.arange(len(design.frame))
    for cell in every:
        yield _Split("cell", str(design.frame.index[cell]), every[[cell]], np.delete(every, cell))
    for setting in dict.fromkeys(design.settings):
        held = design.settings == setting
        yield _Split("setting", setting, every[held], every[~held])
    groups = list(dict.fromkeys(design.groups))
    for group in groups if len(groups) > 1 else []:
        held = design.groups == group
        yield _Split("group", group, every[held], every[~held], own_level=True)
    sizes = {**dict(design.axes), **({"share": design.share} if design.share else {})}
    for axis, column in sizes.items():
        values = design.frame[column].to_numpy()
        for size in np.unique(values)[2:]:
            yield _Split(f"ordered {axis}", f"{size:.6g}", every[values == size], every[values < size], axis=axis)


def _predicted(estimate: Estimate, split: _Split) -> Iterator[dict[str, object]]:
    design = estimate.design
    train, test = design.take(split.train), design.take(split.test)
    known = np.ones(len(split.test), bool) if split.own_level else _level_known(train, test)
    for axis, value in _constant_axes(train).items():
        known &= _size(test, axis) == value
        train, test = train.without(axis), test.without(axis)
    errors = predicted = plain = np.full(len(split.test), math.nan)
    if known.any() and determined(train, spare=0):
        fit = estimated(train, delta=estimate.delta, starts=_start(estimate, train), grid="coarse")
        dropped = (split.axis,) if split.axis else train.terms.names
        plainer, plain_test = _without(train, dropped), _without(test, dropped)
        predicted, plain_values = fit.predicted(test), estimated(plainer, delta=estimate.delta).predicted(plain_test)
        if split.own_level:
            predicted, plain_values = _with_own_level(test, predicted), _with_own_level(test, plain_values)
        errors = np.where(known, residuals_of(test, predicted), math.nan)
        plain = np.where(known, residuals_of(plain_test, plain_values), math.nan)
    for k, place in enumerate(split.test):
        yield {
            "split": split.kind, "held_out": split.label, "row": str(design.frame.index[place]),
            "group": design.groups[place], "setting": design.settings[place], "observed": float(design.y[place]),
            "predicted": float(predicted[k]) if not math.isnan(errors[k]) else math.nan,
            "error": float(errors[k]), "error_plain": float(plain[k]),
        }  # fmt: skip


def _level_known(train: Design, test: Design) -> np.ndarray:
    """(n,) whether the level of each row follows from the levels of the rows at hand."""
    _, s, vt = np.linalg.svd(train.levels, full_matrices=False)
    basis = vt[s > APART * s[:1].sum()]
    return np.asarray(np.abs(test.levels - test.levels @ basis.T @ basis).max(axis=1) < 1e-9)


def _size(design: Design, axis: str) -> np.ndarray:
    return np.asarray(design.frame[design.share if axis == "share" else design.axes[axis]].to_numpy())


def _constant_axes(train: Design) -> dict[str, float]:
    """Axis -> its only size, of those that don't vary in these rows."""
    sizes = {axis: np.unique(_size(train, axis)) for axis in train.terms.names}
    return {axis: float(values[0]) for axis, values in sizes.items() if len(values) == 1}


def _start(estimate: Estimate, train: Design) -> tuple[np.ndarray, ...]:
    found = dict(zip(estimate.design.exponents, estimate.parts[2], strict=True))
    return (np.array([found[name] for name in train.exponents]),)


def _without(design: Design, axes: Sequence[str]) -> Design:
    for axis in axes:
        design = design.without(axis)
    return design


def _with_own_level(test: Design, predicted: np.ndarray) -> np.ndarray:
    """(n,) predictions shifted by what the other cells of the group that was held out say of its level."""
    if len(predicted) < 2:
        return np.full(len(predicted), math.nan)
    rest, weights = test.y - predicted, test.weights**2
    total, mass = (weights * rest).sum(), weights.sum()
    return np.asarray(predicted + (total - weights * rest) / (mass - weights))
