"""The tree of a result: values by component at its root, values by token and by sample in one node each."""

import reprlib
from hashlib import sha256
from importlib.metadata import version

import numpy as np
import xarray as xr

from lorascope.stores import Run

from .weights import standard_error

CHUNK_TOKENS = 16_384
CHUNK_COMPONENTS = 16
"""Chunks of a result have 1 MB of float32, so that reading a column or a range of tokens loads little else."""
MOST_MISMATCH = 1e-2
"""Relative difference of js above which stored states aren't the captured ones; rounding causes about 1e-6."""


def require_result(result: object) -> None:
    """Raise TypeError unless `result` is a tree such as `miub` returns, and not for instance a run."""
    if not isinstance(result, xr.DataTree):
        what = reprlib.repr(result) if isinstance(result, str) else f"a {type(result).__name__}"
        raise TypeError(f"the result is {what}; give what `miub` or `qualify` returns, such as `miub(run)`")


def result_tree(tokens: xr.Dataset, samples: xr.Dataset) -> xr.DataTree:
    """Return a result tree: MIUB and js by component at its root, from `samples`, and below it the two given nodes.

    Parameters
    ----------
    tokens
        `js` (token, component) and `miub` (token,), with the coordinates of tokens and components.
    samples
        `js` (sample, component) and `miub` (sample,), with the coordinates `sample` (ids) and `used`.
    """
    used, units = samples["used"].values, samples["js"].attrs["units"]
    values, totals = samples["js"].values[used], samples["miub"].values[used]
    means = values.mean(axis=0)
    share = means / means.sum() if means.sum() > 0 else np.full_like(means, np.nan)
    values_by_name = {
        "miub": ((), totals.mean(), "MIUB: samples/miub, mean over samples", units),
        "miub_se": ((), standard_error(totals), "standard error of miub over samples", units),
        "js": ("component", means, "samples/js, mean over samples", units),
        "js_se": ("component", standard_error(values), "standard error of js over samples", units),
        "share": ("component", share, "js / miub", "1"),
    }
    root = tokens.drop_vars([name for name, variable in tokens.variables.items() if "token" in variable.dims])
    for name, (dims, numbers, long_name, symbol) in values_by_name.items():
        root[name] = (dims, numbers, {"long_name": long_name, "units": symbol})
    own = [
        name for name in root.coords if name not in root.xindexes
    ]  # a child inherits only the coordinates with an index
    return xr.DataTree.from_dict({"/": root, "tokens": tokens.drop_vars(own), "samples": samples})


def mismatch_warning(result: xr.DataTree, run: Run) -> str | None:
    """Return a warning text if js from stored states differs from js measured at capture, otherwise None.

    States stored as bfloat16 (`--store bf16`) may differ; for others only rounding is expected.
    """
    narrowed = run.attributes.get("provenance", {}).get("settings", {}).get("store") == "bf16"
    if narrowed or not result.attrs["fidelity_max"] > MOST_MISMATCH:
        return None
    return (
        f"js from the store is off by {result.attrs['fidelity_max']:.2g} of what was measured during capture, far "
        "above rounding: these may not be the states that were captured; run `lorascope verify`"
    )


def run_attributes(run: Run, adapter: str | None) -> dict[str, str]:
    """Return attributes of a result, as a dict of texts: its run and rows, adapter, model and version of lorascope."""
    provenance = run.attributes.get("provenance", {})
    return {
        "stream": run.stream,
        "adapter": adapter or run.adapters[0],
        "model": str(provenance.get("settings", {}).get("model", "")),
        "tokenizer": str(provenance.get("tokenizer", {}).get("sha256", "")),
        "population": str(provenance.get("population", "")),
        "run": run.place.name,
        "run_fingerprint": str(run.attributes.get("fingerprint", "")),
        "run_rows": rows_digest(run),
        "lorascope": version("lorascope"),
    }


def rows_digest(run: Run) -> str:
    """Return the hexadecimal SHA-256 of all rows' digests (0 for uncommitted rows), which changes with any row."""
    return sha256(b"".join(run.digest(row).tobytes() for row in range(run.n_rows))).hexdigest()
