"""Everything that is made of a study's results, in one go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd  # type: ignore[import-untyped]

from .cells import length_cells, prompt_cells, study_cells
from .claims import claims_table, paper_claims
from .findings import Finding
from .law import Compared, Fitted, compared_metrics, study_law
from .tables import datasets_table, information_table, lengths_table, prompts_table, texts_table
from .units import UnitResult

__all__ = ["StudyResults", "study_results"]


@dataclass(frozen=True, eq=False, kw_only=True)
class StudyResults:
    """A study's units, and what comes of them."""

    units: tuple[UnitResult, ...]
    planned: tuple[str, ...]
    """Names of all units of the study's grid; those that are done where nothing else is known."""
    unplanned_units: tuple[str, ...]
    """Units whose results lie there too, and which the grid doesn't have: they enter nothing."""
    tables: Mapping[str, pd.DataFrame]
    """`study`, `lengths`, `table_1`, `table_2`, `table_3`, `figure_2`, `figure_3`, `claims`."""
    findings: tuple[Finding, ...]
    laws: tuple[Fitted, ...]
    compared: Compared

    @property
    def missing(self) -> list[str]:
        """Units that are planned and not done."""
        done = {unit.name for unit in self.units}
        return [name for name in self.planned if name not in done]


def study_results(units: Sequence[UnitResult], *, planned: Sequence[str] = ()) -> StudyResults:
    """Tables, figures' numbers, claims, fits and comparisons of a study.

    Parameters
    ----------
    units
        What `read_units` returns.
    planned
        Names of all units of the study's grid, where they are known; others are left out.

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
    seen: dict[object, str] = {}
    for unit in units:  # two of one setting would count as two seeds
        key = (unit.model, unit.share, unit.rank, unit.seed, unit.task, unit.train_items)
        if (other := seen.setdefault(key, unit.name)) != unit.name:
            raise ValueError(f"units {other!r} and {unit.name!r} are of one setting and seed; take one of them out")
    cells, lengths, compared = study_cells(units), length_cells(units), compared_metrics(study_cells(units))
    findings = paper_claims(units, compared.comparison.verdicts if compared.comparison else ())
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
            "claims": claims_table(findings),
        },
        findings=tuple(findings),
        laws=tuple(study_law(cells)),
        compared=compared,
    )
