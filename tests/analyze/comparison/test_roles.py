import doctest
import re

import pytest

from lorascope.analyze.comparison import roles
from lorascope.analyze.comparison.roles import Metric, parse_metrics


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
    ],
)
def test_names_that_mean_nothing(given: tuple[list[str], str | None, list[str], str], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_metrics(*given)


def test_examples_of_the_module_run() -> None:
    assert doctest.testmod(roles) == (0, 1)
