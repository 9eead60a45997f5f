"""The columns of the paper's tables: ranks as they are, then model sizes at one rank; and the names of data sets."""

from typing import NamedTuple

import pandas as pd  # type: ignore[import-untyped]

__all__ = ["AVG", "Layout", "data_labels", "lay_out"]

AVG = "AVG"
"""The paper's word for the mean over data sets."""


class Layout(NamedTuple):
    """Cells, each under its column of the paper's tables."""

    cells: pd.DataFrame
    """With `column` (`r8`, `share4`) and `label` (the data set's name); a cell of two columns is there twice."""
    ranks: tuple[str, ...]
    """Columns of the rank sweep, the smallest rank first."""
    sizes: tuple[str, ...]
    """Columns of the model's size at `rank`, the smallest model first; none where no layers share weights."""
    rank: int
    """LoRA rank at which the model's size was varied."""
    left_out: tuple[str, ...]
    """Units that stand in no column."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the paper's order."""
        return (*self.ranks, *self.sizes)

    @property
    def settings(self) -> tuple[str, ...]:
        """The columns without the one that shows units a second time."""
        again = "share1" if f"r{self.rank}" in self.ranks else ""
        return tuple(name for name in self.columns if name != again)


def lay_out(cells: pd.DataFrame) -> Layout:
    """Cells under the paper's columns.

    Parameters
    ----------
    cells
        What `study_cells`, `prompt_cells` or `length_cells` returns, or rows of it.

    Notes
    -----
    Ranks r... are of models whose layers share no weights; sizes share8 ... share1 are of the rank that most sizes were
    run with, the smallest of these. So share1 is the rank sweep's run of that rank, shown a second time, as in the
    paper. Of units that differ in their number of training items those with the most count, by task.
    """
    items = cells["train_items"].astype("Float64").fillna(float("inf"))
    full = cells[items == items.groupby(cells["task"]).transform("max")]
    n_sizes = full[["model", "share", "R"]].drop_duplicates().groupby("R").size()
    rank = int(n_sizes.idxmax()) if len(n_sizes) else 0  # the first of several, which is the smallest
    plain = full[full["share"] == 1]
    shared = full[(full["R"] == rank) & (full["share"] > 1).any()]
    columns = ["r" + plain["R"].astype(str), "share" + shared["share"].astype(str)]
    both = pd.concat([plain, shared], ignore_index=True).assign(column=pd.concat(columns, ignore_index=True))
    return Layout(
        both.assign(label=data_labels(both)),
        tuple(f"r{one}" for one in sorted(plain["R"].unique().tolist())),
        tuple(f"share{one}" for one in sorted(shared["share"].unique().tolist(), reverse=True)),
        rank,
        tuple(name for name in dict.fromkeys(cells["run"]) if name not in set(both["run"])),
    )


def data_labels(cells: pd.DataFrame) -> list[str]:
    """The name of each row's data set, with its split or task where the name alone doesn't tell two apart."""
    n_splits = cells.groupby("dataset")["split"].nunique()
    n_tasks = cells.groupby("dataset")["task"].nunique()
    return [
        dataset + (f"/{split}" if n_splits[dataset] > 1 else "") + (f" ({task})" if n_tasks[dataset] > 1 else "")
        for dataset, split, task in cells[["dataset", "split", "task"]].itertuples(index=False, name=None)
    ]
