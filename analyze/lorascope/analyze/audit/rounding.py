"""Decimals that numbers were printed with, and how far rounding may have moved them."""

import math
from decimal import Decimal, InvalidOperation

import numpy as np

__all__ = ["MOST_DECIMALS", "as_printed", "decimals_printed", "decimals_shown", "half_unit"]

MOST_DECIMALS = 12
"""A number whose shortest text has more was computed, not printed."""


def decimals_shown(values: np.ndarray) -> int:
    """The most decimals that the shortest texts of these numbers have: trailing zeros can't be seen in one number.

    Parameters
    ----------
    values
        Finite numbers of one column, of any shape.

    Raises
    ------
    ValueError
        If a number has more than 12 decimals.

    Examples
    --------
    >>> import numpy as np
    >>> decimals_shown(np.array([1586.0, 1566.6])), decimals_shown(np.array([200.0]))
    (1, 0)
    """
    most = 0
    for value in np.ravel(np.asarray(values, np.float64)).tolist():
        exponent = Decimal(repr(value)).normalize().as_tuple().exponent
        assert isinstance(exponent, int)  # a text only for NaN and infinity
        if -exponent > MOST_DECIMALS:
            raise ValueError(
                f"{value!r} has {-exponent} decimals; a printed number has up to {MOST_DECIMALS}: round the column as "
                "it was printed, or say `decimals`"
            )
        most = max(most, -exponent)
    return most


def decimals_printed(text: str) -> int:
    """How many decimals a printed number has, its trailing zeros among them; commas may part thousands.

    Raises
    ------
    ValueError
        If the text isn't a finite number.

    Examples
    --------
    >>> decimals_printed("13.860"), decimals_printed("1,586"), decimals_printed("1.50e-3")
    (3, 0, 5)
    """
    exponent = _decimal(text).as_tuple().exponent
    assert isinstance(exponent, int)
    return max(0, -exponent)


def printed_value(text: str) -> float:
    """The number that a printed text stands for; raises as `decimals_printed`."""
    return float(_decimal(text))


def half_unit(decimals: int | np.ndarray) -> np.ndarray:
    """Half a unit of the last of so many decimals: the most by which rounding moves a number; of the same shape."""
    return np.asarray(0.5 * 10.0 ** -np.asarray(decimals, np.float64))


def as_printed(value: float, half: float) -> str:
    """A number with the decimals whose half unit this is."""
    return f"{value:.{max(0, round(-math.log10(2 * half)))}f}"


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text.strip().replace(",", ""))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise ValueError(f"{text!r} isn't a printed number; allowed are texts such as '0.860' or '1,586.0'")
    return number
