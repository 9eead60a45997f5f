import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lorascope.analyze import compare_metrics
from lorascope.analyze.results.save import to_json
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}/none.csv"], "none.csv` is not there; name a table"),
        (["paper", "--metric", "MI"], "; did you mean 'MIUB'?"),
        (["paper", "--groups", "none"], "`groups` is empty; name at least one column whose values vary"),
        (["paper", "--n-draws", "3"], "`n_draws` is 3; give a whole number of at least 100"),
        (["paper", "--n-draws", "100001"], 'Invalid value "100001" for --n-draws. Must be <= 100000'),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    code, out, err = run(capsys, *(word.format(tmp=tmp_path) for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("lorascope: error: ")
    assert err.count("\n") == 1
    assert message in err
