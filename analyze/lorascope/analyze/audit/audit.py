"""What an audit of a table found: a table for each check, and what they say."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from ..stats.record import plain
from ..stats.summary import Summary, Table
from ..stats.verdict import Verdict

__all__ = ["Audit"]

TABLES = {
    "averages": ("averages that aren't plain means", "rounding_units: up to 1, rounding explains the difference"),
    "weights": ("weights behind averages", "rounding_units: the largest miss of the best weights, or of equal ones"),
    "ranges": ("ranges of weights", "of all weights that make every average, to within rounding"),
    "implied": ("values that would make averages fit", "of a member in an average that contradicts the others"),
    "repairs": ("slips that would make averages fit", "the value printed under `source` belongs under `under`"),
    "duplicates": ("runs with the same numbers", "in more than half of their cells"),
    "ratios": ("ratios claimed, and the same elsewhere", "low, high: what rounding allows"),
    "ceilings": ("cells above a ceiling", "of members"),
}
"""Field -> title and note of its table in the summary."""
DIGITS = 6
"""Significant digits of the summary's tables: what the averages differ by must be seen."""


@dataclass(frozen=True)
class Audit:
    """What a published table can be checked for without its data."""

    averages: pd.DataFrame
    """Rows of `averages.AverageRow`: each average and its plain mean."""
    weights: pd.DataFrame
    """Rows of `hidden.WeightRow`: whether one vector of weights makes averages."""
    ranges: pd.DataFrame
    """Rows of `hidden.RangeRow`: what the weights can be."""
    implied: pd.DataFrame
    """Rows of `hidden.ImpliedRow`: values that would make averages fit which contradict the others."""
    repairs: pd.DataFrame
    """Rows of `hidden.RepairRow`: slips that would explain them."""
    duplicates: pd.DataFrame
    """Rows of `duplicates.DuplicateRow`: runs with the same numbers."""
    steps: pd.DataFrame
    """Rows of `monotone.StepRow`: each step along an order."""
    ratios: pd.DataFrame
    """Rows of `ratios.RatioRow`: claimed ratios, there and elsewhere."""
    ceilings: pd.DataFrame
    """Rows of `ceilings.CeilingRow`: cells above a ceiling, counted."""
    decimals: pd.DataFrame
    """With how many `decimals` the numbers of a `metric` were printed, by `kind`: member or average."""
    findings: tuple[str, ...]
    """A sentence on each thing that is wrong, with its numbers; none where nothing is."""
    verdicts: tuple[Verdict, ...]
    """Claims, and what the table says of them."""
    notes: tuple[str, ...]
    """What couldn't be checked."""
    provenance: Mapping[str, Any]
    """Versions, settings, and a hash of the rows used."""

    def summary(self) -> Summary:
        """Verdicts, findings and tables as text, Markdown or HTML, without single steps and averages that are right."""
        tables = [
            Table(title, rows, note, DIGITS) for name, (title, note) in TABLES.items() if len(rows := self._shown(name))
        ]
        facts = {"numbers": str(self.provenance["n_rows"]), "findings": str(len(self.findings))}
        return Summary("audit of a published table", facts, tables, self.verdicts, [*self.findings, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it, at full precision; see `studies.record.plain`."""
        return {"kind": "audit_table"} | {one.name: plain(getattr(self, one.name)) for one in fields(self)}

    def _shown(self, name: str) -> pd.DataFrame:
        rows = getattr(self, name)
        return rows[~rows["within_rounding"].astype(bool)] if name == "averages" else rows
