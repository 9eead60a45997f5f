"""MIUB beside what it is said to bound, and beside what is true; against delta, JS of both alone in its place."""

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.format import format_error, format_number

from ..screen import print_table, say
from .rows import columns_of, counted, listed, sides

__all__ = ["print_bound"]


def print_bound(result: xr.Dataset, top: int) -> None:
    """The components with most mutual information, and in how many MIUB is above it; in nats.

    Against delta the column is JS(softmax(base), softmax(delta)): no MIUB, and nobody's claim.
    """
    panel, certified, some = columns_of(result, "panel"), columns_of(result, "classifier"), listed(result, "panel", top)
    js = panel["js" if result.attrs["against"] == "lora" else "js_delta_alone"]
    held = _held(js, panel, certified)
    rows = [
        (
            name,
            format_number(js[place]),
            format_error(panel["value"][place], panel["se"][place]),
            format_number(certified["js_joint"][place]),
            format_number(certified["value"][place]),
            held[place],
        )
        for place, name in zip(some.places, some.names, strict=True)
    ]
    name = _name(result)
    headers = [some.header, name.replace(" ", "\n"), "MI (panel)", "JS\n(P,Q)", "Xi", f"{name}\n≥ MI"]
    print_table(f"{name} and {sides(result)}, in nat: {some.title}", headers, rows)
    for line in _lines(result, float(np.nansum(js)), held):
        say(line)


def _name(result: xr.Dataset) -> str:
    return "MIUB" if result.attrs["against"] == "lora" else "JS alone"


def _held(js: np.ndarray, panel: dict[str, np.ndarray], certified: dict[str, np.ndarray]) -> list[str]:
    """Whether js is at least the mutual information, by the interval of the panel, or of Xi where that has none."""
    low = np.where(np.isnan(panel["low"]), certified["low"], panel["low"])
    unknown, fails = np.isnan(panel["value"]), (js < low) | np.isposinf(panel["value"])
    return [str(word) for word in np.select([unknown, fails, js > panel["high"]], ["n/a", "fails", "holds"], "open")]


def _lines(result: xr.Dataset, total: float, held: Sequence[str]) -> Iterator[str]:
    name, against = _name(result), result.attrs["against"]
    yield (
        f"{name}: mean over the same tokens of JS(softmax(base), softmax({against})), {format_number(total)} summed "
        "over components; JS(P,Q): of joint and product, at least, as a classifier tells them apart; Xi: the least MI "
        "that goes with it"
    )
    claim = ", the paper's claim" if against == "lora" else ""
    counts = ", ".join(f"{word} in {held.count(word)}" for word in ("fails", "open", "holds"))
    yield (
        f"{name} ≥ MI{claim}, over {counted(result)}: {counts} (open: {name} lies within the interval of MI, "
        "or there is none; holds: as far as MI, itself a lower bound, tells)"
    )
    size = "; MIUB is the size of the adapter's change, 0 where it does nothing and MI is largest"
    yield f"true of every pair are JS(P,Q) ≤ MI/2 and MI ≥ Xi{size if against == 'lora' else ''} (docs/mi-and-js.md)"
