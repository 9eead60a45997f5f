"""Everything that is made of a study's results, in one go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.stats.metrics import MetricComparison

from .cells import length_cells, prompt_cells, study_cells
from .changes import Finding
from .claims import claims_table, paper_claims
from .curves import paper_figure_2, paper_figure_3
from .law import Fitted, compared_metrics, study_law
from .reading import UnitResult
from .tables import paper_table_1, paper_table_2, paper_table_3

__all__ = ["StudyResults", "study_results"]


@dataclass(frozen=True, eq=False, kw_only=True)
class StudyResults:
    """A study's units, and what comes of them."""

    units: tuple[UnitResult, ...]
    planned: tuple[str, ...]
    """Names of all units of the study's grid; those that are done where nothing else is known."""
    strangers: tuple[str, ...]
    """Units whose results lie there too, and which the grid doesn't have: they enter nothing."""
    tables: Mapping[str, pd.DataFrame]
    """`study`, `lengths`, `table_1`, `table_2`, `table_3`, `figure_2`, `figure_3`, `claims`."""
    findings: tuple[Finding, ...]
    laws: tuple[Fitted, ...]
    comparison: MetricComparison | None
    not_compared: str
    """Why metrics weren't compared; nothing where they were."""

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
    strangers = tuple(unit.name for unit in units if planned and unit.name not in planned)
    units = [unit for unit in units if unit.name not in strangers]
    if not units:
        raise ValueError(
            f"no results are of this study's units, but of {strangers[0]!r} and the like; run it, or name its own `out`"
        )
    _refuse_twice(units)
    cells, lengths = study_cells(units), length_cells(units)
    comparison, why = compared_metrics(cells)
    findings = paper_claims(units, comparison)
    return StudyResults(
        units=tuple(units),
        planned=tuple(planned) or tuple(unit.name for unit in units),
        strangers=strangers,
        tables={
            "study": cells,
            "lengths": lengths,
            "table_1": paper_table_1(cells),
            "table_2": paper_table_2(prompt_cells(units)),
            "table_3": paper_table_3(cells, units),
            "figure_2": paper_figure_2(cells),
            "figure_3": paper_figure_3(lengths),
            "claims": claims_table(findings),
        },
        findings=tuple(findings),
        laws=tuple(study_law(cells)),
        comparison=comparison,
        not_compared=why,
    )


def _refuse_twice(units: Sequence[UnitResult]) -> None:
    """Raise a ValueError if two units would count as two seeds of one setting, and are the same."""
    seen: dict[object, str] = {}
    for unit in units:
        key = (unit.model, unit.share, unit.rank, unit.seed, unit.task, unit.train_items)
        if (other := seen.setdefault(key, unit.name)) != unit.name:
            raise ValueError(f"units {other!r} and {unit.name!r} are of one setting and seed; take one of them out")
