"""What `fit` and `compare` share: options, and results as text, JSON, a table or a folder."""

import doctest
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lorascope.analyze.fits.verdicts import Summary, Verdict
from lorascope.cli.commands import fit
from lorascope.cli.commands.fit import StudyOptions, choose_groups, read_tables, write_results

HOSTILE = "a\x1b[2Jb\u202ec\x9bd\ud800"
SHOWN = r"a\x1b[2Jb\u202ec\x9bd\ud800"


def write_hostile(*, figures: Any = tuple, **options: Any) -> None:
    """Write a result whose every text has terminal commands in it."""
    frame = pd.DataFrame({"x": [1, 2]})
    frame.attrs = {"source": f"s {HOSTILE}", "notes": [f"n {HOSTILE}"]}
    # As objects: with pyarrow installed, pandas' own strings refuse lone surrogates.
    columns = pd.Index([f"c {HOSTILE}", "x"], dtype=object)
    rows = pd.DataFrame([[f"v {HOSTILE}", 0.1]], columns=columns, dtype=object)
    verdicts = [Verdict(HOSTILE, "supported", "x")]
    summary = Summary(f"title {HOSTILE}", verdicts, {f"t {HOSTILE}": rows, "second": rows}, [f"note {HOSTILE}"], {})
    remarks = [f"r {HOSTILE}"]
    chosen = StudyOptions(where=["model=Phi3"], **options)
    write_results("fit", frame, summary, chosen, remarks=remarks, figures=figures)


def test_examples() -> None:
    assert doctest.testmod(fit).failed == 0


def test_where() -> None:
    assert StudyOptions(where=["model=Phi3", "R=8, 32"]).conditions == {"model": ("Phi3",), "R": ("8", "32")}
    for wrong, message in (
        (["model"], "`--where` is 'model'; write it as name=value"),
        (["=x"], "`--where` is '=x'"),
        (["model="], "`--where` is 'model='"),
        (["a=1", "a=2"], r"`--where` is \['a=1', 'a=2'\]; name each column once, its values with commas between"),
    ):
        with pytest.raises(ValueError, match=message):
            _ = StudyOptions(where=wrong).conditions


def test_groups_that_vary_are_taken_unless_others_are_named() -> None:
    frame = pd.DataFrame({"model": ["a", "b"], "prompt": ["p", "p"], "dataset": ["x", "y"], "seed": [1, 2]})
    assert choose_groups(frame, None) == ("dataset", "model")
    assert choose_groups(frame, "seed, model") == ("seed", "model")
    assert choose_groups(frame, "none") == ()


def test_names_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    write_hostile(full=True)
    full = capsys.readouterr().out
    write_hostile()
    short = capsys.readouterr().out
    for text in (full, short):
        assert SHOWN in text
        assert not set("\x1b\x9b\u202e\ud800") & set(text)
    write_hostile(as_json=True)
    text = capsys.readouterr().out
    assert "\\u001b[2J" in text
    assert json.loads(text)["fit"]["title"] == f"title {HOSTILE}"
    assert json.loads(text)["fit"]["tables"]["second"] == [{f"c {HOSTILE}": f"v {HOSTILE}", "x": 0.1}]
    assert json.loads(text)["remarks"] == [f"r {HOSTILE}"]


def test_the_short_form_has_the_first_table_alone(capsys: pytest.CaptureFixture[str]) -> None:
    write_hostile()
    short = capsys.readouterr().out
    assert "note" not in short
    assert "second" not in short
    assert short.splitlines()[-1] == "--full shows all tables and remarks"
    write_hostile(full=True)
    full = capsys.readouterr().out
    assert "note" in full
    assert "second" in full
    assert "--full" not in full


def test_a_folder_of_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> Any:
        raise ValueError("there is <none>")

    out = tmp_path / "new" / "out"
    write_hostile(out=out, as_json=True, figures=lambda: [("first <one>", refused)])
    printed, err = capsys.readouterr()
    assert (out / "report.json").read_text() == printed
    assert err == f"written to {out}\n"
    page = (out / "figures.html").read_text()
    assert f"s {SHOWN}: 2 rows where model=Phi3" in page
    assert "<h2>first &lt;one&gt;</h2><p>there is &lt;none&gt;</p>" in page
    assert sorted(path.name for path in out.iterdir()) == ["figures.html", "report.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> Any:
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        write_hostile(out=tmp_path / "out", figures=lambda: [("f", broken)])
    assert list(tmp_path.iterdir()) == []


def test_names_are_no_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<b>\n# x"
    frame = pd.DataFrame({"x": [1, 2]})
    frame.attrs = {"source": evil, "notes": [evil]}
    rows = pd.DataFrame({evil: [evil]})
    summary = Summary(evil, [Verdict(evil, "supported", evil)], {"t": rows}, [evil], {})
    write_results("fit", frame, summary, StudyOptions(where=[f"{evil}={evil}"], full=True), remarks=[evil])
    assert not any(line.strip().startswith("# x") for line in capsys.readouterr().out.splitlines())


def test_places_for_results(tmp_path: Path) -> None:
    for allowed in (None, tmp_path / "a" / "b", tmp_path):
        assert len(read_tables(["paper"], StudyOptions(out=allowed)))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "none")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "zarr.json").touch()
    for place, kind, message in (
        (tmp_path, FileExistsError, "`--out` is '.*', which is there already; give a new or empty folder"),
        (tmp_path / "file", FileExistsError, "which is there already"),
        (tmp_path / "link", FileExistsError, "which is there already"),
        (tmp_path / "file" / "x", PermissionError, "can't be made"),
        (tmp_path / "store" / "inside", ValueError, "inside the store"),
        (Path("s3://bucket/x"), ValueError, "`out` is 's3:/bucket/x'; a result goes to a folder of this machine"),
    ):
        with pytest.raises(kind, match=message):
            read_tables(["paper"], StudyOptions(out=place))
