"""Sentences and section on where the adapter acts: layers and module kinds with most of MIUB, the summed JS."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.figures import js_figure, position_figure
from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.analyze.results.largest import largest_places
from lorascope.stores import Run

from .markup import figure, section, table
from .wording import join_names, sample_count

MOST_NAMED = 4
"""Most layers or ranges of them, and kinds of modules, that a sentence names; more are counted."""
LARGE = 1.5
"""Ratio to the shuffled effect from which on an effect is called more; below its inverse it is called less."""
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


def answer_where_it_acts(result: xr.DataTree, *, with_places: bool = True) -> str:
    """Return sentences (plain text) on how far outputs move, compared with shuffled changes, and on where most."""
    miub, n = float(result["miub"]), result.attrs["n_samples"]
    if not np.isfinite(miub):
        return (
            "Can't tell, since outputs of modules, or the adapter's changes to them, contain NaN or infinity (number "
            f"of undefined effects: {result.attrs['n_not_finite']})."
        )
    if not miub:
        return f"Nowhere: the adapter changes no module's output in any of {n} sample{'' if n == 1 else 's'}."
    claim, test = _compare_with_shuffled(result)
    size = f"{format_error(miub, float(result['miub_se']))} nat over {sample_count(n)}"
    text = f"{claim} ({test}; MIUB, their summed Jensen-Shannon divergence: {size})."
    return f"{text} {main_places(result)}" if with_places else text


def _compare_with_shuffled(result: xr.DataTree) -> tuple[str, str]:
    """Return a claim on MIUB, above 0, compared with that of the same changes with permuted features, and its test."""
    doubt = "Can't tell whether the outputs of modules move much"
    if "js_permuted" not in result:
        return doubt, "a comparison needs the stored outputs of all tokens"
    js, null = float(result["js"].sum()), float(result["js_permuted"].sum(skipna=False))
    if not null > 0:
        return doubt, "the same changes shuffled have no known effect"
    size = "about as much as" if 1 / LARGE < js / null < LARGE else "more than" if js > null else "less than"
    return (
        f"Outputs of modules move {size} by the same changes shuffled",
        f"real / shuffled = {format_number(js / null)}",
    )


def main_places(result: xr.DataTree) -> str:
    """Return sentences on the fewest layers and kinds of modules with half of the effect (MIUB, above 0)."""
    js, sentences = result.dataset["js"].values, list[str]()
    for key, plural in (("layer", "layers"), ("kind", "kinds of modules")):
        values = result.dataset[key].values
        shares = {name: float(js[values == name].sum() / js.sum()) for name in dict.fromkeys(values.tolist())}
        if len(shares) > 1:
            chosen, names = fewest_for_half(shares, plural)
            share = sum(shares[name] for name in chosen)
            start, of_what = ("By kind, it", "") if sentences else ("The adapter's effect", " of all")
            equal = f"{format_percent(len(chosen) / len(shares))} if all {plural.split()[0]} were equal"
            sentences.append(f"{start} is largest in {names} ({format_percent(share)}{of_what}; {equal}).")
    return " ".join(sentences) or "The run has a single module."


def fewest_for_half(shares: Mapping[int | str, float], plural: str) -> tuple[list[int | str], str]:
    """Return the largest shares' names, as many as have half of all, and text that names (or counts) them."""
    ranked = sorted(shares, key=lambda name: -shares[name])
    chosen = ranked[: int(np.searchsorted(np.cumsum([shares[name] for name in ranked]), 0.5)) + 1]
    if plural == "layers":
        inside = _number_ranges(sorted(int(name) for name in chosen if int(name) >= 0))
        names = [f"layer{'s' if len(inside) > 1 or '-' in inside[0] else ''} {join_names(inside)}"] if inside else []
        names += ["modules outside of the layers"] if -1 in chosen else []
        n_named, text = len(inside), join_names(names)
    else:
        n_named, text = len(chosen), f"modules named {join_names([str(name) for name in shares if name in chosen])}"
    return chosen, text if n_named <= MOST_NAMED else f"{len(chosen)} of {len(shares)} {plural}"


def _number_ranges(numbers: Sequence[int]) -> list[str]:
    """Return ascending numbers as texts, with three or more neighbours as one range.

    Examples
    --------
    >>> _number_ranges([0, 3, 4, 5, 8, 9])
    ['0', '3-5', '8', '9']
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [text for run in runs for text in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run))]


def where_it_acts_section(run: Run, result: xr.DataTree) -> str:
    """Return the HTML section on where the adapter acts, from the result of `qualify`: maps and a table."""
    cells = set(zip(*(result.dataset[key].values.tolist() for key in ("layer", "kind")), strict=True))
    shared = len(cells) < result.sizes["component"]
    sums = "a cell with several components shows their mean" if shared else "the cells add up to MIUB"
    caption = (
        "How far the adapter moves each component's output: mean Jensen-Shannon divergence (JS) in nats, over "
        f"{result.attrs['n_samples']} samples; {sums}. The colour scale is logarithmic, and its lowest colour also "
        "stands for all smaller values. Grey: exactly 0, not finite, or no such component. Hover over a cell for its "
        "name, standard error and more."
    )
    positions = (
        "How far the adapter moves outputs at each position of a sequence: JS of a token in nats, summed over "
        "components. Grey bars: number of captured tokens at that position, on which the line and bands are based."
    )
    about = (
        "<p>The Jensen-Shannon divergence (JS) of softmax(base) and softmax(base + delta), averaged over a sample's "
        "captured tokens, is 0 where the adapter does nothing and at most ln 2 = 0.693 nats per component. Summed over "
        "components and averaged over samples it is MIUB (arXiv 2501.03152, eq. 9), which in spite of its name isn't a "
        f"bound of a mutual information. In this run (stream {run.stream}), {STREAMS[run.stream]}.</p>"
    )
    return section(
        "components",
        "Where it acts",
        about,
        figure("js-map", js_figure(result, titled=False), caption),
        _largest_table(result),
        figure("positions", position_figure(result), positions),
    )


def _largest_table(result: xr.DataTree) -> str:
    """Return an HTML table of the components with the largest JS; those without a finite JS come last."""
    top = result.to_dataset().isel(component=largest_places(result.dataset["js"].values, N_ROWS))
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
    if "delta_source" in top.coords and "difference" in result.dataset["delta_source"].values:
        columns["delta from"] = top["delta_source"].values.tolist()
    shuffled = " Shuffled: JS of the same delta with its features permuted." if "js_permuted" in top else ""
    caption = (
        f"The {top.sizes['component']} components with the largest JS, of {result.sizes['component']}; ± standard "
        f"error over samples.{shuffled} Effective width and |delta| / |base|: see "
        '<a href="#trust">How far to trust it</a>.'
    )
    return table(list(columns), zip(*columns.values(), strict=True), caption=caption)
