import doctest
import re

import pytest

from lorascope.analyze.comparison import roles
from lorascope.analyze.comparison.roles import Metric, in_table, parse_metrics


def test_names_say_column_and_side() -> None:
    found = parse_metrics(["MI", "ln MIUB", "CE"], "CE", ["MI"], "ACC")
    assert found == (Metric("CE", "CE", False, -1), Metric("MI", "MI", False, 1), Metric("ln MIUB", "MIUB", True, -1))


def test_first_is_the_reference() -> None:
    assert [one.name for one in parse_metrics(["b", "a"], None, [], "ACC")] == ["b", "a"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (([], None, [], "ACC"), "`metrics` is empty; name at least one column"),
        ((["CE", "MI", "CE"], None, [], "ACC"), "`metrics` names 'CE' twice; once is enough"),
        ((["CE"], "MI", [], "ACC"), "`reference` names 'MI', which isn't among the metrics ['CE']"),
        ((["ln CE"], None, ["CE"], "ACC"), "`higher_is_better` names 'CE', which isn't among the metrics ['ln CE']"),
        ((["CE", "ACC"], None, [], "ACC"), "metric 'ACC' is accuracy itself; name what is to predict it"),
        ((["CE", "ln ACC"], None, [], "ACC"), "metric 'ln ACC' is accuracy itself; name what is to predict it"),
        ((["CE", "ln ACC"], None, [], "ln ACC"), "metric 'ln ACC' is accuracy itself; name what is to predict it"),
    ],
)
def test_names_that_mean_nothing(given: tuple[list[str], str | None, list[str], str], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_metrics(*given)


@pytest.mark.parametrize(
    ("columns", "column", "is_log"),
    [(["ACC", "CE"], "CE", True), (["ACC", "ln CE"], "ln CE", False), (["ACC"], "CE", True)],
)
def test_a_column_of_that_name_is_taken_as_it_is(columns: list[str], column: str, is_log: bool) -> None:
    found = in_table(parse_metrics(["MI", "ln CE"], None, ["ln CE"], "ACC"), columns)
    assert found == (Metric("MI", "MI", False, -1), Metric("ln CE", column, is_log, 1))


def test_a_name_that_means_two_columns() -> None:
    words = (
        "metric 'ln CE' is a column of the table, and the logarithm of its column 'CE' as well; rename or drop one of "
        "the two"
    )
    with pytest.raises(ValueError, match=re.escape(words)):
        in_table(parse_metrics(["ln CE"], None, [], "ACC"), ["ACC", "CE", "ln CE"])
    assert in_table(parse_metrics(["CE"], None, [], "ACC"), ["ACC", "CE", "ln CE"])[0].column == "CE"


def test_examples_of_the_module_run() -> None:
    assert doctest.testmod(roles) == (0, 2)
