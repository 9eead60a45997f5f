"""`lorascope miub`."""

from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from lorascope.analyze import miub as miub_of
from lorascope.analyze.miub import misfit, not_finite
from lorascope.analyze.save import refuse_target, save
from lorascope.stores import Run, open_run

from ..screen import left_out, print_table, progress_bar, say

__all__ = ["miub"]


def miub(
    run: str,
    /,
    *,
    adapter: str | None = None,
    reduction: Literal["mean", "sum", "last"] = "mean",
    top: int = 10,
    workers: int | None = None,
    out: Path | None = None,
) -> int:
    """MIUB of a run: how far the adapter moves each layer's softmax away from the frozen base's, in nats.

    It is the paper's quantity (arXiv 2501.03152, eq. 9), the size of a perturbation. It bounds no mutual information.

    Parameters
    ----------
    run
        Folder or url of the run.
    adapter
        Name of the adapter, where the run holds several.
    reduction
        What becomes of a sample's captured tokens at a component.
    top
        How many components to list.
    workers
        Threads; by default one a processor.
    out
        Save token-level js and its reductions here: a folder ending in .zarr, or a NetCDF file ending in .nc.
    """
    for name, value in (("top", top), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` is {value}; give at least 1")
    if out is not None:
        refuse_target(out)  # before the work, not after it
    opened = open_run(run)
    with progress_bar("miub") as update:
        result = miub_of(opened, adapter=adapter, reduction=reduction, n_workers=workers, progress=update)
    _print(result, opened, top)
    if text := misfit(result, opened):
        say(text)
    if out is not None:
        save(result, out)
        say(f"saved to {out}")
    return _report_not_finite(result, opened)


def _print(result: xr.Dataset, run: Run, top: int) -> None:
    means = result["js_sample"].mean("sample")
    order = np.argsort(-means.values)[:top]
    total = float(result["miub"])
    print_table(
        f"JS by component, the {len(order)} largest of {means.sizes['component']}",
        ["component", "js (nat)", "share of MIUB"],
        [
            (
                str(means["component"].values[i]),
                f"{means.values[i]:.4g}",
                f"{means.values[i] / total:.1%}" if total else "-",
            )
            for i in order
        ],
    )
    attrs = result.attrs
    say(
        f"MIUB {total:.6g} ± {float(result['miub_se']):.2g} nat "
        f"({attrs['reduction']}; {attrs['n_samples']} samples, {attrs['n_tokens']} tokens, "
        f"{attrs['n_components']} components)"
    )
    if attrs["n_samples_incomplete"]:
        say(f"{left_out(attrs['n_samples_incomplete'], run)} and are left out")
    if attrs["js_source"] == "capture":
        kept = "no states" if run.states == "none" else "states of some rows only"
        say(f"js is that of the capture itself: the run keeps {kept}, from which it could be computed again")
        return
    if not attrs["fidelity_n"]:
        say("fidelity: no token's js was measured during capture, so there is nothing to compare with")
        return
    say(
        f"fidelity: js from the store against js during capture differs by {attrs['fidelity_median']:.2g} (median) and "
        f"{attrs['fidelity_max']:.2g} (largest), relative, over {attrs['fidelity_n']} values"
    )


def _report_not_finite(result: xr.Dataset, run: Run) -> int:
    bad = not_finite(result, run)
    if not bad:
        return 0
    token, component = bad[0]
    sample = str(run.samples["id"].values[run.tokens["sample"].values[token]])
    say(
        f"{len(bad)} values aren't finite, the first at token {token} (sample {sample!r}, position "
        f"{int(run.tokens['position'].values[token])}) of {component}; what they enter is NaN"
    )
    return 1
