import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze import fit_report, fit_scaling_law
from lorascope.analyze.results.format import format_number
from lorascope.analyze.results.save import to_json
from lorascope.cli.main import main
from lorascope.study import paper_study
from lorascope.study.read_study import read_study

from ..stored import store_states
from .called import call, flat

PAPER = ("paper", "--where", "model=Phi3", "--where", "dataset=ARCE,Hel", "--offsets", "sweep")
OPTIONS: dict[str, Any] = {"N": "N", "R": "R", "groups": ["dataset"], "offsets": ["sweep"]}

pytestmark = pytest.mark.usefixtures("wide")
run = partial(call, "fit")


def as_json(value: object) -> Any:
    return json.loads(to_json(value))


@pytest.fixture(scope="module")
def two() -> pd.DataFrame:
    return read_study("paper", where={"model": ["Phi3"], "dataset": ["ARCE", "Hel"]})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole report, written once."""
    out = tmp_path_factory.mktemp("fit") / "out"
    assert main(["fit", *PAPER, "--n-draws", "20", "--json", "--out", str(out)]) == 0
    return out


def test_json_is_what_the_functions_return(written: Path, two: pd.DataFrame) -> None:
    found = json.loads((written / "report.json").read_text())
    assert found["fit"] == as_json(fit_report(two, "MIUB", n_draws=20, **OPTIONS).summary().to_dict())
    assert found["study"] == {
        "source": two.attrs["source"],
        "where": {"model": ["Phi3"], "dataset": ["ARCE", "Hel"]},
        "n_rows": 14,
        "notes": [],
    }
    assert found["remarks"] == ["response MIUB; sizes N, R; groups dataset; offsets sweep"]
    assert found["fit"]["provenance"]["data_sha256"]


def test_a_folder_has_the_report_and_its_figures(written: Path, two: pd.DataFrame) -> None:
    page = (written / "figures.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert f"{two.attrs['source']}: 14 rows where model=Phi3 and dataset=" in page
    assert page.count('class="plot"') == 3
    for name in ("Along N", "Profiles"):
        assert f"<h2>{name}</h2>" in page
    assert "src=" not in page.split("</style>")[1].split("<script>")[0]


def test_a_quick_fit_on_the_terminal(capsys: pytest.CaptureFixture[str], two: pd.DataFrame) -> None:
    code, out, err = run(capsys, *PAPER, "--quick")
    assert (code, err) == (0, "")
    fit = fit_scaling_law(two, "MIUB", **OPTIONS)
    assert "14 rows where model=Phi3 and dataset=ARCE,Hel" in out
    assert "* response MIUB; sizes N, R; groups dataset; offsets sweep" in out
    alpha = [format_number(values["alpha"]) for values in (fit.params, fit.bse)]
    assert f"alpha │ {' │ '.join(alpha)}" in flat(out)
    for verdict in fit.verdicts:
        assert f"{verdict.word} {verdict.claim} ({verdict.because})" in flat(out)
    assert len(out.splitlines()) < 40
    assert "bootstrap" not in out


def test_all_of_it_is_printed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    code, short, _ = run(capsys, *PAPER, "--n-draws", 5)
    assert code == 0
    assert len(short.splitlines()) < 40
    assert "--full shows all tables and remarks" in short
    code, full, _ = run(capsys, *PAPER, "--n-draws", 5, "--full")
    assert code == 0
    for title in ("each size against", "levels of groups", "cells held out", "bootstrap over groups"):
        assert title in full
        assert title not in short


@pytest.mark.usefixtures("watched")
def test_progress_goes_beside_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *PAPER, "--n-draws", 1, "--json")
    assert code == 0
    assert json.loads(out)["fit"]["title"] == "Scaling law of MIUB"
    for part in ("held out", "laws", "bootstrap"):
        assert part in err


def test_every_option_reaches_the_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = paper_study(once=True).rename(columns={"N_non_embedding": "params", "MIUB": "y"}).drop(columns="N")
    table["seed"] = 3
    table.to_csv(tmp_path / "s.csv", index=False)
    words = (
        "--response", "y", "--N", "params", "--R", "none", "--groups", "block", "--offsets", "sweep,R",
        "--residuals", "absolute", "--repeat", "seed", "--where", "sweep=size",
    )  # fmt: skip
    code, out, _ = run(capsys, tmp_path / "s.csv", *words, "--quick", "--json")
    assert code == 0
    settings = json.loads(out)["fit"]["provenance"]["settings"]
    expected = {
        "response": "y", "N": "params", "R": None, "D": None, "groups": ["block"], "offsets": ["sweep", "R"],
        "residuals": "absolute", "repeat": "seed", "law": "additive",
    }  # fmt: skip
    assert expected.items() <= settings.items()
    code, out, _ = run(capsys, "paper", "--where", "model=Phi3", "--law", "share", "--share", "share",
                       "--groups", "dataset", "--quick", "--json")  # fmt: skip
    assert code == 0
    settings = json.loads(out)["fit"]["provenance"]["settings"]
    assert {"law": "share", "share": "share"}.items() <= settings.items()


def test_defaults_are_those_columns_that_vary(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "paper", "--quick", "--json")
    assert json.loads(out)["remarks"] == [
        "response MIUB; sizes N, R; groups dataset, model; offsets none",
        "Phi3's sweeps are fitted as one, though runs of the same N and R differ between them: --offsets sweep "
        "gives each a level",
    ]
    code, out, _ = run(capsys, "paper", "--where", "block=ARCE/Phi3", "--where", "sweep=size", "--quick")
    assert code == 0
    assert "* response MIUB; sizes N; groups none; offsets none" in out
    assert "sweeps are fitted" not in out
    sizes = read_study("paper", where={"model": ["Phi3"], "sweep": ["size"]})
    sizes.assign(model=sizes["setting"]).to_csv(tmp_path / "sizes.csv", index=False)
    code, out, _ = run(capsys, tmp_path / "sizes.csv", "--quick")
    assert "* response MIUB; sizes N; groups dataset; offsets none" in out
    frame = pd.DataFrame({"N": [None] * 5, "D": [1.0, 2, 4, 8, 16], "MIUB": [9.0, 6, 4, 3.1, 2.6]})
    frame.to_csv(tmp_path / "s.csv", index=False)
    code, out, _ = run(capsys, tmp_path / "s.csv", "--quick")
    assert code == 0
    assert "* response MIUB; sizes D; groups none; offsets none" in out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five ranks, and two data sets in each run."""
    root = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    base, delta = rng.normal(size=(2, 32, 6))
    for rank in (2, 4, 8, 16, 32):
        states = {"m.0.q_proj": (base, (0.5 + 1 / rank) * delta + 0.01 * rng.normal(size=delta.shape))}
        store_states(
            root / f"r{rank}" / "run.zarr", states, lengths=[4] * 8, rank=rank, datasets=["one", "two"] * 4,
            provenance={"model": {"n_parameters": 1000}, "settings": {"model": "tiny"}},
        )  # fmt: skip
    return root


@pytest.mark.usefixtures("watched")
def test_a_folder_of_runs(capsys: pytest.CaptureFixture[str], runs: Path) -> None:
    code, out, err = run(capsys, runs, "--quick", "--full", "--workers", 1)
    assert code == 0
    assert f"5 runs: {runs}: 10 rows" in out
    assert "* accuracy (ACC): known of no run" in out
    assert "* response MIUB; sizes R; groups dataset; offsets none" in out
    assert "'N' is 1000 in every row" in out
    assert "supported MIUB falls as R grows" in flat(out)
    assert "r16/run.zarr" in err
    expected = fit_scaling_law(read_study(runs), "MIUB", N="N", R="R", groups=["dataset"])
    assert f"beta │ {format_number(expected.params['beta'])}" in flat(out)


MISTAKES: dict[str, tuple[list[str], str]] = {
    "nothing there": (["{tmp}/none"], "none` is not there; name a table (.csv, .tsv), a folder of runs"),
    "no column": (["paper", "--response", "loss"], "the table has no column 'loss'; it has 'dataset', 'model'"),
    "no sizes": (["paper", "--N", "none", "--R", "none"], "a law needs at least one of `N`, `R` and `D`"),
    "law": (["paper", "--law", "cubic"], 'Invalid value "cubic" for --law. Choose from: "additive", "log"'),
    "where": (["paper", "--where", "model=GPT"], "`where` asks for model=GPT, which no row has; 'model'"),
    "no whole number": (["paper", "--n-draws", "1.5"], "`--n-draws` is 1.5; give a whole number"),
    "seed": (["paper", "--seed", "-1"], 'Invalid value "-1" for --seed. Must be >= 0'),
    "workers": (["paper", "--workers", "0"], 'Invalid value "0" for --workers. Must be >= 1'),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    words, message = MISTAKES[name]
    code, out, err = run(capsys, *(word.format(tmp=tmp_path) for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("lorascope: error: ")
    assert err.count("\n") == 1
    assert message in err
