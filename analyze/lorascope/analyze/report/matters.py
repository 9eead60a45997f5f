"""Sentences and section on what matters: the parts without which predictions would change, or do, most."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.importance.importance import importance_by_sample
from lorascope.analyze.results.format import common_power_of_ten, format_error, format_percent
from lorascope.analyze.results.weights import ratio, ratio_error
from lorascope.stores import Run

from .explain import Explanation
from .markup import section, table, unknown
from .where_it_acts import fewest_for_half
from .wording import join_names, rows_of, sample_count

N_ROWS = 10
"""Most parts in the table."""


def answer_what_matters(run: Run, explanation: Explanation) -> str:
    """Return sentences (plain text) on the parts of the adapter on which predictions of the next token depend most."""
    if explanation.importance is not None:
        return _importance_sentence(run, explanation.importance)
    if explanation.ablation is not None:
        return _ablation_sentence(explanation.ablation)
    return f"Can't tell which part matters, since {explanation.reasons['importance']}."


def _importance_sentence(run: Run, importance: xr.DataTree) -> str:
    """Return a sentence on layers, kinds and the module of largest importance, or that none is significant."""
    top = max(rows_of(importance["components"].to_dataset()), key=lambda row: row.value)
    n_samples = sample_count(importance.attrs["n_samples"])
    if not top.value > 2 * top.se:
        return f"Can't tell which part matters: no module's importance is above twice its error ({n_samples})."
    stored = run.importance(importance.attrs["adapter"])
    modules = run.components.isel(component=stored["component"].values)
    clauses = list[str]()
    for node, plural in (("layers", "layers"), ("kinds", "kinds of modules")):
        shares = importance[node]["share"].to_series().to_dict()
        if len(shares) > 1:
            names, text = fewest_for_half(shares, plural)
            share = _share(stored, modules[node.removesuffix("s")].values, names)
            of_what, equal = ("", "") if clauses else (" of importance", " if all were equal")
            clauses.append(f"{text} ({share}{of_what}; {format_percent(len(names) / len(shares))}{equal})")
    share = _share(stored, modules["path"].values, [top.component])
    parts = join_names([*clauses, top.component])
    return f"Predictions depend most on {parts} ({share} of that of modules; gradients of {n_samples})."


def _share(stored: xr.Dataset, labels: np.ndarray, names: Sequence[int | str]) -> str:
    """Return the share of importance, with its error over samples, of the directions with one of some labels."""
    groups, numbers = np.unique(labels, return_inverse=True)
    by_sample = importance_by_sample(stored, numbers)
    chosen = by_sample[:, np.isin(groups, names)].sum(axis=1, keepdims=True)
    share, residual = ratio(chosen, by_sample.sum(axis=1, keepdims=True))
    return f"{format_error(100 * float(share[0]), 100 * float(ratio_error(residual)[0]))} %"


def _ablation_sentence(ablation: xr.Dataset) -> str:
    """Return a sentence on the part whose removal changes predictions most, or that none is significant."""
    top, parts = int(ablation["kl"].values.argmax()), ablation.attrs["parts"]
    kl, error = float(ablation["kl"][top]), float(ablation["kl_se"][top])
    tokens = f"{ablation.attrs['n_tokens']} tokens of {sample_count(ablation.attrs['n_samples'])}"
    if not kl > 2 * error:
        return (
            "Can't tell which part matters by taking parts out: whichever is removed, predictions of the next token "
            f"change by less than twice the standard error ({tokens})."
        )
    prefix = {"components": "", "layers": "layer ", "kinds": "modules named "}[parts]
    n_equal = int((ablation["behind"] <= 2 * ablation["behind_se"]).sum()) - 1
    tie = f"; not significantly more than without {n_equal} other {parts}" if n_equal else ""
    return (
        "With parts taken out one at a time, predictions change most without "
        f"{prefix}{ablation['part'].values[top]} (KL {format_error(kl, error)} nat over {tokens}{tie})."
    )


def what_matters_section(explanation: Explanation) -> str:
    """Return the HTML section on the most important parts, and on the costliest to remove."""
    parts = [
        make(value) if (value := getattr(explanation, name)) is not None else unknown(explanation.reasons[name], how)
        for name, how, make in (
            ("importance", " by importance", _importance_table),
            ("ablation", " by taking parts out", _ablation_table),
        )
    ]
    return section("ablation", "What matters", *parts)


def _importance_table(importance: xr.DataTree) -> str:
    """Return an HTML table of the modules, layers and kinds of largest importance."""
    parts = [
        (f"{prefix}{getattr(row, dim)}", row)
        for dim, prefix in (("kind", "all "), ("layer", "layer "), ("component", ""))
        for row in rows_of(importance[f"{dim}s"].to_dataset().sortby("value", ascending=False))[:N_ROWS]
    ]
    factor, unit = common_power_of_ten([float(np.median([row.value for _, row in parts]))], "nat")
    rows = [(name, format_error(factor * row.value, factor * row.se), format_percent(row.share)) for name, row in parts]
    caption = (
        "Importance: KL(adapted || adapted without a part) to second order, half the Fisher information of a scale on "
        f"its delta, from gradients of labels drawn from the adapted model; ± standard error over "
        f"{sample_count(importance.attrs['n_samples'])} ({importance.attrs['n_tokens']} tokens, "
        f"{importance.attrs['n_draws']} draws each). The {N_ROWS} largest kinds, layers and modules; share: of the sum "
        "over all of that sort. It holds for small changes: in our tests whole kinds had as little as 0.75 of what "
        "removing them changes, and a whole adapter 0.68 of 0.97 nat."
    )
    return table(("part", f"importance ({unit})", "share"), rows, caption=caption)


def _ablation_table(ablation: xr.Dataset) -> str:
    """Return an HTML table of the parts whose removal changes predictions most."""
    largest = ablation.sortby("kl", ascending=False).isel(part=slice(N_ROWS))
    total = float(ablation["kl"].sum())
    rows = [
        (row.part, format_error(row.kl, row.kl_se), format_percent(row.kl / total) if total else "n/a")
        for row in rows_of(largest)
    ]
    caption = (
        f"How much predictions of the next token change without a part of the adapter: the {len(rows)} largest of "
        f"{ablation.sizes['part']} {ablation.attrs['parts']}. KL: Kullback-Leibler divergence KL(adapted || adapted "
        "without that part), mean over a sample's tokens, ± standard error over "
        f"{ablation.attrs['n_samples']} samples ({ablation.attrs['n_tokens']} tokens). "
        "Share: of the sum over all parts, which can differ from the effect of removing all of them."
    )
    return table(("part", "KL (nat)", "share"), rows, caption=caption)
