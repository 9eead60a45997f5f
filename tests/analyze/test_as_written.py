"""A run that isn't what was written is refused by everything that computes numbers of it."""

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from lorascope import analyze
from lorascope.analyze import report, viewing
from lorascope.analyze.viewing.index import view_index
from lorascope.cli.main import main
from lorascope.stores import StoreError, open_run

PLACES = [f"adapters/default/lora_B/model.layers.{layer}.q_proj/c.0.0" for layer in (0, 1)]
NAME = "model.layers.0.q_proj"


def damage(run: Path, how: str) -> Path:
    """Exchange two chunks of lora_B, whose own checksums stay right, or change a digit of the root."""
    if how == "weights":
        first, second = (run / place for place in PLACES)
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    else:
        root = (run / "zarr.json").read_bytes()
        assert root.count(b'"seconds": 2.0') == 1
        (run / "zarr.json").write_bytes(root.replace(b'"seconds": 2.0', b'"seconds": 3.0'))
    return run


ANALYSES: dict[str, Callable[[Any, Path], object]] = {
    "changes": lambda run, out: analyze.changes(run),
    "compare_measures": lambda run, out: analyze.compare_measures(run),
    "contexts": lambda run, out: analyze.contexts(run, [3]),
    "directions": lambda run, out: analyze.directions(run, NAME),
    "experts": lambda run, out: analyze.experts(run, SOUND["result"]),
    "explain": lambda run, out: analyze.explain(run),
    "export_pairs": lambda run, out: analyze.export_pairs(run, out / "pairs.npz"),
    "forgetting": lambda run, out: analyze.forgetting(run),
    "importance": lambda run, out: analyze.importance(run),
    "measure_information": lambda run, out: analyze.measure_information(run, estimator="gaussian", n_shuffles=0),
    "measure_run": lambda run, out: analyze.measure_run(run, ["js"]),
    "miub": lambda run, out: analyze.miub(run),
    "miub_readings": lambda run, out: analyze.miub_readings(run),
    "null_adapters": lambda run, out: analyze.null_adapters(run),
    "qualify": lambda run, out: analyze.qualify(run),
    "reply_lengths": lambda run, out: analyze.reply_lengths(run),
    "reply_words": lambda run, out: analyze.reply_words(run),
    "verify_against": lambda run, out: analyze.verify_against(run, lambda sequences, repetition: []),
    "view": lambda run, out: analyze.view(run).stop(),
    "view_index": lambda run, out: view_index(run),
    "write_bundle": lambda run, out: viewing.write_bundle(run, out / "bundle"),
    "write_report": lambda run, out: report.write_report(run, out / "page.html"),
}
NEEDS_MORE = {
    "changes": "no next-token changes",
    "compare_measures": "ablat",
    "experts": "no component of the result is an adapter on experts",
    "forgetting": "no neutral texts",
    "importance": "no importance",
    "null_adapters": "no null adapters",
    "reply_lengths": "no replies",
    "reply_words": "no replies",
}
"""Analysis -> what it lacks in this run, sound or not."""
SOUND: dict[str, xr.DataTree] = {}
"""The result of the sound run, for functions that take it."""
WITHOUT = {"scores_table", "page_path", "paragraph"}
"""Functions for `info`, which also tells about damaged runs, and of an explanation that was computed before."""


@pytest.fixture
def run(make_small: Any, tmp_path: Path) -> Path:
    SOUND["result"] = analyze.miub(make_small().run)
    return Path(shutil.copytree(make_small().run.path, tmp_path / "run.zarr"))


@pytest.mark.parametrize("how", ["weights", "root"])
def test_a_run_that_is_not_what_was_written_is_refused(run: Path, tmp_path: Path, how: str) -> None:
    """Also if an index of the sound run is there, and if the run was opened before and is opened again."""
    view_index(run)
    damage(run, how)
    for opened in (run, open_run(run)):
        for analysis in ANALYSES.values():
            with pytest.raises(StoreError, match="run.zarr` isn't what was written: .*; `lorascope verify` lists all"):
                analysis(opened, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.view.zarr", "run.zarr"]


def test_a_sound_run_is_compared_once(run: Path, tmp_path: Path) -> None:
    opened = open_run(run)
    for name, analysis in ANALYSES.items():
        if name in NEEDS_MORE:
            with pytest.raises(StoreError, match=NEEDS_MORE[name]):
                analysis(opened, tmp_path)
        else:
            analysis(opened, tmp_path)
    damage(run, "weights")  # an open run was compared before
    analyze.directions(opened, NAME)
    with pytest.raises(StoreError, match="isn't what was written"):
        analyze.directions(run, NAME)


def test_every_public_function_of_a_run_is_among_them() -> None:
    def of_run(function: Any) -> bool:
        first = next(iter(inspect.signature(function).parameters.values()), None)
        return first is not None and first.name in ("run", "runs")

    public = [getattr(module, name) for module in (analyze, report, viewing) for name in module.__all__]
    named = {function.__name__ for function in public if inspect.isfunction(function) and of_run(function)}
    assert named == set(ANALYSES) - {"view_index"} | WITHOUT


def test_commands_say_so_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(run, "weights")
    for words in (
        ("miub", run), ("mi", run), ("explain", run), ("report", run), ("view", run, "--no-browser"),
        ("view", run, "--bundle", tmp_path / "bundle"), ("pull", run, tmp_path / "copy.zarr"),
    ):  # fmt: skip
        assert main([*map(str, words)]) == 2, words
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert f"`{run}` isn't what was written: tables or weights aren't what was written" in err
