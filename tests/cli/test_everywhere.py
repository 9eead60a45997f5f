"""Rules that hold in every command alike: which run is meant, which components, what is saved, and what is JSON."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import xarray as xr

from lorascope.stores import open_run

from .called import call
from .test_adapter import write as write_adapter

RUNS: dict[str, list[str]] = {
    "info": [],
    "verify": ["--level", "digests"],
    "miub": [],
    "mi": ["--n-tokens", "60", "--shuffles", "0", "--axes", "2", "--estimator", "gaussian"],
    "pull": ["{tmp}/part.zarr"],
    "report": ["--out", "{tmp}/page.html"],
    "explain": [],
    "view": ["--with-run", "--bundle", "{tmp}/page"],
}
"""Command that takes a run -> the words after it."""
ANSWERS: dict[str, list[str]] = {
    "info": ["{run}"],
    "verify": ["{run}"],
    "miub": ["{run}"],
    "miub --group-by": ["{run}", "--group-by", "kind,layer"],
    "miub two": ["{run}", "{other}"],
    "miub --paper": ["{run}", "--paper"],
    "mi": ["{run}", *RUNS["mi"]],
    "adapter": ["{adapter}"],
    "adapter two": ["{adapter}", "{adapter2}"],
    "fit": ["paper", "--quick"],
    "compare": ["paper", "--n-draws", "100"],
    "study status": ["{study}"],
}
"""Command -> words with which it prints numbers."""
SAVED = [name for name in ANSWERS if name not in ("verify", "miub --paper", "study status")]
SUFFIXES = ("csv", "parquet", "json", "nc", "zarr")
ONE_ONLY = ("miub two", "adapter two")
"""Answers of several results, which don't fit into one .zarr or .nc."""


@pytest.fixture(scope="module")
def places(many_rows: Path, other_samples: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("everywhere")
    study = folder / "study.yaml"
    study.write_text("{model: ./no, grid: {rank: 2}, tasks: {t: {train: d.jsonl, test: d.jsonl}}}")
    adapters = {name: str(write_adapter(folder / name)) for name in ("adapter", "adapter2")}
    return {"run": str(many_rows), "other": str(other_samples), "study": str(study), **adapters}


def given(words: list[str], tmp_path: Path, places: dict[str, str]) -> list[str]:
    return [word.format(tmp=tmp_path, **places) for word in words]


def answered(name: str, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    command = name.split()[0]
    return call(command, capsys, *((name.split()[1],) if command == "study" else ()), *words)


def refuse_constant(word: str) -> Any:
    raise AssertionError(f"{word} isn't JSON")


@pytest.mark.parametrize("command", RUNS)
def test_a_folder_that_holds_one_run_is_taken_for_it(
    capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path, command: str
) -> None:
    found = []
    for name in ("folder", "run itself"):
        folder = tmp_path / name
        (folder / "not a run.zarr").mkdir(parents=True)
        (folder / "not a run.zarr/zarr.json").write_text('{"attributes": {}}')
        run = shutil.copytree(many_rows, folder / "run.zarr")
        code, out, err = call(
            command, capsys, run if name == "run itself" else folder, *given(RUNS[command], folder, {})
        )
        assert (code, err) == (0, "")
        found.append(out.replace(str(folder), ""))
    assert found[0] == found[1]


@pytest.mark.parametrize("command", [*RUNS])
def test_of_several_runs_in_a_folder_none_is_taken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    for name in ("a.zarr", "b.zarr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text('{"attributes": {"format": "lorascope.run"}}')
    words = given(RUNS.get(command, ["{tmp}/out.zarr"]), tmp_path, {})
    code, out, err = call(command, capsys, tmp_path, *words)
    assert (code, out) == (2, "")
    assert err == f"lorascope: error: `{tmp_path}` holds 2 runs: `a.zarr`, `b.zarr`; name one\n"


@pytest.mark.parametrize("name", [name for name in ANSWERS if name not in SAVED])
def test_json_is_one_object_and_nothing_else(
    capsys: pytest.CaptureFixture[str], places: dict[str, str], tmp_path: Path, name: str
) -> None:
    code, out, err = answered(name, capsys, *given(ANSWERS[name], tmp_path, places), "--json")
    assert (code, err) == (1 if name == "study status" else 0, "")
    require_documented(name, capsys, json.loads(out, parse_constant=refuse_constant))


def require_documented(name: str, capsys: pytest.CaptureFixture[str], answer: dict[str, Any]) -> None:
    """The command's help names the keys of its answer."""
    text = answered(name, capsys, "--help")[1]
    assert [key for key in answer if key not in text] == []


def test_json_says_what_is_wrong(capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(many_rows, tmp_path / "broken.zarr")
    (broken / "states/model.layers.0.mlp.up_proj/base/c.1.0").unlink()
    code, out, _ = call("verify", capsys, broken, "--json")
    found = json.loads(out)
    assert (code, found["sound"], found["reforward"]) == (1, False, None)
    assert [one["kind"] for one in found["problems"]] == ["missing"]


def rows_of(name: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The table in an answer."""
    if name == "info":
        return answer["scores"]
    if name.startswith("adapter"):
        return [row for one in answer["adapters"] for row in one["rows"]]
    return list(answer.get("rows", []))


@pytest.mark.parametrize(
    ("name", "suffix"),
    # Formats differ in `save_table` alone; of a command it matters which table goes there, and as what.
    [(name, suffix) for name in SAVED for suffix in {"miub": SUFFIXES, "fit": ("csv",)}.get(name, ("json", "nc"))],
)
def test_out_writes_every_table(
    capsys: pytest.CaptureFixture[str], places: dict[str, str], tmp_path: Path, name: str, suffix: str
) -> None:
    out = tmp_path / f"table.{suffix}"
    words = [*given(ANSWERS[name], tmp_path, places), "--json", "--out", str(out)]
    code, answer, err = answered(name, capsys, *words)
    if name in ONE_ONLY and suffix in ("nc", "zarr"):
        assert code == 2
        assert "takes one " in err
        assert not out.exists()
        return
    assert (code, err.count("\n")) == (0, 1)
    assert str(out) in err
    found = json.loads(answer, parse_constant=refuse_constant)
    require_documented(name, capsys, found)
    rows = rows_of(name, found)
    if suffix in ("nc", "zarr"):
        options: dict[str, Any] = {} if suffix == "nc" else {"engine": "zarr", "consolidated": False}
        with xr.open_dataset(out, **options) as saved:
            size = saved.sizes.get("row", saved.sizes.get("component"))
            assert size == (len({row["component"] for row in rows}) if rows and "component" in rows[0] else size)
            assert size
    else:
        whole = json.loads(out.read_text()) if suffix == "json" else {}
        read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "json": lambda _: pd.DataFrame(whole["rows"])}[suffix]
        frame = read(out)
        assert len(frame) == (len(rows) or len(frame)) > 0
        if name.startswith(("miub", "mi")):
            column = "value" if name == "mi" else "js" if name == "miub" else "miub"
            assert frame.columns[frame.columns.str.startswith(column)][0] == (
                f"{column} (nat)" if suffix == "csv" else column
            )
            units = {"csv": {}, "json": whole.get("units"), "parquet": frame.attrs.get("units")}[suffix]
            assert suffix == "csv" or units[column] == "nat"
            values = frame.iloc[:, list(frame.columns.str.startswith(column)).index(True)]
            assert values.tolist() == pytest.approx([row[column] for row in rows], rel=1e-12)
    code, _, err = answered(name, capsys, *words)
    assert (code, err.count("\n")) == (2, 1)
    assert "is there already; name another" in err


@pytest.mark.parametrize("name", ["info", "miub", "mi", "adapter"])
def test_out_is_refused_before_any_work(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    code, _, err = call(name, capsys, tmp_path / "nothing", "--out", tmp_path / "x.txt")
    assert code == 2
    assert "its name must end in .csv (CSV), .parquet (Parquet), .json (JSON), .zarr (Zarr) or .nc (NetCDF)" in err


FILTERED: dict[str, list[str]] = {
    "info": ["{run}"],
    "verify": ["{run}"],
    "miub": ["{run}"],
    "mi": ["{run}", *RUNS["mi"]],
    "adapter": ["{adapter}"],
}


@pytest.mark.parametrize("command", FILTERED)
def test_component_filters(
    capsys: pytest.CaptureFixture[str], places: dict[str, str], tmp_path: Path, command: str
) -> None:
    words = given(FILTERED[command], tmp_path, places)
    answers = []
    for component in ("*.1.*up_proj", "*")[: 1 + (command == "verify")]:
        code, out, err = call(command, capsys, *words, "--json", "--component", component)
        assert (code, err) == (0, "")
        answers.append(json.loads(out))
    if command == "verify":  # three rows of a component's base, and of the one delta that is stored
        assert answers[1]["n_chunks"] - answers[0]["n_chunks"] == 3 * 3
    else:  # of 12 and 4
        assert (answers[0]["components"]["n"] if command == "info" else len(rows_of(command, answers[0]))) == 1


@pytest.mark.parametrize("command", [*FILTERED, "pull"])
def test_a_component_that_fits_nothing_is_one_line(
    capsys: pytest.CaptureFixture[str], places: dict[str, str], tmp_path: Path, command: str
) -> None:
    words = given(FILTERED.get(command, ["{run}", "{tmp}/part.zarr"]), tmp_path, places)
    code, _, err = call(command, capsys, *words, "--component", "layers.1.up_proj")
    assert (code, err.count("\n")) == (2, 1)
    close = "model.layers.1.up_proj" if command == "adapter" else "model.layers.1.mlp.up_proj"
    assert f"did you mean '{close}'?" in err


def test_verify_of_a_component_sees_what_is_broken_there_and_nothing_else(
    capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(many_rows, tmp_path / "broken.zarr")
    chunk = broken / "states/model.layers.0.mlp.up_proj/base/c.1.0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    for pattern, expected in (("*.0.*up_proj", 1), ("*.1.*", 0)):
        assert call("verify", capsys, broken, "--level", "digests", "--component", pattern)[0] == expected


def test_the_run_itself_is_what_a_folder_opens_as(many_rows: Path, tmp_path: Path) -> None:
    run = shutil.copytree(many_rows, tmp_path / "run.zarr")
    for path in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        assert open_run(path).path == run
