"""The paper's table 3: mutual information beside MIUB."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from .layout import lay_out
from .tables import average, groups, table_of
from .units import UnitResult

__all__ = ["information_table"]


def information_table(cells: pd.DataFrame, units: Sequence[UnitResult]) -> pd.DataFrame:
    """The paper's table 3: {ACC, MIUB, MI} by `task` and setting, of those whose mutual information was estimated.

    Parameters
    ----------
    cells
        What `study_cells` returns.
    units
        The same study's units.

    Returns
    -------
    DataFrame
        As the other `tables`. `ACC` and `MIUB` are means over the task's data sets with choices. `MI` is the median
        over components of the panel's estimate, in nats, with `low` and `high`, its quartiles; `js` the median of js
        over the same components and tokens; `js sum` their sum, to which MIUB would come. `n_components` have an
        estimate, and of `n_clean` the verdict is `ok`; another one says that the number is a lower bound, or less.

    Notes
    -----
    The mutual information of whole states is infinite, and each number here is that of a few axes: see
    `measure_information`. It compares settings, and is no property of the model.
    """
    known = {unit.name: unit.information for unit in units if unit.information is not None}
    rows = cells[cells["first_prompt"] & ~cells["is_text"]]
    layout = lay_out(rows)
    own = layout.cells[layout.cells["run"].isin(list(known))]
    ranks, sizes = (tuple(one for one in some if (own["column"] == one).any()) for some in (layout.ranks, layout.sizes))
    narrow = layout._replace(cells=own, ranks=ranks, sizes=sizes)
    scores = table_of(narrow._replace(cells=average(narrow, ("task",))), "task", ("ACC", "MIUB"))
    estimates = []
    for (task, model, column), part in groups(own, ("task", "model", "column")):
        runs = list(dict.fromkeys(part["run"]))
        about = {"task": task, "model": model, "setting": column, "n_seeds": len(runs), "runs": " ".join(runs)}
        found = [_over_components(known[run]) for run in runs]
        estimates += [about | _over_seeds(found, metric) for metric in ("MI", "js", "js sum")]
    table = pd.concat([scores, pd.DataFrame(estimates)], ignore_index=True) if estimates else scores
    table.attrs = dict(scores.attrs)
    return table


def _over_seeds(found: Sequence[dict[str, float]], metric: str) -> dict[str, Any]:
    """Means over seeds of what each seed's components come to, and the smallest of their counts."""
    values = [one[metric] for one in found]
    row: dict[str, Any] = {
        "metric": metric,
        "value": float(np.mean(values)),
        "se": np.nan,
        "seed_sd": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
        "n_items": min(int(one["n_samples"]) for one in found),
        "unit": "nat",
    }
    row |= {name: min(int(one[name]) for one in found) for name in ("n_components", "n_clean", "n_tokens")}
    if metric != "js sum":
        row |= {end: float(np.mean([one[f"{metric} {end}"] for one in found])) for end in ("low", "high")}
    return row


def _over_components(information: xr.Dataset) -> dict[str, float]:
    """Medians and quartiles over the components that have a finite estimate."""
    panel = information.sel(estimator="panel")
    values, js = panel["value"].values.astype(np.float64), information["js"].values.astype(np.float64)
    kept = np.isfinite(values) & np.isfinite(js)
    found: dict[str, float] = {
        "n_components": int(kept.sum()),
        "n_clean": int((panel["verdict"].values[kept].astype(str) == "ok").sum()),
        "js sum": float(js[kept].sum()) if kept.any() else np.nan,
    }
    for name, one in (("MI", values), ("js", js)):
        ends = np.quantile(one[kept], [0.25, 0.5, 0.75]) if kept.any() else np.full(3, np.nan)
        found |= {f"{name} low": float(ends[0]), name: float(ends[1]), f"{name} high": float(ends[2])}
    for name in ("n_tokens", "n_samples"):
        counts = information[name].values[kept] if name in information else np.zeros(0)
        found[name] = int(counts.min()) if len(counts) else 0
    return found
