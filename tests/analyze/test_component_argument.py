"""`component=` means the same in every public function: paths or patterns, one or several, and one refusal."""

import inspect
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorascope import analyze, stores
from lorascope.analyze import report
from lorascope.stores import Run, StoreError, pull, verify


def with_neutral(run: Run, out: Path) -> Path:
    """Return a copy of a run that holds the run's samples as its neutral texts too."""
    whole = Path(shutil.copytree(run.path, out / "whole.zarr"))
    shutil.copytree(run.path, whole / "neutral")
    return whole


ANSWERS: dict[str, Callable[..., Any]] = {
    "explain": lambda run, out, **options: analyze.explain(run, **options).qualified["component"].values,
    "export_pairs": lambda run, out, **options: analyze.export_pairs(run, out / "pairs.npz", **options),
    "forgetting": lambda run, out, **options: analyze.forgetting(with_neutral(run, out), **options)["component"].values,
    "measure_information": lambda run, out, **options: (
        analyze.measure_information(run, estimator="gaussian", n_shuffles=0, **options)["component"].values
    ),
    "measure_run": lambda run, out, **options: analyze.measure_run(run, ("js",), **options)["component"].values,
    "miub": lambda run, out, **options: analyze.miub(run, **options)["component"].values,
    "miub_readings": lambda run, out, **options: analyze.miub_readings(run, **options),
    "pull": lambda run, out, **options: pull(run.path, out / "copy.zarr", **options).component_paths,
    "qualify": lambda run, out, **options: analyze.qualify(run, **options)["component"].values,
    "take": lambda run, out, **options: run.take([0], **options).children,
    "verify": lambda run, out, **options: verify(run.path, **options),
    "write_report": lambda run, out, **options: report.write_report(run, out / "page.html", **options),
}
"""Public function -> a call of it; where it can be told, the components of its answer."""
ONE_PATH = {"directions"}
"""Public functions of one component; the methods of `Run` have a test of their own."""


@pytest.fixture
def run(make_small: Any) -> Run:
    found: Run = make_small().run
    return found


def test_no_public_function_is_missing_here() -> None:
    public = [
        getattr(package, name)
        for package in (analyze, report, stores)
        for name in package.__all__
        if inspect.isfunction(getattr(package, name))
    ]
    parameters = {function.__name__: inspect.signature(function).parameters for function in (*public, Run.take)}
    assert {name for name, own in parameters.items() if "component" in own} == ANSWERS.keys() | ONE_PATH
    assert [name for name, own in parameters.items() if "components" in own] == []


@pytest.mark.parametrize("name", ANSWERS)
def test_one_pattern_is_taken_as_a_list_of_it(run: Run, tmp_path: Path, name: str) -> None:
    expected = [path for path in run.component_paths if path.endswith(".q_proj")]
    assert 0 < len(expected) < len(run.component_paths)
    answers = []
    for number, component in enumerate(("*.q_proj", ["*.q_proj"], expected)):
        out = tmp_path / str(number)
        out.mkdir()
        answers.append(ANSWERS[name](run, out, component=component))
    if name not in ("export_pairs", "miub_readings", "verify", "write_report"):
        assert [list(answer) for answer in answers] == [expected] * 3


@pytest.mark.parametrize(
    ("component", "words"),
    [
        ("*.qproj", "'*.qproj' fits none of the {n} components {of}; did you mean '*.q_proj'?"),
        ("layers.0.q_prj", "'layers.0.q_prj' fits none of the {n} components {of}; did you mean "),
        ("", "`component` is ''; give a name or pattern of components {of}, several, or nothing for all"),
        (3, "`component` is 3; give a name or pattern of components {of}, several, or nothing for all"),
        ([], "`component` is []; give a name or pattern of components {of}, several, or nothing for all"),
    ],
)
@pytest.mark.parametrize("name", ANSWERS)
def test_a_mistake_is_answered_by_the_same_line(
    run: Run, tmp_path: Path, name: str, component: Any, words: str
) -> None:
    of = "of this run" if name in ("pull", "take", "verify") else "that the adapter changes"
    with pytest.raises(StoreError, match=re.escape(words.format(n=len(run.component_paths), of=of))):
        ANSWERS[name](run, tmp_path, component=component)


@pytest.mark.parametrize("component", ["*.q_proj", "", 3])
def test_directions_say_that_they_take_one_path(run: Run, component: Any) -> None:
    words = f"`component` is {component!r}; give the path of one component, and no pattern or list; "
    with pytest.raises(StoreError, match=re.escape(words)):
        analyze.directions(run, component)
