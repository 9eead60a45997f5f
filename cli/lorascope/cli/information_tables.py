"""What `lorascope mi` prints of a result: a conclusion, a table of components, and in full all that qualifies them."""

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

import numpy as np
import xarray as xr

from lorascope.analyze.information import VERDICTS
from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.stores import Run

from .screen import print_table, say

SHORT = {"": "-", "lower bound only": "lower bound", "assumes Gaussian": "if Gaussian"}
"""Verdicts in few words, where a table's column is narrow."""
EMBEDDING = re.compile(r"embed|^w[tp]e$")
"""Kinds of components that look up a token's id or position."""
MOST_ROWS, MOST_NOTES = 10, 3
"""Components that are listed, and reasons for missing values, unless all are asked for: a screen's worth."""


def print_result(result: xr.Dataset, run: Run, *, bound: bool, full: bool) -> None:
    """Print a result."""
    name = "panel" if "panel" in result["estimator"].values else str(result["estimator"].values[0])
    one, against = result.sel(estimator=name), result.attrs["against"]
    n_all = _components(result.sizes["component"])
    say(f"mutual information of base and {against}, median and quartiles of {n_all}, by {_told(one)}")
    for line in (*_infinite(result), *([_claim(result)] if bound else [])):
        say(line)
    order = np.argsort(-np.nan_to_num(one["value"].values, nan=-np.inf, posinf=np.inf), kind="stable")
    some = result.isel(component=order if full else order[:MOST_ROWS])
    header, names = _shortened(some["component"].values.tolist())
    headers, rows = _bound_columns(some) if bound else _value_columns(some.sel(estimator=name))
    title = f"mutual information of base and {against}, by {name}"
    if len(names) < len(order):
        title += f": the {len(names)} largest of {n_all}"
    print_table(title, [header, *headers], [(short, *row) for short, row in zip(names, rows, strict=True)])
    if not bound:
        say(f"axes: the principal axes of base + {against} between which it is measured")
    if full:
        others = [other for other in result["estimator"].values.tolist() if other != name]
        for line in (*(_told(result.sel(estimator=other)) for other in others), *_qualifications(result, one, run)):
            say(line)
    _print_missing(result, full=full)


def _told(one: xr.Dataset) -> str:
    """Median and quartiles of one estimator, as a few components would rule a mean, and how many have each verdict."""
    verdicts = one["verdict"].values.tolist()
    counts = [f"{verdicts.count(word)} {word}" for word in VERDICTS if word in verdicts]
    low, middle, high = _quartiles(one["value"].values)
    told = ", ".join(counts) or "none has a value"
    return f"{one['estimator'].item()}: {middle} {one.attrs['units']} ({low} to {high}); {told}"


def _infinite(result: xr.Dataset) -> Iterator[str]:
    repeats = result["n_repeats"].values > 0  # states of a token id alone are discrete, and repeat
    embeds = np.array([bool(EMBEDDING.search(str(kind))) for kind in result["kind"].values], np.bool_)
    if n := int((result["singular"].values & ~repeats & ~embeds).sum()):
        yield (
            f"of whole states it is infinite in {n} of {_components(len(repeats))}, since base and "
            f"{result.attrs['against']} share directions exactly; values are of a few axes of each side"
        )


def _claim(result: xr.Dataset) -> str:
    held, (name, _) = _held(result), _js(result)
    counts = ", ".join(f"{word} in {(held == word).sum()}" for word in ("fails", "open", "holds"))
    claim = ", the paper's claim," if name == "MIUB" else ""
    return (
        f"{name} ≥ MI{claim} {counts} (open: within the interval of MI, or there is none); true of every pair are "
        "JS(P,Q) ≤ MI/2 and MI ≥ Xi (docs/mi-and-js.md)"
    )


def _js(result: xr.Dataset) -> tuple[str, np.ndarray]:
    """Name and values; against delta it is JS(softmax(base), softmax(delta)): no MIUB, and nobody's claim."""
    if result.attrs["against"] == "lora":
        return "MIUB", result["js"].values
    return "JS alone", result["js_delta_alone"].values


def _held(result: xr.Dataset) -> np.ndarray:
    """Whether js is at least the mutual information, by the interval of the panel, or of Xi where that has none."""
    panel, certified, (_, js) = result.sel(estimator="panel"), result.sel(estimator="classifier"), _js(result)
    low = np.where(np.isnan(panel["low"]), certified["low"], panel["low"])
    fails = (js < low) | np.isposinf(panel["value"].values)
    conditions = [np.isnan(panel["value"].values), fails, js > panel["high"].values]
    return np.select(conditions, ["n/a", "fails", "holds"], "open")


def _bound_columns(some: xr.Dataset) -> tuple[list[str], list[tuple[str, ...]]]:
    panel, certified, (name, values) = some.sel(estimator="panel"), some.sel(estimator="classifier"), _js(some)
    columns = (values, panel["value"], panel["se"], some["js_joint"], certified["value"], _held(some))
    rows: list[tuple[str, ...]] = [
        (format_number(js), format_error(value, se), format_number(joint), format_number(xi), str(held))
        for js, value, se, joint, xi, held in zip(*map(np.asarray, columns), strict=True)
    ]
    return [name.replace(" ", "\n"), "MI (nat)", "JS\n(P,Q)", "Xi", f"{name}\n≥ MI"], rows


def _value_columns(some: xr.Dataset) -> tuple[list[str], list[tuple[str, ...]]]:
    columns = ("value", "se", "p", "n_axes_x", "n_axes_y", "n_tokens", "verdict")
    rows: list[tuple[str, ...]] = [
        (format_error(value, se), "n/a" if np.isnan(p) else f"{p:.2g}", f"{n_x}+{n_y}", str(n), SHORT.get(word, word))
        for value, se, p, n_x, n_y, n, word in zip(*(some[column].values for column in columns), strict=True)
    ]
    return [f"MI ({some.attrs['units']})", "p", "axes", "tokens", "verdict"], rows


def _quartiles(values: np.ndarray) -> tuple[str, str, str]:
    """Quartiles and, between them, the median, as text."""
    known = values[~np.isnan(values)] if not np.isnan(values).all() else np.array([np.nan])
    # Between a number and infinity there is none.
    found = np.quantile(known, [0.25, 0.5, 0.75], method="nearest" if np.isinf(known).any() else "linear")
    low, middle, high = map(format_number, found.tolist())
    return low, middle, high


def _qualifications(result: xr.Dataset, one: xr.Dataset, run: Run) -> Iterator[str]:
    """What values rest on, leave out, and can't say."""
    attrs = result.attrs
    if attrs["n_shuffles"]:
        null = float(np.abs(np.nan_to_num(one["null_mean"])).max())
        yield f"p: of {attrs['n_shuffles']} shuffles of samples, whose mean is at most {format_number(null, digits=2)}"
    else:
        yield "no shuffles: no p, and the bias of noise curves isn't taken off"
    shares = [result[name].values[np.isfinite(result[name].values)] for name in ("share_x", "share_y")]
    if all(map(len, shares)):
        base, other = (format_percent(float(np.median(share))) for share in shares)
        yield f"axes keep, in the median component, {base} of base's variance and {other} of {attrs['against']}'s"
    for name, what in (("n_repeats", "repeated states"), ("n_not_finite", "tokens with NaN or infinity")):
        if (counts := result[name].values).any():
            n_all = _components(len(counts))
            yield f"{what} were left out in {(counts > 0).sum()} of {n_all}, at most {counts.max()} tokens"
    if n := attrs["n_prefix_repeats"]:
        yield f"{n} tokens of the run couldn't be chosen: an earlier one has the same id after the same ids"
    there = int((run.committed_rows & run.state_rows).sum())
    if there < run.n_rows:
        yield f"tokens are of {there} of the run's {run.n_rows} rows; others aren't committed, or keep no states"


def _print_missing(result: xr.Dataset, *, full: bool) -> None:
    """Say which components have no values, and why."""
    firsts: dict[str, str] = {}
    for name, note in zip(result["component"].values.tolist(), result["note"].values.tolist(), strict=True):
        firsts.setdefault(note, name)
    n = int((result["note"].values != "").sum())
    if n:
        say(f"{n} of {_components(result.sizes['component'])} lack values:")
    for note, name in [one for one in firsts.items() if one[0]][: None if full else MOST_NOTES]:
        say(f"{name}: {note}")


def _components(n: int) -> str:
    return f"{n} component" if n == 1 else f"{n} components"


def _shortened(names: Sequence[str]) -> tuple[str, list[str]]:
    """What all names begin with, and what is left of each, which is something."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = ".".join(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))
    if len(names) < 2 or not shared:
        return "component", list(names)
    return f"{shared}.…", [f"…{name[len(shared) + 1 :]}" for name in names]
