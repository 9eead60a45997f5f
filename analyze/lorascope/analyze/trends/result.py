"""What the tests of a trend found, and how it prints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from ..format import format_number
from ..stats.record import plain
from ..stats.summary import Summary, Table
from ..stats.verdict import Verdict
from .kendall import KendallTest
from .page import PageTest

__all__ = ["TrendResult"]

TESTS_NOTE = (
    "p: one-sided for the claim, over all orders of each block's values, given ties; p_normal: of z, for contrast. "
    "L is large where the claim holds; S is pairs that rise less pairs that fall. tied_pairs: of equal responses."
)
BLOCKS_NOTE = "p and verdict of Mann-Kendall in that block alone, not corrected for the number of blocks."


@dataclass(frozen=True, kw_only=True)
class TrendResult:
    """A claimed trend along ordered levels, tested within blocks; every p is one-sided, with its floor."""

    response: str
    along: str
    blocks: tuple[str, ...]
    """Columns whose values together name a block."""
    increasing: bool
    """The claim: the response rises along the levels, or else falls."""
    significance: float
    """A p of at most this speaks for its direction."""
    page: PageTest
    """Of complete blocks; cells of one block and level are averaged."""
    mann_kendall: KendallTest
    """Of all blocks of two levels or more; cells of one block and level stay apart, tied along the levels."""
    by_block: pd.DataFrame
    """A row a block: `block`, `cells`, `levels`, `S`, `tau`, `p_value`, `p_opposite`, `p_floor`, `method` of the
    Mann-Kendall test of that block alone, `verdict` and `because`. Not corrected for the number of blocks."""
    n_steps: int
    """Steps between neighbouring levels of one block."""
    violations: pd.DataFrame
    """A row a step that doesn't go as claimed: `block`, `lower` and `upper` (levels), `at_lower` and `at_upper`
    (responses, averaged over the cells there), `step` (`rises`, `falls` or `equal`)."""
    verdicts: tuple[Verdict, ...]
    """Of every step, and of the trend over all blocks."""
    notes: tuple[str, ...]
    """Sentences on what was assumed, averaged, left out or approximated."""
    provenance: Mapping[str, Any]
    """Versions, settings and a hash of the rows that were used."""

    @property
    def direction(self) -> str:
        """`rises` or `falls`: what is claimed."""
        return "rises" if self.increasing else "falls"

    @property
    def sign_floor(self) -> float:
        """The smallest p of a test that takes one sign a block: 2^-n."""
        return float(0.5**self.mann_kendall.n_blocks)

    def summary(self) -> Summary:
        """Tests, blocks, steps that don't go as claimed, and verdicts, to print."""
        page, kendall = self.page, self.mann_kendall
        facts = {
            "claim": f"{self.response} {self.direction} along {self.along}, within blocks of "
            f"{', '.join(self.blocks) or 'all rows'}",
            "data": f"{kendall.n_cells} cells, {kendall.n_blocks} blocks; Page: {page.n_blocks} blocks of "
            f"{page.n_levels} levels",
            "steps": f"{len(self.violations)} of {self.n_steps} don't go as claimed",
            "significance": f"{self.significance:g}, one-sided",
            "floors of p": f"Page {format_number(page.p_floor)}, Mann-Kendall {format_number(kendall.p_floor)}, "
            f"a sign a block {format_number(self.sign_floor)}",
        }
        columns = ["block", "cells", "levels", "S", "tau", "p_value", "p_floor", "verdict"]
        tables = [
            Table("tests over all blocks", self._tests(), TESTS_NOTE),
            Table("blocks, each alone", self.by_block[columns], BLOCKS_NOTE),
        ]
        if len(self.violations):
            title = f"steps that don't go as claimed ({len(self.violations)} of {self.n_steps})"
            tables.append(Table(title, self.violations, digits=6))
        title = f"trend of {self.response} along {self.along}"
        return Summary(title, facts, tables, self.verdicts, self.notes)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it, floats at full precision; see `plain`."""
        record: dict[str, Any] = plain(self)
        return record

    def _tests(self) -> pd.DataFrame:
        """A row a test."""
        page, kendall = self.page, self.mann_kendall
        both: list[tuple[str, float, float, PageTest | KendallTest]] = [
            ("Page's L", page.L, page.expected, page),
            ("Mann-Kendall S", kendall.S, 0, kendall),
        ]
        return pd.DataFrame(
            {
                "test": name,
                "value": f"{value:g}",
                "expected": f"{expected:g}",
                "z": one.z,
                "p": one.p_value,
                "p_opposite": one.p_opposite,
                "p_normal": one.p_normal,
                "p_floor": one.p_floor,
                "tied_pairs": one.n_tied_pairs,
                "method": one.method,
            }
            for name, value, expected, one in both
        )
