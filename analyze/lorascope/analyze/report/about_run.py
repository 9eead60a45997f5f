"""The lines above the numbers of a page: the names of model, adapter and data, and what must be known first."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.miub.miub import misfit
from lorascope.stores import Run

from .markup import escape, with_code


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
    """Source of the page's adapter, of those that the settings name; its own name where they don't name it."""
    names = list(map(str, sources)) if isinstance(sources, list | tuple) else [str(sources)] if sources else []
    own = [source.removeprefix(f"{name}=") for source in names if len(names) == 1 or source.startswith(f"{name}=")]
    return _name(own[0]) if own else name


def _name(source: str) -> str:
    """A hub id or relative path; of an absolute path its end, since the whole path stands in the provenance."""
    path = PurePath(source)
    return "/".join(path.parts[1:][-2:]) if path.is_absolute() else source


def notices(run: Run, qualified: xr.DataTree) -> Iterator[str]:
    """Warnings that must be read before any number; HTML."""
    attrs = qualified.attrs
    if len(run.lost_rows):
        yield (
            f"<b>{len(run.lost_rows)} rows of this run were lost since it was finished.</b> Samples with tokens in "
            f"them ({attrs['n_samples_incomplete']}) are left out; <code>lorascope verify</code> says what is wrong."
        )
    if text := misfit(qualified, run):
        yield f"<b>The store isn't what was captured:</b> {with_code(text)}."
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
    if attrs["js_source"] == "capture":
        n_states = int((run.committed & run.with_states).sum())
        states = f"the states of {n_states} tokens" if n_states else "no states"
        yield (
            f"<b>This run keeps {states}.</b> JS is the one measured during capture, on {attrs['n_tokens']} of "
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
