"""What the commands of studies share."""

import doctest
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.format import format_number
from lorascope.analyze.stats.summary import Summary, Table
from lorascope.analyze.stats.verdict import Verdict
from lorascope.cli import screen
from lorascope.cli.fits import options, words
from lorascope.cli.fits.options import chosen_groups, numbers_by_name, rows_where
from lorascope.cli.fits.results import Results, deliver, refuse_out
from lorascope.cli.fits.summary import print_summary
from lorascope.cli.fits.words import command_words, short_numbers, translated_summary

HOSTILE = "a\x1b[2Jb\u202ec\x9bd\ud800"
SHOWN = r"a\x1b[2Jb\u202ec\x9bd\ud800"


def results(**more: Any) -> Results:
    study = {"source": f"s {HOSTILE}", "where": {"model": ["Phi3"]}, "n_rows": 2, "notes": [f"n {HOSTILE}"]}
    # As objects: with pyarrow beside it, pandas' own strings take no halves of characters.
    columns = pd.Index([f"c {HOSTILE}", "x"], dtype=object)
    table = Table("t", pd.DataFrame([[f"v {HOSTILE}", 0.1]], columns=columns, dtype=object), note=f"note {HOSTILE}")
    summary = Summary(f"title {HOSTILE}", {"fact": HOSTILE}, [table], [Verdict(HOSTILE, "supported", "x")], [HOSTILE])
    record = {"fit": {"value": 0.1, "name": HOSTILE}}
    return Results(title="T", study=study, summaries=[summary], record=record, remarks=[f"r {HOSTILE}"], **more)


def test_examples() -> None:
    assert doctest.testmod(options).failed == 0


def test_where() -> None:
    assert rows_where(["model=Phi3", "R=8, 32"]) == {"model": ("Phi3",), "R": ("8", "32")}
    for wrong, message in (
        (["model"], "`where` is 'model'; write it as name=value"),
        (["=x"], "`where` is '=x'"),
        (["model="], "`where` is 'model='"),
        (["a=1", "a=2"], r"`where` is \['a=1', 'a=2'\]; name each column once, its values with commas between"),
    ):
        with pytest.raises(ValueError, match=message):
            rows_where(wrong)


def test_groups_that_vary_are_taken_unless_others_are_named() -> None:
    frame = pd.DataFrame({"model": ["a", "b"], "prompt": ["p", "p"], "dataset": ["x", "y"], "seed": [1, 2]})
    assert chosen_groups(frame, None) == ("dataset", "model")
    assert chosen_groups(frame, "seed, model") == ("seed", "model")
    assert chosen_groups(frame, "none") == ()


def test_numbers_by_name() -> None:
    assert numbers_by_name("decimals", "ACC=3, MIUB=1") == {"ACC": 3, "MIUB": 1}
    with pytest.raises(ValueError, match="`decimals` gives 'ACC' '1.5', where a whole number belongs"):
        numbers_by_name("decimals", "ACC=1.5")


@pytest.mark.parametrize("width", [60, 100, 160])
def test_tables_fit_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(screen.console, "width", width)
    rows = pd.DataFrame({"group": ["one", "two"]} | {f"a_long_name_{k}": np.array([1.0, -2.0]) * k for k in range(14)})
    rows["because"] = "words " * 30
    print_summary(Summary("s", tables=[Table("numbers", rows)], verdicts=[Verdict("c " * 60, "supported", "b " * 99)]))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    n_parts = max(1, out.count("numbers ("))
    assert n_parts == {60: 4, 100: 2, 160: 1}[width]
    assert sum(line.startswith("one") for line in out.splitlines()) == n_parts
    words = out.split()
    for k in range(14):
        assert format_number(-2.0 * k, digits=4) in words


def test_a_narrow_table_is_one_piece(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen.console, "width", 100)
    rows = pd.DataFrame({"name": ["a", "b"], "some_value": [1.5, None], "is_good": [True, False]})
    print_summary(Summary("s", {"fact": "f", "another": "g"}, [Table("t", rows, note="what it is")], notes=["said"]))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "", "s", "  fact     f", "  another  g", "", "t", "name  some_value  is_good", "─" * 25,
        "a          1.500      yes", "b            n/a       no", "what it is", "* said",
    ]  # fmt: skip


def test_tables_without_rows_or_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    empty, text = pd.DataFrame({"a": [], "b": []}), pd.DataFrame({"a": ["b"]})
    print_summary(Summary("s", tables=[Table("none", empty), Table("text", text)]))
    assert "none" in capsys.readouterr().out


def test_what_would_command_a_terminal_is_spelt_out(capsys: pytest.CaptureFixture[str]) -> None:
    deliver(results(), "table", None, full=True)
    out = capsys.readouterr().out
    assert f"s {SHOWN}: 2 rows where model=Phi3" in out
    for part in ("n ", "r ", "title ", "note ", "c "):
        assert f"{part}{SHOWN}" in " ".join(out.split())
    deliver(results(), "markdown", None)
    text = capsys.readouterr().out
    assert text.startswith(
        f"# T\n\ns {SHOWN}: 2 rows where model=Phi3\n\n- n {SHOWN}\n- r {SHOWN}\n\n## title {SHOWN}\n"
    )
    assert not any(character in out + text for character in "\x1b\u202e\x9b\ud800")


def test_json_says_the_same_in_its_own_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    deliver(results(), "json", None)
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "study": {"source": f"s {HOSTILE}", "where": {"model": ["Phi3"]}, "n_rows": 2, "notes": [f"n {HOSTILE}"]},
        "fit": {"value": 0.1, "name": HOSTILE},
        "remarks": [f"r {HOSTILE}"],
    }
    assert err == ""
    assert not any(character in out for character in "\x1b\u202e\x9b\ud800")


def test_a_folder_of_results(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def refused() -> Any:
        raise ValueError("there is <none>")

    out = tmp_path / "new" / "out"
    deliver(results(figures=[("first <one>", refused)]), "json", out)
    printed, err = capsys.readouterr()
    assert (out / "report.json").read_text() == printed
    assert err == f"written to {out}\n"
    assert (out / "report.md").read_text().startswith("# T\n")
    page = (out / "figures.html").read_text()
    assert f"s {SHOWN} where model=Phi3" in page
    assert "<h2>first &lt;one&gt;</h2><p>there is &lt;none&gt;</p>" in page
    assert sorted(path.name for path in out.iterdir()) == ["figures.html", "report.json", "report.md"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> Any:
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        deliver(results(figures=[("f", broken)]), "json", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "report.md").touch()
    refuse_out(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "more").touch()
    deliver(results(), "json", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.json", "report.md"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_places_that_cannot_be_written_to_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "none")
    for place, kind, message in (
        (tmp_path / "link", FileExistsError, "a link to what isn't there; give a new or empty folder"),
        (Path("/proc/x/y"), PermissionError, "`out` is '/proc/x/y', which can't be made in `/proc`: "),
        (tmp_path / ("é" * 124), ValueError, "`out` has a name of more than 246 bytes; give a shorter one"),
        (tmp_path / ("x" * 300) / "out", ValueError, "`out` has a name of more than"),
    ):
        with pytest.raises(kind, match=message):
            refuse_out(place)
    refuse_out(tmp_path / ("é" * 123))
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_names_are_no_markup_and_no_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<b>\n# x"
    study = {"source": evil, "where": {evil: [evil]}, "n_rows": 2, "notes": [evil]}
    rows = pd.DataFrame({evil: [evil]})
    summary = Summary(evil, {evil: evil}, [Table(evil, rows, evil)], [Verdict(evil, "supported", evil)], [evil])
    whole = Results(title=evil, study=study, summaries=[summary], record={}, remarks=[evil])
    deliver(whole, "markdown", None)
    text = capsys.readouterr().out
    assert "<" not in text
    assert "\n# x" not in text
    deliver(whole, "table", None)
    assert not any(line.strip().startswith("# x") for line in capsys.readouterr().out.splitlines())


def test_verdicts_stand_first(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen.console, "width", 40)
    verdicts = [Verdict("it falls at every step", "supported", "4 of 4"), Verdict("so", "not identified", "3")]
    print_summary(Summary("s", {}, [Table("t", pd.DataFrame({"a": [1]}))], verdicts, ["left"]))
    assert capsys.readouterr().out.splitlines()[:8] == [
        "", "s", "", "verdicts", "supported       it falls at every step", "                4 of 4",
        "not identified  so", "                3",
    ]  # fmt: skip


def test_words_of_the_command_line() -> None:
    assert doctest.testmod(words).failed == 0
    with pytest.raises(ValueError, match="^`ceiling` names 'x'$"), command_words():
        raise ValueError("`ceilings` names 'x'")
    with pytest.raises(FileExistsError, match="^or None$"), command_words():
        raise FileExistsError("or None")
    note = "no profile intervals of this fit; see conf_int('cluster')."
    shown = translated_summary(Summary("s", tables=[Table("t", pd.DataFrame(), note)], notes=[note]))
    assert shown.tables[0].note == shown.notes[0]
    assert "conf_int" not in shown.notes[0]


def test_long_numbers_in_names_are_short_and_stay_apart() -> None:
    rows = pd.DataFrame({"block": ["a/3821079552", "a/2235546624.0"], "n": [12345678, 2]})
    shown = short_numbers(Summary("s", tables=[Table("t", rows)], notes=["in a/3821079552, 123 and x1234567"]))
    assert shown.tables[0].rows["block"].tolist() == ["a/3.82e9", "a/2.24e9"]
    assert shown.tables[0].rows["n"].tolist() == [12345678, 2]
    assert shown.notes == ["in a/3.82e9, 123 and x1234567"]
    near = pd.DataFrame({"block": ["3821079552", "3821079999", "3821079552.0"]})
    assert short_numbers(Summary("s", tables=[Table("t", near)])).tables[0].rows["block"].tolist() == [
        "3.8210796e9", "3.82108e9", "3.8210796e9",
    ]  # fmt: skip


def test_names_given_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="`decimals` names 'a' twice; name each once"):
        numbers_by_name("decimals", "a=3,a=4")


def test_places_for_results(tmp_path: Path) -> None:
    refuse_out(None)
    refuse_out(tmp_path / "a" / "b")
    refuse_out(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "zarr.json").touch()
    for place, kind, message in (
        (tmp_path, FileExistsError, "`out` is '.*', which is there already; give a new or empty folder"),
        (tmp_path / "file", FileExistsError, "which is there already"),
        (tmp_path / "file" / "x", PermissionError, "can't be made"),
        (tmp_path / "inside", ValueError, "inside the store"),
        (Path("s3://bucket/x"), ValueError, "`out` is 's3:/bucket/x'; results go to a folder of this machine"),
    ):
        if place != tmp_path / "inside":
            (tmp_path / "zarr.json").unlink(missing_ok=True)
        else:
            (tmp_path / "zarr.json").touch()
        with pytest.raises(kind, match=message):
            refuse_out(place)
