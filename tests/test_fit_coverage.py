"""Pages hold what `benchmarks/fit_coverage.py` counted, and it counts the intervals that a fit shows."""

from types import ModuleType
from typing import Any

import pytest

from lorascope.analyze import fit_scaling_law

from .printed import ROOT, benchmark

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return benchmark("fit_coverage")


def test_tables_are_those_of_the_counts(script: ModuleType) -> None:
    counts = script.stored_counts()
    assert list(counts) == list(script.parts())
    page = (ROOT / "docs/benchmarks.md").read_text()
    for table in script.tables(counts):
        assert f"\n\n{table}\n\n" in page
    found = [row["F"] / row["n"] for one in script.DESIGNS for row in counts[one.name] if "F" in row]
    assert f"coverage of 95 % intervals from {100 * min(found):.1f} to {100 * max(found):.1f} %" in page


@pytest.mark.parametrize("place", [1, 3])
def test_what_is_counted_is_the_interval_that_is_shown(script: ModuleType, place: int) -> None:
    design = script.DESIGNS[place]
    study, axes = script.simulated(design, 1), {axis: axis for axis in design.sizes}
    options: dict[str, Any] = {**axes, "groups": ["group"]}
    fit = fit_scaling_law(study, "y", **options)
    for name in fit.design.exponents:
        low, high, low_open, high_open = fit.conf_int().loc[name, ["low", "high", "low_open", "high_open"]]
        ends = ((low - 1e-3, low_open), (low + 1e-3, True), (high - 1e-3, True), (high + 1e-3, high_open))
        for truth, held in ends:
            if fit.design.limits[name][0] < truth < fit.design.limits[name][1]:
                row = script.coverage_of(fit, name, truth)
                assert (row["F"], row["open"]) == (held, low_open or high_open)


def test_a_part_can_be_counted_again(script: ModuleType) -> None:
    """The rows of a part have the same entries as its stored rows."""
    for name, measure in script.parts().items():
        if name in (script.DESIGNS[3].name, script.groups_name("log-log", 5)):
            rows = measure(2)
            assert [set(row) for row in rows] == [set(row) for row in script.stored_counts()[name]]
            assert all(0 <= row[kind] <= 2 for row in rows for kind in ("F", "Wald", "bootstrap") if kind in row)
