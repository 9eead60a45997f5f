"""Sentences and section on where the adapter acts: layers and module kinds with most of MIUB, the summed JS."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.figures import js_figure, position_figure
from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.analyze.results.largest import largest_places
from lorascope.stores import Run

from .markup import figure, folded, section, table

MOST_NAMED = 5
"""Most layers or ranges of them, and kinds of modules, that a sentence names; more are counted."""
LARGE = 1.5
"""Ratio to the shuffled effect from which on an effect is called larger; below its inverse it is called smaller."""
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


def answer_where_it_acts(result: xr.DataTree) -> str:
    """Return sentences (plain text) on where most of the adapter's effect is, and on how it is measured."""
    miub, error = float(result["miub"]), float(result["miub_se"])
    if not miub > 0:
        return short_answer_where_it_acts(result)
    return (
        f"{main_places(result)} Effect: how far a module's output moves (Jensen-Shannon divergence; "
        f"the sum, MIUB, is {format_error(miub, error)} nat over {sample_count(result.attrs['n_samples'])}). "
        f"{compare_with_shuffled(result)}"
    )


def short_answer_where_it_acts(result: xr.DataTree) -> str:
    """Return sentences on the places with half of the adapter's effect, and how shuffled changes would compare."""
    miub, n = float(result["miub"]), result.attrs["n_samples"]
    if not np.isfinite(miub):
        n_undefined = result.attrs["n_not_finite"]
        return (
            "Can't tell, since outputs of modules, or the adapter's changes to them, contain NaN or infinity (number "
            f"of undefined effects: {n_undefined})."
        )
    if not miub:
        return f"Nowhere: the adapter changes no module's output in any of {n} sample{'' if n == 1 else 's'}."
    return f"{main_places(result)} {compare_with_shuffled(result)}"


def main_places(result: xr.DataTree) -> str:
    """Return sentences on the fewest layers and kinds of modules with half of the effect (MIUB, above 0)."""
    js, sentences = result.dataset["js"].values, list[str]()
    for key, plural in (("layer", "layers"), ("kind", "kinds of modules")):
        values = result.dataset[key].values
        shares = {name: float(js[values == name].sum() / js.sum()) for name in dict.fromkeys(values.tolist())}
        if len(shares) > 1:
            n, names = fewest_for_half(shares, plural)
            share = sum(sorted(shares.values())[-n:])
            start, of_what = ("By kind, it", "") if sentences else ("The adapter's effect", " of all")
            equal = f"{format_percent(n / len(shares))} if all {plural.split()[0]} were equal"
            sentences.append(f"{start} is largest in {names} ({format_percent(share)}{of_what}; {equal}).")
    return " ".join(sentences) or "The adapter acts in a single module."


def fewest_for_half(shares: Mapping[int | str, float], plural: str) -> tuple[int, str]:
    """Return how many of the largest shares are needed for half of all, and text that names (or counts) them."""
    ranked = sorted(shares, key=lambda name: -shares[name])
    n = int(np.searchsorted(np.cumsum([shares[name] for name in ranked]), 0.5)) + 1
    if plural == "layers":
        inside = _number_ranges(sorted(int(name) for name in ranked[:n] if int(name) >= 0))
        names = [f"layer{'s' if len(inside) > 1 or '-' in inside[0] else ''} {join_names(inside)}"] if inside else []
        names += ["modules outside of the layers"] if -1 in ranked[:n] else []
        n_named, text = len(inside), join_names(names)
    else:
        n_named, text = n, f"modules named {join_names([str(name) for name in shares if name in ranked[:n]])}"
    return n, text if n_named <= MOST_NAMED else f"{n} of {len(shares)} {plural}"


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


def join_names(names: Sequence[str]) -> str:
    """Return names separated by commas, with "and" before the last one."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sample_count(n: int) -> str:
    """Return a number of samples in words, with a warning if there is one sample only."""
    return "one sample, which gives no error" if n == 1 else f"{n} samples"


def compare_with_shuffled(result: xr.DataTree) -> str:
    """Return sentences that compare MIUB (the effect) with that of the same changes with permuted features.

    MIUB must be above 0.
    """
    if "js_permuted" not in result:
        return "Whether that is much isn't known, since a comparison needs the stored outputs of all tokens."
    js, null = float(result["js"].sum()), float(result["js_permuted"].sum(skipna=False))
    if not null > 0:
        return "Whether that is much isn't known, since the same changes in random order have no known effect."
    ratio = js / null
    size, meaning = "about as large", "it shows how large they are, hardly what they do"
    if not 1 / LARGE < ratio < LARGE:
        size = "smaller" if ratio > 1 else "larger"
        meaning = "it depends on which numbers change, not only on how much"
    return (
        f"With the same changes in random order the effect is {size} (real / shuffled = {format_number(ratio)}): "
        f"{meaning}."
    )


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
    return section(
        "components",
        "Where it acts",
        figure("js-map", js_figure(result, titled=False), caption),
        _largest_table(result),
        figure("positions", position_figure(result), positions),
        _miub_html(run, result),
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


def _miub_html(run: Run, result: xr.DataTree) -> str:
    """Return HTML that explains JS and MIUB, folded until it is clicked."""
    miub, most = float(result["miub"]), result.attrs["n_components"] * math.log(2)
    share = f" ({format_percent(miub / most)} of the most it could be, {format_number(most)} nats)" if miub > 0 else ""
    line = (
        "<b>MIUB</b> says how far the adapter moves the components' outputs. In spite of its name (mutual information "
        "upper bound), it isn't a bound of a mutual information."
    )
    return folded(
        "miub",
        line,
        "<p>The Jensen-Shannon divergence (JS) of softmax(base) and softmax(base + delta), averaged over a sample's "
        "captured tokens, summed over components and averaged over samples. It is 0 where the adapter does nothing and "
        f"at most ln 2 = 0.693 nats per component{share}. In this run (stream {run.stream}), {STREAMS[run.stream]}.</p>"
        "<p>The paper that introduced it (arXiv 2501.03152, eq. 9) calls it an upper bound of a mutual information. "
        "That theorem doesn't hold, so don't read it as one.</p>",
    )
