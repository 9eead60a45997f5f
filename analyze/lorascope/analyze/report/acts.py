"""The section on where the adapter acts: the map of js, the largest components, and what MIUB is."""

import math

import numpy as np
import xarray as xr

from lorascope.analyze.figures import js_figure, position_figure
from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.stores import Run

from .markup import figure, folded, section, table

N_ROWS = 10
"""Most components in the table."""
STREAMS = {
    "adapted": "a component's base and delta are both computed from the input that it gets in the adapted model",
    "base": "a component's base and delta are both computed from the input that it gets in the model without adapters, "
    "so no component feels what the adapter did before it",
    "pair": "base is a component's output in a run without the adapter, and delta the difference to its output in a "
    "run with it, in the layer's own rounding: it holds what the adapter did before this component too",
}
"""Stream -> what base and delta are in it."""


def acts(run: Run, qualified: xr.DataTree) -> str:
    """HTML of the section, from what `qualify` made of the run."""
    cells = set(zip(*(qualified.dataset[key].values.tolist() for key in ("layer", "kind")), strict=True))
    shared = len(cells) < qualified.sizes["component"]
    sums = "a cell that several share has their mean" if shared else "the cells add up to MIUB"
    caption = (
        f"Mean JS of each component in nats, over {qualified.attrs['n_samples']} samples; {sums}. "
        "The colour scale is logarithmic, and its low end stands for everything below. Grey: exactly 0, not finite, or "
        "no such component. Hover over a cell for its name, standard error and what qualifies it."
    )
    positions = (
        "JS of a token in nats, summed over components, by its position in the sequence. Grey bars: captured tokens at "
        "that position, on which line and bands rest."
    )
    return section(
        "components",
        "Where it acts",
        figure("js-map", js_figure(qualified, titled=False), caption),
        _largest(qualified),
        figure("positions", position_figure(qualified), positions),
        _meaning(run, qualified),
    )


def _largest(qualified: xr.DataTree) -> str:
    """Table of the components with the largest js; those without a finite one come last."""
    js = np.nan_to_num(qualified.dataset["js"].values, nan=-1.0)
    top = qualified.to_dataset().isel(component=np.argsort(-js, kind="stable")[:N_ROWS])
    columns = {
        "component": top["component"].values.tolist(),
        "JS (nat)": list(map(format_error, top["js"].values, top["js_se"].values)),
        "share": list(map(format_percent, top["share"].values)),
        "cumulative": list(map(format_percent, top["share"].values.cumsum())),
    }
    if "js_permuted" in top:
        columns["shuffled (nat)"] = list(map(format_number, top["js_permuted"].values))
    widths = zip(map(format_number, top["effective_width"].values), top["d_out"].values, strict=True)
    columns["effective width"] = [f"{width} of {n}" for width, n in widths]
    columns["|delta| / |base|"] = list(map(format_number, top["delta_ratio"].values))
    if "delta_source" in top.coords and "difference" in qualified.dataset["delta_source"].values:
        columns["delta from"] = top["delta_source"].values.tolist()
    shuffled = " Shuffled: JS of the same delta with its features permuted." if "js_permuted" in top else ""
    caption = (
        f"The {top.sizes['component']} largest of {qualified.sizes['component']} components; ± standard error over "
        f"samples.{shuffled} Effective width and |delta| / |base|: see "
        '<a href="#trust">How far to trust it</a>.'
    )
    return table(list(columns), zip(*columns.values(), strict=True), caption=caption)


def _meaning(run: Run, qualified: xr.DataTree) -> str:
    """What JS and MIUB are, behind a click."""
    miub, most = float(qualified["miub"]), qualified.attrs["n_components"] * math.log(2)
    share = f" ({format_percent(miub / most)} of the most it could be, {format_number(most)} nats)" if miub > 0 else ""
    line = (
        "<b>MIUB</b> says how far the adapter moves the components' outputs. In spite of its name (mutual information "
        "upper bound) it is no bound of a mutual information."
    )
    return folded(
        "miub",
        line,
        "<p>The Jensen-Shannon divergence (JS) of softmax(base) and softmax(base + delta), averaged over a sample's "
        "captured tokens, summed over components and averaged over samples. It is 0 where the adapter does nothing and "
        f"at most ln 2 = 0.693 nats a component{share}. In this run (stream {run.stream}), {STREAMS[run.stream]}.</p>"
        "<p>The paper that introduced it (arXiv 2501.03152, eq. 9) calls it an upper bound of a mutual information. "
        "That theorem doesn't hold, so don't read it as one.</p>",
    )
