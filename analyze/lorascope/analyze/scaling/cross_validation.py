"""How well a law predicts cells that it hasn't seen: single ones, whole settings, whole groups, larger sizes."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.stores.progress import Progress

from .design import APART, Design, determined
from .estimate import Estimate, estimate, residuals_of

__all__ = ["cross_validate", "held_out", "influence"]


class _Split(NamedTuple):
    """Cells to hold out."""

    kind: str
    label: str
    test: np.ndarray
    """Places of the rows held out."""
    train: np.ndarray
    own_level: bool = False
    """Whether the rows held out bring a level that no other row has."""
    axis: str = ""
    """The size of which larger values are held out, if it is one."""


def held_out(fit: Estimate, *, progress: Progress | None = None) -> pd.DataFrame:
    """Errors of prediction of cells held out, a row for each cell and way of holding out; see `ScalingFit.held_out`."""
    splits = list(_splits(fit.design))
    parts = []
    for done, split in enumerate(splits, 1):
        parts.append(_predicted(fit, split))
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
    for axis, column in design.sizes.items():
        values = design.frame[column].to_numpy()
        for size in np.unique(values)[2:]:
            yield _Split(f"ordered {axis}", f"{size:.6g}", every[values == size], every[values < size], axis=axis)


def _predicted(fit: Estimate, split: _Split) -> pd.DataFrame:
    design = fit.design
    train, test = design.take(split.train), design.take(split.test)
    known = np.ones(len(split.test), bool) if split.own_level else _level_known(train, test)
    for axis in train.terms.names:  # a size that doesn't vary in what is left is part of the level there
        sizes = train.frame[design.sizes[axis]].to_numpy()
        if len(set(sizes)) == 1:
            known &= test.frame[design.sizes[axis]].to_numpy() == sizes[0]
            train, test = train.without(axis), test.without(axis)
    predicted = errors = plain = np.full(len(split.test), math.nan)
    values: dict[str, float] = {}
    if known.any() and determined(train, spare=0):
        before = dict(zip(design.exponents, fit.parts[2], strict=True))
        start = np.array([before[name] for name in train.exponents])
        again = estimate(train, delta=fit.delta, starts=(start,), grid="coarse")
        law, values = again.predicted(test), again.values
        plainer, plain_test = train, test
        for axis in (split.axis,) if split.axis else train.terms.names:
            plainer, plain_test = plainer.without(axis), plain_test.without(axis)
        told = estimate(plainer, delta=fit.delta).predicted(plain_test)
        if split.own_level:
            law, told = _with_own_level(test, law), _with_own_level(test, told)
        errors = np.where(known, residuals_of(test, law), math.nan)
        plain = np.where(known, residuals_of(plain_test, told), math.nan)
        predicted = np.where(np.isnan(errors), math.nan, law)
    return pd.DataFrame(
        {
            "split": split.kind, "held_out": split.label, "row": test.frame.index.astype(str), "group": test.groups,
            "setting": test.settings, "observed": test.y, "predicted": predicted, "error": errors,
            "error_plain": plain, **{name: values.get(name, math.nan) for name in design.term_names},
        }
    )  # fmt: skip


def _level_known(train: Design, test: Design) -> np.ndarray:
    """(n,) whether the level of each row follows from the levels of the rows at hand."""
    _, s, vt = np.linalg.svd(train.levels, full_matrices=False)
    basis = vt[s > APART * s[:1].sum()]
    return np.asarray(np.abs(test.levels - test.levels @ basis.T @ basis).max(axis=1) < 1e-9)


def _with_own_level(test: Design, predicted: np.ndarray) -> np.ndarray:
    """(n,) predictions shifted by what the other cells of the group that was held out say of its level."""
    if len(predicted) < 2:
        return np.full(len(predicted), math.nan)
    rest, weights = test.y - predicted, test.weights**2
    total, mass = (weights * rest).sum(), weights.sum()
    return np.asarray(predicted + (total - weights * rest) / (mass - weights))
