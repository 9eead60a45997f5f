"""A model's settings side by side: what a claim of the paper is tested on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from .findings import Finding, finding, lacking
from .item_table import Chosen, ItemTable, Statistic, item_table
from .layout import Layout, lay_out
from .units import UnitResult

__all__ = ["Sweeps", "in_bucket", "in_text", "is_tested", "plural", "sweeps_of", "under_prompt"]


@dataclass(frozen=True, kw_only=True)
class Sweeps:
    """One model's units under the paper's columns."""

    layout: Layout
    units: Mapping[str, Sequence[UnitResult]]
    """Column -> its units."""
    of: str
    """` of NAME` where there are several models or tasks to tell apart, else nothing."""

    @property
    def along(self) -> dict[str, tuple[str, ...]]:
        """The columns of each sweep, smallest first."""
        return {"rank": self.layout.ranks, "model size": self.layout.sizes}

    def items(self, columns: Sequence[str], metrics: Sequence[str], chosen: Chosen, least: int = 2) -> ItemTable | None:
        """Chosen items under those of the columns that have some; None where these are fewer than `least`."""
        some = {name: [one for one in self.units[name] if chosen(one.samples).any()] for name in columns}
        known = {name: units for name, units in some.items() if units}
        return item_table(known, metrics, dict.fromkeys(known, chosen)) if len(known) >= least else None

    def along_one(self, name: str, metrics: Sequence[str], chosen: Chosen) -> ItemTable | str:
        """Chosen items along `rank` or `model size`, or why there is no change to look at."""
        columns = self.along[name]
        if len(columns) < 2:
            return f"the study has {plural(len(columns))} of {name}; a change takes two"
        return self.items(columns, metrics, chosen) or f"no items have numbers at two settings of {name}"

    def test(
        self,
        number: int,
        claim: str,
        table: ItemTable | str,
        statistic: Statistic,
        unit: str,
        what: str,
        *,
        falls: bool,
    ) -> Finding:
        """Whether a statistic lies below 0, or above; `what` names it, {first} and {last} being the settings."""
        if isinstance(table, str):
            return lacking(number, claim, table)
        found = table.estimate(statistic)
        what = what.format(first=table.settings[0], last=table.settings[-1])
        return finding(number, claim, found, unit, what, n_seeds=table.n_seeds, falls=falls)


def sweeps_of(units: Sequence[UnitResult], cells: pd.DataFrame) -> Iterator[Sweeps]:
    """One a model, and a task where data sets are shared by tasks; `cells` are what `study_cells` returns."""
    by_name = {unit.name: unit for unit in units}
    apart = ["model"] + (["task"] if cells.groupby("dataset")["task"].nunique().max() > 1 else [])
    told = [name for name in apart if cells[name].nunique() > 1]
    for _, part in cells.groupby(apart, sort=False):
        layout = lay_out(part)
        names = layout.cells.groupby("column", sort=False)["run"].unique()
        own = {column: [by_name[name] for name in names[column]] for column in layout.columns}
        yield Sweeps(layout=layout, units=own, of="".join(f" of {part[name].iloc[0]}" for name in told))


def is_tested(samples: xr.Dataset) -> np.ndarray:
    """Test items with their first prompt."""
    return np.asarray((samples["in_test"].values > 0) & _has_first_prompt(samples))


def in_bucket(name: str) -> Chosen:
    """Items of a bucket of lengths, with their first prompt."""
    return lambda samples: np.asarray((samples["bucket"].values == name) & _has_first_prompt(samples))


def under_prompt(name: str) -> Chosen:
    """Items that every prompt was put to, with this one."""
    return lambda samples: np.asarray((samples["in_prompts"].values > 0) & (samples["prompt"].values == name))


def in_text(dataset: str) -> Chosen:
    """Windows of one text."""
    return lambda samples: np.asarray((samples["answer"].values < 0) & (samples["dataset"].values == dataset))


def plural(n: int) -> str:
    """`1 setting`, `2 settings`."""
    return f"{n} setting{'' if n == 1 else 's'}"


def _has_first_prompt(samples: xr.Dataset) -> np.ndarray:
    prompts, is_choice = samples["prompt"].values, samples["answer"].values >= 0
    return np.asarray(is_choice & np.isin(prompts, prompts[is_choice][:1]))
