import doctest
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.cli import screen
from lorascope.cli.screen import format_note, print_frame, progress_bar, say
from lorascope.stores import visible as visible_module
from lorascope.stores.visible import one_line, visible

HOSTILE = "a\x1b[2J\x1b]0;title\x07b\rc\x9bd\x7fe\u202ef\ud800g"
SHOWN = r"a\x1b[2J\x1b]0;title\x07b\rc\x9bd\x7fe\u202ef\ud800g"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen.console, "width", 200)


def test_examples() -> None:
    assert doctest.testmod(visible_module).failed == 0


def test_every_command_is_spelt_out_and_nothing_else() -> None:
    assert visible(HOSTILE) == SHOWN
    plain = "Zürich 東京 🎉 [b]x[/b] 10⁻³ … a\tb\nc"
    assert visible(plain) == plain
    for number in (*range(0x20), *range(0x7F, 0xA0)):
        assert visible(chr(number)).isprintable() == (chr(number) not in "\t\n")


def test_say(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{HOSTILE} [b]x[/b]\n\tand more")
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"{SHOWN} [b]x[/b]"
    assert "and more" in out


def test_lines_in_a_name_are_spelt_out() -> None:
    assert one_line(f"{HOSTILE}\nmore") == f"{SHOWN}\\nmore"


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("5", 80), ("20", 20), ("33", 33)])
def test_a_terminal_without_columns_has_the_usual_ones(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert screen.make_console().width == width


@pytest.mark.parametrize("closed", [">&-", "| true"])
@pytest.mark.parametrize("what", ["say", "write_json"])
def test_an_answer_that_nobody_reads_is_no_error(closed: str, what: str) -> None:
    # Time for the reader to be gone.
    code = f"import time; from lorascope.cli.screen import {what}; time.sleep(0.2); {what}('x')"
    shell = f'"$0" -c "$1" {closed}'
    found = subprocess.run(["sh", "-c", shell, sys.executable, code], capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("", "")


def test_no_name_in_a_table_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"0": [f"3 {HOSTILE}"], "[b]": ["x\ny"]}, dtype=object)
    print_frame(frame, f"1 {HOSTILE}", names={"0": f"2 {HOSTILE}"})
    out = capsys.readouterr().out
    assert all(f"{number} {SHOWN}" in out for number in (1, 2, 3))
    assert "[b]" in out
    assert "\x1b" not in out


def printed(capsys: pytest.CaptureFixture[str], *args: Any, **options: Any) -> tuple[str, list[list[str]]]:
    """Title of a table, and the texts of its cells, the head first."""
    print_frame(*args, **options)
    title, *lines = capsys.readouterr().out.splitlines()
    return title.strip(), [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[0] in "│┃"]


def test_errors_stand_behind_their_values_in_a_common_power_of_ten(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"kind": ["q", "k"], "js": [0.00123, 0.00031], "js_se": [0.00002, np.nan], "n": [4, 5]})
    frame.attrs["units"] = {"js": "nat", "js_se": "nat"}
    title, cells = printed(capsys, frame, "JS", names={"n": "samples"})
    assert title == "JS"
    assert cells == [["kind", "js (10⁻³ nat)", "samples"], ["q", "1.230 ± 0.020", "4"], ["k", "0.310", "5"]]
    title, cells = printed(capsys, frame.assign(sd=[0.0001, 0.002]), "JS", units={"js": "nat", "sd": "nat"})
    assert title == "JS (10⁻³ nat)"  # one power for both, said once
    assert cells == [["kind", "js", "n", "sd"], ["q", "1.230 ± 0.020", "4", "0.100"], ["k", "0.310", "5", "2.00"]]


def test_of_a_long_table_the_largest_rows_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"x": np.arange(33.0)})
    title, cells = printed(capsys, frame, "X", largest="x")
    assert title == "X, the 20 largest of 33 (--full or --out: all)"
    assert [cells[1], cells[-1], len(cells)] == [["32.0"], ["13.0"], 21]
    for options in ({"largest": "x", "full": True}, {}):
        title, cells = printed(capsys, frame, "X", **options)
        assert (title, len(cells)) == ("X", 34)
    assert len(printed(capsys, frame[:32], "X", largest="x")[1]) == 33


def progressed(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    with progress_bar("begin") as update:
        update(1, 2, HOSTILE, HOSTILE)
        update(2, 2, HOSTILE, HOSTILE)
    out, err = capsys.readouterr()
    return out, err


@pytest.mark.usefixtures("watched")
def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = progressed(capsys)
    assert out == ""
    assert err.count(SHOWN) >= 2
    assert "\x1b]0" not in err
    assert "\x07" not in err


def test_where_no_terminal_is_no_bar_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert progressed(capsys) == ("", "")


def test_a_log_has_a_line_of_progress_every_so_often(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorascope.cli.screen.LOG_SECONDS", 0.0)
    title, *_, last = progressed(capsys)[1].splitlines()
    assert [title, last] == [f"{SHOWN}: 1 of 2 {SHOWN}", f"{SHOWN}: 2 of 2 {SHOWN}"]


def test_a_log_ends_each_stage_at_its_total(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last line is younger than `LOG_SECONDS`; a stage without a line gets none."""
    seconds = iter((0.0, 31.0, 32.0, 33.0, 34.0, 35.0, 62.0, 63.0, 64.0))
    monkeypatch.setattr("lorascope.cli.screen.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with progress_bar("capture") as update:
        update(3, 7, "passes", "ablate")
        for title, total in (("ablate", 7), ("ablate", 7), ("short", 1), ("capture", 5)):
            update(total, total, title=title)
    assert capsys.readouterr().err.splitlines() == ["ablate: 3 of 7 passes", "ablate: 7 of 7"]


def test_a_note_names_its_first_three_places() -> None:
    assert format_note("lora_B is zero", ["a", "b", "c"]) == "lora_B is zero (a, b, c)"
    assert format_note("lora_B is zero", [*"abcde"]) == "lora_B is zero (a, b, c and 2 more)"
    assert format_note("no places", []) == "no places"
