"""Whether a number can be believed: a word for each estimate, and the rule behind it."""

import math
from collections.abc import Mapping

__all__ = ["VERDICTS", "panel_verdicts", "verdict"]

VERDICTS = ("ok", "lower bound only", "saturated", "undersampled", "biased", "assumes Gaussian")
"""What an estimate is called; `verdict` has the rules."""

NEAR_CEILING = 0.8
"""Share of its ceiling at which an estimate says that there is much, not how much."""
GROWTH = 0.5
"""Share of ln 4 by which an estimate that only counts its rows grows from a quarter of them to all."""
DRIFT = 0.02
"""Nats beyond the noise that an estimate may move from a quarter of the rows to all."""
AGREEMENT = 0.05
"""Nats beyond the noise up to which two members of the panel say the same."""


def verdict(
    says: str,
    *,
    value: float,
    se: float,
    half: float,
    quarter: float,
    eighth: float,
    ceiling: float,
    null_mean: float = math.nan,
    null_sd: float = math.nan,
) -> str:
    """One of `VERDICTS` for an estimate: its fields in nats, NaN where unknown, and what its estimator `says` at best.

    Notes
    -----
    `saturated`: infinite, in a part too; at 0.8 of its ceiling or more; or at half of it, and grown by half of ln 4 or
    more from a quarter of the rows to all (half of ln 2 from a half, where quarters are too small). `undersampled`:
    moved by more than 0.02 nat plus twice its standard error on that way, or too few rows to know. `biased`: shuffles,
    whose truth is 0, give more or less than 0 by 0.02 nat plus twice their scatter, or the value is below 0 by 0.02 nat
    plus twice its standard error; ties and samples whose rows cluster do that to neighbours. Else what the estimator
    says: `lower bound only` and `assumes Gaussian` stay that however many rows there are; an estimate that
    stays where it is, is `ok`. That is no proof: heavy tails can hide dependence from neighbours without any drift.
    """
    if any(map(math.isinf, (value, half, quarter, eighth))) or value >= max(NEAR_CEILING * ceiling, DRIFT):
        return "saturated"
    smaller, times = (half, 2) if math.isnan(quarter) else (quarter, 4)
    drift = value - smaller
    if drift >= GROWTH * math.log(times) and value >= ceiling / 2:
        return "saturated"
    if abs(null_mean) > DRIFT + 2 * null_sd or value < -(DRIFT + 2 * se):
        return "biased"
    if math.isnan(drift + se) or abs(drift) > DRIFT + 2 * se:
        return "undersampled"
    return says


def panel_verdicts(members: Mapping[str, tuple[float, float]], verdicts: Mapping[str, str]) -> dict[str, str]:
    """Verdicts of `panel` and of its members (value and standard error), which correct what `verdict` says of each.

    Notes
    -----
    No member can say too much but for noise, and for what `biased` finds. One that is below the largest by more than
    0.05 nat plus twice that one's standard error is therefore no more than a lower bound, whatever it says of itself.
    The panel is as good as its largest member: where that one's verdict is neither `ok` nor `lower bound only`, so is
    the panel's; else the panel is `ok` if another member comes as near, or `lower bound only`.
    """
    best = max(members, key=lambda name: members[name][0])
    value, error = members[best]
    near = AGREEMENT + (0.0 if math.isnan(error) else 2 * error)
    agree = [name for name in members if name != best and value - members[name][0] <= near]
    found = {name: "lower bound only" for name in members if name not in (best, *agree) and verdicts[name] == "ok"}
    if verdicts[best] not in ("ok", "lower bound only"):
        return {**found, "panel": verdicts[best]}
    return {**found, "panel": "ok" if agree else "lower bound only"}
