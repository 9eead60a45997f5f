"""A row on two metrics: how their agreement with accuracy differs, and how sure that is."""

from collections.abc import Callable

import numpy as np

from .cells import StudyCells
from .decisions import right_decisions
from .dependent import DifferenceTest, meng, steiger, williams
from .drawn import Drawn, Row, can_agree, drawn_pearson, drawn_share, ends, floored, ordered_pearson
from .relabel import relabel_test
from .resample import interval, sign_flip
from .roles import Metric
from .steady import swap_test
from .within import block_pearson, pooled_pearson, ranks

__all__ = ["pair_row"]

SAME = 1 - 1e-12
"""Correlations from which on two columns count as one."""
TESTS: tuple[tuple[str, Callable[[float, float, float, int], DifferenceTest]], ...] = (
    ("williams_t", williams),
    ("meng_z", meng),
    ("steiger_z", steiger),
)


def pair_row(made: Drawn, first: Metric, second: Metric) -> Row:
    """Both oriented: `agreement` is the correlation of accuracy with a metric turned so that higher is better."""
    cells, significance = made.cells, made.options.significance
    a, b = (one.sign * cells.metrics[one.name] for one in (first, second))
    r = [pooled_pearson(cells.accuracy, a, cells.block), pooled_pearson(cells.accuracy, b, cells.block)]
    shared = pooled_pearson(a, b, cells.block)
    around = interval(drawn_pearson(made, a) - drawn_pearson(made, b), made.draws, significance)
    right = [right_decisions(cells.accuracy, one, made.pairs) for one in (a, b)]
    decided = interval(drawn_share(made, right[0]) - drawn_share(made, right[1]), made.draws, significance)
    return {
        "cells": cells.name,
        "first": first.name,
        "second": second.name,
        "n_cells": len(a),
        "n_effective": cells.n_effective,
        "agreement_first": r[0],
        "agreement_second": r[1],
        "correlation": shared,
        "difference": r[0] - r[1],
        **ends("", around),
        "degenerate": around.degenerate,
        **_tests(r[0], r[1], shared, cells),
        **floored(relabel_test(ordered_pearson(made, a) - ordered_pearson(made, b))),
        **_flips(made, a, b),
        "decision_difference": float(np.nanmean(right[0]) - np.nanmean(right[1])),
        **ends("decision_", decided),
        **_swaps(made, first, second),
    }


def _tests(r_12: float, r_13: float, r_23: float, cells: StudyCells) -> Row:
    """Statistic and p of each test, with n cells and with the effective number."""
    found: Row = {}
    is_one = max(map(abs, (r_12, r_13, r_23))) > SAME
    for suffix, n in (("", len(cells.accuracy)), ("_effective", cells.n_effective)):
        for name, test in TESTS:
            done = DifferenceTest(np.nan, np.nan, np.nan) if is_one else test(r_12, r_13, r_23, n)
            found[name + suffix] = done.statistic
            found[f"{name.partition('_')[0]}_p{suffix}"] = done.p
    return found


def _flips(made: Drawn, a: np.ndarray, b: np.ndarray) -> Row:
    """Difference of within-block Spearman with accuracy, over the blocks that have both."""
    block = made.cells.block
    wanted = ranks(made.cells.accuracy, block)
    gap = block_pearson(ranks(a, block), wanted, block) - block_pearson(ranks(b, block), wanted, block)
    told = ~np.isnan(gap)
    flip = sign_flip(gap[told], made.options.n_resamples, made.rng()) if told.any() else None
    return {
        "n_blocks": int(told.sum()),
        "spearman_difference": flip.mean if flip else np.nan,
        "flip_p": flip.p if flip else np.nan,
        "flip_floor": flip.floor if flip else np.nan,
    }


def _swaps(made: Drawn, first: Metric, second: Metric) -> Row:
    if not (can_agree(made, first) and can_agree(made, second)):
        return {"concordance_difference": np.nan, "swap_p": np.nan, "swap_floor": np.nan}
    a, b = (made.cells.metrics[one.name][made.common] for one in (first, second))
    swap = swap_test(a, b, made.options.n_resamples, made.rng())
    return {"concordance_difference": swap.difference, "swap_p": swap.p, "swap_floor": swap.floor}
