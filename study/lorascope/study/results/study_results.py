"""All that is computed from a study: tables, verdicts on claims, the scaling law and the comparison of metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.fits.fit import FitReport, fit_report
from lorascope.analyze.fits.metrics import MetricComparison, compare_metrics

from .cells import length_cells, prompt_cells, study_cells
from .paper_claims import paper_claims
from .tables import data_labels, datasets_table, information_table, lengths_table, prompts_table, texts_table
from .units import UnitResult

N_DRAWS = 200
"""Number of bootstrap draws over groups, if there are too many groups for all draws."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StudyResults:
    """Everything computed from a study: units' results, tables, verdicts, scaling law, comparison of metrics."""

    units: tuple[UnitResult, ...]
    planned: tuple[str, ...]
    """Names of all units of the study's grid; of the finished ones if the grid is unknown."""
    unplanned_units: tuple[str, ...]
    """Units with results that aren't in the grid; they are ignored."""
    tables: Mapping[str, pd.DataFrame]
    """`study`, `lengths`, `table_1`, `table_2`, `table_3`, `figure_2`, `figure_3`, `claims`."""
    law: FitReport | str
    """Eq. 8 on all settings, or why it can't be fitted."""
    compared: MetricComparison | str
    """MIUB and CE as predictors of accuracy, or why they weren't compared."""

    @property
    def missing(self) -> list[str]:
        """Names of the planned units (adapters) that have no results yet."""
        done = {unit.name for unit in self.units}
        return [name for name in self.planned if name not in done]


def study_results(units: Sequence[UnitResult], *, planned: Sequence[str] = ()) -> StudyResults:
    """Return all tables, verdicts on the paper's claims, scaling law and comparison of metrics of a study.

    Parameters
    ----------
    units
        What `read_units` returns.
    planned
        Names of all units of the study's grid, if known; other units are ignored.

    Raises
    ------
    ValueError
        If none of the units is planned, or two of them are of one setting.
    """
    unplanned = tuple(unit.name for unit in units if planned and unit.name not in planned)
    units = [unit for unit in units if unit.name not in unplanned]
    if not units:
        raise ValueError(
            f"no results are of this study's units, but of {unplanned[0]!r} and the like; run it, or name its own `out`"
        )
    names: dict[object, str] = {}
    for unit in units:  # two of one setting would count as two seeds
        key = (unit.model, unit.share, unit.rank, unit.seed, unit.task, unit.train_items)
        if (other := names.setdefault(key, unit.name)) != unit.name:
            raise ValueError(f"units {other!r} and {unit.name!r} are of one setting and seed; take one of them out")
    cells, lengths = study_cells(units), length_cells(units)
    compared = compare_study_metrics(cells)
    return StudyResults(
        units=tuple(units),
        planned=tuple(planned) or tuple(unit.name for unit in units),
        unplanned_units=unplanned,
        tables={
            "study": cells,
            "lengths": lengths,
            "table_1": datasets_table(cells),
            "table_2": prompts_table(prompt_cells(units)),
            "table_3": information_table(cells, units),
            "figure_2": texts_table(cells),
            "figure_3": lengths_table(lengths),
            "claims": paper_claims(units, cells, () if isinstance(compared, str) else compared.verdicts),
        },
        law=study_law(cells),
        compared=compared,
    )


def study_law(cells: pd.DataFrame) -> FitReport | str:
    """Fit the paper's scaling law (eq. 8) to MIUB by setting; return the report, or a text on why there is no fit.

    Only cells under the first prompt are used. Each data set has its own level; seeds are repeats.
    """
    rows = _choice_cells(cells)
    if not len(rows):
        return "there is no data set with choices"
    sizes = [name for name in ("N", "R", "D") if not rows[name].isna().any() and rows[name].nunique() > 1]
    if not sizes:
        return "no size varies: a law needs several model sizes, ranks or numbers of training samples"
    frame = rows.astype(dict.fromkeys(sizes, float))
    # A level per model would absorb N, unless a model has several sizes.
    varies = "N" not in sizes or bool((frame.groupby("model")["N"].nunique() > 1).any())
    groups = [name for name in ("dataset", "model") if frame[name].nunique() > 1 and (name != "model" or varies)]
    options: dict[str, Any] = {size: size for size in sizes}
    options |= {"repeat": "seed"} if frame["seed"].nunique() > 1 else {}
    try:
        return fit_report(frame, "MIUB", groups=groups, n_draws=N_DRAWS, **options)
    except ValueError as error:
        return str(error)


def compare_study_metrics(cells: pd.DataFrame) -> MetricComparison | str:
    """Return how well MIUB and CE (means over seeds) predict accuracy, or a text on why they weren't compared."""
    groups = _choice_cells(cells).groupby(["dataset", "model", "setting"], sort=False)
    table = groups[["ACC", "MIUB", "CE"]].mean().reset_index()
    known = {name: table[name].dropna() for name in ("MIUB", "CE")}
    metrics = [f"ln {name}" for name, values in known.items() if len(values) and (values > 0).all()]
    metrics[1:1] = ["CE"] * bool(len(known["CE"]))
    try:
        return compare_metrics(table, metrics=metrics)
    except ValueError as error:
        return str(error)


def _choice_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `cells` on multiple-choice data under the first prompt, data sets named unambiguously."""
    rows = cells[cells["first_prompt"] & ~cells["is_text"]].copy()
    rows["dataset"] = data_labels(rows)
    return rows
