"""Sentences and section on where the adapter acts: layers and module kinds with most of MIUB, the summed JS."""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import xarray as xr

from lorascope.analyze.miub.experts import expert_places, experts
from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.stores import Run

from .markup import figure, section
from .wording import join_names, sample_count

MOST_NAMED = 6
"""Most layers or ranges of them, and kinds of modules, that a sentence names; more are counted."""
LARGE = 1.5
"""Ratio to the shuffled effect from which on an effect is called more; below its inverse it is called less."""


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
    size = f"{format_error(miub, float(result['miub_se']))} nat; {sample_count(n)}"
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
        f"ratio {format_number(js / null)}",
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
        n_named, text = len(chosen), f"modules named {join_names([str(name) for name in chosen])}"
    return chosen, text if n_named <= MOST_NAMED else f"{len(chosen)} of {len(shares)} {plural}"


def _number_ranges(numbers: Sequence[int]) -> list[str]:
    """Return ascending numbers as texts, with three or more neighbours as one range.

    Examples
    --------
    >>> _number_ranges([0, 3, 4, 5, 8, 9])
    ['0', '3-5', '8', '9']
    """
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return [text for run in runs for text in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run))]


def where_it_acts_section(run: Run, result: xr.DataTree) -> str:
    """Return the HTML section on where the adapter acts, from the result of `qualify`: maps and line."""
    from lorascope.analyze.figures import expert_figure, js_figure, position_figure  # plotly takes half a second

    cells = set(zip(*(result.dataset[key].values.tolist() for key in ("layer", "kind")), strict=True))
    shared = len(cells) < result.sizes["component"]
    sums = "a cell with several components shows their mean" if shared else "the cells add up to MIUB"
    caption = (
        "How far the adapter moves each component's output: mean Jensen-Shannon divergence (JS) in nats, over "
        f"{result.attrs['n_samples']} samples; {sums}. The colour scale is logarithmic, and its lowest colour also "
        "stands for all smaller values. Hover over a cell for its name, standard error and more; "
        "<code>lorascope miub</code> prints all."
    )
    positions = (
        "How far the adapter moves outputs at each position of a sequence: JS of a token in nats, summed over "
        "components. Grey bars: number of captured tokens at that position, on which the line and bands are based."
    )
    about = (
        "<p>The Jensen-Shannon divergence (JS) of softmax(base) and softmax(base + delta), averaged over a sample's "
        "captured tokens, is 0 where the adapter does nothing and at most ln 2 = 0.693 nats per component. Summed over "
        "components and averaged over samples it is MIUB (arXiv 2501.03152, eq. 9), which in spite of its name isn't a "
        "bound of a mutual information.</p>"
    )
    maps = [figure("js-map", js_figure(result, titled=False), caption)]
    if len(expert_places(run, result)):
        by_expert = experts(run, result)
        maps.append(figure("expert-map", expert_figure(by_expert), _expert_caption(by_expert)))
    return section(
        "components",
        "Where it acts",
        about,
        *maps,
        figure("positions", position_figure(result), positions),
    )


def _expert_caption(by_expert: xr.Dataset) -> str:
    """Return the caption (HTML) of the map of experts, with how much of the routing the adapter changes."""
    caption = (
        "How far the adapter moves the output of each expert, before its weight, for the tokens that are routed to it: "
        "MIUB in nats, a mean over samples. <code>lorascope miub --group-by expert</code> prints all."
    )
    if "gained" not in by_expert:
        return caption
    changed = (by_expert["gained"].sum("expert") / by_expert["share"].sum("expert")).values
    return (
        f"{caption} Of the experts that tokens get, {format_percent(changed.mean())} are others than without the "
        f"adapter, in layer {by_expert['layer'].values[changed.argmax()]} {format_percent(changed.max())}."
    )
