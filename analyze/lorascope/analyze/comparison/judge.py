"""Verdicts of a comparison: what its rows say of each claim, in every set of cells."""

from collections.abc import Callable, Sequence

from ..format import format_number
from ..stats.verdict import Verdict, Word
from .drawn import Row
from .roles import Metric

__all__ = ["judge", "word_of"]


def word_of(is_sure: bool, low: float, high: float) -> Word:
    """`supported` where it is sure and low to high are above 0, `contradicted` where below, else `not identified`."""
    if is_sure and low > 0:
        return "supported"
    return "contradicted" if is_sure and high < 0 else "not identified"


def judge(
    metrics: Sequence[Metric],
    of_metric: Sequence[Row],
    of_pair: Sequence[Row],
    beyond: Sequence[Row],
    significance: float,
) -> tuple[Verdict, ...]:
    """Verdicts on metrics, the first of which is the reference.

    Parameters
    ----------
    metrics
        As `parse_metrics` gives them.
    of_metric, of_pair, beyond
        Rows of the tables `metrics`, `pairs` and `beyond_setting`, of all sets of cells.
    significance
        p-values up to here count.

    Notes
    -----
    A metric follows accuracy if its pooled correlation has the promised sign, p at the effective number of cells and p
    of permuted labels of settings are within the significance, and the bootstrap's interval excludes 0. One follows it
    more closely than another if that holds of the difference, with Williams' p for the former. Cells and blocks alone
    wouldn't do: what settings do in all blocks alike is there once a setting, however many blocks repeat it. It adds
    to the setting if its partial correlation has the promised sign and both the p of its t and that of sign flips are
    within the significance. It orders settings more alike if its concordance is larger and p of swaps within the
    significance. The opposite, as sure, contradicts. A word that isn't the same in every set of cells becomes `not
    identified`.
    """
    reference, *others = metrics
    told = [row for row in of_pair if row["first"] == reference.name]
    found = []
    for one in metrics:
        rows = [row for row in of_metric if row["metric"] == one.name]
        found.append(_verdict(f"{one.name} follows accuracy within blocks", rows, *_follows(one.sign, significance)))
    pairs = {one.name: [row for row in told if row["second"] == one.name] for one in others}
    for name, rows in pairs.items():
        claim = f"{reference.name} follows accuracy more closely than {name}"
        found.append(_verdict(claim, rows, lambda row: _closer(row, significance), _closer_because))
    for one in metrics:
        rows = [row for row in beyond if row["metric"] == one.name]
        found.append(
            _verdict(
                f"{one.name} adds to knowing the setting, with the sign it promises",
                rows,
                *_adds(one.sign, significance),
            )
        )
    for name, rows in pairs.items():
        claim = f"{reference.name} orders settings more alike from block to block than {name}"
        found.append(_verdict(claim, rows, lambda row: _more_alike(row, significance), _more_alike_because))
    return tuple(found)


def _verdict(claim: str, rows: Sequence[Row], word: Callable[[Row], Word], because: Callable[[Row], str]) -> Verdict:
    words = {word(row) for row in rows}
    reasons = [because(row) if len(rows) == 1 else f"{row['cells']}: {because(row)}" for row in rows]
    return Verdict(claim, words.pop() if len(words) == 1 else "not identified", "; ".join(reasons))


def _follows(sign: int, significance: float) -> tuple[Callable[[Row], Word], Callable[[Row], str]]:
    def word(row: Row) -> Word:
        low, high = sorted((sign * row["low"], sign * row["high"]))
        return word_of(max(row["p_effective"], row["setting_p"]) <= significance, low, high)

    def because(row: Row) -> str:
        return (
            f"r = {_n(row['pearson'])} [{_n(row['low'])}, {_n(row['high'])}], p = {_n(row['p_effective'])} for "
            f"{row['n_effective']} effective cells, {_n(row['setting_p'])} by labels of settings"
        )

    return word, because


def _adds(sign: int, significance: float) -> tuple[Callable[[Row], Word], Callable[[Row], str]]:
    def word(row: Row) -> Word:
        r = sign * row["partial_r"]
        return word_of(max(row["p"], row["flip_p"]) <= significance, r, r)

    def because(row: Row) -> str:
        if row["why"]:
            return str(row["why"])
        return (
            f"partial r = {_n(row['partial_r'])} given block and setting, df = {row['df']}, p = {_n(row['p'])}, "
            f"by sign flips {_n(row['flip_p'])}"
        )

    return word, because


def _closer(row: Row, significance: float) -> Word:
    is_sure = row["williams_p_effective"] <= significance and row["setting_p"] <= significance
    return word_of(is_sure, row["low"], row["high"])


def _closer_because(row: Row) -> str:
    return (
        f"agreement {_n(row['agreement_first'])} against {_n(row['agreement_second'])}, difference "
        f"{_n(row['difference'])} [{_n(row['low'])}, {_n(row['high'])}], Williams' p = "
        f"{_n(row['williams_p_effective'])} for {row['n_effective']} effective cells, {_n(row['setting_p'])} by "
        f"labels of settings; mean Spearman differs by {_n(row['spearman_difference'])}, p = {_n(row['flip_p'])} by "
        "sign flips"
    )


def _more_alike(row: Row, significance: float) -> Word:
    return word_of(row["swap_p"] <= significance, row["concordance_difference"], row["concordance_difference"])


def _more_alike_because(row: Row) -> str:
    return f"Kendall's W differs by {_n(row['concordance_difference'])}, p = {_n(row['swap_p'])} by swaps"


def _n(value: float) -> str:
    return format_number(value)
