"""The section of the page that holds MIUB against ablation: what the model says once a component's delta is out."""

import json

import numpy as np
import xarray as xr

from lorascope.analyze.compare_measures import rank_gap
from lorascope.analyze.figures.ablation import ablation_figure
from lorascope.analyze.format import format_error, format_number
from lorascope.analyze.stats.resampling import few_groups

from .markup import escape, figure, section, table, with_minus

NAMES = {
    "js": "JS",
    "delta_ratio": "|delta| / |base|",
    "js_permuted": "JS of the permuted delta",
    "js_over_permuted": "JS over that of the permuted delta",
    "effective_width": "effective width",
    "weight_norm": "norm of s B A",
    "depth": "layer",
}
"""Measure -> its name on the page."""
N_SHOWN = 8
"""Components on which JS and ablation disagree most that are listed."""
SHARE_TOP = 0.1
"""Share of components that count as the largest."""


def ablation(comparison: xr.Dataset) -> str:
    """Which measure goes with ablation, and where JS doesn't; of what `compare_measures` returns."""
    attrs, n = comparison.attrs, comparison.sizes["component"]
    based = f"{attrs['n_samples']} samples, {attrs['n_tokens']} tokens, {n} components"
    caption = (
        "Rank correlation over components with ablation's KL, with its "
        f"{100 * attrs['level']:g} % interval (bootstrap of samples); within kinds: once the mean rank of each kind of "
        "module is taken off; with overrating: with how many ranks JS puts a component above its place by ablation. "
        f"{based}."
    )
    about = (
        f"Ablation takes one component's delta out of the adapted model and leaves all else as it is; its KL says how "
        f"far the next-token distribution moves then. Means over {based}."
    )
    scatter = ablation_figure(comparison, titled=False)
    legend = "Each point is a component, its colour the kind of module; hover over it for its name. Means over samples."
    said = "".join(f"<p>{escape(with_minus(text))}</p>" for text in sentences(comparison))
    notes = [f"{words}." for words in few_groups("The bootstrap", attrs["n_samples"])]
    notes += [f"{words}." for words in json.loads(attrs["remarks"]) if not words.startswith("weight_norm")]
    return section(
        "ablation",
        "Does JS see what matters?",
        said,
        f"<p>{escape(' '.join([about, *notes]))}</p>",
        table(["measure", "Spearman", "within kinds", "with overrating"], _rows(comparison), caption=escape(caption)),
        figure("ablation-scatter", scatter, escape(legend)),
        _disagreements(comparison),
    )


def sentences(comparison: xr.Dataset) -> list[str]:
    """What predicts ablation and how well, and where JS misleads, as plain text."""
    known = comparison["spearman"].dropna("measure")
    if "js" not in known["measure"].values:
        return ["Whether JS sees what matters can't be told: JS or ablation isn't finite, or doesn't vary."]
    js = f"JS predicts what taking a component out costs with a rank correlation of {_interval(comparison, 'js')}"
    best = str(known["measure"].values[int(np.abs(known.values).argmax())])
    other = ", no other measure with a larger one"
    if best != "js":
        other = f"; the measure that predicts it best, {NAMES[best]}, with one of {_interval(comparison, best)}"
    n_top = max(1, round(SHARE_TOP * comparison.sizes["component"]))
    largest = [set(_order(comparison, name)[:n_top].tolist()) for name in ("js", "ablation")]
    n_shared = len(largest[0] & largest[1])
    shared = f"Of the {n_top} components with the largest JS, {n_shared} are among the {n_top} that cost most"
    low, high = (float(comparison[f"overrated_{end}"].sel(measure="effective_width")) for end in ("low", "high"))
    width = _interval(comparison, "effective_width", "overrated")
    if high < 0:
        why = f"JS overrates components in which few huge features hold the softmax's mass (rank correlation {width})"
    elif low > 0:
        why = f"JS overrates components in which many features share the softmax's mass (rank correlation {width})"
    else:
        why = f"whether it overrates components with few huge features can't be told (rank correlation {width})"
    return [f"{js}{other}.", f"{shared}; {why}."]


def _order(comparison: xr.Dataset, name: str) -> np.ndarray:
    """Places of components from the largest by JS, or by ablation."""
    values = comparison["ablation"] if name == "ablation" else comparison["value"].sel(measure=name)
    return np.argsort(-np.nan_to_num(values.values, nan=-np.inf), kind="stable")


def _interval(comparison: xr.Dataset, measure: str, name: str = "spearman") -> str:
    """A correlation and its interval."""
    one = comparison.sel(measure=measure)
    value, low, high = (float(one[f"{name}{end}"]) for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "n/a"
    return f"{value:.2f}" if np.isnan(low) else f"{value:.2f} ({low:.2f} to {high:.2f})"


def _rows(comparison: xr.Dataset) -> list[list[str]]:
    return [
        [NAMES[name], *(_interval(comparison, name, kind) for kind in ("spearman", "partial", "overrated"))]
        for name in comparison["measure"].values.tolist()
    ]


def _disagreements(comparison: xr.Dataset) -> str:
    """The components that JS puts furthest above their place by ablation."""
    values = comparison["value"].transpose("measure", "component")
    gap = np.nan_to_num(rank_gap(values.sel(measure="js").values, comparison["ablation"].values))
    ranks = {name: np.argsort(_order(comparison, name)) + 1 for name in ("js", "ablation")}
    rows = []
    for place in np.argsort(-gap, kind="stable")[:N_SHOWN]:
        one = comparison.isel(component=place)
        number = {name: format_number(float(one["value"].sel(measure=name))) for name in ("js", "effective_width")}
        cost = format_error(float(one["ablation"]), float(one["ablation_se"]))
        if gap[place] > 0:
            order = f"{ranks['js'][place]}", f"{ranks['ablation'][place]}"
            rows.append([one["component"].item(), order[0], order[1], number["js"], cost, number["effective_width"]])
    columns = ["component", "place by JS", "place by ablation", "JS (nat)", "KL without it (nat)", "effective width"]
    caption = (
        "Where JS stands furthest above ablation; 1 is the largest. Effective width: how many features share the "
        "softmax's mass. Means over samples, ± standard error."
    )
    return table(columns, rows, caption=caption)
