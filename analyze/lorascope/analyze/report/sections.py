"""The sections of the page about what was measured, each a function of the run and what `qualify` made of it."""

import math
from collections.abc import Iterator

import numpy as np
import xarray as xr

from lorascope.analyze.format import format_bytes, format_error, format_number, format_percent
from lorascope.analyze.maps import component_map, js_map, null_map
from lorascope.analyze.plots import position_figure, sample_spread, share_curve
from lorascope.analyze.scores import scores, scores_table
from lorascope.analyze.summary import role_means, top_components, top_share
from lorascope.stores import Run

from .markup import escape, figure, section, table, tile
from .samples import chosen_samples, sample_block, scale_legend, scale_top

__all__ = ["across_samples", "across_tokens", "components", "headline", "qualifiers", "task_scores", "token_texts"]


def headline(run: Run, qualified: xr.Dataset, stored_bytes: int) -> str:
    """The few numbers to take away, and what MIUB is and isn't."""
    attrs, miub = qualified.attrs, float(qualified["miub"])
    most = attrs["n_components"] * math.log(2)
    share = f" ({format_percent(miub / most)} of the most it could be, {format_number(most)} nats)" if miub > 0 else ""
    tiles = [
        tile("MIUB (nats)", format_error(miub, float(qualified["miub_se"])), "± standard error over samples"),
        tile(
            "measured on",
            f"{attrs['n_samples']} samples",
            f"{attrs['n_tokens']} tokens x {attrs['n_components']} components",
        ),
        tile("five largest components", format_percent(top_share(qualified)), "of MIUB"),
        *_score_tiles(run),
        tile(
            "store",
            format_bytes(stored_bytes),
            f"{format_bytes(stored_bytes / int(run.committed.sum()))} a captured token",
        ),
    ]
    return (
        f'<div class="tiles">{"".join(tiles)}</div>'
        "<p><b>What MIUB is.</b> The size of the adapter's push on the layers' outputs: the Jensen-Shannon "
        "divergence of softmax(base) and softmax(base + delta), averaged over a sample's captured tokens, summed "
        "over components and averaged over samples. It is 0 where the adapter does nothing and at most ln 2 = "
        f"0.693 nats a component{share}.</p><p><b>What it isn't.</b> The paper that introduced it (arXiv "
        "2501.03152, eq. 9) calls it an upper bound of a mutual information. That theorem doesn't hold, so don't "
        f"read it as one.</p><p><b>What was captured.</b> {_captured(run)}</p>"
    )


def _captured(run: Run) -> str:
    provenance = run.attributes.get("provenance", {})
    selection = provenance.get("settings", {}).get("tokens")
    named = f" (token selection {escape(selection)})" if selection else ""
    n_omitted = sum(provenance.get("omitted_items", {}).values())
    omitted = f" {n_omitted} items beyond the limit weren't read." if n_omitted else ""
    read = int(run.samples["length"].sum())
    return f"{run.n_tokens} of the {read} tokens of {run.samples.sizes['sample']} samples{named}.{omitted}"


def _score_tiles(run: Run) -> Iterator[str]:
    found = scores(run)
    for measure, label in (("ACC", "accuracy"), ("CE", "cross-entropy"), ("PPL", "perplexity")):
        for score in [score for score in found if score.measure == measure][:1]:
            unit = " %" if score.unit == "%" else ""
            base, adapted = (format_number(e.value) for e in (score.base, score.adapted))
            has_base = not math.isnan(score.base.value)
            value = f"{base} → {adapted}{unit}" if has_base else f"{adapted}{unit}"
            note = f"{'without → ' if has_base else ''}with adapter, {score.dataset}, n = {score.n}"
            yield tile(label + (" (nat/token)" if measure == "CE" else ""), value, note)


def components(qualified: xr.Dataset) -> str:
    """Where the adapter acts: the heat map of js, and the largest components."""
    values = qualified["js_component"].values
    positive = values[values > 0]
    spans = (
        f" Values span {format_number(positive.min())} to {format_number(positive.max())} nats."
        if len(positive)
        else ""
    )
    caption = (
        f"Mean JS of each component in nats, over {qualified.attrs['n_samples']} samples; the cells add up to MIUB. "
        f"The colour scale is logarithmic.{spans} The palest stands for everything below its end. Grey: exactly 0, "
        "not finite, or no such component. Hover over a cell for its name, standard error and what qualifies it."
    )
    return section(
        "components", "Where the adapter acts", figure("js-map", js_map(qualified), caption), _top_table(qualified)
    )


def _top_table(qualified: xr.Dataset) -> str:
    top = top_components(qualified)
    columns = ["component", "JS (nat)", "share", "cumulative"]
    rows = [
        [c.component, format_error(*c.js), format_percent(c.share), format_percent(c.cumulative_share)] for c in top
    ]
    if "js_permuted" in qualified:
        columns += ["permuted (nat)", "effective width", "|delta| / |base|"]
        for row, component in zip(rows, top, strict=True):
            one = qualified.isel(component=qualified["component"].values.tolist().index(component.component))
            width = f"{format_number(float(one['effective_width']))} of {int(one['d_out'])}"
            row += [format_number(float(one["js_permuted"])), width, format_number(float(one["delta_ratio"]))]
    caption = (
        f"The {len(top)} largest of {qualified.sizes['component']} components; ± standard error over samples. "
        f"The five largest hold {format_percent(top_share(qualified))} of MIUB."
    )
    return table(columns, rows, caption=caption)


def qualifiers(qualified: xr.Dataset) -> str:
    """What keeps a component's js from being read alone."""
    curve = figure(
        "share-curve",
        share_curve(qualified),
        f"Share of MIUB that the largest components hold. {_top_sentence(qualified)} Dotted: equal shares.",
    )
    if "js_permuted" in qualified:
        text = (
            "JS depends on the shape of a layer's output as well as on the adapter, so a large JS needn't mean a large "
            f"change. {_null_sentence(qualified)}"
        )
        parts = f'<div class="pair">{"".join(_qualifier_maps(qualified))}{curve}</div>'
    else:
        text = (
            "This run keeps no states, so effective width, |delta| / |base| and the permuted-feature null, which need "
            "them, can't be computed. JS is the one measured during capture."
        )
        parts = curve
    return section("qualifiers", "How to read a component's JS", f"<p>{text}</p>", parts)


def _qualifier_maps(qualified: xr.Dataset) -> Iterator[str]:
    n_tokens, n_samples = qualified.attrs["n_tokens"], qualified.attrs["n_samples"]
    yield figure(
        "width-map",
        component_map(qualified["effective_width"], label="effective width (features)"),
        "Effective width exp(H(softmax(base))): how many features share the softmax's mass. Near 1, one huge feature "
        f"holds it all, and JS sees little else. Median over {n_tokens} tokens.",
    )
    yield figure(
        "ratio-map",
        component_map(qualified["delta_ratio"], label="|delta| / |base|"),
        "|delta| / |base|: the Euclidean norm of what the adapter adds over that of what it adds to. It says how large "
        f"the change is without any softmax. Median over {n_tokens} tokens.",
    )
    yield figure(
        "null-map",
        null_map(qualified),
        "JS over the JS of the same delta with its features permuted: a null of equal size. Above 1 (red), delta falls "
        f"on features that carry the softmax; below (blue), beside them. Means over {n_samples} samples.",
    )


def _top_sentence(qualified: xr.Dataset) -> str:
    n = min(5, qualified.sizes["component"])
    return f"The {n} largest of {qualified.sizes['component']} hold {format_percent(top_share(qualified, n))}."


def _null_sentence(qualified: xr.Dataset) -> str:
    js, permuted = float(qualified["js_component"].sum(skipna=False)), float(qualified["js_permuted"].sum(skipna=False))
    return (
        f"With every component's delta permuted over its features, MIUB would be {format_number(permuted)} nats "
        f"instead of {format_number(js)}."
    )


def across_samples(qualified: xr.Dataset) -> str:
    """How miub_sample spreads."""
    values = qualified["miub_sample"].values[qualified["used"].values]
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
    caption = (
        f"MIUB by sample in nats (n = {len(values)}): median {format_number(median)}, and 10 to 90 % of the samples "
        f"lie from {format_number(low)} to {format_number(high)}. Each point above is a sample."
    )
    return section("samples", "Across samples", figure("sample-spread", sample_spread(qualified), caption))


def across_tokens(run: Run, qualified: xr.Dataset) -> str:
    """How js_token goes along the sequence and, where there is one, about the answer's start; and by role."""
    tokens = qualified["js_token"]
    parts = [
        figure(
            "positions",
            position_figure(tokens, qualified["position"].values, label="position in the sequence"),
            "JS of a token in nats, summed over components, by its position from the start of the sequence. Grey bars: "
            "captured tokens at that position, on which line and bands rest.",
        )
    ]
    relative = _from_answer(run, qualified)
    if np.isfinite(relative).any():
        known = np.isfinite(relative)
        plot = position_figure(
            tokens[known], relative[known].astype(int), label="position from the answer's first token"
        )
        caption = (
            "The same, counted from the answer's first token: the model predicts that token at -1 and reads it at 0."
        )
        parts.append(figure("answer-positions", plot, caption))
    rows = [(role.role, role.n_tokens, format_number(role.mean)) for role in role_means(qualified)]
    roles = table(
        ("role of the token", "tokens", "mean JS (nat)"), rows, caption="JS summed over components, mean over tokens."
    )
    return section("tokens", "Across tokens", f'<div class="pair">{"".join(parts)}</div>', roles)


def _from_answer(run: Run, qualified: xr.Dataset) -> np.ndarray:
    """Position less that of the answer's first token, float64 (token,); NaN in samples without choices."""
    answers = run.samples["answer"].values
    start = np.full(len(answers), np.nan)
    for index in np.flatnonzero(answers >= 0):
        n_tokens = run.choices["n_tokens"].values[run.choices["sample"].values == index]
        start[index] = run.samples["length"].values[index] - n_tokens[answers[index]]
    return np.asarray(qualified["position"].values - start[qualified["sample_of_token"].values])


def token_texts(run: Run, qualified: xr.Dataset) -> str:
    """A few samples as text, coloured."""
    top, chosen = scale_top(qualified), chosen_samples(qualified)
    text = (
        f"<p>{len(chosen)} of {qualified.attrs['n_samples']} samples, at even steps from the most moved to the "
        "least. A token's colour is its JS summed over components; hover over it for the number. The dark end is "
        "the 98th percentile over all captured tokens.</p>"
    )
    blocks = "".join(sample_block(run, qualified, index, top) for index in chosen)
    return section("texts", "Token by token", text, scale_legend(top), blocks)


def task_scores(run: Run) -> str:
    """Whether the adapter helped."""
    columns, rows = scores_table(run)
    if not rows:
        return section("scores", "Did it help?", "<p>This run wasn't scored.</p>")
    caption = (
        "ACC: items whose right choice has the highest log-likelihood, plain and per token, ± binomial standard "
        "error. CE: mean negative log-likelihood of the answer's tokens (text: of all tokens), ± standard error "
        "over samples. PPL = exp(CE). The change's error is that of paired differences."
    )
    return section("scores", "Did it help?", table(columns, rows, n_names=2, caption=caption))
