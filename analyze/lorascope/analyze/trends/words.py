"""What p-values and steps say of a claimed trend, in one of three words with the number behind it."""

from typing import NamedTuple

from ..format import format_number
from ..stats.verdict import Verdict, Word
from .kendall import KendallTest
from .page import PageTest

__all__ = ["Steps", "overall_verdict", "p_word", "steps_verdict"]

ROUNDING = 1e-12
"""Share of the level by which a p may miss it: 1/20 computed as a sum of probabilities isn't 0.05 to the last bit."""


class Steps(NamedTuple):
    """Steps between neighbouring levels of one block, counted."""

    n: int
    n_against: int
    """In the direction that isn't claimed."""
    n_equal: int
    n_blocks: int
    n_blocks_against: int


def p_word(p_value: float, p_opposite: float, p_floor: float, significance: float) -> tuple[Word, str]:
    """The word for an exact one-sided test of a claim, and the number behind it."""
    if _within(p_opposite, significance):
        return "contradicted", f"p of the opposite direction {format_number(p_opposite)}"
    if not _within(p_floor, significance):
        return (
            "not identified",
            f"p can't go below {format_number(p_floor)}: no data of this shape, ties included, could tell at "
            f"{significance:g}",
        )
    if _within(p_value, significance):
        return "supported", f"p = {format_number(p_value)}"
    return "not identified", f"p = {format_number(p_value)}, of the opposite direction {format_number(p_opposite)}"


def overall_verdict(claim: str, page: PageTest, kendall: KendallTest, significance: float) -> Verdict:
    """Supported, or contradicted, where both tests say so at this level."""
    word, because = p_word(
        max(page.p_value, kendall.p_value),
        max(page.p_opposite, kendall.p_opposite),
        max(page.p_floor, kendall.p_floor),
        significance,
    )
    because = (
        f"larger of both tests: {because}; Page's L = {page.L:g} over {page.n_blocks} blocks of {page.n_levels} "
        f"levels, {page.method} p = {format_number(page.p_value)}; Mann-Kendall S = {kendall.S} over "
        f"{kendall.n_cells} cells of {kendall.n_blocks} blocks, {kendall.method} p = {format_number(kendall.p_value)}"
    )
    return Verdict(claim, word, because)


def steps_verdict(claim: str, steps: Steps, opposite: str) -> Verdict:
    """Contradicted by one step that does the opposite; steps between equal values speak neither way."""
    of = f"of {steps.n} steps between neighbouring levels"
    if steps.n_against:
        verb = opposite if steps.n_against == 1 else opposite.removesuffix("s")
        because = f"{steps.n_against} {of} {verb}, in {steps.n_blocks_against} of {steps.n_blocks} blocks"
        return Verdict(claim, "contradicted", because)
    if steps.n_equal:
        return Verdict(claim, "not identified", f"none {of} {opposite}, but between equal values: {steps.n_equal}")
    return Verdict(claim, "supported", f"none {of} {opposite} or is between equal values")


def _within(p: float, significance: float) -> bool:
    return p <= significance * (1 + ROUNDING)
