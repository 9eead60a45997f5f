"""A comparison of metrics: its tables, verdicts and remarks, and what it prints and records."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from ..stats.record import plain
from ..stats.summary import Summary, Table
from ..stats.verdict import Verdict
from .shown import SHOWN

__all__ = ["MetricComparison"]


@dataclass(frozen=True, eq=False)
class MetricComparison:
    """How well metrics predict accuracy within blocks, from `compare_metrics`; all numbers are without unit."""

    accuracy: str
    """Column of accuracy."""
    reference: str
    """Metric whose claim is tested."""
    metrics: pd.DataFrame
    """A row a set of cells and metric: correlations with accuracy as they come, negative where lower is better."""
    pairs: pd.DataFrame
    """A row a set of cells and two metrics: correlations turned so that higher is better, differences and tests; no
    column where there is one metric."""
    decisions: pd.DataFrame
    """A row a set of cells, metric and kind of pairs: pairs of settings ordered right."""
    beyond_setting: pd.DataFrame
    """A row a set of cells and metric: partial correlation given block and setting; `why` it isn't identified."""
    noise: pd.DataFrame
    """A row a set of cells: what sampling of test items explains."""
    blocks: pd.DataFrame
    """A row a set of cells, metric and block."""
    differences: pd.DataFrame
    """A row a set of cells and pair of settings in a block: difference of accuracy, items needed, z where known."""
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    """Sentences on what was assumed, left out or isn't defined."""
    provenance: Mapping[str, Any]
    """Settings, versions and a hash of the rows used."""

    def summary(self) -> Summary:
        """What `print` and a notebook show."""
        others = ", ".join(name for name in self.metrics["metric"].unique() if name != self.reference)
        facts = {
            "accuracy": self.accuracy,
            "reference": self.reference,
            "compared with": others or "nothing else",
            "blocks": " x ".join(self.provenance["settings"]["blocks"]),
            "cells": "; ".join(f"{name}: {n}" for name, n in self.noise[["cells", "n_cells"]].itertuples(index=False)),
        }
        tables = []
        for one in SHOWN:
            frame = getattr(self, one.table)
            if len(frame):
                shown = [name for name in one.columns.split() if name in frame]
                tables.append(Table(one.title, frame[shown], one.note))
        title = f"How well {self.reference} follows {self.accuracy} within blocks"
        return Summary(title, facts, tables, self.verdicts, self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON has it, at full precision; NaN is null."""
        return {"result": "metric comparison", **{one.name: plain(getattr(self, one.name)) for one in fields(self)}}
