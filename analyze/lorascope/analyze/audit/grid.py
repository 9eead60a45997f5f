"""A published table laid out along its labels: a number, and what rounding may have done to it, for each cell."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

__all__ = ["Grid", "grid_of", "known"]


@dataclass(frozen=True)
class Grid:
    """Numbers of a table with NaN where it has none, along labels in their order of appearance."""

    groups: tuple[str, ...]
    """What has averages, weights and runs of its own, such as a model."""
    metrics: tuple[str, ...]
    settings: tuple[str, ...]
    members: tuple[str, ...]
    """What is averaged, such as data sets."""
    average: str
    """What the average is called; empty where the table has none."""
    pooled: np.ndarray
    """Bool (member,): whether the average is over it."""
    values: np.ndarray
    """Float64 (group, metric, setting, member)."""
    half: np.ndarray
    """Half a unit of the last decimal of each value."""
    averages: np.ndarray
    """Float64 (group, metric, setting), as printed."""
    half_averages: np.ndarray
    """Half a unit of the last decimal of each average."""

    def expected(self) -> np.ndarray:
        """Bool (group, metric, member): whether the average is over it, as far as the table has values of it."""
        there = np.isfinite(self.values).any(axis=2)
        return np.asarray(there & self.pooled)

    def everything(self) -> np.ndarray:
        """Values (group, metric, setting, member and, last, the average)."""
        return np.concatenate([self.values, self.averages[..., None]], axis=-1)

    def everything_half(self) -> np.ndarray:
        """`half` in the shape of `everything`."""
        return np.concatenate([self.half, self.half_averages[..., None]], axis=-1)

    def everyone(self) -> tuple[str, ...]:
        """Names along the last axis of `everything`."""
        return (*self.members, self.average)


def grid_of(cells: pd.DataFrame, average: str | None, members: Sequence[str] | None) -> Grid:
    """Cells of a table along its labels.

    Parameters
    ----------
    cells
        `group`, `metric`, `setting`, `member` (text), `value` and `half` (float64); no two rows with the same labels.
    average
        The member that is the average of others, or None.
    members
        Those that it is the average of; all others by default.

    Raises
    ------
    ValueError
        If there is no such average, or a member isn't in the table or is the average itself.
    """
    groups, metrics, settings, names = (
        tuple(cells[column].unique()) for column in ("group", "metric", "setting", "member")
    )
    if average is not None:
        known("average", [average], names, "rows; give None if it has no averages")
    others = tuple(name for name in names if name != average)
    known("members", members or (), others, "members")
    axes = {"group": groups, "metric": metrics, "setting": settings, "member": (*others, average)}
    place = tuple(pd.Index(axis).get_indexer(cells[name]) for name, axis in axes.items())
    values, half = np.full((2, *map(len, axes.values())), np.nan)
    values[place], half[place] = cells["value"], cells["half"]
    return Grid(
        groups,
        metrics,
        settings,
        others,
        average or "",
        np.array([members is None or name in members for name in others], dtype=bool),
        values[..., :-1],
        half[..., :-1],
        values[..., -1],
        half[..., -1],
    )


def known(option: str, named: Iterable[str], there: Sequence[str], what: str) -> None:
    """Refuse names that the table hasn't.

    Raises
    ------
    ValueError
        At the first of them.
    """
    for name in named:
        if name not in there:
            raise ValueError(f"`{option}` names {name!r}; the table has {', '.join(map(repr, there))} as its {what}")
