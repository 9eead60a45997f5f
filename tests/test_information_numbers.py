"""The tables of unseen tasks on the page of benchmarks are what its script prints of the committed results."""

import hashlib
import json

import pytest

from lorascope.analyze.information.estimators import evaluate
from lorascope.analyze.information.pairs import Settings, check_pairs

from .printed import benchmark
from .said.page import ROOT

pytestmark = pytest.mark.slow

RESULTS = json.loads((ROOT / "benchmarks" / "information_tasks.json").read_text())
TASKS = {task.name: task for task in benchmark("information_tasks").tasks()}


def test_the_page_has_the_tables_that_the_script_prints() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    for table in benchmark("information").report().split("\n\n"):
        assert table in page


def test_every_task_has_results_and_its_own_truth() -> None:
    assert RESULTS.keys() == TASKS.keys()
    for name, row in RESULTS.items():
        assert (row["set"], row["family"]) == (TASKS[name].set, TASKS[name].family)
        assert row["truth"] == pytest.approx(TASKS[name].truth, rel=1e-9, abs=1e-12)


def test_results_are_of_the_samples_that_a_task_draws() -> None:
    """Of samples that are sums and products of what is drawn; others differ in last bits by processor."""
    x, y = TASKS["gaussian-weak-1-1"].sample()
    assert RESULTS["gaussian-weak-1-1"]["sha256"] == hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()


@pytest.mark.parametrize("name", ["gaussian-weak-1-1", "symbols-2-2", "sine-hidden-2-5-5-rotated"])
def test_results_are_what_the_estimators_give(name: str) -> None:
    """Members whose numbers rest on no climb: one is as near on every processor."""
    x, y = TASKS[name].sample()
    members = ("ksg_copula", "gaussian_copula", "radial_ksg")
    found = evaluate(check_pairs(x, y), members, Settings())
    assert found == pytest.approx([RESULTS[name]["members"][member] for member in members], abs=1e-5)
