"""The section on what matters: what taking parts of the adapter out costs, and which measure predicts it."""

import json

import numpy as np
import xarray as xr

from lorascope.analyze.figures.ablation_figures import ablation_figure
from lorascope.analyze.fits.resampling import few_groups
from lorascope.analyze.results.format import format_error, format_percent

from .explain import Explanation
from .markup import escape, figure, section, table, with_code, with_minus

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
N_ROWS = 10
"""Most parts in the table."""


def matters(explanation: Explanation) -> str:
    """HTML of the section: the parts whose removal costs most and, of components, how well measures predict it."""
    title = "What matters"
    ablation = explanation.ablation
    if ablation is None:
        return section("ablation", title, f"<p>Can't tell, since {with_code(explanation.reasons['ablation'])}.</p>")
    largest = ablation.sortby("kl", ascending=False).isel(part=slice(N_ROWS))
    total = float(ablation["kl"].sum())
    rows = [
        (str(part), format_error(float(kl), float(error)), format_percent(float(kl) / total) if total else "n/a")
        for part, kl, error in zip(largest["part"].values, largest["kl"].values, largest["kl_se"].values, strict=True)
    ]
    caption = (
        f"The {len(rows)} largest of {ablation.sizes['part']} {ablation.attrs['parts']}. KL: Kullback-Leibler "
        "divergence KL(adapted || adapted without that delta) of the next-token distributions, mean over a sample's "
        f"tokens, ± standard error over {ablation.attrs['n_samples']} samples ({ablation.attrs['n_tokens']} tokens). "
        "Share: of the sum over all parts, which needn't be what all of them do together."
    )
    more = "" if explanation.measures is None else _measures(explanation.measures)
    return section("ablation", title, table(("part", "KL (nat)", "share"), rows, caption=caption), more)


def _measures(comparison: xr.Dataset) -> str:
    """How well each measure of a component predicts what its removal costs, of what `compare_measures` returns."""
    attrs = comparison.attrs
    caption = (
        "Rank correlation of a measure with the KL of removal, over components; within kinds, once the mean rank of "
        f"each kind of module is taken off. In brackets {100 * attrs['level']:g} % intervals over "
        f"{attrs['n_samples']} samples."
    )
    rows = [
        [NAMES[name], *(_interval(comparison, name, kind) for kind in ("spearman", "partial"))]
        for name in comparison["measure"].values.tolist()
    ]
    remarks = (*few_groups("The bootstrap", attrs["n_samples"]), *json.loads(attrs["remarks"]))
    text = " ".join(f"{remark}." for remark in remarks)
    points = "Each point is a component; hover over it for its name."
    return (
        f"<h3>Does JS see what matters?</h3><p>{escape(with_minus(text))}</p>"
        f"{table(['measure', 'Spearman', 'within kinds'], rows, caption=caption)}"
        f"{figure('ablation-scatter', ablation_figure(comparison), points)}"
    )


def prediction(comparison: xr.Dataset) -> str:
    """Say how well JS predicts what removing a component costs, and whether another measure does better."""
    known = comparison["spearman"].dropna("measure")
    if "js" not in known["measure"].values:
        return "Whether JS predicts what a removal costs can't be told: JS isn't finite, or doesn't vary."
    best = str(known["measure"].values[int(np.abs(known.values).argmax())])
    other = "no other measure has a larger one"
    if best != "js":
        other = f"the best predictor is {NAMES[best]}, with {_interval(comparison, best)}"
    return (
        f"JS predicts what removing a component costs with a rank correlation of {_interval(comparison, 'js')}, "
        f"where 1 is the same order and 0 no relation; {other}."
    )


def _interval(comparison: xr.Dataset, measure: str, name: str = "spearman") -> str:
    value, low, high = (float(comparison[f"{name}{end}"].sel(measure=measure)) for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "n/a"
    return f"{value:.2f}" if np.isnan(low) else f"{value:.2f} ({low:.2f} to {high:.2f})"
