"""Everything that is made of a study's results, in one go."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from ..comparison.comparison import MetricComparison
from .cells import length_cells, prompt_cells, study_cells
from .changes import Finding
from .claims import claims_table, paper_claims
from .curves import paper_figure_2, paper_figure_3
from .law import Fitted, compared_metrics, study_law
from .reading import UnitResult
from .tables import paper_table_1, paper_table_2, paper_table_3

__all__ = ["StudyResults", "differing", "study_results"]

MOST_NAMED = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class StudyResults:
    """A study's units, and what comes of them."""

    units: tuple[UnitResult, ...]
    planned: tuple[str, ...]
    """Names of all units of the study's grid; those that are done where nothing else is known."""
    tables: Mapping[str, pd.DataFrame]
    """`study`, `lengths`, `table_1`, `table_2`, `table_3`, `figure_2`, `figure_3`, `claims`."""
    findings: tuple[Finding, ...]
    laws: tuple[Fitted, ...]
    comparison: MetricComparison | None
    compared: pd.DataFrame
    """The cells that metrics were compared on."""
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
        Names of all units of the study's grid, where they are known.
    """
    cells, lengths = study_cells(units), length_cells(units)
    comparison, compared, why = compared_metrics(cells)
    findings = paper_claims(units, comparison)
    return StudyResults(
        units=tuple(units),
        planned=tuple(planned) or tuple(unit.name for unit in units),
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
        compared=compared,
        not_compared=why,
    )


def differing(units: Sequence[UnitResult]) -> list[str]:
    """A sentence on each library, device and setting of training by which units differ, but for those of the grid."""
    values: dict[str, dict[str, list[str]]] = {}
    for unit in units:
        for name, value in _shaping(unit):
            values.setdefault(name, {}).setdefault(value, []).append(unit.name)
    said = []
    for name, found in values.items():
        if len(found) > 1:
            parts = [f"{value} in {_listed(list(dict.fromkeys(names)))}" for value, names in found.items()]
            said.append(f"{name}: {'; '.join(parts)}")
    return said


def _shaping(unit: UnitResult) -> Iterator[tuple[str, str]]:
    """What should be the same in all units: name and value."""
    for run in unit.runs.values():
        provenance = run.get("provenance")
        if not isinstance(provenance, Mapping):
            continue
        for name, version in _mapping(provenance.get("libraries")).items():
            yield str(name), str(version)
        device = _mapping(provenance.get("device"))
        for name in ("type", "name"):
            if name in device:
                yield f"device {name}", str(device[name])
    train = _mapping(unit.recipe.get("train"))
    for name, value in _mapping(train.get("config")).items():
        if name not in ("rank", "seed"):
            yield f"training {name}", str(value)
    yield "model's type", str(train.get("dtype", ""))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(itertools.islice(names, MOST_NAMED))
    return shown + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
