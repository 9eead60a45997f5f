"""A model's settings side by side, and what all claims are made of: tables of items, numbers at their ends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from .changes import SCALES
from .items import Chosen, ItemTable, Means, item_table
from .layout import Layout
from .reading import UnitResult

__all__ = ["Sweeps", "difference", "of_bucket", "of_choices", "of_prompt", "of_text", "plural", "too_few"]


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

    def items(
        self, columns: Sequence[str], metrics: Sequence[str], chosen: Chosen, *, least: int = 2
    ) -> ItemTable | None:
        """Chosen items under those of the columns that have some; None where these are fewer than `least`."""
        some = {name: [one for one in self.units[name] if chosen(one.samples).any()] for name in columns}
        known = {name: units for name, units in some.items() if units}
        return item_table(known, metrics, chosen) if len(known) >= least else None


def of_choices(samples: xr.Dataset) -> np.ndarray:
    """Test items with their first prompt."""
    return np.asarray((samples["in_test"].values > 0) & _has_first_prompt(samples))


def of_bucket(name: str) -> Chosen:
    """Items of a bucket of lengths, with their first prompt."""
    return lambda samples: np.asarray((samples["bucket"].values == name) & _has_first_prompt(samples))


def of_prompt(name: str) -> Chosen:
    """Items that every prompt was put to, with this one."""
    return lambda samples: np.asarray((samples["in_prompts"].values > 0) & (samples["prompt"].values == name))


def of_text(dataset: str) -> Chosen:
    """Windows of one text."""
    return lambda samples: np.asarray((samples["answer"].values < 0) & (samples["dataset"].values == dataset))


def difference(metric: str, first: str, last: str) -> Callable[[Means], np.ndarray]:
    """The last setting less the first, in the unit of `changes.UNITS`."""
    return lambda means: SCALES[metric] * (means[metric, last] - means[metric, first])


def too_few(columns: Sequence[str], name: str) -> str:
    """Why there is no change between settings."""
    if len(columns) > 1:
        return f"no items have numbers at two settings of {name}"
    return f"the study has {plural(len(columns))} of {name}; a change takes two"


def plural(n: int) -> str:
    """`1 setting`, `2 settings`."""
    return f"{n} setting{'' if n == 1 else 's'}"


def _has_first_prompt(samples: xr.Dataset) -> np.ndarray:
    prompts, is_choice = samples["prompt"].values, samples["answer"].values >= 0
    return np.asarray(is_choice & np.isin(prompts, prompts[is_choice][:1]))
