import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lorascope.analyze import compare_metrics
from lorascope.analyze.results.record import to_json
from lorascope.study.read_study import read_study

from .called import call, flat

pytestmark = pytest.mark.usefixtures("wide")
run = partial(call, "compare")


@pytest.fixture(scope="module")
def study() -> pd.DataFrame:
    return read_study("paper")


def test_the_papers_metrics(capsys: pytest.CaptureFixture[str], study: pd.DataFrame) -> None:
    code, out, _ = run(capsys, "paper")
    assert code == 0
    found = compare_metrics(study)
    assert "65 rows\n* LLaMA3's share1 is its r32 run printed a second time: it is taken once" in out
    for verdict in found.verdicts:
        assert flat(f"{verdict.word} {verdict.claim} ({verdict.because})") in flat(out)
    assert "ln MIUB │ -0.290 │ 0.0300 │ 0.00952" in flat(out)
    assert "williams_t" not in out


def test_full_has_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "paper", "--n-draws", 200, "--full")
    assert code == 0
    assert "williams_t" in flat(out)


def test_json_is_what_the_function_returns(capsys: pytest.CaptureFixture[str], study: pd.DataFrame) -> None:
    words = (
        "--metric", "CE", "--metric", "ln MIUB", "--collapsed-below", 0.25, "--groups", "dataset,model", "--level", 0.9,
        "--n-draws", 200, "--seed", 3, "--setting", "setting",
    )  # fmt: skip
    options: dict[str, Any] = {"collapsed_below": 0.25, "level": 0.9, "n_draws": 200, "seed": 3}
    found = compare_metrics(study, metrics=["CE", "ln MIUB"], **options)
    code, out, _ = run(capsys, "paper", *words, "--json")
    assert code == 0
    assert json.loads(out)["comparison"] == json.loads(to_json(found.summary().to_dict()))


def test_columns_of_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path, study: pd.DataFrame) -> None:
    table = study.rename(columns={"ACC": "score", "MIUB": "-loss", "block": "task", "setting": "cell"})
    table["-loss"] = -table["-loss"]
    table.drop(columns=["dataset", "model"]).to_csv(tmp_path / "s.csv", index=False)
    words = (
        tmp_path / "s.csv", "--accuracy", "score", "--metric=-loss", "--higher-is-better=-loss", "--groups", "task",
        "--setting", "cell", "--where", "sweep=rank",
    )  # fmt: skip
    code, out, _ = run(capsys, *words, "--json")
    assert code == 0
    found = json.loads(out)
    settings = found["comparison"]["provenance"]["settings"]
    assert settings["higher_is_better"] == ["-loss"]
    assert found["study"]["n_rows"] == 30
    assert list(found["comparison"]["tables"].values())[1][0]["better"] == "higher"


def test_a_folder_of_results(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "paper", "--out", tmp_path / "out")
    assert code == 0
    assert f"written to {tmp_path / 'out'}" in out
    page = (tmp_path / "out" / "figures.html").read_text()
    assert page.count('class="plot"') == 1
    record = json.loads((tmp_path / "out" / "report.json").read_text())["comparison"]
    assert record["title"] == "How well ln MIUB follows ACC within groups"
    code, _, err = run(capsys, "paper", "--out", tmp_path / "out")
    assert code == 2
    assert "which is there already; give a new or empty folder" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no study is named"),
        (["{tmp}/none.csv"], "none.csv` is not there; name a table"),
        (["paper", "--metric", "MI"], "the table has no column 'MI'; it has"),
        (["paper", "--accuracy", "F1"], "the table has no column 'F1'"),
        (["paper", "--accuracy", "CE", "--metric", "MIUB"], "it is a share from 0 to 1"),
        (["paper", "--groups", "none"], "`groups` is empty; name at least one column, which varies"),
        (["paper", "--where", "block=ARCE/Phi3"], "`groups` is empty; name at least one column, which varies"),
        (["paper", "--where", "block=ARCE/Phi3", "--groups", "block"], "1 group with two cells or more"),
        (["paper", "--setting", "sweep"], "has setting 'rank' twice; average repeated runs"),
        (["paper", "--higher-is-better", "MI"], "`higher_is_better` names 'MI', which isn't among the metrics"),
        (["paper", "--collapsed-below", "2"], "`collapsed_below` is 2.0; accuracy is a share above 0, at most 1"),
        (["paper", "--n-draws", "3"], "`n_draws` is 3; give a whole number of at least 100"),
        (["paper", "--n-draws", "100000000"], "`--n-draws` is 100000000; give at most 100000"),
        (["paper", "--n-draws", "200.5"], "`--n-draws` is 200.5; give a whole number"),
        (["paper", "--workers", "-1"], "`--workers` is -1; give at least 1"),
        (["{tmp}/s.csv"], "column 'CE' holds 'low' in row 2, where a number belongs"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "s.csv").write_text("dataset,setting,ACC,CE,MIUB\na,x,0.5,1,2\nb,x,0.6,low,2\nb,y,0.7,3,2\n")
    code, out, err = run(capsys, *(word.format(tmp=tmp_path) for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("lorascope: error: ")
    assert err.count("\n") == 1
    assert message in err
