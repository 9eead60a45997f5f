import doctest
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.audit import rounding
from lorascope.analyze.audit.rounding import as_printed, decimals_printed, decimals_shown, half_unit, printed_value


@pytest.mark.parametrize(
    ("values", "decimals"),
    [
        ([], 0),
        ([0.0], 0),
        ([-1.5], 1),
        ([1586.0, 1566.6], 1),
        ([0.86, 0.861], 3),
        ([1e-7], 7),
        ([1.25e-5], 7),
        ([1e300, 1e22], 0),
        ([3], 0),
    ],
)
def test_decimals_shown(values: list[float], decimals: int) -> None:
    assert decimals_shown(np.array(values)) == decimals


@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_decimals_shown_are_at_most_those_printed(units: int, decimals: int) -> None:
    value = float(f"{units}e-{decimals}")
    shown = decimals_shown(np.array(value))
    assert shown <= decimals
    assert shown == decimals or units % 10 == 0  # a zero at the end can't be seen
    assert float(as_printed(value, float(half_unit(decimals)))) == value


def test_computed_numbers_are_no_printed_ones() -> None:
    words = "0.30000000000000004 has 17 decimals; a printed number has up to 12: round the column as it was printed"
    with pytest.raises(ValueError, match=re.escape(words)):
        decimals_shown(np.array([1.0, 0.1 + 0.2]))


@pytest.mark.parametrize(
    ("text", "decimals", "value"),
    [
        ("13.860", 3, 13.86),
        (" 1,586.0 ", 1, 1586),
        ("7", 0, 7),
        ("1.50e-3", 5, 0.0015),
        ("2e3", 0, 2000),
        ("-.5", 1, -0.5),
    ],
)
def test_decimals_printed(text: str, decimals: int, value: float) -> None:
    assert decimals_printed(text) == decimals
    assert printed_value(text) == value


@pytest.mark.parametrize("text", ["3779.9.2", "", "0.86 ± 0.01", "nan", "inf", "n/a"])
def test_texts_that_are_no_numbers(text: str) -> None:
    words = re.escape(f"{text!r} isn't a printed number; allowed are texts such as '0.860' or '1,586.0'")
    for read in (decimals_printed, printed_value):
        with pytest.raises(ValueError, match=words):
            read(text)


def test_half_units() -> None:
    np.testing.assert_allclose(half_unit(np.array([[0, 1], [3, -2]])), [[0.5, 0.05], [0.0005, 50]], rtol=1e-15)
    assert float(half_unit(1)) == 0.05


@pytest.mark.parametrize(
    ("value", "half", "text"), [(0.86, 0.0005, "0.860"), (1586, 0.05, "1586.0"), (1200, 50, "1200")]
)
def test_as_printed(value: float, half: float, text: str) -> None:
    assert as_printed(value, half) == text


def test_examples_run() -> None:
    assert doctest.testmod(rounding) == (0, 3)
