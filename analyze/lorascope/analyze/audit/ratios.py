"""Ratios and relative changes that a text claims, beside what rounding of the printed numbers allows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from ..format import format_number
from ..stats.verdict import Verdict, Word
from .averages import plain_means
from .grid import Grid, known
from .part import Part, joined, rows_table, spoken
from .rounding import as_printed, decimals_shown, half_unit

__all__ = ["PLAIN_MEAN", "Kind", "RatioClaim", "RatioRow", "ratio_range", "ratios_part"]

Kind = Literal["ratio", "increase", "decrease"]
FORMS = {"ratio": "{}", "increase": "{} - 1", "decrease": "1 - {}"}
PLAIN_MEAN = "plain mean"
"""What rows of ratios call the mean of the members, which isn't in the table audited."""
MOST_LISTED = 5
"""Other values that a sentence lists."""


@dataclass(frozen=True, kw_only=True)
class RatioClaim:
    """A ratio of two printed numbers, or a relative change, that a text names."""

    words: str
    """The claim as it stands in the text."""
    value: float
    """Its number; a change of 17 % is 0.17."""
    metric: str
    of: str
    """The setting above the line; of a change, the one after it."""
    over: str
    """The setting below the line; of a change, the one before it."""
    member: str
    """The row that it is about, such as a data set or the average."""
    group: str = ""
    """The group that it is about; empty in a table without groups, and several columns of groups joined by a slash."""
    kind: Kind = "ratio"
    """`ratio`: of/over; `increase`: of/over - 1; `decrease`: 1 - of/over."""
    decimals: int | None = None
    """With how many decimals `value` is stated; by default as many as it shows."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"`kind` is {self.kind!r}; it is one of {list(get_args(Kind))}")
        if not math.isfinite(self.value):
            raise ValueError(f"`value` is {self.value!r}; give the claimed number")

    def stated(self) -> tuple[float, float]:
        """Least and largest number that would be stated like this."""
        half = float(half_unit(self.shown()))
        return self.value - half, self.value + half

    def place(self) -> str:
        """What it is about."""
        return spoken(self.group, self.member, self.metric)

    def sentence(self) -> str:
        """What would have to hold."""
        of = f"{self.metric} of {self.of}"
        place = f"{self.member} of {self.group}" if self.group else self.member
        if self.kind == "ratio":
            return f"{of} over {self.over}, {place}, can be {self.written()} within rounding"
        side = "above" if self.kind == "increase" else "below"
        return f"{of}, {place}, can be {self.written()} {side} that of {self.over} within rounding"

    def counted(self) -> str:
        """The numbers that would be stated like this."""
        low, high = (f"{end:.{max(0, self.shown() + 1)}f}" for end in self.stated())
        return f"{low} to {high} counts as {self.written()}"

    def written(self) -> str:
        """The number with the decimals that it is stated with; a change in percent."""
        if self.kind == "ratio":
            return f"{self.value:.{max(0, self.shown())}f}"
        return f"{100 * self.value:.{max(0, self.shown() - 2)}f} %"

    def shown(self) -> int:
        """With how many decimals `value` is stated."""
        return decimals_shown(np.array(self.value)) if self.decimals is None else self.decimals


class RatioRow(NamedTuple):
    """The ratio of a claim, at one place of the table."""

    claim: str
    metric: str
    group: str
    member: str
    """A member, the average, or the plain mean of the members."""
    value: float
    """Of the numbers as printed."""
    low: float
    high: float
    """What rounding allows."""
    claimed: float
    possible: bool
    """Whether a number from low to high would be stated like the claim."""
    stated: bool
    """Whether the claim is about this place."""
    printed: str
    """The ratio in the numbers of the table."""


def ratio_range(top: float, half_top: float, bottom: float, half_bottom: float) -> tuple[float, float]:
    """Least and largest ratio of two numbers of which printed values and half units are known.

    Returns
    -------
    tuple of float
        -inf and inf where the number below the line may be zero.

    Examples
    --------
    >>> [round(end, 1) for end in ratio_range(20.110, 0.0005, 0.035, 0.0005)]
    [566.5, 582.9]
    """
    if abs(bottom) <= half_bottom:
        return -math.inf, math.inf
    ends = [(top + a * half_top) / (bottom + b * half_bottom) for a in (-1, 1) for b in (-1, 1)]
    return min(ends), max(ends)


def ratios_part(grid: Grid, claims: Sequence[RatioClaim]) -> Part:
    """Rows, verdicts and findings on claimed ratios: each where it is claimed, and everywhere else.

    Raises
    ------
    ValueError
        If a claim names what the table hasn't, one of its two numbers isn't in the table, or that below the line is
        printed as zero.
    """
    rows: list[RatioRow] = []
    findings: list[str] = []
    verdicts: list[Verdict] = []
    for claim in claims:
        _refuse(grid, claim)
        of_claim = _rows(grid, claim)
        own = next(row for row in of_claim if row.stated)
        word: Word = "not identified" if math.isinf(own.high) else "supported" if own.possible else "contradicted"
        said = f"{own.printed}, {_number(own.low)} to {_number(own.high)} by rounding"
        rows += of_claim
        verdicts.append(Verdict(claim.sentence(), word, f"{said}; {claim.counted()}"))
        wrong = _wrong(grid, claim, word, of_claim)
        findings += (
            [f"{claim.words!r} {wrong}: {claim.place()} gives {said}{_elsewhere(claim, of_claim)}"] if wrong else []
        )
    return Part(rows_table(RatioRow, rows), tuple(findings), tuple(verdicts))


def _refuse(grid: Grid, claim: RatioClaim) -> None:
    known("claims", [claim.metric], grid.metrics, "metrics")
    known("claims", [claim.of, claim.over], grid.settings, "settings")
    known("claims", [claim.group], grid.groups, "groups")
    known("claims", [claim.member], list(filter(None, grid.everyone())), "members")
    g, m, k = grid.groups.index(claim.group), grid.metrics.index(claim.metric), grid.everyone().index(claim.member)
    for setting in (claim.of, claim.over):
        value = grid.everything()[g, m, grid.settings.index(setting), k]
        if not np.isfinite(value):
            raise ValueError(
                f"the table has no {claim.place()} under {setting}, which the claim {claim.words!r} is about"
            )
        if value == 0 and setting == claim.over:
            raise ValueError(
                f"{claim.place()} under {setting} is printed as 0; the claim {claim.words!r}, a ratio to it, can't be "
                "checked"
            )


def _rows(grid: Grid, claim: RatioClaim) -> list[RatioRow]:
    """A row for every group and member, and for the plain mean of a group's members."""
    means = plain_means(grid)
    m, s = grid.metrics.index(claim.metric), [grid.settings.index(one) for one in (claim.of, claim.over)]
    values, half = (
        np.concatenate([one, more[..., None]], axis=-1)[:, m][:, s]
        for one, more in ((grid.everything(), means.mean), (grid.everything_half(), means.half))
    )
    return [
        _row(claim, group, member, *values[g, :, k].tolist(), *half[g, :, k].tolist())
        for g, group in enumerate(grid.groups)
        for k, member in enumerate((*grid.everyone(), PLAIN_MEAN))
        if np.isfinite(values[g, :, k]).all() and values[g, 1, k] != 0
    ]


def _row(
    claim: RatioClaim, group: str, member: str, top: float, bottom: float, half_top: float, half_bottom: float
) -> RatioRow:
    value, *ends = (
        {"ratio": one, "increase": one - 1, "decrease": 1 - one}[claim.kind]
        for one in (top / bottom, *ratio_range(top, half_top, bottom, half_bottom))
    )
    low, high = min(ends), max(ends)
    least, most = claim.stated()
    ratio = FORMS[claim.kind].format(f"{as_printed(top, half_top)}/{as_printed(bottom, half_bottom)}")
    return RatioRow(
        claim.words,
        claim.metric,
        group,
        member,
        value,
        low,
        high,
        claim.value,
        bool(low <= most and least <= high),
        (group, member) == (claim.group, claim.member),
        f"{ratio} = {_number(value)}",
    )


def _wrong(grid: Grid, claim: RatioClaim, word: Word, rows: Sequence[RatioRow]) -> str:
    """What is wrong with a claim, if anything is."""
    if word == "contradicted":
        return "isn't what the table has"
    means = [row for row in rows if (row.group, row.member) == (claim.group, PLAIN_MEAN)]
    only = word == "supported" and claim.member == grid.average and any(not row.possible for row in means)
    return f"holds of {grid.average} as printed, not of the plain mean" if only else ""


def _elsewhere(claim: RatioClaim, rows: Sequence[RatioRow]) -> str:
    """The same ratio of single members, of their plain mean, and of other groups."""
    here = [row for row in rows if row.group == claim.group and not row.stated]
    single = sorted((row for row in here if row.member != PLAIN_MEAN), key=lambda row: row.value)
    said = (
        [f"{_number(single[0].value)} ({single[0].member}) to {_number(single[-1].value)} ({single[-1].member})"]
        if single
        else []
    )
    said += [f"{PLAIN_MEAN} {_number(row.value)}" for row in here if row.member == PLAIN_MEAN]
    others = [row for row in rows if row.group != claim.group and row.member == claim.member]
    said += [f"{spoken(row.group, row.member)} {_number(row.value)}" for row in others]
    return f"; elsewhere {joined(said, most=MOST_LISTED)}" if said else ""


def _number(value: float) -> str:
    return format_number(value, digits=4)
