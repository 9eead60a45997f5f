"""The cells that metrics are compared on: read from a study's table, checked, narrowed to those that tell something."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..stats.frame import checked, group_labels
from .items import Items, items_of
from .roles import Metric, in_table

__all__ = ["StudyCells", "named", "read_cells", "without_collapsed"]

LEAST_EFFECTIVE = 4
"""Cells, less blocks, plus 1: the tests of two correlations have no degree of freedom below."""
MOST_NAMED = 3
"""Blocks that a sentence names."""


@dataclass(frozen=True)
class StudyCells:
    """Cells of blocks that have two or more of them."""

    name: str
    """Which cells of the table these are."""
    accuracy: np.ndarray
    """(cell,), 0 to 1."""
    metrics: Mapping[str, np.ndarray]
    """(cell,) each, in the table's units or their logarithm."""
    block: np.ndarray
    """(cell,), codes 0, 1, ... in the order of names, so that no result depends on the order of rows."""
    setting: np.ndarray
    """(cell,), codes as well."""
    blocks: tuple[str, ...]
    settings: tuple[str, ...]
    n_items: np.ndarray | None
    """(cell,), test items behind each accuracy, if known."""

    @property
    def n_effective(self) -> int:
        """Cells, less blocks, plus 1."""
        return len(self.accuracy) - len(self.blocks) + 1


def read_cells(
    frame: pd.DataFrame,
    accuracy: str,
    metrics: Sequence[Metric],
    blocks: Sequence[str],
    setting: str,
    n_items: Items | None,
) -> tuple[StudyCells, pd.DataFrame, tuple[str, ...]]:
    """All cells that can be used, the rows of the table that they are, and sentences on what was left out or repeats.

    Raises
    ------
    TypeError
        If `frame` isn't a DataFrame.
    ValueError
        As `studies.frame.checked` and `roles.in_table`; if accuracy isn't between 0 and 1, a block has a setting twice,
        items aren't whole numbers, or too little is left to compare.
    """
    if not blocks:
        raise ValueError("`blocks` is empty; name the columns whose values say which cells may be compared")
    metrics = in_table(metrics, getattr(frame, "columns", ()))  # what isn't a table is refused by `checked`
    columns = list(dict.fromkeys(one.column for one in metrics))
    rows, left_out = checked(
        frame,
        numbers=[accuracy, *columns, *([n_items] if isinstance(n_items, str) else [])],
        positive=[one.column for one in metrics if one.is_log],
        labels=[*blocks, setting],
        may_lack=[accuracy, *columns],
    )
    _refuse_accuracy(rows[accuracy], accuracy)
    rows = rows.reset_index(drop=True)
    labels = pd.Series(group_labels(rows, blocks))
    _refuse_twice(labels, rows[setting])
    block, block_names = pd.factorize(labels, sort=True)
    codes, setting_names = pd.factorize(rows[setting], sort=True)
    values = {one.name: rows[one.column].to_numpy() for one in metrics}
    cells = StudyCells(
        name="all",
        accuracy=rows[accuracy].to_numpy(),
        metrics={one.name: np.log(values[one.name]) if one.is_log else values[one.name] for one in metrics},
        block=block,
        setting=codes,
        blocks=tuple(block_names),
        settings=tuple(setting_names),
        n_items=None if n_items is None else items_of(n_items, rows, labels, blocks),
    )
    kept, notes = _narrowed(cells, np.ones(len(rows), bool))
    return kept, rows, (*left_out, *notes, *_repeats(rows[[accuracy, *columns]], labels, rows[setting]))


def without_collapsed(cells: StudyCells, accuracy: str, below: float) -> tuple[StudyCells, tuple[str, ...]]:
    """The cells whose accuracy is at least `below`, and sentences on what that leaves out.

    Raises
    ------
    ValueError
        If too little is left to compare.
    """
    kept = cells.accuracy >= below
    narrowed, notes = _narrowed(replace(cells, name=f"{accuracy} >= {below:g}"), kept)
    chosen = "; cells are chosen by what is to be predicted, which bends correlations" if not kept.all() else ""
    said = f"{int((~kept).sum())} of {len(kept)} cells are left out of the cells {narrowed.name!r}{chosen}"
    return narrowed, (said, *notes)


def named(names: Sequence[str], *, quote: bool = True) -> str:
    """`'a', 'b', 'c' and 2 more`."""
    shown = ", ".join(repr(name) if quote else name for name in names[:MOST_NAMED])
    return shown + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def _narrowed(cells: StudyCells, kept: np.ndarray) -> tuple[StudyCells, tuple[str, ...]]:
    """Those cells, but for blocks of which one is left, with codes without gaps."""
    n = np.bincount(cells.block[kept], minlength=len(cells.blocks))
    lone = [name for name, many in zip(cells.blocks, n, strict=True) if many == 1]
    kept = kept & (n[cells.block] >= 2)
    block, block_codes = np.unique(cells.block[kept], return_inverse=True)
    setting, setting_codes = np.unique(cells.setting[kept], return_inverse=True)
    narrowed = replace(
        cells,
        accuracy=cells.accuracy[kept],
        metrics={name: values[kept] for name, values in cells.metrics.items()},
        block=block_codes,
        setting=setting_codes,
        blocks=tuple(cells.blocks[k] for k in block),
        settings=tuple(cells.settings[k] for k in setting),
        n_items=None if cells.n_items is None else cells.n_items[kept],
    )
    _refuse_little(narrowed)
    said = f"of the cells {cells.name!r}, {named(lone)} {'have' if len(lone) > 1 else 'has'} a single one: left out"
    return narrowed, (said,) if lone else ()


def _refuse_little(cells: StudyCells) -> None:
    of = "" if cells.name == "all" else f" of the cells {cells.name!r}"
    if len(cells.blocks) < 2:
        raise ValueError(
            f"{len(cells.blocks)} block{'' if len(cells.blocks) == 1 else 's'}{of} with two cells or more; metrics are "
            "compared within blocks, and how sure that is comes from the blocks: give two or more"
        )
    if cells.n_effective < LEAST_EFFECTIVE:
        raise ValueError(
            f"{len(cells.accuracy)} cells in {len(cells.blocks)} blocks{of} count as {cells.n_effective}, cells less "
            f"blocks plus 1; the tests need {LEAST_EFFECTIVE}"
        )
    for name, values in (("accuracy", cells.accuracy), *cells.metrics.items()):
        if all(np.ptp(values[cells.block == one]) == 0 for one in range(len(cells.blocks))):
            raise ValueError(f"{name!r} is the same in all cells of each block{of}; there is nothing to correlate")


def _refuse_accuracy(values: pd.Series, name: str) -> None:
    outside = values[(values < 0) | (values > 1)]
    if len(outside):
        raise ValueError(
            f"accuracy {name!r} is {outside.iloc[0]:g} in row {outside.index[0]}; it is a share from 0 to 1: divide "
            "percents by 100"
        )


def _refuse_twice(block: pd.Series, setting: pd.Series) -> None:
    again = pd.DataFrame({"block": block, "setting": setting}).duplicated()
    if again.any():
        row = again.idxmax()
        raise ValueError(
            f"block {block[row]!r} has setting {setting[row]!r} twice; average repeated runs, or let `setting` name a "
            "column that tells them apart"
        )


def _repeats(values: pd.DataFrame, block: pd.Series, setting: pd.Series) -> tuple[str, ...]:
    """A sentence if cells of a block have the same values throughout."""
    table = values.assign(block=block)
    again = table.duplicated(keep=False)
    if not again.any():
        return ()
    groups = [rows for _, rows in table[again].groupby(list(table.columns), sort=False)]
    places = [f"{rows['block'].iloc[0]!r} at {', '.join(setting[rows.index])}" for rows in groups]
    said = named(places, quote=False)
    return (f"all values used are equal in {said}: if that is one run given twice, drop one; here all count",)
