import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import xarray as xr

from lorascope.stores.visible import COMMANDS
from lorascope.study.page.study_page import write_study_report

from ..made import make_study, make_unit

TABLES = ["study", "lengths", "table_1", "table_2", "table_3", "figure_2", "figure_3", "claims"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("out"), [(8, 8), (1, 8), (1, 32)])


def test_tables_and_page(out: Path, tmp_path: Path) -> None:
    planned = ["share8-r8-s0-qa", "share1-r8-s0-qa", "share1-r32-s0-qa", "share1-r512-s0-qa"]
    paths = write_study_report(out, planned=planned)
    assert paths == [*(out / f"{name}.csv" for name in TABLES), out / "report.html"]
    for path in paths[:-1]:
        assert len(pd.read_csv(path)) > 0
    assert "share1-r512-s0-qa" in paths[-1].read_text()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    before = {path: path.read_bytes() for path in paths}
    # The same again, over existing files, and the page in another place.
    *_, page = write_study_report(out, tmp_path / "new" / "page.html", planned=planned)
    assert page == tmp_path / "new" / "page.html"
    assert page.read_bytes() == before[paths[-1]]
    assert {path: path.read_bytes() for path in paths} == before
    with pytest.raises(ValueError, match="a folder; name the page's file, such as"):
        write_study_report(out, tmp_path / "new")
    with pytest.raises(FileNotFoundError, match="holds no results of a unit"):
        write_study_report(tmp_path)


def test_what_must_be_known_first(tmp_path: Path) -> None:
    def answers(results: xr.Dataset) -> xr.Dataset:
        return results.assign_attrs(runs=results.attrs["runs"].replace("all tokens", "the tokens of the answer"))

    make_study(tmp_path, [(1, 8), (1, 32)], change=answers)
    page = write_study_report(tmp_path, planned=["share1-r8-s0-qa"])[-1].read_text()
    assert "MIUB is of a part of the tokens:</b> the tokens of the answer" in page
    assert "1 results are of units that the study doesn't have,</b> and aren't in here: share1-r32-s0-qa" in page
    assert 'id="unit-share1-r32-s0-qa"' not in page


def test_no_terminal_obeys_what_results_say(tmp_path: Path) -> None:
    hostile = "a\x1b[2J\x9bm"
    for rank in (8, 32):
        make_unit(tmp_path / "results", 1, rank, model=hostile, sets=(hostile, "piqa"), name=f"share1-r{rank}-s0-qa")
    *tables, page = write_study_report(tmp_path)
    for path in tables:
        assert COMMANDS.findall(path.read_text()) == []
    assert r"a\x1b[2J\x9bm" in (tmp_path / "study.csv").read_text()
    assert "\x1b" not in page.read_text()
    assert r"model a\x1b[2J\x9bm" in page.read_text()


TORCH = "print({'torch', 'transformers', 'peft', 'lorascope.capture'} & sys.modules.keys())"


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("from lorascope.study import write_study_report; write_study_report(Path(sys.argv[1]))", "set()"),
        ("from lorascope.study import grid, settings, study_names", "set()"),
        ("import types; sys.modules['torch'] = types.ModuleType('torch')", "{'torch'}"),
    ],
    ids=["report", "status", "this test can fail"],
)
def test_without_torch(tmp_path: Path, code: str, printed: str) -> None:
    make_unit(tmp_path / "results", text=False, lengths=False, prompts=("main",))
    code = f"import sys; from pathlib import Path; {code}; {TORCH}"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == f"{printed}\n", done.stderr
