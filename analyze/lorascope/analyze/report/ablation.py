"""The section of the page that holds JS against ablation, what the model says once a component's delta is out."""

import json

import numpy as np
import xarray as xr

from lorascope.analyze.figures.ablation_figures import ablation_figure
from lorascope.analyze.fits.resampling import few_groups
from lorascope.analyze.results.format import format_error, format_number

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
"""Components that JS puts furthest above their place by ablation, that are listed."""


def ablation(comparison: xr.Dataset) -> str:
    """Which measure predicts ablation, and where JS doesn't; of what `compare_measures` returns."""
    attrs = comparison.attrs
    about = (
        "Ablation takes one component's delta out of the adapted model and leaves all else as it is; its KL says how "
        "far the next-token distribution moves then. "
        f"Means over {attrs['n_samples']} samples, {attrs['n_tokens']} tokens."
    )
    notes = [
        about,
        *(f"{words}." for words in (*few_groups("The bootstrap", attrs["n_samples"]), *json.loads(attrs["remarks"]))),
    ]
    caption = (
        "Rank correlation with ablation's KL over components; within kinds, once the mean rank of each kind of module "
        f"is taken off. In brackets {100 * attrs['level']:g} % intervals over samples."
    )
    rows = [
        [NAMES[name], *(_interval(comparison, name, kind) for kind in ("spearman", "partial"))]
        for name in comparison["measure"].values.tolist()
    ]
    points = "Each point is a component; hover over it for its name."
    return section(
        "ablation",
        "Does JS see what matters?",
        *(f"<p>{escape(with_minus(text))}</p>" for text in (*sentences(comparison), " ".join(notes))),
        table(["measure", "Spearman", "within kinds"], rows, caption=caption),
        figure("ablation-scatter", ablation_figure(comparison), points),
        _overrated(comparison),
    )


def sentences(comparison: xr.Dataset) -> list[str]:
    """What predicts ablation and how well, and where JS misleads, as plain text."""
    known = comparison["spearman"].dropna("measure")
    if "js" not in known["measure"].values:
        return ["Whether JS sees what matters can't be told: JS isn't finite, or doesn't vary."]
    best = str(known["measure"].values[int(np.abs(known.values).argmax())])
    other = f"; the measure that predicts it best, {NAMES[best]}, with one of {_interval(comparison, best)}"
    n = max(1, comparison.sizes["component"] // 10)
    n_shared = int((np.maximum(*_places(comparison)) <= n).sum())
    return [
        f"JS predicts what taking a component out costs with a rank correlation of {_interval(comparison, 'js')}"
        f"{other if best != 'js' else ', no other measure with a larger one'}.",
        f"Of the {n} components with the largest JS, {n_shared} are among the {n} that cost most.",
    ]


def _places(comparison: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Places (component,) by JS and by ablation; 1 is the largest."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]  # a quarter of a second

    return rankdata(-comparison["value"].sel(measure="js").values), rankdata(-comparison["ablation"].values)


def _interval(comparison: xr.Dataset, measure: str, name: str = "spearman") -> str:
    value, low, high = (float(comparison[f"{name}{end}"].sel(measure=measure)) for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "n/a"
    return f"{value:.2f}" if np.isnan(low) else f"{value:.2f} ({low:.2f} to {high:.2f})"


def _overrated(comparison: xr.Dataset) -> str:
    js, cost = _places(comparison)
    values = comparison["value"].transpose("component", "measure")
    rows = [
        [
            str(one["component"].values),
            f"{js[place]:g}",
            f"{cost[place]:g}",
            format_number(float(values[place].sel(measure="js"))),
            format_error(float(one["ablation"]), float(one["ablation_se"])),
            format_number(float(values[place].sel(measure="effective_width"))),
        ]
        for place in np.argsort(js - cost, kind="stable")[:N_SHOWN]
        for one in [comparison.isel(component=place)]
        if js[place] < cost[place]
    ]
    columns = ["component", "place by JS", "place by ablation", "JS (nat)", "KL without it (nat)", "effective width"]
    return table(columns, rows, caption="Where JS stands furthest above ablation. ± standard error over samples.")
