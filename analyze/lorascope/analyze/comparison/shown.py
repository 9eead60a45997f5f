"""Which columns of a comparison's tables its summary shows, under which titles."""

from typing import NamedTuple

__all__ = ["SHOWN", "Shown"]


class Shown(NamedTuple):
    """A part of a table."""

    table: str
    """Field of `MetricComparison`."""
    title: str
    note: str
    columns: str
    """Names, a blank between two; those that a table lacks aren't shown."""


SHOWN = (
    Shown(
        "metrics",
        "Pooled correlation with accuracy, values centred within blocks",
        "p with n_cells; p_effective with n_effective, cells less blocks plus 1. low, high: bootstrap of blocks. "
        "setting_p: labels of settings permuted, alike in all blocks, which can't go below setting_floor.",
        "cells metric better n_cells n_effective pearson low high p p_effective setting_p setting_floor",
    ),
    Shown(
        "metrics",
        "Mean over blocks of correlations with accuracy",
        "flip_p: of a mean Spearman of 0 by sign flips, which can't go below flip_floor. concordance: Kendall's W of "
        "the metric over the n_settings that all blocks have.",
        "cells metric n_blocks mean_pearson mean_spearman mean_kendall flip_p flip_floor n_settings concordance",
    ),
    Shown(
        "pairs",
        "Which metric agrees more with accuracy",
        "Agreement: pooled correlation of accuracy with the metric, turned so that higher is better. correlation: of "
        "the two metrics, turned alike. low, high: of the difference, bootstrap of blocks. setting_p: labels of "
        "settings of accuracy permuted against both, alike in all blocks, which can't go below setting_floor.",
        "cells first second agreement_first agreement_second correlation difference low high setting_p setting_floor",
    ),
    Shown(
        "pairs",
        "Tests of that difference as if cells were independent: Williams' t, Meng's z, Steiger's Z",
        "With n cells, then with the effective number.",
        "cells first second williams_t williams_p meng_z meng_p steiger_z steiger_p williams_t_effective "
        "williams_p_effective meng_p_effective steiger_p_effective",
    ),
    Shown(
        "pairs",
        "Differences by block: Spearman, decisions, concordance",
        "flip_p: by sign flips; decision_low, decision_high: bootstrap of blocks; swap_p: by swaps within blocks, "
        "whose null is that in each block either metric could have had the other's ranks of these settings.",
        "cells first second n_blocks spearman_difference flip_p flip_floor decision_difference decision_low "
        "decision_high concordance_difference swap_p",
    ),
    Shown(
        "decisions",
        "Pairs of settings within a block that the metric orders as accuracy does",
        "Pairs with the same accuracy are skipped, ties of the metric count half. low, high: bootstrap of blocks.",
        "cells metric pairs n_pairs right share low high n_ties",
    ),
    Shown(
        "beyond_setting",
        "Partial correlation with accuracy, given block and setting",
        "p: of independent cells; flip_p: by sign flips of blocks.",
        "cells metric n_cells n_settings partial_r df p flip_p flip_floor",
    ),
    Shown(
        "noise",
        "Chance in accuracy",
        "items_needed: test items at which the median pair of settings is 2 standard errors apart. noise_share: of the "
        "variance within blocks. attainable_r: sqrt(1 - noise_share).",
        "cells n_cells n_pairs median_difference items_needed median_error noise_share attainable_r within_2_se "
        "median_z",
    ),
)
