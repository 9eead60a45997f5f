"""Sentences and section on what matters: the parts without which predictions would change, or do, most.

JS is the Jensen-Shannon divergence that shows how far the adapter moves one module's own output.
"""

import json
import math

import numpy as np
import xarray as xr

from lorascope.analyze.figures.predictors import ablation_figure
from lorascope.analyze.fits.resampling import few_groups_note
from lorascope.analyze.results.format import format_error, format_percent

from .explain import Explanation
from .markup import escape, figure, section, table, with_code, with_minus
from .where_it_acts import fewest_for_half, join_names, sample_count

NAMES = {
    "js": "JS",
    "delta_ratio": "|delta| / |base|",
    "js_permuted": "JS of the permuted delta",
    "js_over_permuted": "JS over that of the permuted delta",
    "effective_width": "effective width",
    "weight_norm": "norm of s B A",
    "depth": "layer",
    "importance": "importance (from gradients)",
}
"""Measure -> its name on the page."""
N_ROWS = 10
"""Most parts in the table."""
MOST_EQUAL = 3
"""Most parts that are named as not significantly behind the largest; more are counted."""


def answer_what_matters(explanation: Explanation) -> str:
    """Return sentences (plain text) on the parts of the adapter on which predictions of the next token depend most."""
    sentences = []
    if explanation.importance is not None:
        sentences.append(_importance_sentence(explanation.importance))
    if explanation.ablation is not None:
        sentences.append(_ablation_sentence(explanation.ablation))
    if sentences:
        return " ".join(sentences)
    return f"Can't tell which part matters, since {explanation.reasons['importance']}."


def _importance_sentence(importance: xr.DataTree) -> str:
    """Return a sentence on layers, kinds and the module of largest importance, or that none is significant."""
    components = importance["components"].to_dataset().sortby("value", ascending=False)
    what = (
        f"importance: KL without the part, estimated from gradients, over {sample_count(importance.attrs['n_samples'])}"
    )
    value, error = components["value"].values, components["se"].values
    if not value[0] > 2 * error[0]:
        return f"Can't tell which part matters: no module's importance is above twice its error ({what})."
    clauses = list[str]()
    for node, plural in (("layers", "layers"), ("kinds", "kinds of modules")):
        shares = importance[node]["share"].to_series().to_dict()
        if len(shares) > 1:
            n, names = fewest_for_half(shares, plural)
            share = sum(sorted(shares.values())[-n:])
            clauses.append(f"{names} ({format_percent(share)}; {format_percent(n / len(shares))} if all were equal)")
    first = f"of modules on {components['component'].values[0]} ({format_error(value[0], error[0])} nat"
    if len(value) > 1:
        behind, spread = value[0] - value[1], np.hypot(error[0], error[1])
        first += f", {'' if behind > 2 * spread else 'not significantly '}more than any other"
    return f"Predictions depend most on {', '.join([*clauses, first])}; {what})."


def _ablation_sentence(ablation: xr.Dataset) -> str:
    """Return a sentence on the part whose removal changes predictions most, or that none is significant."""
    top = int(ablation["kl"].values.argmax())
    kl, error, parts = float(ablation["kl"][top]), float(ablation["kl_se"][top]), ablation.attrs["parts"]
    tokens = f"{ablation.attrs['n_tokens']} tokens of {sample_count(ablation.attrs['n_samples'])}"
    if not has_significant_removal(ablation):
        return (
            "Can't tell which part matters by taking parts out: whichever is removed, predictions of the next token "
            f"change by less than twice the standard error ({tokens})."
        )
    prefix = {"components": "", "layers": "layer ", "kinds": "modules named "}[parts]
    names = [f"{prefix}{part}".replace("layer -1", "modules outside of the layers") for part in ablation["part"].values]
    is_equal = (ablation["behind"] <= 2 * ablation["behind_se"]).values
    equal = [name for place, name in enumerate(names) if is_equal[place] and place != top]
    tie = ""
    if equal:
        others = join_names(equal) if len(equal) <= MOST_EQUAL else f"{len(equal)} other {parts}"
        tie = f"; not significantly more than without {others}"
    return (
        "With parts taken out one at a time, predictions change most without "
        f"{names[top]} (KL {format_error(kl, error)} nat over {tokens}{tie})."
    )


def describe_kl(kl: float) -> str:
    """Say what a Kullback-Leibler divergence in nats means: by how much the geometric mean probability falls."""
    return f"what was predicted becomes {format_percent(-math.expm1(-kl))} less probable on average"


def has_significant_removal(ablation: xr.Dataset) -> bool:
    """Return whether removing some part of the adapter changes predictions by over twice the standard error."""
    top = int(ablation["kl"].values.argmax())
    return bool(ablation["kl"][top] > 2 * ablation["kl_se"][top])


def what_matters_section(explanation: Explanation) -> str:
    """Return the HTML section on the most important parts, the costliest to remove, and what predicts that cost."""
    parts = [
        make(value)
        if (value := getattr(explanation, name)) is not None
        else f"<p>Can't tell by {how}, since {with_code(explanation.reasons[name])}.</p>"
        for name, how, make in (
            ("importance", "importance", _importance_tables),
            ("ablation", "taking parts out", _ablation_table),
        )
    ]
    more = "" if explanation.measures is None else _measures_html(explanation.measures)
    return section("ablation", "What matters", *parts, more)


def _importance_tables(importance: xr.DataTree) -> str:
    """Return an HTML table of the modules, layers and kinds of largest importance."""
    rows = []
    for dim, prefix in (("kind", "all "), ("layer", "layer "), ("component", "")):
        largest = importance[f"{dim}s"].to_dataset().sortby("value", ascending=False).isel({dim: slice(N_ROWS)})
        columns = (largest[name].values.tolist() for name in (dim, "value", "se", "share"))
        rows += [
            (f"{prefix}{name}", format_error(value, error), format_percent(share))
            for name, value, error, share in zip(*columns, strict=True)
        ]
    caption = (
        "Importance: KL(adapted || adapted without a part) to second order, half the Fisher information of a scale on "
        f"its delta, from gradients of labels drawn from the adapted model; ± standard error over "
        f"{sample_count(importance.attrs['n_samples'])} ({importance.attrs['n_tokens']} tokens, "
        f"{importance.attrs['n_draws']} draws each). The {N_ROWS} largest kinds, layers and modules; share: of the sum "
        "over all of that sort. From 0.1 nat on it shows an order rather than a size."
    )
    return table(("part", "importance (nat)", "share"), rows, caption=caption)


def _ablation_table(ablation: xr.Dataset) -> str:
    """Return an HTML table of the parts whose removal changes predictions most."""
    largest = ablation.sortby("kl", ascending=False).isel(part=slice(N_ROWS))
    total = float(ablation["kl"].sum())
    rows = [
        (str(part), format_error(float(kl), float(error)), format_percent(float(kl) / total) if total else "n/a")
        for part, kl, error in zip(largest["part"].values, largest["kl"].values, largest["kl_se"].values, strict=True)
    ]
    caption = (
        f"How much predictions of the next token change without a part of the adapter: the {len(rows)} largest of "
        f"{ablation.sizes['part']} {ablation.attrs['parts']}. KL: Kullback-Leibler divergence KL(adapted || adapted "
        "without that part), mean over a sample's tokens, ± standard error over "
        f"{ablation.attrs['n_samples']} samples ({ablation.attrs['n_tokens']} tokens). "
        "Share: of the sum over all parts, which can differ from the effect of removing all of them."
    )
    return table(("part", "KL (nat)", "share"), rows, caption=caption)


def _measures_html(comparison: xr.Dataset) -> str:
    """Return HTML on how well each measure predicts the cost of removing a component."""
    attrs = comparison.attrs
    caption = (
        "Rank correlation of a measure with the KL of removal, over components (1: the same order; 0: no relation). "
        "Within kinds: without differences between the mean ranks of kinds of modules. "
        f"In brackets: {100 * attrs['level']:g} % intervals over {attrs['n_samples']} samples."
    )
    rows = [
        [NAMES[name], *(_correlation_text(comparison, name, kind) for kind in ("spearman", "partial"))]
        for name in comparison["measure"].values.tolist()
    ]
    remarks = (*few_groups_note("The bootstrap", attrs["n_samples"]), *json.loads(attrs["remarks"]))
    text = " ".join(f"{remark}." for remark in remarks)
    points = "Each point is a component; hover over it for its name."
    return (
        f"<h3>Does JS predict what matters?</h3><p>{escape(with_minus(text))}</p>"
        f"{table(['measure', 'Spearman', 'within kinds'], rows, caption=caption)}"
        f"{figure('ablation-scatter', ablation_figure(comparison), points)}"
    )


def _correlation_text(comparison: xr.Dataset, measure: str, name: str) -> str:
    """Return a measure's correlation as text, with its interval if there is one; n/a if it isn't known."""
    value, low, high = (float(comparison[f"{name}{end}"].sel(measure=measure)) for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "n/a"
    return f"{value:.2f}" if np.isnan(low) else f"{value:.2f} ({low:.2f} to {high:.2f})"
