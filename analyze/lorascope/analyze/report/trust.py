"""Warnings above a page's numbers, and the section on how far to trust JS, the Jensen-Shannon divergence."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.results.format import format_percent
from lorascope.analyze.results.stored import stored_or_computed
from lorascope.analyze.results.tree import mismatch_warning
from lorascope.analyze.results.weights import is_weighted, token_weights
from lorascope.stores import Run
from lorascope.stores.format.digests import copying_steps
from lorascope.stores.reading.token_choice import recorded_choices

from .markup import escape, folded, section, table, with_code


def describe_run(run: Run, result: xr.DataTree) -> str:
    """Return one line of plain text that names a run's model, adapter, data and stream (kind of capture)."""
    settings = run.attributes.get("provenance", {}).get("settings", {})
    datasets = ", ".join(dict.fromkeys(run.samples["dataset"].values.tolist()))
    parts = [
        f"model {_short_path(str(settings['model']))}" if settings.get("model") else "",
        f"adapter {_adapter_source(settings.get('adapter'), result.attrs['adapter'])}",
        f"data {datasets}",
        f"stream {run.stream}",
    ]
    return " · ".join(part for part in parts if part)


def _adapter_source(sources: Any, name: str) -> str:
    """Return the folder or hub id of a run's adapter from its settings, or its name if they don't have it."""
    names = list(map(str, sources)) if isinstance(sources, list | tuple) else [str(sources)] if sources else []
    own = [source.removeprefix(f"{name}=") for source in names if len(names) == 1 or source.startswith(f"{name}=")]
    return _short_path(own[0]) if own else name


def _short_path(source: str) -> str:
    """Return a hub id or relative path as it is, and the last two parts of an absolute path."""
    path = PurePath(source)
    return "/".join(path.parts[1:][-2:]) if path.is_absolute() else source


def notices(run: Run, result: xr.DataTree) -> Iterator[str]:
    """Yield warnings (HTML) that must be read before any number, such as of lost rows or an unfinished run."""
    attrs = result.attrs
    if len(run.lost_rows):
        yield (
            f"<b>{len(run.lost_rows)} rows of this run were lost since it was finished.</b> Samples with tokens in "
            f"them ({attrs['n_samples_incomplete']}) are excluded; <code>lorascope verify</code> says what is wrong."
        )
    if text := mismatch_warning(result, run):
        yield f"<b>The store isn't what was captured:</b> {with_code(text)}."
    if not run.finished:
        rows, excluded = int(run.committed_rows.sum()), attrs["n_samples_incomplete"]
        yield (
            f"<b>This run is unfinished:</b> {rows} of {run.n_rows} rows are committed. {excluded} samples that "
            "aren't wholly captured are excluded."
        )
    for step in copying_steps(run.attributes.get("provenance")):
        n_missing, is_unfinished = step.get("samples_incomplete") or 0, step.get("finished") is False
        if is_unfinished or n_missing:
            state = "an unfinished run" if is_unfinished else "a damaged run"
            yield f"<b>This run was copied from {state}:</b> {escape(n_missing)} of its samples are missing here."
    if attrs["n_not_finite"]:
        values = result.dataset["js"]
        bad = [str(path) for path in values["component"].values[np.isnan(values.values)]]
        more = f" and {len(bad) - 1} more components" if len(bad) > 1 else ""
        where = f"In {escape(bad[0])}{more}" if bad else "In samples that aren't wholly captured"
        yield (
            f"<b>{attrs['n_not_finite']} values of JS aren't finite.</b> {where}, base or delta contains NaN or "
            "infinity. All means that include them, such as MIUB, are shown as n/a."
        )
    n, n_all = attrs["n_components"], int((run.adapter(attrs["adapter"])["rank"].values > 0).sum())
    if n < n_all:
        yield f"<b>{n} of {n_all} components were chosen:</b> MIUB, shares and colours are only about these."
    if attrs["js_source"] == "capture":
        n_states = int((run.committed & run.with_states).sum())
        states = f"the states of {n_states} tokens" if n_states else "no states"
        yield (
            f"<b>This run keeps {states}.</b> JS is the one measured during capture, on {attrs['n_tokens']} of "
            f"{run.n_tokens} tokens; results that need states are missing."
        )
    sources = result.dataset["delta_source"].values if "delta_source" in result.coords else np.empty(0, object)
    if n_differences := int((sources == "difference").sum()):
        yield (
            f"<b>{n_differences} components have no additive branch.</b> Their delta is the layer's output minus its "
            "base, rounded as the layer rounds, so that small deltas are coarse."
        )
    if len(run.adapters) > 1:
        yield f"This run holds {len(run.adapters)} adapters; the page is about <b>{escape(attrs['adapter'])}</b>."


def trust_section(run: Run, result: xr.DataTree, note: str = "") -> str:
    """Return the HTML section on trust: captured tokens, stored results (`note`), how to read JS, rounding, source."""
    rows = [("path", run.path), *_flatten_entries(run.attributes)]
    line = f"<b>Provenance:</b> model, adapter, data, settings and libraries, {len(rows)} entries"
    return section(
        "trust",
        "How far to trust it",
        f"<p><b>What was captured.</b> {_captured_tokens_html(run)}</p>",
        f"<p><b>What wasn't read again.</b> {with_code(note)}</p>" if note else "",
        "<p><b>What JS shows.</b> JS depends on the shape of an output as well as on the adapter: a large JS needn't "
        "be a large change. Effective width exp(H(softmax(base))) is the number of features that share the softmax's "
        "mass: if it is near 1, one huge feature has nearly all of it, and JS hardly depends on the others. "
        "|delta| / |base| is the length of what the adapter adds, divided by that of what it adds to, without any "
        "softmax. Both are medians over tokens.</p>",
        _rounded_away_html(run, result.attrs["adapter"]),
        folded("provenance", line, table(("what", "value"), rows, n_names=2)),
    )


def _captured_tokens_html(run: Run) -> str:
    """Return HTML that says which tokens the numbers are about, and how they were chosen."""
    provenance, n_read = run.attributes.get("provenance", {}), int(run.samples["length"].sum())
    selection, population = recorded_choices(provenance), provenance.get("population")
    named = f" (token selection {escape(selection)})" if selection else ""
    about = ""
    if is_weighted(run):
        all_of = "all tokens of the samples" if population in (None, "all tokens") else escape(population)
        about = (
            " They were drawn at random. Means, sums and quantiles over tokens weigh each token by the inverse of its "
            f"chance, so that they are about {all_of}."
        )
    elif run.n_tokens < n_read:
        about = f" All numbers are about {escape(population or 'these tokens')}, not about the samples' other tokens."
    n_omitted = sum(provenance.get("omitted_items", {}).values())
    omitted = f" {n_omitted} items beyond the limit weren't read." if n_omitted else ""
    some = f"{run.n_tokens} of the" if run.n_tokens < n_read else "All"
    return f"{some} {n_read} tokens of {run.samples.sizes['sample']} samples{named}.{about}{omitted}"


def _rounded_away_html(run: Run, adapter: str) -> str:
    """Return HTML on the features whose change by the adapter disappears in rounding; empty if not known."""
    rounding = stored_or_computed(run, "rounding", partial(_rounded_away, run, adapter), adapter=adapter)
    if rounding is None:
        return ""
    shares = rounding["share"].to_series().to_dict()
    largest, dtypes = max(shares, key=lambda path: shares[path]), dict.fromkeys(run.components["dtype"].values.tolist())
    return (
        f"<p><b>Rounding.</b> The layers' outputs are {escape(', '.join(dtypes))}. In that type, base + delta rounds "
        f"back to base in {format_percent(float(np.mean(list(shares.values()))))} of features (mean over {len(shares)} "
        f"components; at most {format_percent(shares[largest])}, in {escape(largest)}), where the adapter doesn't "
        "change the model at all. JS on this page is that of base + delta before this rounding.</p>"
    )


def _rounded_away(run: Run, adapter: str) -> xr.Dataset | None:
    """Return by component the mean share of features whose change disappears in rounding; None if not measured."""
    if f"adapters/{adapter}/swallowed" not in run.arrays:
        return None
    weights = token_weights(run)
    columns = dict(zip(run.component_paths, run.reduction("swallowed", adapter).values.T, strict=True))
    known = {path: used for path, column in columns.items() if (used := np.isfinite(column)).any()}
    shares = {path: float(np.average(columns[path][used], weights=weights[used])) for path, used in known.items()}
    return xr.Dataset({"share": ("component", [*shares.values()])}, {"component": [*shares]}) if shares else None


def _flatten_entries(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name joined by dots, value as text) for each entry of nested mappings."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flatten_entries(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
