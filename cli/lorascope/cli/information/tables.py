"""Values by component, by estimator and by adapter."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr

from lorascope.analyze.format import format_error, format_number
from lorascope.analyze.information.verdicts import VERDICTS

from ..screen import print_table, say
from .rows import chosen_estimator, columns_of, counted, is_of_states, listed, names_of, sides

__all__ = ["print_adapters", "print_estimators", "print_values"]

SHORT = {"": "-", "lower bound only": "lower bound", "assumes Gaussian": "if Gaussian"}
"""Verdicts in few words, where there are fewer."""
HEADERS = {
    "lower bound only": "lower\nbound",
    "saturated": "satu-\nrated",
    "undersampled": "under-\nsampled",
    "assumes Gaussian": "if\nGaussian",
}
"""The same, narrow."""


def print_values(result: xr.Dataset, top: int) -> None:
    """The components with most, and a line that says what columns mean."""
    chosen = chosen_estimator(result)
    columns, some = columns_of(result, chosen), listed(result, chosen, top)
    rows = [
        (name, *_value_cells(columns, place)[:2], _axes(result, columns, place), *_value_cells(columns, place)[2:])
        for place, name in zip(some.places, some.names, strict=True)
    ]
    headers = [some.header, f"MI ({result.attrs['units']})", "p", "axes", "n", "verdict"]
    print_table(f"{sides(result)}: {some.title}", headers, rows)
    say(
        f"MI: by {chosen}, ± standard error of the noise; {_tested(result, columns)}axes of base + "
        f"{result.attrs['against']}; n tokens, each with states of its own"
    )


def _value_cells(columns: dict[str, np.ndarray], place: int) -> tuple[str, str, str, str]:
    """MI, p, tokens and verdict."""
    value, se, p = (columns[name][place] for name in ("value", "se", "p"))
    tested, verdict = "n/a" if np.isnan(p) else f"{p:.2g}", str(columns["verdict"][place])
    return format_error(value, se), tested, str(columns["n_tokens"][place]), SHORT.get(verdict, verdict)


def _axes(result: xr.Dataset, columns: dict[str, np.ndarray], place: int) -> str:
    if is_of_states(chosen_estimator(result)):
        return "all"
    return f"{columns['n_axes_x'][place]}+{columns['n_axes_y'][place]}"


def _tested(result: xr.Dataset, columns: dict[str, np.ndarray]) -> str:
    """What shuffles gave, and what p is; nothing without any."""
    if not result.attrs["n_shuffles"]:
        return ""
    null = np.nan_to_num(columns["null_mean"])
    size = format_number(float(null[np.abs(null).argmax()]), digits=2)
    p = f"p: how many of {result.attrs['n_shuffles']} shuffles of samples reach it, both with one more"
    if np.array_equal(columns["bias"], columns["null_mean"], equal_nan=True):
        return f"{p}; their mean, at most {size}, is taken off; "
    return f"{p}; their mean is at most {size}; "


def print_estimators(result: xr.Dataset) -> None:
    """What each estimator says: of a single component the values, else medians over all."""
    names, unit = [str(name) for name in result["estimator"].values], result.attrs["units"]
    found = [columns_of(result, name) for name in names]
    if result["note"].size == 1:
        cells = []
        for name, columns in zip(names, found, strict=True):
            value, p, _, verdict = _value_cells(columns, 0)
            cells.append((name, value, p, format_number(columns["null_mean"][0], digits=2), verdict))
        print_table("by estimator", ["estimator", f"MI ({unit})", "p", "shuffled", "verdict"], cells)
        return
    rows = [(name, columns["value"], columns["verdict"]) for name, columns in zip(names, found, strict=True)]
    _print_counted(f"by estimator, over {counted(result)}, in {unit}", "estimator", rows)


def print_adapters(results: Sequence[xr.Dataset], top: int) -> None:
    """Several adapters side by side: the components with most under the first, and each adapter over all of them."""
    chosen, unit = chosen_estimator(results[0]), results[0].attrs["units"]
    adapters = [str(result.attrs["adapter"]) for result in results]
    columns = [columns_of(result, chosen) for result in results]
    some, names = listed(results[0], chosen, top), names_of(results[0])
    cells = [
        {name: format_error(*both) for name, *both in zip(names_of(result), one["value"], one["se"], strict=True)}
        for result, one in zip(results, columns, strict=True)
    ]
    rows = [
        (short, *(of.get(names[place], "-") for of in cells))
        for place, short in zip(some.places, some.names, strict=True)
    ]
    print_table(f"{sides(results[0])} ({chosen}, {unit}): {some.title}", [some.header, *adapters], rows)
    over_all = [(name, one["value"], one["verdict"]) for name, one in zip(adapters, columns, strict=True)]
    _print_counted(f"by adapter, over all its components, in {unit}", "adapter", over_all)


def _print_counted(title: str, what: str, rows: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Medians, since a few components would rule means, quartiles, and how many have each verdict that occurs."""
    words = [word for word in VERDICTS if any((verdicts == word).any() for _, _, verdicts in rows)]
    cells = []
    for name, values, verdicts in rows:
        known = values[~np.isnan(values)] if not np.isnan(values).all() else np.array([np.nan])
        # Between a number and infinity there is none.
        method: Literal["linear", "nearest"] = "nearest" if np.isinf(known).any() else "linear"
        quartiles = np.quantile(known, [0.25, 0.5, 0.75], method=method)
        low, middle, high = (_rounded(value, decimals) for value, decimals in zip(quartiles, (2, 3, 2), strict=True))
        cells.append((name, middle, f"{low} to {high}", *(str((verdicts == word).sum()) for word in words)))
    print_table(title, [what, "median", "quartiles", *(HEADERS.get(word, word) for word in words)], cells)


def _rounded(value: float, decimals: int) -> str:
    """Few digits: of a thousandth of a nat nobody needs a power of ten."""
    return f"{value:.{decimals}f}" if abs(value) < 1 else format_number(value, digits=decimals)
