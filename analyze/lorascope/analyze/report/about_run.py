"""The sections of the page about the record itself: what must be known first, size, fidelity, provenance."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.measuring.captured import reduction
from lorascope.analyze.miub.miub import misfit
from lorascope.analyze.results.format import format_number, format_percent
from lorascope.analyze.results.sizes import Size
from lorascope.analyze.results.weights import token_weights, weighted_mean
from lorascope.stores import Run
from lorascope.stores.size import format_size

from .markup import escape, folded, section, table


def source(run: Run, qualified: xr.DataTree) -> str:
    """Model, adapter and data, as plain text."""
    settings = run.attributes.get("provenance", {}).get("settings", {})
    datasets = ", ".join(dict.fromkeys(run.samples["dataset"].values.tolist()))
    parts = [
        f"model {_name(str(settings['model']))}" if settings.get("model") else "",
        f"adapter {_adapter(settings.get('adapter'), qualified.attrs['adapter'])}",
        f"data {datasets}",
        f"stream {run.stream}",
    ]
    return " · ".join(part for part in parts if part)


def _adapter(sources: Any, name: str) -> str:
    """Where the page's adapter came from, of what the settings name; its own name where they don't tell."""
    named = list(map(str, sources)) if isinstance(sources, list | tuple) else [str(sources)] if sources else []
    own = [source.removeprefix(f"{name}=") for source in named if len(named) == 1 or source.startswith(f"{name}=")]
    return _name(own[0]) if own else name


def _name(source: str) -> str:
    """A hub id or relative path whole, of an absolute path the end; all of it stands in the provenance."""
    path = PurePath(source)
    return "/".join(path.parts[1:][-2:]) if path.is_absolute() else source


def notices(run: Run, qualified: xr.DataTree) -> Iterator[str]:
    """What must be known before any number."""
    attrs = qualified.attrs
    if len(run.lost_rows):
        yield (
            f"<b>{len(run.lost_rows)} rows of this run were lost since it was finished.</b> Samples with tokens in "
            f"them ({attrs['n_samples_incomplete']}) are left out; `lorascope verify` says what is wrong."
        )
    if text := misfit(qualified, run):
        yield f"<b>The store isn't what was captured:</b> {escape(text)}."
    if not run.finished:
        rows, left_out = int(run.committed_rows.sum()), attrs["n_samples_incomplete"]
        yield (
            f"<b>This run is unfinished:</b> {rows} of {run.n_rows} rows are committed. {left_out} samples that "
            "aren't wholly captured are left out."
        )
    if attrs["n_not_finite"]:
        values = qualified.dataset["js"]
        bad = [str(path) for path in values["component"].values[np.isnan(values.values)]]
        more = f" and {len(bad) - 1} more components" if len(bad) > 1 else ""
        where = f"In {escape(bad[0])}{more}" if bad else "In samples that aren't wholly captured"
        yield (
            f"<b>{attrs['n_not_finite']} values aren't finite.</b> {where} base or delta holds NaN or infinity. "
            "Nothing is averaged over them: whatever they enter, MIUB included, is shown as n/a."
        )
    n, n_all = attrs["n_components"], int((run.adapter(attrs["adapter"])["rank"].values > 0).sum())
    if n < n_all:
        yield f"<b>{n} of {n_all} components were chosen:</b> MIUB, shares and colours are about these alone."
    if float(qualified["miub"]) == 0:
        yield "<b>MIUB is 0:</b> the adapter changes nothing (its B is zero), so there are no shares to show."
    if attrs["js_source"] == "capture":
        n_kept = int((run.committed & run.with_states).sum())
        kept = f"the states of {n_kept} tokens" if n_kept else "no states"
        yield (
            f"<b>This run keeps {kept}.</b> JS is the one measured during capture, on {attrs['n_tokens']} of "
            f"{run.n_tokens} tokens; what needs states is left out."
        )
    sources = qualified.dataset["delta_source"].values if "delta_source" in qualified.coords else np.empty(0, object)
    if n_differences := int((sources == "difference").sum()):
        yield (
            f"<b>{n_differences} components have no additive branch.</b> Their delta is the layer's output less its "
            "base, in the layer's own rounding: small deltas are coarse there. The table calls it <i>difference</i>."
        )
    if len(run.adapters) > 1:
        yield f"This run holds {len(run.adapters)} adapters; the page is about <b>{escape(attrs['adapter'])}</b>."


def record(run: Run, qualified: xr.DataTree, parts: Sequence[Size]) -> str:
    """Size, fidelity and provenance, each in a line that unfolds."""
    return section("record", "The record", _store(run, parts), _fidelity(run, qualified), _provenance(run))


def _store(run: Run, parts: Sequence[Size]) -> str:
    """What the run takes on disk."""
    rows = [(size.part, format_size(size.raw_bytes), format_size(size.stored_bytes)) for size in parts]
    caption = (
        "In memory: values of committed tokens before compression. On disk: files with their metadata. factor is z "
        "= A x, from which delta = scaling * B z follows exactly."
    )
    stored = parts[-1].stored_bytes
    each = format_size(stored / int(run.committed.sum()))
    line = f"<b>Store:</b> {format_size(stored)} on disk, {each} a captured token"
    return folded("store", line, table(("part", "in memory", "on disk"), rows, caption=caption))


def _fidelity(run: Run, qualified: xr.DataTree) -> str:
    """How far the record can be trusted: js at capture against js from the store, and what rounding swallowed."""
    attrs, line = qualified.attrs, "not compared"
    if attrs["js_source"] == "states" and attrs["fidelity_n"]:
        line = f"JS of the store is that of the capture within {format_number(attrs['fidelity_max'])}"
    texts = (_fidelity_text(qualified), _swallowed_text(run, attrs["adapter"]))
    return folded("fidelity", f"<b>Fidelity:</b> {line}", *(f"<p>{text}</p>" for text in texts))


def _fidelity_text(qualified: xr.DataTree) -> str:
    attrs = qualified.attrs
    if attrs["js_source"] == "capture":
        return "JS is the one measured during capture; it isn't computed again from states and compared."
    if not attrs["fidelity_n"]:
        return "No token's JS was measured during capture, so there is nothing to compare with."
    return (
        "JS computed from the store differs from JS measured in memory during capture by "
        f"{format_number(attrs['fidelity_median'])} (median) and {format_number(attrs['fidelity_max'])} (largest), "
        f"relative, over {attrs['fidelity_n']} values."
    )


def _swallowed_text(run: Run, adapter: str) -> str:
    measured = reduction(run, "swallowed", adapter)
    shares = {}
    if measured is not None:
        weights, columns = token_weights(run), zip(run.component_paths, measured.values.T, strict=True)
        known = {path: (column, np.isfinite(column)) for path, column in columns}
        shares = {
            path: weighted_mean(one[there], weights[there]) for path, (one, there) in known.items() if there.any()
        }
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
