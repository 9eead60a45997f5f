"""HTML summary of a run for notebooks."""

import html
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..size import format_size

if TYPE_CHECKING:
    from .run import Run

_STYLE = "text-align:left;vertical-align:top;padding:1px 1em 1px 0;background:none;color:inherit;border:none"


def run_html(run: "Run") -> str:
    """Return HTML for notebooks: a table of a run's model, adapters, data, size and completeness."""
    rows = "".join(
        f'<tr style="background:none"><th style="{_STYLE};opacity:.65;font-weight:normal">{html.escape(name)}</th>'
        f'<td style="{_STYLE}">{html.escape(value)}</td></tr>'
        for name, value in _table_rows(run)
        if value
    )
    return f"<div><b>lorascope run</b> {html.escape(run.place.name)}<table>{rows}</table></div>"


def _table_rows(run: "Run") -> Iterator[tuple[str, str]]:
    """Yield (label, text) for each line of the table about a run; the text is empty if it isn't known."""
    settings = run.attributes.get("provenance", {}).get("settings", {})
    yield "model", str(settings.get("model") or "")
    ranks = {name: run.adapter(name)["rank"].values for name in run.adapters}
    yield "adapters" if len(ranks) > 1 else "adapter", ", ".join(f"{n} ({_format_ranks(r)})" for n, r in ranks.items())
    datasets = run.samples["dataset"].values.tolist()
    yield "data", ", ".join(f"{name}: {n} samples" for name, n in Counter(datasets).items())
    states = {"all": "all states kept", "sample": "states of some rows kept", "none": "no states kept"}[run.states]
    yield "tokens", f"{run.n_tokens}; stream {run.stream}, {states}"
    kinds = Counter(run.components["kind"].values.tolist())
    yield "components", f"{len(run)}: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    if isinstance(run.place.path, Path):  # in an object store every key would have to be listed over the network
        yield "size", format_size(sum(n_bytes for _, n_bytes in run.place.sizes()))
    rows = f"{int(run.committed_rows.sum())} of {run.n_rows} rows"
    lost = f"damaged: {rows} are there; see `lorascope verify`"
    yield "state", (lost if len(run.lost_rows) else "finished") if run.finished else f"unfinished: {rows}"


def _format_ranks(ranks: np.ndarray) -> str:
    """Return the ranks of an adapter as text, `rank 8` or `rank 4 to 16`, without those of unadapted components."""
    low, high = ranks[ranks > 0].min(initial=ranks.max()), ranks.max()
    return f"rank {high}" if low == high else f"rank {low} to {high}"
