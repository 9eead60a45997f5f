"""The sections of the page about what was measured, each a function of the run and what `qualify` made of it."""

import math
from collections.abc import Iterator

import xarray as xr

from lorascope.analyze.figures import component_map, js_map, null_map, share_curve
from lorascope.analyze.format import format_error, format_number, format_percent
from lorascope.analyze.highlights import kl, top_components, top_share
from lorascope.analyze.scores import scores, scores_table
from lorascope.analyze.weights import is_weighted
from lorascope.stores import Run
from lorascope.stores.size import format_size

from .markup import escape, figure, section, table, tile

__all__ = ["components", "headline", "qualifiers", "task_scores"]


STREAMS = {
    "adapted": "a layer's base and delta are both computed from the input that it gets in the adapted model",
    "base": "a layer's base and delta are both computed from the input that it gets in the model without adapters, so "
    "no layer feels what the adapter did before it",
    "pair": "base is a layer's output in a run without the adapter, and delta the difference to its output in a run "
    "with it, in the layer's own rounding: it holds what the adapter did before this layer too",
}
"""Stream -> what base and delta are in it."""


def headline(run: Run, qualified: xr.Dataset, stored_bytes: int) -> str:
    """The few numbers to take away, and what MIUB is and isn't."""
    attrs, miub = qualified.attrs, float(qualified["miub"])
    most = attrs["n_components"] * math.log(2)
    share = f" ({format_percent(miub / most)} of the most it could be, {format_number(most)} nats)" if miub > 0 else ""
    measured = f"{attrs['n_tokens']} tokens x {attrs['n_components']} components"
    n_committed = int(run.committed.sum())
    tiles = [
        tile("MIUB (nats)", format_error(miub, float(qualified["miub_se"])), "± standard error over samples"),
        tile("measured on", f"{attrs['n_samples']} samples", measured),
        tile("five largest components", format_percent(top_share(qualified)), "of MIUB"),
        *_tiles(run, attrs["adapter"]),
        tile("store", format_size(stored_bytes), f"{format_size(stored_bytes / n_committed)} a captured token"),
    ]
    return (
        f'<div class="tiles">{"".join(tiles)}</div>'
        "<p><b>What MIUB is.</b> The size of the adapter's push on the layers' outputs: the Jensen-Shannon "
        "divergence of softmax(base) and softmax(base + delta), averaged over a sample's captured tokens, summed "
        "over components and averaged over samples. It is 0 where the adapter does nothing and at most ln 2 = "
        f"0.693 nats a component{share}. In this run (stream {run.stream}), {STREAMS[run.stream]}.</p>"
        "<p><b>What it isn't.</b> The paper that introduced it (arXiv 2501.03152, eq. 9) calls it an upper bound of a "
        "mutual information. That theorem doesn't hold, so don't read it as one.</p>"
        f"<p><b>What was captured.</b> {_captured(run)}</p>"
    )


def _captured(run: Run) -> str:
    provenance = run.attributes.get("provenance", {})
    selection = provenance.get("settings", {}).get("tokens")
    named = f" (token selection {escape(selection)})" if selection else ""
    n_omitted = sum(provenance.get("omitted_items", {}).values())
    omitted = f" {n_omitted} items beyond the limit weren't read." if n_omitted else ""
    read = int(run.samples["length"].sum())
    return f"{run.n_tokens} of the {read} tokens of {run.samples.sizes['sample']} samples{named}.{_about(run)}{omitted}"


def _about(run: Run) -> str:
    """Which tokens the numbers are about, where those captured aren't all."""
    if is_weighted(run):
        return (
            " They were drawn; means, sums and quantiles over tokens weigh each by the inverse of its chance, so that "
            "they are about all tokens of the samples."
        )
    if run.n_tokens < int(run.samples["length"].sum()):
        population = run.attributes.get("provenance", {}).get("population", "these tokens")
        return f" All numbers are about {escape(population)}, not about the samples' other ones."
    return ""


def _tiles(run: Run, adapter: str) -> Iterator[str]:
    """How far the next token moves, and whether the adapter helped."""
    if moved := kl(run, adapter):
        note = f"KL(base || adapted), mean over {moved.n_tokens} tokens"
        yield tile("next token (nats)", format_number(moved.mean), note)
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
    caption = (
        f"Mean JS of each component in nats, over {qualified.attrs['n_samples']} samples; the cells add up to MIUB. "
        f"The colour scale is logarithmic. The palest stands for everything below its end. Grey: exactly 0, "
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
    has_sources = "delta_source" in qualified.coords and "difference" in qualified["delta_source"].values
    columns += ["permuted (nat)"] if "js_permuted" in qualified else []
    columns += ["effective width", "|delta| / |base|"] if "effective_width" in qualified else []
    columns += ["delta from"] if has_sources else []
    for row, component in zip(rows, top, strict=True):
        one = qualified.sel(component=component.component)
        row += [format_number(float(one["js_permuted"]))] if "js_permuted" in one else []
        if "effective_width" in one:
            width = f"{format_number(float(one['effective_width']))} of {int(one['d_out'])}"
            row += [width, format_number(float(one["delta_ratio"]))]
        row += [str(one["delta_source"].item())] if has_sources else []
    caption = (
        f"The {len(top)} largest of {qualified.sizes['component']} components; ± standard error over samples. "
        f"The five largest hold {format_percent(top_share(qualified))} of MIUB."
    )
    return table(columns, rows, caption=caption)


def qualifiers(qualified: xr.Dataset) -> str:
    """What keeps a component's js from being read alone."""
    caption = "Share of MIUB that the largest components hold. Dotted: equal shares."
    curve = figure("share-curve", share_curve(qualified), caption)
    text = (
        "JS depends on the shape of a layer's output as well as on the adapter, so a large JS needn't mean a large "
        "change."
    )
    if "effective_width" not in qualified:
        text = (
            "This run keeps no states, so effective width, |delta| / |base| and the permuted-feature null, which need "
            "them, can't be computed. JS is the one measured during capture."
        )
    elif "js_permuted" in qualified:
        js, permuted = (float(qualified[name].sum(skipna=False)) for name in ("js_component", "js_permuted"))
        text += (
            f" With every component's delta permuted over its features, MIUB would be {format_number(permuted)} nats "
            f"instead of {format_number(js)}."
        )
    else:
        text += (
            " JS, effective width and |delta| / |base| are those measured during capture. The null of a delta with "
            "permuted features is missing: it needs the states of all tokens, which this run doesn't keep."
        )
    maps = "".join(_qualifier_maps(qualified))
    return section(
        "qualifiers",
        "How to read a component's JS",
        f"<p>{text}</p>",
        f'<div class="pair">{maps}{curve}</div>' if maps else curve,
    )


def _qualifier_maps(qualified: xr.Dataset) -> Iterator[str]:
    n_tokens, n_samples = qualified.attrs["n_tokens"], qualified.attrs["n_samples"]
    if "effective_width" in qualified:
        yield figure(
            "width-map",
            component_map(qualified["effective_width"], label="effective width (features)"),
            "Effective width exp(H(softmax(base))): how many features share the softmax's mass. Near 1, one huge "
            f"feature holds it all, and JS sees little else. Median over {n_tokens} tokens.",
        )
        yield figure(
            "ratio-map",
            component_map(qualified["delta_ratio"], label="|delta| / |base|"),
            "|delta| / |base|: the Euclidean norm of what the adapter adds over that of what it adds to. It says how "
            f"large the change is without any softmax. Median over {n_tokens} tokens.",
        )
    if "js_permuted" in qualified:
        yield figure(
            "null-map",
            null_map(qualified),
            "JS over the JS of the same delta with its features permuted: a null of equal size. Above 1 (red), delta "
            "falls on features that carry the softmax; below (blue), beside them. Means over "
            f"{n_samples} samples.",
        )


def task_scores(run: Run) -> str:
    """Whether the adapter helped."""
    columns, rows = scores_table(run)
    if not rows:
        return section("scores", "Did it help?", "<p>This run wasn't scored.</p>")
    caption = (
        "ACC: items whose right choice has the highest log-likelihood, plain, per token and per character, or was read "
        "in what the model wrote (not read: nothing was, which counts as wrong), ± binomial standard error. CE: mean "
        "negative log-likelihood of the answer's tokens (text: of all tokens), ± standard error over samples. PPL = "
        "exp(CE). The change's error is that of paired differences."
    )
    return section("scores", "Did it help?", table(columns, rows, n_names=2, caption=caption))
