"""A study from its file to its results: the whole grid on both shapes of models, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
pytest.importorskip("torch")

from lorascope.analyze import miub  # noqa: E402
from lorascope.cli.main import main  # noqa: E402
from lorascope.stores import open_run  # noqa: E402
from lorascope.study.grid import grid_units  # noqa: E402
from lorascope.study.running.data import draw_items  # noqa: E402
from lorascope.study.settings import read_settings  # noqa: E402

Write = Callable[[dict[str, Any]], Path]
TABLES = ("study", "lengths", "table_1", "table_2", "table_3", "figure_2", "figure_3")


@pytest.fixture
def grid(content: dict[str, Any], models: Path) -> dict[str, Any]:
    """Two shapes of models, ranks, shares, prompts, lengths, a text, and mutual information of one rank."""
    content |= {
        "model": [str(models / "llama"), str(models / "phi3")],
        "grid": [
            {"model": str(models / "llama"), "rank": [2, 4], "tasks": "facts"},
            {"model": str(models / "phi3"), "share": 2, "rank": 4},
        ],
        "capture": {"window_tokens": 64, "states_share": 0.9},
        "information": {"components": "*.0.self_attn.o_proj", "tokens": 60, "shuffles": 2, "where": {"task": "facts"}},
    }
    content["training"] |= {"max_steps": 2, "miub_every": 1, "miub_samples": 4, "window_tokens": 64}
    content["tasks"]["facts"] |= {
        "prompts": ["main", "prompt2"],
        "prompt_items": 2,
        "lengths": {"unit": "words", "buckets": [[1, 9], [10, 30]], "items": 3},
    }
    content["tasks"]["text"] = {
        "train": str(models / "facts-text.test.txt"),
        "test": str(models / "facts-text.train.txt"),
    }
    return content


def results(path: Path) -> dict[str, xr.Dataset]:
    """Unit or unit's estimates -> content of its file, except its time and duration."""
    contents = {}
    for file in sorted((path.parent / "study/results").glob("*.nc")):
        with xr.open_dataset(file) as data:
            contents[file.name] = data.load().drop_attrs()
    return contents


def tables(path: Path) -> dict[str, str]:
    """CSV files of the report, word for word."""
    assert main(["study", "report", str(path), "--traceback"]) == 0
    return {name: (path.parent / "study" / f"{name}.csv").read_text() for name in TABLES}


def kill_once(path: Path, *, when: Callable[[Path], bool]) -> None:
    """Run the study in a process of its own, and kill that as soon as its folder looks as asked."""
    command = [sys.executable, "-m", "lorascope", "study", "run", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ})
    deadline = time.monotonic() + 300
    while not when(path.parent / "study") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, error = process.communicate()
    assert process.returncode == -signal.SIGKILL, error.decode()


@pytest.mark.slow
def test_the_whole_grid_and_the_same_tables_after_two_kills(
    write: Write, grid: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    paths = []
    for folder in (whole, killed):
        folder.mkdir()
        path = folder / "study.yaml"
        path.write_text(write(grid).read_text())
        paths.append(path)
    assert main(["study", "run", str(paths[0]), "--traceback"]) == 0
    units = grid_units(read_settings(paths[0]))
    assert len(units) == 4

    # In the midst of a capture, and once the first unit is done.
    kill_once(paths[1], when=lambda study: any(study.glob("work/*/main/run.zarr/zarr.json")))
    assert not results(paths[1])
    kill_once(paths[1], when=lambda study: len(list(study.glob("results/*facts.nc"))) >= 2)
    done = results(paths[1])
    assert done
    assert main(["study", "status", str(paths[1])]) == 1
    assert main(["study", "run", str(paths[1]), "--traceback"]) == 0
    assert main(["study", "status", str(paths[1])]) == 0

    expected, continued = results(paths[0]), results(paths[1])
    assert {unit.name + ".nc" for unit in units} <= expected.keys() == continued.keys()
    for name, result in expected.items():
        xr.testing.assert_identical(result, continued[name])
    assert tables(paths[0]) == tables(paths[1])
    assert not list((whole / "study").glob("work/*"))  # nor the folder itself, which was made for the lock
    assert "4 of 4 units done" in capsys.readouterr().out

    study = pd.read_csv(whole / "study/study.csv")
    facts = study[(study["dataset"] == "facts") & (study["prompt"] == "main")]
    assert len(facts) == 3
    assert (study["MIUB"] > 0).all()
    assert (facts["N"] > 0).all()


def test_results_are_those_of_the_runs(write: Write, grid: dict[str, Any]) -> None:
    grid |= {"model": grid["model"][0], "grid": [{"rank": 2, "tasks": "facts"}], "states": "all", "information": None}
    path = write(grid)
    assert main(["study", "run", str(path), "--traceback"]) == 0
    settings = read_settings(path)
    (unit,) = grid_units(settings)
    (result,) = results(path).values()
    data = draw_items(
        settings.tasks["facts"], settings, unit.train_items, lambda: pytest.fail("words need no tokenizer")
    )

    runs = [open_run(settings.work / unit.name / name / "run.zarr") for name in ("main", "prompts")]
    assert [run.has_states for run in runs] == [True, True]
    assert result.sizes["sample"] == sum(run.samples.sizes["sample"] for run in runs)
    np.testing.assert_array_equal(result["miub"], np.concatenate([miub(run)["samples/miub"] for run in runs]))
    for name in ("ce", "base_ce", "correct"):
        np.testing.assert_array_equal(result[name], np.concatenate([run.samples[name] for run in runs]))
    ids = result["id"].values
    main_rows = result["prompt"].values == "main"
    assert set(ids[main_rows & (result["in_test"].values == 1)]) == {key[2] for key in data.tested}
    assert set(ids[result["in_prompts"].values == 1]) == {key[2] for key in data.prompted}
    assert {name: b for name, b in zip(ids[main_rows], result["bucket"].values[main_rows], strict=True) if b} == {
        key[2]: bucket for key, (bucket, _) in data.lengths.items()
    }
    for cell in range(result.sizes["cell"]):
        rows = result["prompt"].values == str(result["cell_prompt"].values[cell])
        total = float(result["js"].values[cell].sum())
        assert total == pytest.approx(float(result["miub"].values[rows].mean()), rel=1e-12)


@pytest.mark.slow
def test_results_name_no_place_and_other_settings_are_refused(
    write: Write, grid: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").symlink_to(grid["model"][1])
    grid |= {"model": "model", "grid": [{"rank": 2, "tasks": "facts"}]}
    path = write(grid)
    assert main(["study", "run", str(path), "--traceback"]) == 0
    before, files = results(path), sorted(path.parent.glob("study/results/*.nc"))
    assert len(files) == 2
    for file in files:
        with xr.open_dataset(file) as data:
            assert str(tmp_path) not in str({name: str(value) for name, value in data.attrs.items()})
    modified = [file.stat().st_mtime_ns for file in files]
    assert main(["study", "run", str(path), "--traceback"]) == 0
    assert [file.stat().st_mtime_ns for file in files] == modified
    assert "already complete: all 1 units are done" in capsys.readouterr().out

    grid["training"]["learning_rate"] = 2e-2
    write(grid)
    assert main(["study", "run", str(path)]) == 2
    error = capsys.readouterr().err
    assert "train.config.learning_rate: 0.01 -> 0.02" in error
    assert "put them back, name another `out`, or delete it" in error
    assert results(path)["share1-r2-s0-facts.nc"].identical(before["share1-r2-s0-facts.nc"])


@pytest.mark.slow
def test_plan_counts_what_passes_and_keeps_nothing(
    write: Write, grid: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    grid |= {"model": grid["model"][0], "grid": [{"rank": 2, "tasks": "facts"}], "information": None}
    path = write(grid)
    assert main(["study", "plan", str(path), "--traceback"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 units: about" in out
    assert not (path.parent / "study").exists()
    assert main(["study", "plan", str(path), "--no-probe", "--traceback"]) == 0
    assert "rehearsal" not in capsys.readouterr().out
    assert main(["study", "plan", str(path), "--no-probe", "--json", "--traceback"]) == 0
    planned = json.loads(capsys.readouterr().out)
    (unit,) = planned["units"]
    assert unit["seconds"] is None
    assert unit["tokens"]["scored"] > 0
    assert set(planned) == {"units", "notes", "results", "work"}
