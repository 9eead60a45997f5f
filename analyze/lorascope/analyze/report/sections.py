"""The sections of the page about what was measured, each a function of the run and what `qualify` made of it."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.figures import component_figure, js_figure, null_figure, share_figure
from lorascope.analyze.measuring.captured import reduction
from lorascope.analyze.results.format import format_change, format_error, format_number, format_percent
from lorascope.analyze.results.scores import scores, scores_table
from lorascope.analyze.results.weights import is_weighted, token_weights, weighted_mean
from lorascope.stores import Run

from .markup import escape, figure, folded, section, table, tile

STREAMS = {
    "adapted": "a layer's base and delta are both computed from the input that it gets in the adapted model",
    "base": "a layer's base and delta are both computed from the input that it gets in the model without adapters, so "
    "no layer feels what the adapter did before it",
    "pair": "base is a layer's output in a run without the adapter, and delta the difference to its output in a run "
    "with it, in the layer's own rounding: it holds what the adapter did before this layer too",
}
"""Stream -> what base and delta are in it."""
MEASURES = {
    "ACC": "ACC: items whose right choice has the highest log-likelihood, ± binomial standard error",
    "ACC per token": "ACC per token: the highest one a token",
    "ACC per character": "ACC per character: the highest one a character",
    "ACC by generation": "ACC by generation: items whose right choice is read in what the model wrote",
    "not read": "not read: items in whose answer none could be read, which count as wrong",
    "CE": "CE: mean negative log-likelihood of {}, ± standard error over samples",
    "PPL": "PPL: exp(CE), in brackets exp(CE ± standard error)",
}
"""Measure -> what the caption of a table of scores says of it."""


def headline(run: Run, qualified: xr.DataTree) -> str:
    """The few numbers to take away, and what MIUB is and isn't."""
    attrs, miub = qualified.attrs, float(qualified["miub"])
    most = attrs["n_components"] * math.log(2)
    share = f" ({format_percent(miub / most)} of the most it could be, {format_number(most)} nats)" if miub > 0 else ""
    measured = f"{attrs['n_tokens']} tokens \N{MULTIPLICATION SIGN} {attrs['n_components']} components"
    tiles = [
        *_tiles(run, attrs["adapter"]),
        tile("MIUB (nat)", format_error(miub, float(qualified["miub_se"])), "± standard error over samples"),
        tile("five largest components", _top_share(qualified), "of MIUB"),
        tile("measured on", f"{attrs['n_samples']} samples", measured),
    ]
    meaning = (
        "<p>The size of the adapter's push on the layers' outputs: the Jensen-Shannon divergence of softmax(base) and "
        "softmax(base + delta), averaged over a sample's captured tokens, summed over components and averaged over "
        f"samples. It is 0 where the adapter does nothing and at most ln 2 = 0.693 nats a component{share}. In this "
        f"run (stream {run.stream}), {STREAMS[run.stream]}.</p><p>The paper that introduced it (arXiv 2501.03152, eq. "
        "9) calls it an upper bound of a mutual information. That theorem doesn't hold, so don't read it as one.</p>"
    )
    line = (
        "<b>MIUB</b> says how far the adapter pushes the layers' outputs. In spite of its name it is no bound of a "
        "mutual information."
    )
    return (
        f'<div class="tiles">{"".join(tiles)}</div><p><b>What was captured.</b> {_captured(run)}</p>'
        f"{folded('miub', line, meaning)}"
    )


def _captured(run: Run) -> str:
    """Which tokens the numbers are about."""
    provenance, n_read = run.attributes.get("provenance", {}), int(run.samples["length"].sum())
    selection = provenance.get("settings", {}).get("tokens")
    named = f" (token selection {escape(selection)})" if selection else ""
    about = ""
    if is_weighted(run):
        about = (
            " They were drawn; means, sums and quantiles over tokens weigh each by the inverse of its chance, so that "
            "they are about all tokens of the samples."
        )
    elif run.n_tokens < n_read:
        population = escape(provenance.get("population", "these tokens"))
        about = f" All numbers are about {population}, not about the samples' other ones."
    n_omitted = sum(provenance.get("omitted_items", {}).values())
    omitted = f" {n_omitted} items beyond the limit weren't read." if n_omitted else ""
    some = f"{run.n_tokens} of the" if run.n_tokens < n_read else "All"
    return f"{some} {n_read} tokens of {run.samples.sizes['sample']} samples{named}.{about}{omitted}"


def _tiles(run: Run, adapter: str) -> Iterator[str]:
    """How far the next token moves, and whether the adapter helped."""
    moved = reduction(run, "kl", adapter)
    known = np.empty(0, int) if moved is None else np.flatnonzero(np.isfinite(moved.values))
    if moved is not None and len(known):
        mean = weighted_mean(moved.values[known], token_weights(run)[known])
        note = f"KL(base || adapted), mean over {len(known)} tokens"
        yield tile("next token (nat)", format_number(mean), note)
    found = scores(run)
    for measure, label in (("ACC", "accuracy"), ("CE", "cross-entropy"), ("PPL", "perplexity")):
        for score in [score for score in found if score.measure == measure][:1]:
            unit = " %" if score.unit == "%" else ""
            base, adapted = (format_number(e.value) for e in (score.base, score.adapted))
            has_base = not math.isnan(score.base.value)
            value = f"{base} → {adapted}{unit}" if has_base else f"{adapted}{unit}"
            change = f"; change {format_change(*score.change)}" if has_base and measure != "PPL" else ""
            note = f"{'without → ' if has_base else ''}with adapter{change}; {score.dataset}, n = {score.n}"
            yield tile(label + (" (nat/token)" if measure == "CE" else ""), value, note)


def components(qualified: xr.DataTree) -> str:
    """Where the adapter acts: the heat map of js, and the largest components."""
    cells = set(zip(*(qualified.dataset[key].values.tolist() for key in ("layer", "kind")), strict=True))
    shared = len(cells) < qualified.sizes["component"]
    sums = "a cell that several share has their mean" if shared else "the cells add up to MIUB"
    caption = (
        f"Mean JS of each component in nats, over {qualified.attrs['n_samples']} samples; {sums}. "
        "The colour scale is logarithmic, and its low end stands for everything below. Grey: exactly 0, not finite, or "
        "no such component. Hover over a cell for its name, standard error and what qualifies it; click it, and the "
        f"tokens below show {'what lies in it, summed' if shared else 'that component'}."
    )
    return section(
        "components",
        "Where the adapter acts",
        figure("js-map", js_figure(qualified, titled=False), caption),
        _top_table(qualified),
    )


def _largest(qualified: xr.DataTree, n: int) -> xr.Dataset:
    """The n components with the largest js; those without a finite one come last."""
    means = np.nan_to_num(qualified.dataset["js"].values, nan=-1.0)
    return qualified.to_dataset().isel(component=np.argsort(-means, kind="stable")[:n])


def _top_share(qualified: xr.DataTree) -> str:
    return format_percent(float(_largest(qualified, 5)["share"].sum(skipna=False)))


def _top_table(qualified: xr.DataTree) -> str:
    top = _largest(qualified, 10)
    columns = {
        "component": top["component"].values.tolist(),
        "JS (nat)": list(map(format_error, top["js"].values, top["js_se"].values)),
        "share": list(map(format_percent, top["share"].values)),
        "cumulative": list(map(format_percent, top["share"].values.cumsum())),
    }
    if "js_permuted" in top:
        columns["permuted (nat)"] = list(map(format_number, top["js_permuted"].values))
    if "effective_width" in top:
        widths = zip(map(format_number, top["effective_width"].values), top["d_out"].values, strict=True)
        columns["effective width"] = [f"{width} of {n}" for width, n in widths]
        columns["|delta| / |base|"] = list(map(format_number, top["delta_ratio"].values))
    if "delta_source" in top.coords and "difference" in qualified.dataset["delta_source"].values:
        columns["delta from"] = top["delta_source"].values.tolist()
    caption = (
        f"The {top.sizes['component']} largest of {qualified.sizes['component']} components; ± standard error over "
        f"samples. The five largest hold {_top_share(qualified)} of MIUB."
    )
    if asked := [name for name in ("permuted (nat)", "effective width", "|delta| / |base|") if name in columns]:
        named = ", ".join(name.removesuffix(" (nat)") for name in asked)
        caption += f' {named}: see <a href="#qualifiers">How to read a component\'s JS</a>.'
    return table(list(columns), zip(*columns.values(), strict=True), caption=caption)


def qualifiers(qualified: xr.DataTree) -> str:
    """What keeps a component's js from being read alone."""
    caption = "Share of MIUB that the largest components hold; dotted, what equal shares would give."
    curve = figure("share-curve", share_figure(qualified), caption)
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
        js, permuted = (float(qualified.dataset[name].sum(skipna=False)) for name in ("js", "js_permuted"))
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


def _qualifier_maps(qualified: xr.DataTree) -> Iterator[str]:
    n_tokens, n_samples = qualified.attrs["n_tokens"], qualified.attrs["n_samples"]
    if "effective_width" in qualified:
        yield figure(
            "width-map",
            component_figure(qualified.dataset["effective_width"], label="effective width (features)"),
            "Effective width exp(H(softmax(base))): how many features share the softmax's mass. Near 1, one huge "
            f"feature holds it all, and JS sees little else. Median over {n_tokens} tokens.",
        )
        yield figure(
            "ratio-map",
            component_figure(qualified.dataset["delta_ratio"], label="|delta| / |base|"),
            "|delta| / |base|: the Euclidean norm of what the adapter adds over that of what it adds to. It says how "
            f"large the change is without any softmax. Median over {n_tokens} tokens.",
        )
    if "js_permuted" in qualified:
        yield figure(
            "null-map",
            null_figure(qualified),
            "JS over the JS of the same delta with its features permuted: a null of equal size. Above 1 (red), delta "
            "falls on features that carry the softmax; below (blue), beside them. Means over "
            f"{n_samples} samples.",
        )


def scores_caption(rows: Sequence[Sequence[str]]) -> str:
    """What stands below rows of `scores_table`: what their measures are, and no other ones."""
    measures = [row[1].split(" (")[0] for row in rows]
    of = ["an item's right answer"] * (measures.count("CE") > measures.count("PPL"))
    of += ["a text's or chat's tokens that are to be predicted"] * ("PPL" in measures)
    said = [text.format(" or of ".join(of)) for name, text in MEASURES.items() if name in measures]
    said += ["The change's error is that of paired differences"] * any("±" in row[-1] for row in rows)
    return f"{'. '.join(said)}."


def task_scores(run: Run) -> str:
    """Whether the adapter helped."""
    columns, rows = scores_table(run)
    if not rows:
        return section("scores", "Did it help?", "<p>This run wasn't scored.</p>")
    return section("scores", "Did it help?", table(columns, rows, n_names=2, caption=scores_caption(rows)))
