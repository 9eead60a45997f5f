import doctest

import numpy as np
import pandas as pd

from lorascope.analyze.fits import summary as module
from lorascope.analyze.fits.summary import Summary, Table, Verdict

ROWS = pd.DataFrame({"name": ["alpha", "b|c"], "value": [1.23456, np.nan], "n": [3, 12], "ok": [True, False]})
WHOLE = Summary(
    "A fit",
    {"cells": "12", "seed": "7"},
    [Table("slopes", ROWS, "of ln MIUB"), Table("digits", ROWS[["value"]], digits=2)],
    [Verdict("it falls", "supported", "4 of 4")],
    ["one row left out"],
)


def test_cells() -> None:
    values = [None, True, np.bool_(False), "text", np.int64(1234567), 1234567.0, 0.5, np.nan, np.inf, 0.0, (1, 2)]
    line = Summary("t", tables=[Table("x", pd.DataFrame([values]))]).text().split("\n")[-1]
    assert line.split() == ["yes", "no", "text", "1234567", "1.235·10⁶", "0.5000", "n/a", "∞", "0", "(1,", "2)"]


def test_the_short_form_is_the_conclusion_and_one_table() -> None:
    assert str(WHOLE) == WHOLE.text()
    assert WHOLE.text().split("\n") == [
        "A fit",
        "supported  it falls: 4 of 4",
        "",
        "slopes",
        "name   value   n   ok",
        "alpha  1.235   3  yes",
        "b|c      n/a  12   no",
    ]


def test_the_full_form_has_the_rest() -> None:
    assert WHOLE.text(full=True).split("\n") == [
        *WHOLE.text().split("\n"),
        "of ln MIUB",
        "",
        "digits",
        "value",
        "  1.2",
        "  n/a",
        "",
        "cells  12",
        "seed   7",
        "* one row left out",
    ]


def test_long_sentences_are_broken_below_their_beginning() -> None:
    long = Summary("t", verdicts=[Verdict("it falls " * 9, "supported", "of 4 " * 9)], notes=["left " * 20])
    lines = long.text(full=True, width=40).split("\n")
    assert max(map(len, lines)) <= 40
    assert lines[1].startswith("supported  it falls")
    assert lines[2].startswith("           ")
    assert lines[-1].startswith("  left")


def test_what_is_not_there_leaves_no_trace() -> None:
    bare = Summary("Nothing")
    assert bare.text(full=True) == "Nothing"
    rowless, empty = (Summary("t", tables=[Table("x", rows)]) for rows in (ROWS.iloc[:0], pd.DataFrame()))
    assert "name  value  n  ok" in rowless.text()
    assert empty.text() == "t\n\nx"


def test_wide_tables_go_on_below_and_name_their_rows_again() -> None:
    rows = pd.DataFrame({"name": ["alpha", "beta"]} | {f"number{k:02}": [k + 0.5, k] for k in range(24)})
    lines = Summary("t", tables=[Table("x", rows)]).text(width=80).split("\n")[3:]
    assert max(map(len, lines)) <= 80
    stretches = "\n".join(lines).split("\n\n")
    assert len(stretches) > 1
    assert all(one.split("\n")[1].startswith("alpha") for one in stretches)
    shown = [name for one in stretches for name in one.split("\n")[0].split()[1:]]
    assert shown == rows.columns.tolist()[1:]


def test_columns_of_numbers_are_aligned_to_the_right() -> None:
    rows = pd.DataFrame({"a": [-1.5, np.inf], "c": ["x", "2"]})
    lines = Summary("t", tables=[Table("x", rows)]).text().split("\n")[3:]
    assert lines == ["     a c", "-1.500 x", "     ∞ 2"]


def test_columns_of_text_are_aligned_to_the_left() -> None:
    rows = pd.DataFrame({"a": [1.5, 2.5], "verdict": ["ok", "saturated"], "b": ["x", "y"]})
    _, one, other = Summary("t", tables=[Table("x", rows)]).text().split("\n")[3:]
    assert one.index("ok") == other.index("saturated")


def test_line_breaks_in_names_are_spelt_out() -> None:
    evil = "a\nb"
    rows = pd.DataFrame({evil: [evil]})
    text = Summary(evil, {evil: evil}, [Table(evil, rows, evil)], [Verdict(evil, "supported", evil)], [evil])
    assert text.text(full=True).count("a\\nb") == 1 + 2 + 4 + 2 + 1
    assert "b" not in text.text(full=True).split("\n")


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
