"""How much of an accuracy's variation within groups a test set of so many items gives by chance."""

from typing import Any

import numpy as np

from .correlations import centred
from .study_cells import StudyCells

__all__ = ["noise_row"]

TELLING = 2.0
"""Standard errors that two accuracies must lie apart to count as different."""


def noise_row(cells: StudyCells) -> dict[str, Any]:
    """Items that the median pair of settings needs, and what the items there are leave to chance.

    Notes
    -----
    Accuracies p and q on n independent items each are 2 standard errors apart from n = 4 (p(1 - p) + q(1 - q))/(p -
    q)^2 items on: `items_needed`, not rounded, the median over pairs of settings of a group. `noise_share` is what
    binomial errors p(1 - p)/n add to the variance within groups, over that variance; no correlation of accuracy with an
    exact quantity is expected above `attainable_r`, sqrt(1 - noise_share). Settings that answer the same items share
    part of their error, which then doesn't vary within a group: the true share is smaller. `largest_group` holds
    `largest_share` of accuracy's variance within groups, as if there were `like_groups` groups, 1/sum(share^2).

    References
    ----------
    Spearman (1904), American Journal of Psychology 15, 72: attenuation by errors of measurement.
    """
    squares = np.nansum(centred(cells.accuracy) ** 2, axis=1)
    share = squares / squares.sum()
    spread = cells.accuracy * (1 - cells.accuracy)
    first, second = np.triu_indices(len(cells.settings), 1)
    apart = np.abs(cells.accuracy[:, first] - cells.accuracy[:, second])
    needed = np.divide(
        TELLING**2 * (spread[:, first] + spread[:, second]), apart**2, out=np.full(apart.shape, np.inf), where=apart > 0
    )
    there = np.isfinite(apart)
    row = {
        "cells": cells.name,
        "n_cells": cells.n_cells,
        "n_groups": len(cells.groups),
        "largest_group": cells.groups[int(share.argmax())],
        "largest_share": float(share.max()),
        "like_groups": float(1 / (share @ share)),
        "n_pairs": int(there.sum()),
        "median_difference": float(np.median(apart[there])),
        "items_needed": float(np.median(needed[there])),
    }
    if cells.n_items is None:
        return row
    n = np.isfinite(cells.accuracy).sum(axis=1)
    noise = float(np.nanmean(spread / cells.n_items, axis=1) @ (n - 1)) / float(squares.sum())
    return {**row, "noise_share": noise, "attainable_r": float(np.sqrt(1 - noise)) if noise <= 1 else np.nan}
