"""Rows on one metric: its correlations, its decisions, what it adds to the setting, and block by block."""

import numpy as np

from .beyond import beyond_setting
from .decisions import right_decisions
from .drawn import Drawn, Row, can_agree, drawn_pearson, drawn_share, ends, floored, ordered_pearson
from .noise import TELLING, accuracy_error, pair_z
from .relabel import relabel_test
from .resample import interval, sign_flip
from .roles import Metric
from .steady import concordance
from .within import block_pearson, block_sums, centred, correlation_p, kendall, pooled_pearson, ranks

__all__ = ["beyond_row", "block_rows", "decision_rows", "metric_row"]


def metric_row(made: Drawn, metric: Metric) -> Row:
    """Correlations with accuracy as they come, pooled and as means over blocks; concordance of the metric."""
    cells = made.cells
    x, y = cells.metrics[metric.name], cells.accuracy
    r = pooled_pearson(x, y, cells.block)
    around = interval(drawn_pearson(made, x), made.draws, made.options.significance)
    rho = block_pearson(ranks(x, cells.block), ranks(y, cells.block), cells.block)
    told = ~np.isnan(rho)
    flip = sign_flip(rho[told], made.options.n_resamples, made.rng()) if told.any() else None
    return {
        "cells": cells.name,
        "metric": metric.name,
        "better": "higher" if metric.sign > 0 else "lower",
        "n_cells": len(y),
        "n_effective": cells.n_effective,
        "pearson": r,
        **ends("", around),
        "degenerate": around.degenerate,
        "p": correlation_p(r, len(y)),
        "p_effective": correlation_p(r, cells.n_effective),
        **floored(relabel_test(ordered_pearson(made, x))),
        "n_blocks": int(told.sum()),
        "mean_pearson": _mean(block_pearson(x, y, cells.block)),
        "mean_spearman": _mean(rho),
        "mean_kendall": _mean(kendall(x, y, cells.block)),
        "flip_p": flip.p if flip else np.nan,
        "flip_floor": flip.floor if flip else np.nan,
        "n_settings": made.common.shape[1],
        "concordance": concordance(x[made.common]) if can_agree(made, metric) else np.nan,
    }


def decision_rows(made: Drawn, metric: Metric) -> list[Row]:
    """Of all pairs, and of those whose accuracies differ by 2 standard errors where these are known."""
    cells = made.cells
    right = right_decisions(cells.accuracy, metric.sign * cells.metrics[metric.name], made.pairs)
    kinds = {"all": right}
    if cells.n_items is not None:
        z = pair_z(cells.accuracy, accuracy_error(cells.accuracy, cells.n_items), made.pairs)
        kinds["2 SE apart"] = np.where(np.abs(z) >= TELLING, right, np.nan)
    found = []
    for name, some in kinds.items():
        n = int((~np.isnan(some)).sum())
        around = interval(drawn_share(made, some), made.draws, made.options.significance) if n else None
        found.append(
            {
                "cells": cells.name,
                "metric": metric.name,
                "pairs": name,
                "n_pairs": n,
                "right": float(np.nansum(some)),
                "share": float(np.nanmean(some)) if n else np.nan,
                "low": around.low if around else np.nan,
                "high": around.high if around else np.nan,
                "n_ties": int((some == 0.5).sum()),
            }
        )
    return found


def beyond_row(made: Drawn, metric: Metric) -> Row:
    """Partial correlation with accuracy given block and setting."""
    cells = made.cells
    found = beyond_setting(cells.metrics[metric.name], cells.accuracy, cells.block, cells.setting)
    flip = None if found.why else sign_flip(found.scores, made.options.n_resamples, made.rng())
    return {
        "cells": cells.name,
        "metric": metric.name,
        "n_cells": len(cells.accuracy),
        "n_settings": len(cells.settings),
        "partial_r": found.partial_r,
        "df": found.df,
        "p": found.p,
        "flip_p": flip.p if flip else np.nan,
        "flip_floor": flip.floor if flip else np.nan,
        "why": found.why,
    }


def block_rows(made: Drawn, metric: Metric) -> list[Row]:
    """Correlations and decisions of each block, and its share of the variance of accuracy within blocks."""
    cells = made.cells
    x, y, block = cells.metrics[metric.name], cells.accuracy, cells.block
    right = right_decisions(y, metric.sign * x, made.pairs)
    of_pair = block[made.pairs[:, 0]]
    spread = block_sums(centred(y, block), centred(y, block), block)
    columns = {
        "n_cells": np.bincount(block),
        "accuracy_share": spread / spread.sum(),
        "pearson": block_pearson(x, y, block),
        "spearman": block_pearson(ranks(x, block), ranks(y, block), block),
        "kendall": kendall(x, y, block),
        "n_pairs": np.bincount(of_pair, ~np.isnan(right), len(cells.blocks)).astype(int),
        "right": np.bincount(of_pair, np.nan_to_num(right), len(cells.blocks)),
    }
    return [
        {"cells": cells.name, "metric": metric.name, "block": name, **{key: found[k] for key, found in columns.items()}}
        for k, name in enumerate(cells.blocks)
    ]


def _mean(values: np.ndarray) -> float:
    """Of the blocks that have a coefficient; NaN if none has."""
    told = values[~np.isnan(values)]
    return float(told.mean()) if len(told) else np.nan
