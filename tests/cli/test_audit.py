import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from lorascope.analyze.audit.audit_table import audit_table
from lorascope.analyze.audit.ceilings import Ceiling
from lorascope.analyze.audit.paper import audit_paper
from lorascope.analyze.audit.ratios import RatioClaim
from lorascope.analyze.stats.record import to_json
from lorascope.cli.fits.claims import BECAUSE
from lorascope.study import paper_table
from lorascope.study.read_table import read_table

from .called import call, flat

pytestmark = pytest.mark.usefixtures("wide")
run = partial(call, "audit")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The paper's first table under names of its own."""
    frame = paper_table(1).rename(
        columns={"dataset": "task", "model": "llm", "metric": "what", "setting": "run", "value": "number"}
    )
    frame["task"] = frame["task"].replace({"AVG": "mean"})
    decimals = frame["what"].map({"ACC": 3, "CE": 3, "MIUB": 1})
    frame["text"] = [f"{value:.{n}f}" for value, n in zip(frame["number"], decimals, strict=True)]
    frame.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


NAMES = (
    "--value", "number", "--averaged", "task", "--average", "mean", "--metric", "what", "--setting", "run", "--groups",
    "llm",
)  # fmt: skip
COLUMNS = {"value": "number", "averaged": "task", "average": "mean", "metric": "what", "setting": "run"}


def test_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "paper")
    assert (code, err) == (0, "")
    found = audit_paper()
    assert "tables 1 to 3: 252 rows" in out
    for verdict in found.verdicts:
        assert flat(f"{verdict.word} {verdict.claim} {verdict.because}") in flat(out)
    for finding in found.findings:
        assert f"* {finding}" in out


def test_the_paper_as_json_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    found = audit_paper()
    code, out, err = run(capsys, "paper", "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)["audit"] == json.loads(to_json(found.to_dict()))
    code, out, _ = run(capsys, "paper", "--format", "markdown")
    assert code == 0
    assert found.summary().as_markdown() in out


def test_a_table_with_names_of_its_own(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    words = (
        "--printed", "text", "--weighted", "CE,MIUB", "--order", "rank=r32,r128,r512", "--direction", "ACC=rises",
        "--direction", "MIUB=falls", "--ceiling", "CE/Phi3=10.4", "--ceiling", "ACC=1",
        "--ratio", "CE,share8/share1,mean,Phi3=571", "--decrease", "MIUB,share1/share8,mean,Phi3=0.17",
        "--increase", "MIUB,share8/share1,mean,Phi3=0.2", "--members", "ARCE,ARCC,Hel,PIQA,Win",
    )  # fmt: skip
    code, out, _ = run(capsys, table, *NAMES, *words, "--format", "json")
    assert code == 0
    claims = [
        RatioClaim(words=f"{kind} of {text}", value=float(text), metric=metric, of=of, over=over, member="mean",
                   group="Phi3", kind=kind, decimals=decimals)
        for kind, text, metric, of, over, decimals in (
            ("ratio", "571", "CE", "share8", "share1", 0),
            ("increase", "0.2", "MIUB", "share8", "share1", 1),
            ("decrease", "0.17", "MIUB", "share1", "share8", 2),
        )
    ]  # fmt: skip
    found = audit_table(
        read_table(table, text=["text"]),
        **COLUMNS,
        groups=["llm"],
        members=["ARCE", "ARCC", "Hel", "PIQA", "Win"],
        printed="text",
        weighted=[("CE", "MIUB")],
        order={"rank": ("r32", "r128", "r512")},
        directions={"ACC": "rises", "MIUB": "falls"},
        ceilings={"ACC": Ceiling(value=1.0, because=BECAUSE), "CE": Ceiling(value={"Phi3": 10.4}, because=BECAUSE)},
        claims=claims,
    )
    assert json.loads(out)["audit"] == json.loads(to_json(found.to_dict()))


def test_decimals_and_rows(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    for words, decimals in (
        (("--decimals", "3"), 3),
        (("--decimals", "ACC=3,CE=3,MIUB=1"), {"ACC": 3, "CE": 3, "MIUB": 1}),
        ((), None),
    ):
        code, out, _ = run(capsys, table, *NAMES, *words, "--where", "llm=Phi3", "--format", "json")
        assert code == 0
        found = json.loads(out)
        assert found["audit"]["provenance"]["settings"]["decimals"] == decimals
        assert found["study"]["where"] == {"llm": ["Phi3"]}
        assert found["study"]["n_rows"] == 126


def test_a_table_without_groups_and_averages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    frame = paper_table(2).rename(columns={"prompt": "dataset"})
    frame.to_csv(tmp_path / "t.csv", index=False)
    code, out, _ = run(
        capsys, tmp_path / "t.csv", "--groups", "none", "--average", "none", "--order", "size=share8,share1",
        "--direction", "MIUB=falls", "--ratio", "MIUB,share8/share1,Main=1.2",
    )  # fmt: skip
    assert code == 0
    assert "supported MIUB falls at every step of size" in flat(out)
    assert "supported MIUB of share8 over share1, Main, can be 1.2 within rounding" in flat(out)


def test_a_folder_of_results(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "paper", "--out", tmp_path / "out")
    assert code == 0
    assert f"written to {tmp_path / 'out'}" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.json", "report.md"]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["audit"]["kind"] == "audit_table"


def test_names_that_would_command_the_terminal_are_spelt_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    frame = pd.DataFrame({"dataset": ["a\x1b[2J", "b", "AVG"], "value": [0.2, 0.6, 0.7]})
    frame.assign(metric="m\x9b", setting="s", model="x").to_csv(tmp_path / "t.csv", index=False)
    for form in ("table", "markdown", "json"):
        code, out, _ = run(capsys, tmp_path / "t.csv", "--format", form)
        assert code == 0
        assert "\x1b" not in out
        assert "\x9b" not in out
        assert "contradicted" in out


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no table": ([], 'parameter TABLE requires an argument'),
    "nothing there": (["{tmp}/none.csv"], "none.csv` is not there; name a table"),
    "kind": (["{tmp}/t.txt"], "t.txt` isn't a table that can be read; its name must end in .csv"),
    "paper's own": (["paper", "--metric", "m", "--where", "a=b"], "leave `metric`, `where` out, or audit a table of"),
    "column": (["{tmp}/t.csv", "--value", "x"], "the table has no column 'x'; it has"),
    "metric": (["{tmp}/t.csv", "--metric", "x"], "the table has no column 'x'; it has"),
    "text": (["{tmp}/text.csv"], "column 'value' holds '0.2.1' in row 1, where a number belongs"),
    "order": (["{tmp}/t.csv", "--order", "s,t"], "`order` is 's,t'; write it as name=value"),
    "order alone": (["{tmp}/t.csv", "--order", "o=s,t"], "`order` is given without `direction`"),
    "setting": (["{tmp}/t.csv", "--order", "o=s,v", "--direction", "m=falls"], "'v'"),
    "direction": (["{tmp}/t.csv", "--order", "o=s,t", "--direction", "m=sinks"], "it is one of ['rises', 'falls']"),
    "direction alone": (["{tmp}/t.csv", "--direction", "m=falls"], "`direction` is given without `order`"),
    "direction of what": (["{tmp}/t.csv", "--order", "o=s,t", "--direction", "n=falls"], "`direction` names 'n'"),
    "ceiling of what": (["{tmp}/t.csv", "--ceiling", "n=1"], "`ceiling` names 'n'; the table has 'm' as its metrics"),
    "ceiling of whom": (["{tmp}/t.csv", "--ceiling", "m/z=1"], "`ceiling` of 'm' names 'z'; the table has 'x'"),
    "no average": (["{tmp}/t.csv", "--average", "mean"], "give none if it has no averages"),
    "no group": (
        ["{tmp}/plain.csv"],
        "the table has no column 'model' for groups; it has 'dataset', 'metric', 'setting', 'value': name others with "
        "--groups, or give --groups none",
    ),
    "nan": (["{tmp}/t.csv", "--ratio", "m,s/t,a,x=nan"], "`ratio` gives 'm,s/t,a,x' 'nan', where a number belongs"),
    "ratio of what": (
        ["{tmp}/t.csv", "--ratio", "n,s/t,a,x=1"], "a `ratio`, `increase` or `decrease` names 'n'; the table has 'm'"
    ),
    "weighted": (["{tmp}/t.csv", "--weighted", "m,m"], "`weighted` names 'm, m' twice; name each once"),
    "weighted again": (["{tmp}/t.csv", "--weighted", "m", "--weighted", "m"], "`weighted` names 'm' twice"),
    "decimals twice": (["{tmp}/t.csv", "--decimals", "m=3,m=4"], "`decimals` names 'm' twice; name each once"),
    "decimals below": (["{tmp}/t.csv", "--decimals", "-1"], "`decimals` is -1; a printed number has 0 to 12"),
    "decimals above": (["{tmp}/t.csv", "--decimals", "400"], "`decimals` is 400; a printed number has 0 to 12"),
    "decimals what": (["{tmp}/t.csv", "--decimals", "x"], "`decimals` is 'x'; give a whole number for all numbers, or"),
    "ceiling": (["{tmp}/t.csv", "--ceiling", "m=high"], "`ceiling` gives 'm' 'high', where a number belongs"),
    "ratio": (["{tmp}/t.csv", "--ratio", "m=2"], "write it as metric,setting/setting,member,group=value"),
    "decimals": (["{tmp}/t.csv", "--decimals", "m=many"], "`decimals` gives 'm' 'many', where a whole number belongs"),
    "where": (["{tmp}/t.csv", "--where", "model=z"], "`where` asks for model=z, which no row has; 'model' holds x"),
    "out": (["paper", "--out", "{tmp}"], "which is there already; give a new or empty folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    (tmp_path / "t.txt").touch()
    head = "dataset,model,metric,setting,value\n"
    rows = [
        f"{one},x,m,{setting},{value}\n" for setting in "st" for one, value in (("a", 0.2), ("b", 0.6), ("AVG", 0.4))
    ]
    (tmp_path / "t.csv").write_text(head + "".join(rows))
    pd.read_csv(tmp_path / "t.csv").drop(columns="model").to_csv(tmp_path / "plain.csv", index=False)
    (tmp_path / "text.csv").write_text(f"{head}a,x,m,s,0.2.1\n")
    words, message = MISTAKES[name]
    code, out, err = run(capsys, *(word.format(tmp=tmp_path) for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("lorascope: error: ")
    assert err.count("\n") == 1
    assert message in err
