"""Rows on accuracy alone: how much of it is chance, over all cells and for each pair of settings."""

import numpy as np

from .drawn import Drawn, Row
from .noise import TELLING, accuracy_error, items_needed, noise_share, pair_z

__all__ = ["difference_rows", "noise_row"]


def noise_row(made: Drawn) -> Row:
    """Items that the median pair of settings needs, and what the items there are leave to chance."""
    cells = made.cells
    p, q = (cells.accuracy[made.pairs[:, side]] for side in (0, 1))
    row: Row = {
        "cells": cells.name,
        "n_cells": len(cells.accuracy),
        "n_pairs": len(made.pairs),
        "median_difference": float(np.median(np.abs(p - q))),
        "items_needed": float(np.median(items_needed(cells.accuracy, made.pairs))),
    }
    if cells.n_items is None:
        return row
    error = accuracy_error(cells.accuracy, cells.n_items)
    z = np.abs(pair_z(cells.accuracy, error, made.pairs))
    found = noise_share(cells.accuracy, error, cells.block)
    return {
        **row,
        "median_error": float(np.median(error)),
        "noise_share": found.share,
        "reliability": 1 - found.share,
        "attainable_r": float(np.sqrt(1 - found.share)) if found.share <= 1 else np.nan,
        "within_2_se": float((z < TELLING).mean()),
        "median_z": float(np.median(z)),
    }


def difference_rows(made: Drawn) -> list[Row]:
    """Pairs of settings, each with how sure its order is."""
    cells = made.cells
    needed = items_needed(cells.accuracy, made.pairs)
    rows = [
        {
            "cells": cells.name,
            "block": cells.blocks[cells.block[i]],
            "first": cells.settings[cells.setting[i]],
            "second": cells.settings[cells.setting[j]],
            "difference": float(cells.accuracy[i] - cells.accuracy[j]),
            "items_needed": float(n),
        }
        for n, (i, j) in zip(needed, made.pairs, strict=True)
    ]
    if cells.n_items is None:
        return rows
    z = pair_z(cells.accuracy, accuracy_error(cells.accuracy, cells.n_items), made.pairs)
    return [{**row, "z": float(one)} for row, one in zip(rows, z, strict=True)]
