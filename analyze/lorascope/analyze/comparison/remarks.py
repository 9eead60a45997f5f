"""Sentences on what a comparison assumed, left out or couldn't compute."""

import math
from collections.abc import Sequence

from ..format import format_number, format_percent
from .cells import StudyCells, named
from .drawn import Options
from .relabel import MOST_RELABELLED
from .tables import SetTables

__all__ = ["common_remarks", "remarks"]

FEW_BLOCKS = 8
"""Below, intervals from draws of blocks are known to be too narrow."""


def common_remarks(blocks: Sequence[str], n_others: int) -> tuple[str, ...]:
    """Sentences on all sets of cells together."""
    found = []
    if len(blocks) > 1:
        found.append(f"blocks that share a value of {' or '.join(map(repr, blocks))} count as independent all the same")
    if n_others > 1:
        found.append(f"p-values aren't corrected for {n_others} comparisons with the reference")
    return tuple(found)


def remarks(cells: StudyCells, tables: SetTables, options: Options) -> tuple[str, ...]:
    """Sentences on one set of cells, each of which begins with its name."""
    found = [
        *_constant(tables),
        *_dominant(tables),
        *_undefined(tables),
        *_noise(cells, tables),
        *_resampling(cells, tables, options),
        *_settings(cells, tables, options),
    ]
    return tuple(f"{cells.name}: {one}" for one in found)


def _constant(tables: SetTables) -> list[str]:
    flat: dict[str, list[str]] = {}
    for row in tables.blocks:
        if math.isnan(row["spearman"]):
            flat.setdefault(row["metric"], []).append(row["block"])
    return [
        f"{metric!r} or accuracy is constant in {named(names)}: left out of means over blocks and of sign flips"
        for metric, names in flat.items()
    ]


def _dominant(tables: SetTables) -> list[str]:
    shares = {row["block"]: row["accuracy_share"] for row in tables.blocks}
    like = 1 / sum(share * share for share in shares.values())
    if like >= len(shares) / 2:
        return []
    largest = sorted(shares, key=lambda name: -shares[name])[: max(round(like), 1)]
    return [
        f"{format_percent(sum(shares[name] for name in largest))} of accuracy's variance within blocks is that of "
        f"{named(largest)}, as if there were {format_number(like)} blocks of {len(shares)}: pooled correlations follow "
        "these, while rank correlations by block and decisions don't"
    ]


def _undefined(tables: SetTables) -> list[str]:
    return [
        *(
            f"{row['first']!r} and {row['second']!r}, or one of them and accuracy, are one and the same within blocks: "
            "tests of their correlations aren't defined"
            for row in tables.pairs
            if math.isnan(row["williams_t"])
        ),
        *(
            f"what {row['metric']!r} adds to the setting isn't identified: {row['why']}"
            for row in tables.beyond_setting
            if row["why"]
        ),
        *(
            f"concordance of {row['metric']!r} isn't defined: all blocks have {row['n_settings']} settings in common, "
            "and it needs three that some block tells apart"
            for row in tables.metrics
            if math.isnan(row["concordance"])
        ),
        *(
            f"no pair of settings is {row['pairs']}: there is nothing for {row['metric']!r} to decide"
            for row in tables.decisions
            if not row["n_pairs"]
        ),
    ]


def _noise(cells: StudyCells, tables: SetTables) -> list[str]:
    row = tables.noise[0]
    needed = row["items_needed"]
    enough = (
        f"half of the pairs of settings differ by 2 standard errors from {math.ceil(needed)} items on"
        if math.isfinite(needed)
        else "half of the pairs of settings have the same accuracy, whatever the number of items"
    )
    if cells.n_items is None:
        return [f"`n_items` isn't given: how much of accuracy's variation is chance is unknown; {enough}"]
    found = [
        f"{enough}; errors of accuracy are binomial and independent, and settings that answered the same items share "
        "part of them, which leaves less noise"
    ]
    if row["noise_share"] > 1:
        found.append("chance alone would give more variance than there is: there is no attainable correlation")
    if ((cells.accuracy == 0) | (cells.accuracy == 1)).any():
        found.append("accuracies of 0 or 1 count as without error, which they aren't")
    return found


def _resampling(cells: StudyCells, tables: SetTables, options: Options) -> list[str]:
    n = len(cells.blocks)
    drawn = "all draws" if tables.is_exact else f"{options.n_resamples} random draws (seed {options.seed}, two digits)"
    few = f"; of {n} blocks they are too narrow" if n < FEW_BLOCKS else ""
    found = [f"intervals are percentiles over {drawn} of {n} blocks{few}"]
    lost = max(row["degenerate"] for row in [*tables.metrics, *tables.pairs])
    if lost:
        found.append(f"up to {format_percent(lost)} of draws have no correlation and are left out")
    floor = max((row["flip_floor"] for row in tables.metrics if row["n_blocks"]), default=0.0)
    if floor > options.significance:
        found.append(f"sign flips can't give a p below {format_number(floor)}, the floor of so few blocks")
    return found


def _settings(cells: StudyCells, tables: SetTables, options: Options) -> list[str]:
    k = len(cells.settings)
    how = "all orders" if k <= MOST_RELABELLED else f"{options.n_resamples} random orders (seed {options.seed})"
    found = [
        f"verdicts are about these settings, of which there are {k}: what they do in all blocks alike counts once, and "
        f"setting_p permutes their labels, in each block the same way, through {how}"
    ]
    floor = max(row["setting_floor"] for row in tables.metrics)
    if floor > options.significance:
        found.append(
            f"labels of settings can't give a p below {format_number(floor)}: no metric can be seen to follow accuracy "
            "before blocks have more settings in common"
        )
    if tables.pairs:
        found.append(
            "swap_p asks if either metric could as well have had the other's ranks in a block, for these settings "
            "only: effects drawn anew for other settings may be larger for the other metric"
        )
    return found
