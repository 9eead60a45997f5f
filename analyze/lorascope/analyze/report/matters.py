"""Sentences and section on what matters: the parts whose removal changes predictions most.

JS is the Jensen-Shannon divergence that shows how far the adapter moves one module's own output.
"""

import json
import math
from collections.abc import Iterator

import numpy as np
import xarray as xr

from lorascope.analyze.figures.predictors import ablation_figure
from lorascope.analyze.fits.resampling import few_groups_note
from lorascope.analyze.measuring.sources import captured_measure
from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.analyze.results.weights import token_weights, weighted_mean
from lorascope.stores import Run

from .explain import Explanation
from .markup import escape, figure, section, table, with_code, with_minus
from .where_it_acts import join_names, sample_count

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
KL = "Kullback-Leibler divergence, KL"


def answer_what_matters(run: Run, explanation: Explanation) -> str:
    """Return sentences (plain text) on how much the adapter changes predictions, and on which part most."""
    return " ".join(_effect_sentences(run, explanation))


def _effect_sentences(run: Run, explanation: Explanation) -> Iterator[str]:
    """Yield sentences on what matters for predictions; they end early if no part's effect is known or significant."""
    name = KL
    moved = captured_measure(run, "kl", explanation.qualified.attrs["adapter"])
    known = np.empty(0, int) if moved is None else np.flatnonzero(np.isfinite(moved.values))
    if moved is not None and len(known):
        mean = float(weighted_mean(moved.values[known], token_weights(run)[known]))
        yield (
            f"The adapter as a whole changes the model's predictions of the next token: {_describe_kl(mean)} "
            f"({name}: {format_number(mean)} nat over {len(known)} tokens)."
        )
        name = "KL"
    ablation = explanation.ablation
    if ablation is None:
        yield f"Can't tell which part matters, since {explanation.reasons['ablation']}."
        return
    top = int(ablation["kl"].values.argmax())
    kl, error, parts = float(ablation["kl"][top]), float(ablation["kl_se"][top]), ablation.attrs["parts"]
    tokens = f"{ablation.attrs['n_tokens']} tokens of {sample_count(ablation.attrs['n_samples'])}"
    if not has_significant_removal(ablation):
        yield (
            "Can't tell which part matters: whichever is removed, predictions of the next token change by less than "
            f"twice the standard error ({tokens})."
        )
        return
    prefix = {"components": "", "layers": "layer ", "kinds": "modules named "}[parts]
    names = [f"{prefix}{part}".replace("layer -1", "modules outside of the layers") for part in ablation["part"].values]
    is_equal = (ablation["behind"] <= 2 * ablation["behind_se"]).values
    equal = [name for place, name in enumerate(names) if is_equal[place] and place != top]
    tie = ""
    if equal:
        others = join_names(equal) if len(equal) <= MOST_EQUAL else f"{len(equal)} other {parts}"
        tie = f" Without the part in {others} they change about as much (the difference is less than twice its error)."
    yield (
        "Parts of the adapter were taken out one at a time. Predictions of the next token change most without the part "
        f"in {names[top]}: {_describe_kl(kl)} ({name}: {format_error(kl, error)} nat over {tokens}).{tie}"
    )
    yield (
        "What matters for predictions can differ from where the adapter acts, which is about each module's own output. "
        "A changed prediction needn't be a worse one."
    )
    if explanation.measures is not None:
        yield best_predictor(explanation.measures)


def _describe_kl(kl: float) -> str:
    """Say what a Kullback-Leibler divergence in nats means: by how much the geometric mean probability falls."""
    return f"what was predicted becomes {format_percent(-math.expm1(-kl))} less probable on average"


def has_significant_removal(ablation: xr.Dataset) -> bool:
    """Return whether removing some part of the adapter changes predictions by over twice the standard error."""
    top = int(ablation["kl"].values.argmax())
    return bool(ablation["kl"][top] > 2 * ablation["kl_se"][top])


def best_predictor(comparison: xr.Dataset) -> str:
    """Return a sentence on how well JS predicts the cost of removing a component, and which measure does best."""
    known = comparison["spearman"].dropna("measure")
    if "js" not in known["measure"].values:
        return "Can't tell whether modules on which it acts more matter more: JS isn't finite, or doesn't vary."
    low, high = (float(comparison[f"spearman{end}"].sel(measure="js")) for end in ("_low", "_high"))
    clause = "Whether modules on which it acts more matter more isn't clear"
    if low > 0 or high < 0:
        clause = f"Modules on which it acts more matter {'more' if low > 0 else 'less'}"
    form = f"{{:.2f}}, {100 * comparison.attrs['level']:g} % interval {{:.2f}} to {{:.2f}}"
    best = str(known["measure"].values[int(np.abs(known.values).argmax())])
    other = "no other measure has a larger one"
    if best != "js":
        other = f"the largest is that of {NAMES[best]}, {_correlation_text(comparison, best, form=form)}"
    return (
        f"{clause} (rank correlation of JS with KL: {_correlation_text(comparison, 'js', form=form)}; 1 is the same "
        f"order, 0 no relation; {other})."
    )


def what_matters_section(explanation: Explanation) -> str:
    """Return the HTML section on the parts that cost most to remove, and on which measure predicts that."""
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
        f"How much predictions of the next token change without a part of the adapter: the {len(rows)} largest of "
        f"{ablation.sizes['part']} {ablation.attrs['parts']}. KL: Kullback-Leibler divergence KL(adapted || adapted "
        "without that part), mean over a sample's tokens, ± standard error over "
        f"{ablation.attrs['n_samples']} samples ({ablation.attrs['n_tokens']} tokens). "
        "Share: of the sum over all parts, which can differ from the effect of removing all of them."
    )
    more = "" if explanation.measures is None else _measures_html(explanation.measures)
    return section("ablation", title, table(("part", "KL (nat)", "share"), rows, caption=caption), more)


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


def _correlation_text(
    comparison: xr.Dataset, measure: str, name: str = "spearman", *, form: str = "{:.2f} ({:.2f} to {:.2f})"
) -> str:
    """Return a measure's correlation as text, with its interval if there is one; n/a if it isn't known."""
    value, low, high = (float(comparison[f"{name}{end}"].sel(measure=measure)) for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "n/a"
    return f"{value:.2f}" if np.isnan(low) else form.format(value, low, high)
