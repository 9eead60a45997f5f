"""Numbers, errors, percentages and durations as text."""

import math
from collections.abc import Iterable, Sequence

ROUNDING = 2.0**-24
"""Relative rounding error of float32, in which js is stored: a smaller relative standard error is only rounding."""
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_number(value: float, *, digits: int = 3) -> str:
    """Return a number as text with `digits` significant digits, with a power of ten below 0.001 and from a million on.

    NaN is `n/a`.

    Examples
    --------
    >>> format_number(0.012345), format_number(0.00000123), format_number(1234.5), format_number(0)
    ('0.0123', '1.23·10⁻⁶', '1230', '0')
    """
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    exponent = int(power)
    if -3 <= exponent < 6:
        decimals = max(digits - 1 - exponent, 0)
        return f"{round(value, digits - 1 - exponent):.{decimals}f}"
    return f"{mantissa}·{format_power(exponent)}"


def format_error(value: float, error: float) -> str:
    """Return a value and its standard error as text, both rounded to the second significant digit of the error.

    An error that is only float32 rounding is shown as 0. If the error isn't finite, only the value is shown.

    Examples
    --------
    >>> format_error(1.23456, 0.0123), format_error(1.23456, float("nan")), format_error(12345.6, 120.0)
    ('1.235 ± 0.012', '1.23', '12350 ± 120')
    >>> format_error(0.000283712, 0.0000026)
    '(2.837 ± 0.026)·10⁻⁴'
    """
    if not (math.isfinite(value) and math.isfinite(error)):
        return format_number(value)
    if error <= ROUNDING * abs(value):
        return f"{format_number(value)} ± 0"
    exponent = math.floor(math.log10(max(abs(value), error)))
    if exponent and (math.log10(error) < -4 or exponent >= 6):
        return f"({_format_fixed(value / 10.0**exponent, error / 10.0**exponent)})·{format_power(exponent)}"
    return _format_fixed(value, error)


def format_change(value: float, error: float) -> str:
    """Return a difference and its standard error as text; a positive difference has a plus sign.

    Examples
    --------
    >>> format_change(1.23456, 0.0123), format_change(-1.23456, 0.0123)
    ('+1.235 ± 0.012', '-1.235 ± 0.012')
    """
    return f"{'+' if value > 0 else ''}{format_error(value, error)}"


def format_percent(share: float) -> str:
    """Return a share (1 is all) as a percentage with one decimal, or two digits if it is small; `n/a` for NaN.

    Examples
    --------
    >>> format_percent(0.2061), format_percent(0.0000411), format_percent(1.0)
    ('20.6 %', '0.0041 %', '100.0 %')
    """
    if math.isnan(share):
        return "n/a"
    return f"{format_number(100 * share, digits=2)} %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def format_duration(seconds: float) -> str:
    """Return a duration as text: in seconds below two minutes, in minutes below two hours, otherwise in hours.

    Examples
    --------
    >>> format_duration(40), format_duration(750), format_duration(12600)
    ('40.0 s', '12.5 min', '3.50 h')
    """
    if seconds < 120:
        return f"{format_number(seconds)} s"
    return f"{format_number(seconds / 60)} min" if seconds < 7200 else f"{format_number(seconds / 3600)} h"


def common_power_of_ten(values: Iterable[float], unit: str) -> tuple[float, str]:
    """Return a factor for a column of numbers, and the unit of the scaled numbers, such as `10⁻³ nat`.

    Examples
    --------
    >>> common_power_of_ten([0.00012, 0.0031], "nat"), common_power_of_ten([0.2, 0.00001], "nat")
    ((1000.0, '10⁻³ nat'), (1.0, 'nat'))
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    if -3 < exponent < 6:
        return 1.0, unit
    return 10.0**-exponent, f"{format_power(exponent)} {unit}"


def format_power(exponent: int) -> str:
    """Return a power of ten as text with a superscript.

    Examples
    --------
    >>> format_power(-6)
    '10⁻⁶'
    """
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def run_names(paths: Sequence[str]) -> list[str]:
    """Return a distinct name for each run: the shortest ends of their paths that differ, without a last `run.zarr`.

    Examples
    --------
    >>> run_names(["runs/demo/run.zarr", "runs/r8"]), run_names(["a/r8", "b/r8"])
    (['demo', 'r8'], ['a/r8', 'b/r8'])
    """
    parts = [path.rstrip("/").removesuffix("/run.zarr").split("/") for path in paths]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def _format_fixed(value: float, error: float) -> str:
    """Return `value ± error` without a power of ten, rounded to the second significant digit of the error."""
    places = 1 - math.floor(math.log10(error))
    decimals = max(places, 0)
    return f"{round(value, places):.{decimals}f} ± {round(error, places):.{decimals}f}"
