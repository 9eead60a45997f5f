"""The section on how far to trust a page: what was captured, what qualifies js, fidelity and provenance."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.figures import null_figure
from lorascope.analyze.measuring.sources import captured_measure
from lorascope.analyze.results.format import format_number, format_percent
from lorascope.analyze.results.weights import is_weighted, token_weights, weighted_mean
from lorascope.stores import Run

from .markup import escape, figure, folded, section, table


def trust(run: Run, qualified: xr.DataTree) -> str:
    """HTML of the section, from what `qualify` made of the run."""
    return section(
        "trust",
        "How far to trust it",
        f"<p><b>What was captured.</b> {_captured(run)}</p>",
        *_what_js_sees(qualified),
        _fidelity(run, qualified),
        _provenance(run),
    )


def _captured(run: Run) -> str:
    """Which tokens the numbers are about; HTML."""
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


def _what_js_sees(qualified: xr.DataTree) -> Iterator[str]:
    """What keeps js from being read alone, as a paragraph and the map of js over that of shuffled deltas."""
    yield (
        "<p><b>What JS sees.</b> JS depends on the shape of an output as well as on the adapter: a large JS needn't be "
        "a large change. Effective width exp(H(softmax(base))) is how many features share the softmax's mass: near 1, "
        "one huge feature holds it all, and JS sees little else. |delta| / |base| is the length of what the adapter "
        "adds over that of what it adds to, without any softmax. Both are medians over tokens.</p>"
    )
    if "js_permuted" not in qualified:
        yield (
            "<p>JS, effective width and |delta| / |base| are those measured during capture. The comparison with "
            "shuffled features is missing: it needs the states of all tokens, which this run doesn't keep.</p>"
        )
    else:
        caption = (
            "JS over the JS of the same delta with its features permuted (shuffled), which has the same size. Above 1 "
            "(red), delta falls on features that carry the softmax; below (blue), on others. Means over "
            f"{qualified.attrs['n_samples']} samples."
        )
        yield figure("null-map", null_figure(qualified), caption)


def _fidelity(run: Run, qualified: xr.DataTree) -> str:
    """Compare js at capture with js from the store, and say what the layers' rounding swallowed."""
    attrs = qualified.attrs
    if attrs["js_source"] == "capture":
        line = "JS is the one measured during capture; it isn't computed again from states and compared."
    elif not attrs["fidelity_n"]:
        line = "no token's JS was measured during capture, so there is nothing to compare with."
    else:
        line = (
            "JS computed from the store differs from JS measured in memory during capture by "
            f"{format_number(attrs['fidelity_median'])} (median) and {format_number(attrs['fidelity_max'])} (largest), "
            f"relative, over {attrs['fidelity_n']} values."
        )
    return folded("fidelity", f"<b>Fidelity:</b> {line}", f"<p>{_swallowed_text(run, attrs['adapter'])}</p>")


def _swallowed_text(run: Run, adapter: str) -> str:
    """Share of features in which the layers' own rounding swallows the adapter's change."""
    measured, weights, shares = captured_measure(run, "swallowed", adapter), token_weights(run), dict[str, float]()
    if measured is not None:
        for path, column in zip(run.component_paths, measured.values.T, strict=True):
            known = np.isfinite(column)
            if known.any():
                shares[path] = weighted_mean(column[known], weights[known])
    if not shares:
        return "This run doesn't know which share of features the layers' own rounding swallowed."
    largest, mean = max(shares, key=lambda path: shares[path]), float(np.mean(list(shares.values())))
    dtypes = ", ".join(dict.fromkeys(run.components["dtype"].values.tolist()))
    return (
        f"The layers put their output out in {escape(dtypes)}. In that type, base + delta rounds back to base in "
        f"{format_percent(mean)} of features (mean over {len(shares)} components; at most "
        f"{format_percent(shares[largest])}, in {escape(largest)}): there the model itself doesn't feel the "
        "adapter. JS here is that of base + delta before this rounding."
    )


def _provenance(run: Run) -> str:
    """Everything that the run says about itself."""
    rows = [("path", run.path), *_flat(run.attributes)]
    line = f"<b>Provenance:</b> model, adapter, data, settings and libraries, {len(rows)} entries"
    return folded("provenance", line, table(("what", "value"), rows, n_names=2))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
