"""Sentences on hidden weights and on the slips that would explain averages which don't fit."""

from collections.abc import Sequence
from itertools import groupby

from ..format import format_number
from ..stats.verdict import Verdict
from .hidden import HiddenWeights, RangeRow, RepairRow, WeightRow
from .part import joined, spoken

__all__ = ["weight_findings", "weight_verdicts"]

MOST_LISTED = 3
"""Slips of a group, or sets of averages, that sentences list."""
MOST_WEIGHTS = 8


def weight_verdicts(found: HiddenWeights, average: str) -> tuple[Verdict, ...]:
    """A verdict for each group and set of metrics that was asked for one vector of free weights."""
    return tuple(
        Verdict(
            spoken("one vector of weights gives", average, "of", row.metrics, f"of {row.group}" if row.group else ""),
            "contradicted" if not row.fits else "supported" if row.tells else "not identified",
            _miss(row),
        )
        for row in found.weights
        if row.asked and row.weights == "free"
    )


def weight_findings(found: HiddenWeights) -> tuple[str, ...]:
    """What is wrong with averages beyond that they aren't plain means."""
    asked = [row for row in found.weights if row.asked]
    sentences = [_vector(found, row) for row in asked if row.weights == "free"]
    sentences += [_left_out(found, row) for row in asked if not row.fits]
    for group in dict.fromkeys(row.group for row in found.repairs):
        sentences += _slips([row for row in found.repairs if row.group == group])
    return tuple(filter(None, sentences))


def _lead(group: str) -> str:
    return f"{group}: " if group else ""


def _miss(row: WeightRow) -> str:
    few = "" if row.tells else f"; {row.n_distinct} different averages of {row.n_members} members can't tell"
    times = format_number(row.rounding_units)
    return f"the best weights miss {row.n_averages} averages by up to {times} times what rounding allows{few}"


def _vector(found: HiddenWeights, row: WeightRow) -> str:
    if not row.tells:
        return ""
    own = [one for one in found.ranges if (one.group, one.metrics) == (row.group, row.metrics)]
    cases = list(dict.fromkeys(one.case for one in own))
    said = f"the averages of {row.metrics}: {_miss(row)}"
    if row.fits:
        return f"{_lead(row.group)}one vector of weights gives {said}; {_weights(own)}"
    repaired = f"; with {cases[0]} they are {_weights(own)}" if len(cases) == 1 else ""
    return f"{_lead(row.group)}no weights give {said}{repaired}"


def _weights(rows: Sequence[RangeRow]) -> str:
    return joined([f"{row.member} {_span(row.low, row.high)}" for row in rows], most=MOST_WEIGHTS)


def _span(low: float, high: float) -> str:
    return f"{format_number(low, digits=4)} to {format_number(high, digits=4)}"


def _left_out(found: HiddenWeights, row: WeightRow) -> str:
    """Which averages the others contradict, unless a slip explains them."""
    own = [one for one in found.implied if (one.group, one.metrics) == (row.group, row.metrics)]
    if not own or any((one.group, one.metrics) == (row.group, row.metrics) for one in found.repairs):
        return ""
    sets = [f"without {left}" for left in dict.fromkeys(one.left_out for one in own)]
    return f"{_lead(row.group)}the other averages of {row.metrics} fit {joined(sets, most=MOST_LISTED, mark=', or ')}"


def _slips(rows: Sequence[RepairRow]) -> list[str]:
    """A sentence for each slip of a group, those first that explain most metrics."""

    def key(row: RepairRow) -> tuple[str, ...]:
        return row.kind, row.member, row.under, row.source

    slips = sorted((list(some) for _, some in groupby(sorted(rows, key=key), key)), key=len, reverse=True)
    more = len(slips) - MOST_LISTED
    rest = [f"{_lead(rows[0].group)}other slips that would explain averages: {more}"] if more > 0 else []
    return [_slip(one) for one in slips[:MOST_LISTED]] + rest


def _slip(rows: Sequence[RepairRow]) -> str:
    one = rows[0]
    lead = f"{spoken(one.group, one.member)}: averages of {joined([row.metric for row in rows])} fit if"
    under = joined([f"{row.printed_under:.10g}" for row in rows])
    source = joined([f"{row.printed_source:.10g}" for row in rows])
    if one.kind == "swap":
        return f"{lead} {one.under} ({under}) and {one.source} ({source}) are swapped"
    left = joined([f"{_span(row.source_low, row.source_high)} ({row.metric})" for row in rows])
    return (
        f"{lead} what is printed under {one.source} ({source}) belongs under {one.under} (printed: {under}); "
        f"{one.source} is then {left}"
    )
