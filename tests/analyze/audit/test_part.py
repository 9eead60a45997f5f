import doctest

from lorascope.analyze.audit import part
from lorascope.analyze.audit.averages import AverageRow
from lorascope.analyze.audit.part import Part, joined, rows_table


def test_examples_run() -> None:
    assert doctest.testmod(part) == (0, 2)


def test_texts_in_a_row() -> None:
    assert joined([]) == ""
    assert joined(["a", "b"], mark="; ") == "a; b"
    assert joined(["a", "b"], most=2) == "a, b"


def test_tables_have_columns_without_rows() -> None:
    table = rows_table(AverageRow, [])
    assert table.columns.tolist() == list(AverageRow._fields)
    assert len(table) == 0
    assert Part(table)[1:] == ((), (), ())
