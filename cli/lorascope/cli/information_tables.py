"""What `lorascope mi` prints of a result: a conclusion, a table of components, and in full all that qualifies them."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.format import format_error, format_number, format_percent
from lorascope.analyze.information import VERDICTS
from lorascope.stores import Run

from .screen import print_table, say

__all__ = ["MOST_NOTES", "print_result"]

MEANINGS = {
    "lower bound only": "blind to some dependence",
    "saturated": "there is much, not how much",
    "undersampled": "moves with the number of tokens, or they are too few to tell",
    "biased": "shuffles, or the value itself, are off 0 on the wrong side",
    "assumes Gaussian": "no bound, unless states are",
}
"""What a verdict means, in words."""
SHORT = {"": "-", "lower bound only": "lower bound", "assumes Gaussian": "if Gaussian"}
"""Verdicts in few words, where a table's column is narrow."""
NARROW = {"saturated": "satu-\nrated", "undersampled": "under-\nsampled", "lower bound only": "lower\nbound"}
"""Verdicts as headers of narrow columns, where they are longer than the numbers below."""
EMBEDDING = re.compile(r"embed|^w[tp]e$")
"""Kinds of components that look up a token's id or position."""
MOST_ROWS, MOST_NOTES = 10, 3
"""Components that are listed, and reasons for missing values, unless all are asked for: a screen's worth."""


def print_result(result: xr.Dataset, run: Run, *, bound: bool, full: bool) -> int:
    """Print a result; returns how many components lack values."""
    name = "panel" if "panel" in result["estimator"].values else str(result["estimator"].values[0])
    one = result.sel(estimator=name)
    for line in (_conclusion(one, name), *_infinite(result), *([_claim(result)] if bound else [])):
        say(line)
    order = np.argsort(-np.nan_to_num(one["value"].values, nan=-np.inf, posinf=np.inf), kind="stable")
    some = result.isel(component=order if full else order[:MOST_ROWS])
    header, names = _shortened(some["component"].values.tolist())
    headers, rows = _bound_columns(some) if bound else _value_columns(some.sel(estimator=name))
    title = f"mutual information of base and {result.attrs['against']}, by {name}"
    if len(names) < len(order):
        title += f": the {len(names)} largest of {len(order)} components"
    print_table(title, [header, *headers], [(short, *row) for short, row in zip(names, rows, strict=True)])
    if full and result.sizes["estimator"] > 1:
        _print_estimators(result)
    for line in _qualifications(result, one, run) if full else ():
        say(line)
    return _print_missing(result, full=full)


def _conclusion(one: xr.Dataset, name: str) -> str:
    values, verdicts = one["value"].values, one["verdict"].values
    counts = {word: int((verdicts == word).sum()) for word in VERDICTS}
    said = [f"{n} {word}" + (f" ({MEANINGS[word]})" if word in MEANINGS else "") for word, n in counts.items() if n]
    return (
        f"mutual information of base and {one.attrs['against']}: {_quartiles(values)[1]} {one.attrs['units']} in the "
        f"median of {_components(len(values))}, by {name}: {', '.join(said) or 'none has a value'}"
    )


def _infinite(result: xr.Dataset) -> Iterator[str]:
    repeats = result["n_repeats"].values > 0  # states of a token id alone are discrete, and repeat
    embeds = np.array([bool(EMBEDDING.search(str(kind))) for kind in result["kind"].values], np.bool_)
    if n := int((result["singular"].values & ~repeats & ~embeds).sum()):
        yield (
            f"of whole states it is infinite in {n} of {_components(len(repeats))}, since base and "
            f"{result.attrs['against']} share directions exactly; values are of less than the whole"
        )


def _claim(result: xr.Dataset) -> str:
    held, name = _held(result), _js_name(result)
    counts = ", ".join(f"{word} in {(held == word).sum()}" for word in ("fails", "open", "holds"))
    claim = ", the paper's claim," if name == "MIUB" else ""
    return (
        f"{name} ≥ MI{claim} {counts} (open: within the interval of MI, or there is none); true of every pair are "
        "JS(P,Q) ≤ MI/2 and MI ≥ Xi (docs/mi-and-js.md)"
    )


def _js_name(result: xr.Dataset) -> str:
    """Against delta it is JS(softmax(base), softmax(delta)): no MIUB, and nobody's claim."""
    return "MIUB" if result.attrs["against"] == "lora" else "JS alone"


def _js(result: xr.Dataset) -> np.ndarray:
    return np.asarray(result["js" if result.attrs["against"] == "lora" else "js_delta_alone"].values)


def _held(result: xr.Dataset) -> np.ndarray:
    """Whether js is at least the mutual information, by the interval of the panel, or of Xi where that has none."""
    panel, certified, js = result.sel(estimator="panel"), result.sel(estimator="classifier"), _js(result)
    low = np.where(np.isnan(panel["low"]), certified["low"], panel["low"])
    fails = (js < low) | np.isposinf(panel["value"].values)
    conditions = [np.isnan(panel["value"].values), fails, js > panel["high"].values]
    return np.select(conditions, ["n/a", "fails", "holds"], "open")


def _bound_columns(some: xr.Dataset) -> tuple[list[str], list[tuple[str, ...]]]:
    panel, certified, name = some.sel(estimator="panel"), some.sel(estimator="classifier"), _js_name(some)
    columns = (_js(some), panel["value"], panel["se"], some["js_joint"], certified["value"], _held(some))
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


def _print_estimators(result: xr.Dataset) -> None:
    """Medians, since a few components would rule means, quartiles, and how many have each verdict that occurs."""
    verdicts = result["verdict"].transpose("estimator", "component").values
    words = [word for word in VERDICTS if (verdicts == word).any()]
    rows = []
    for name, found in zip(result["estimator"].values.tolist(), verdicts, strict=True):
        low, middle, high = _quartiles(result["value"].sel(estimator=name).values)
        rows.append((name, middle, f"{low} to {high}", *(str((found == word).sum()) for word in words)))
    headers = [NARROW.get(word, SHORT.get(word, word)) for word in words]
    print_table(f"by estimator, {result.attrs['units']}", ["estimator", "median", "quartiles", *headers], rows)


def _quartiles(values: np.ndarray) -> tuple[str, str, str]:
    """Quartiles and, between them, the median, as text."""
    known = values[~np.isnan(values)] if not np.isnan(values).all() else np.array([np.nan])
    # Between a number and infinity there is none.
    found = np.quantile(known, [0.25, 0.5, 0.75], method="nearest" if np.isinf(known).any() else "linear")
    low, middle, high = (f"{value:.3f}" if abs(value) < 1 else format_number(value) for value in found)
    return low, middle, high


def _qualifications(result: xr.Dataset, one: xr.Dataset, run: Run) -> Iterator[str]:
    """What values rest on, leave out, and can't say."""
    attrs, n_all = result.attrs, result.sizes["component"]
    if attrs["n_shuffles"]:
        null = float(np.abs(np.nan_to_num(one["null_mean"])).max())
        yield f"p: of {attrs['n_shuffles']} shuffles of samples, whose mean is at most {format_number(null, digits=2)}"
    else:
        yield "no shuffles: no p, and the panel's and noise's bias isn't taken off"
    shares = [result[name].values[np.isfinite(result[name].values)] for name in ("share_x", "share_y")]
    if all(map(len, shares)):
        base, other = (format_percent(float(np.median(share))) for share in shares)
        yield f"axes keep, in the median component, {base} of base's variance and {other} of {attrs['against']}'s"
    for name, what in (("n_repeats", "repeated states"), ("n_not_finite", "tokens with NaN or infinity")):
        if (counts := result[name].values).any():
            yield f"{what} were left out in {(counts > 0).sum()} of {_components(n_all)}, at most {counts.max()} tokens"
    if n := attrs["n_prefix_repeats"]:
        yield f"{n} tokens of the run couldn't be chosen: an earlier one has the same id after the same ids"
    there = int((run.committed_rows & run.state_rows).sum())
    if there < run.n_rows:
        yield f"tokens are of {there} of the run's {run.n_rows} rows; others aren't committed, or keep no states"


def _print_missing(result: xr.Dataset, *, full: bool) -> int:
    """Say which components have no values, and why; returns how many."""
    notes = zip(result["component"].values.tolist(), result["note"].values.tolist(), strict=True)
    found = {name: note for name, note in notes if note}
    if found:
        say(f"{len(found)} of {_components(result.sizes['component'])} lack values:")
    firsts = {note: name for name, note in reversed(found.items())}  # of each reason the first
    for note, name in [*reversed(firsts.items())][: None if full else MOST_NOTES]:
        say(f"{name}: {note}")
    return len(found)


def _components(n: int) -> str:
    return f"{n} component" if n == 1 else f"{n} components"


def _shortened(names: Sequence[str]) -> tuple[str, list[str]]:
    """What all names begin with, and what is left of each."""
    parts = [name.split(".") for name in names]
    least = min(map(len, parts), default=1) if len(parts) > 1 else 1  # something of each name is to remain
    n_shared = 0
    while n_shared < least - 1 and len({part[n_shared] for part in parts}) == 1:
        n_shared += 1
    if not n_shared:
        return "component", list(names)
    return f"{'.'.join(parts[0][:n_shared])}.…", [f"…{'.'.join(part[n_shared:])}" for part in parts]
