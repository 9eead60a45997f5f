import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import xarray as xr

from lorascope.analyze import miub, save
from lorascope.study import read_units, study_cells
from lorascope.study.page.report import write_study_report

from ...analyze.conftest import write_small
from ..made import make_study, make_unit

TABLES = ["study", "lengths", "table_1", "table_2", "table_3", "figure_2", "figure_3", "claims"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("out"), [(8, 8), (1, 8), (1, 32)])


def test_tables_and_page(out: Path) -> None:
    planned = ["share8-r8-s0-qa", "share1-r8-s0-qa", "share1-r32-s0-qa", "share1-r512-s0-qa"]
    paths = write_study_report(out, planned=planned)
    assert paths == [*(out / f"{name}.csv" for name in TABLES), out / "report.html"]
    for path in paths[:-1]:
        assert len(pd.read_csv(path)) > 0
    assert "share1-r512-s0-qa" in paths[-1].read_text()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    before = {path: path.read_bytes() for path in paths}
    assert write_study_report(out, planned=planned) == paths  # the same again, over what is there
    assert {path: path.read_bytes() for path in paths} == before


def test_what_must_be_known_first(tmp_path: Path) -> None:
    def answers(found: xr.Dataset) -> xr.Dataset:
        recipe = json.loads(found.attrs["recipe"]) | {"main": {"config": {"tokens": "answer"}}}
        return found.assign_attrs(recipe=json.dumps(recipe))

    make_study(tmp_path, [(1, 8), (1, 32)], change=answers)
    page = write_study_report(tmp_path, planned=["share1-r8-s0-qa"])[-1].read_text()
    assert "MIUB is of a part of the tokens:</b> answer" in page
    assert "1 results are of units that the study doesn't have,</b> and aren't in here: share1-r32-s0-qa" in page
    assert 'id="unit-share1-r32-s0-qa"' not in page


def test_another_place_for_the_page(out: Path, tmp_path: Path) -> None:
    assert write_study_report(out, tmp_path / "new" / "page.html")[-1] == tmp_path / "new" / "page.html"
    with pytest.raises(ValueError, match="a folder; name the page's file, such as"):
        write_study_report(out, tmp_path / "new")


def test_a_change_names_its_model(tmp_path: Path) -> None:
    for model in ("big", "smol"):
        make_study(tmp_path, [(1, 8), (1, 32)], model=model, lengths=False, text=False)
    assert "MIUB of big along rank" in write_study_report(tmp_path)[-1].read_text()


def test_no_results_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no results of a unit"):
        write_study_report(tmp_path)


TORCH = "print({'torch', 'transformers', 'peft', 'lorascope.capture'} & sys.modules.keys())"


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("from lorascope.study import write_study_report; write_study_report(Path(sys.argv[1]))", "set()"),
        ("from lorascope.study import grid, places, settings, status", "set()"),
        ("import types; sys.modules['torch'] = types.ModuleType('torch')", "{'torch'}"),
    ],
    ids=["report", "status", "this test can fail"],
)
def test_without_torch(tmp_path: Path, code: str, printed: str) -> None:
    make_unit(tmp_path / "results", text=False, lengths=False, prompts=("main",))
    code = f"import sys; from pathlib import Path; {code}; {TORCH}"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == f"{printed}\n", done.stderr


@pytest.mark.torch
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs lorascope[capture]")
def test_results_of_runs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorascope.study.grid import Unit
    from lorascope.study.running.data import TaskData
    from lorascope.study.running.measure import measure_runs

    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    run = write_small(tmp_path / "run.zarr").run
    keys = [("facts", "test", f"item-{place}") for place in range(12)]
    data = TaskData(
        train=(), probe=(), examples=(), runs={}, tested=frozenset(keys[:8]), prompted=frozenset(),
        buckets=dict.fromkeys(keys[6:], "1-100"), lengths=dict.fromkeys(keys[6:], 50), notes=(),
    )  # fmt: skip
    unit = Unit(model="m", share=1, rank=2, seed=0, task="t", train_items=None, name="share1-r2-s0-t")
    found = measure_runs(unit, {"train": {}}, data, {"main": run}, {"n_samples": 3})
    save(found, tmp_path / "results" / f"{unit.name}.nc")
    row = study_cells(read_units(tmp_path)).iloc[0]
    own = miub(run)["miub_sample"].values[:8]
    assert row["MIUB"] == pytest.approx(own.mean(), rel=1e-12)
    assert row["MIUB_se"] == pytest.approx(own.std(ddof=1) / 8**0.5, rel=1e-12)
    assert row["ACC"] == (run.samples["correct"].values[:8] == 1).mean()
    assert (row["n_samples"], row["D"], row["dataset"], row["prompt"]) == (8, 3, "facts", "main")
    assert pd.isna(row["N"])  # this run's provenance says nothing
    assert write_study_report(tmp_path)[-1].is_file()
