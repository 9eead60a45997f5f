import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lorascope.analyze import group_by, to_dataframe
from lorascope.analyze import miub as miub_of
from lorascope.analyze.results.format import format_error
from lorascope.cli import screen
from lorascope.stores import open_run

from ..analyze.conftest import write_small
from .called import call, flat


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code, out, err = call("miub", capsys, *words)
    return code, flat(out), err


def test_the_conclusion_comes_first_and_the_rest_by_full(capsys: pytest.CaptureFixture[str], many_rows: Path) -> None:
    _, out, _ = run(capsys, many_rows)
    assert 0 == out.index("MIUB ") < out.index("JS by component")
    assert "fidelity" not in out
    _, out, _ = run(capsys, many_rows, "--full", "--group-by", "kind, layer")
    assert "fidelity: no token's js was measured during capture" in out
    assert "MIUB by kind, layer" in out
    assert out.count("down_proj") >= 4
    assert "JS by component ┏" in out


def test_long_tables_are_cut(
    capsys: pytest.CaptureFixture[str], many_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TOP", "MOST_ROWS"):
        monkeypatch.setattr(screen, name, 3)
    assert "JS by component, the 3 largest of 4 (--full or --out: all)" in run(capsys, many_rows)[1]
    _, out, _ = run(capsys, many_rows, "--group-by", "component")
    assert "MIUB by component, the 3 largest of 4 (--full or --out: all)" in out


def test_which_tokens_moved_most(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_path = write_small(tmp_path / "run.zarr", word=(" the", "\n", "2", "", "the")).run.path
    code, out, _ = call("miub", capsys, run_path, "--group-by", "text", "--json", "--out", tmp_path / "texts.csv")
    rows = json.loads(out)["rows"]
    tokens = to_dataframe(miub_of(run_path), "token")
    assert code == 0
    assert {row["text"]: row["n_tokens"] for row in rows} == tokens["text"].value_counts().to_dict()
    assert [row["miub"] for row in rows] == sorted((row["miub"] for row in rows), reverse=True)
    assert pd.read_csv(tmp_path / "texts.csv", keep_default_na=False)["text"].tolist() == [row["text"] for row in rows]
    for name, value in (("TOP", 2), ("MOST_ROWS", 2)):
        monkeypatch.setattr(screen, name, value)
    _, out, _ = run(capsys, run_path, "--group-by", "text")
    assert f"MIUB by text, the 2 largest of {len(rows)} (--full or --out: all)" in out
    assert [repr(row["text"]) in out for row in rows] == [True] * 2 + [False] * 3


def test_some_components_in_another_unit_and_reduction(capsys: pytest.CaptureFixture[str], many_rows: Path) -> None:
    options = ("--component", "*.up_proj", "--unit", "bit", "--reduction", "last")
    code, out, _ = run(capsys, many_rows, *options)
    assert code == 0
    expected = miub_of(open_run(many_rows), component=["*.up_proj"], unit="bit", reduction="last")
    assert f"MIUB {format_error(float(expected['miub']), float(expected['miub_se']))} bit (tokens: last;" in out
    assert "2 components)" in out
    assert "down_proj" not in out


def test_values_that_arent_finite_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run_path = write_small(tmp_path / "run.zarr", states="none", not_finite=True).run
    code, out, _ = run(capsys, run_path.path)
    assert code == 1
    assert "1 values aren't finite, the first at token 3 (sample " in out
    assert f"of {run_path.component_paths[0]}; numbers made of them are NaN" in out


def test_every_reading_of_the_paper(capsys: pytest.CaptureFixture[str], many_rows: Path) -> None:
    code, out, _ = run(capsys, many_rows, "--paper")
    assert code == 0
    assert out.count("delta alone") == 9
    assert "size alone can't tell which reading of eq. 9 the paper used" in out
    assert "11.8 to 17.1 per component" in out
    code, out, _ = run(capsys, many_rows, "--paper", "--component", "*.up_proj")
    assert code == 0
    assert "this run has 2 components" in out


def test_several_runs_are_compared(capsys: pytest.CaptureFixture[str], many_rows: Path, unfinished: Path) -> None:
    code, out, _ = run(capsys, many_rows, unfinished, "--group-by", "run")
    assert code == 0
    assert "paired by 2 samples" in out
    assert "samples aren't wholly captured yet and are excluded" in out
    assert "MIUB by run" in out
    assert ": 0 nat, paired by 1 samples" in out or "p = n/a (t), n/a (Wilcoxon)" in out  # the same numbers in both


def test_runs_stand_side_by_side_with_their_differences(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = write_small(tmp_path / "first.zarr").run.path
    second = write_small(tmp_path / "second.zarr", zero=True).run.path
    code, out, _ = call("miub", capsys, first, second, "--group-by", "run,layer,kind")
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    frame = to_dataframe(group_by(miub_of(first), ["layer", "kind"]), "group")
    assert [row[:2] for row in rows] == [
        [str(layer), kind] for layer, kind in zip(frame["layer"], frame["kind"], strict=True)
    ]
    assert {(row[3], row[4]) for row in rows} == {("0 ± 0", f"-{row[2]}") for row in rows}
    assert re.search(r"┃[^│]* \d+ pairs", out)  # in the head of the differences
    assert float(rows[0][2].split()[0]) / float(rows[1][2].split()[0]) == pytest.approx(
        frame["miub"][0] / frame["miub"][1], rel=0.05
    )


def test_several_adapters_of_one_run(capsys: pytest.CaptureFixture[str], two_adapters: Path) -> None:
    code, out, _ = run(capsys, two_adapters, "--adapter", "a", "--adapter", "b")
    assert code == 0
    assert "MIUB by run, adapter" in out
    assert "(b)" in out


def test_runs_of_other_data_are_shown_unpaired(
    capsys: pytest.CaptureFixture[str], many_rows: Path, other_samples: Path
) -> None:
    code, out, _ = run(capsys, many_rows, other_samples)
    assert code == 0
    assert "MIUB by run" in out
    assert "not paired:" in out
    assert "share 0 whole samples" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["x", "y", "--out", "z.nc"],
            "`--out` ending in `.zarr` or `.nc` takes one run and one adapter, and there are 2; call it once for each",
        ),
        (
            ["x", "--adapter", "a", "--adapter", "b", "--paper"],
            "`--paper` takes one run and one adapter, and there are 2",
        ),
        (
            ["x", "y", "--group-by", "expert"],
            "`--group-by expert` takes one run and one adapter, and there are 2; call it once for each",
        ),
        (["x", "--group-by", "colour"], "`--group-by` names 'colour'; allowed are dataset,"),
        (["x", "--group-by", "kind,layers"], "expert, with commas between; did you mean 'layer'?"),
        (["x", "--group-by", "layer,layer"], "`--group-by` is 'layer,layer'; name each key once"),
        (["x", "--paper", "--unit", "bit"], "`--paper` goes without `--unit`: it shows every reduction and unit"),
        (["x", "--group-by", "run"], "`--group-by` names 'run'; allowed are dataset,"),
        (["x", "--by", "layer"], "Unknown option: --by. Did you mean --group-by?"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    code, _, err = run(capsys, *words)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err


def test_no_scheduler_there(capsys: pytest.CaptureFixture[str], many_rows: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("lorascope.analyze.measuring.cluster.TIMEOUT_SECONDS", 1)
    code, _, err = run(capsys, many_rows, "--scheduler", "tcp://127.0.0.1:1")
    assert code == 2
    assert "no Dask scheduler answers at 'tcp://127.0.0.1:1'" in err
    code, _, err = run(capsys, many_rows, "--scheduler", "slurm")
    assert "`scheduler` is 'slurm'; give an address such as 'tcp://host:8786'" in err
