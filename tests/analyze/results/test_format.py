import doctest

import numpy as np
import pytest

from lorascope.analyze.results import format as format_module
from lorascope.analyze.results.format import format_error, format_number, format_percent


def test_examples_run() -> None:
    assert doctest.testmod(format_module).failed == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (np.nan, "n/a"),
        (np.inf, "∞"),
        (-np.inf, "-∞"),
        (-1.5, "-1.50"),
        (999.6, "1000"),
        (0.0009999, "0.00100"),
        (1e6, "1.00·10⁶"),
        (0.001, "0.00100"),
    ],
)
def test_format_number(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (5.0, 0.0, "5.00 ± 0"),
        (5.0, 4e-16, "5.00 ± 0"),
        (2.875742525, 3e-8, "2.88 ± 0"),
        (3.2, 2e-5, "3.200000 ± 0.000020"),
        (5.0, np.nan, "5.00"),
        (np.nan, 1.0, "n/a"),
        (0.0, 0.01, "0.000 ± 0.010"),
        (2e7, 3e5, "(2.000 ± 0.030)·10⁷"),
    ],
)
def test_format_error(value: float, error: float, text: str) -> None:
    assert format_error(value, error) == text


@pytest.mark.parametrize(("share", "text"), [(np.nan, "n/a"), (0.0, "0.0 %"), (0.0006, "0.1 %"), (0.0003, "0.030 %")])
def test_format_percent(share: float, text: str) -> None:
    assert format_percent(share) == text
