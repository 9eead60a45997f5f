"""What the paper's figures 2 and 3 are made of, as tables."""

import pandas as pd  # type: ignore[import-untyped]

from .layout import laid_out
from .tables import METRICS, table_of

__all__ = ["paper_figure_2", "paper_figure_3"]


def paper_figure_2(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's figure 2: MIUB, PPL and CE of texts against model size, a number a row.

    Parameters
    ----------
    cells
        What `study_cells` returns.

    Returns
    -------
    DataFrame
        As of `paper_table_1`, with `N`, `N_non_embedding`, `share` and `R`; all of one rank, that of the sizes. Where
        no layers share weights, models stand beside each other.
    """
    texts = cells[cells["is_text"]]
    layout = laid_out(texts)
    at_rank = layout.sizes or tuple(name for name in layout.ranks if name == f"r{layout.rank}")
    narrow = layout._replace(cells=layout.cells[layout.cells["column"].isin(at_rank)], ranks=(), sizes=at_rank)
    table = table_of(narrow, "label", ("MIUB", "PPL", "CE")).rename(columns={"label": "dataset"})
    known = narrow.cells.drop_duplicates(["model", "column"]).set_index(["model", "column"])
    sizes = known[["N", "N_non_embedding", "share", "R"]].reset_index().rename(columns={"column": "setting"})
    merged = table.merge(sizes, on=["model", "setting"], how="left")
    merged.attrs = dict(table.attrs)
    return merged


def paper_figure_3(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's figure 3: MIUB and ACC against length, by data set and setting, a number a row.

    Parameters
    ----------
    cells
        What `length_cells` returns.

    Returns
    -------
    DataFrame
        As of `paper_table_1`, with `bucket`, `mean_length` and `n_wanted`, the items that were asked for.
    """
    layout = laid_out(cells)
    parts = []
    for bucket in dict.fromkeys(layout.cells["bucket"]):
        own = layout.cells[layout.cells["bucket"] == bucket]
        part = table_of(layout._replace(cells=own), "label", ("MIUB", "ACC"))
        # Models count tokens each in its own way, and draw other items by that.
        about = own.drop_duplicates(["label", "model"])[["label", "model", "mean_length", "n_wanted"]]
        parts.append(part.assign(bucket=bucket).merge(about, on=["label", "model"], how="left"))
    whole = pd.concat(parts, ignore_index=True) if parts else table_of(layout, "label", tuple(METRICS)[:0])
    whole = whole.rename(columns={"label": "dataset"})
    whole.attrs = {"rank": layout.rank, "left_out": list(layout.left_out), "n_empty": int(whole["value"].isna().sum())}
    return whole
