"""What an adapter learned, as far as a run can tell: where it acts, what matters, directions, words and ranks."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import dask.system
import numpy as np
import xarray as xr

from lorascope.stores import Run, StoreError
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike, as_run

from .compare_measures import compare_measures
from .directions import basis, directions_of, gram, in_order, n_holding, rotate, state_rows
from .lens import lens
from .measuring.sources import Source, read_factors, sources_of
from .qualify import qualify
from .reduce import reduce_tokens, usable_samples
from .weights import standard_error, token_weights

N_TOP = 10
"""Tokens of each direction whose texts are counted."""
DRIVER = ("driver_count", "driver_share", "driver_p")


class Explanation(NamedTuple):
    """Numbers behind the page of `lorascope explain`; None where the run can't give them, for the reason in `why`."""

    qualified: xr.DataTree
    """What `qualify` returns."""
    ablation: xr.Dataset | None
    """By `part`: `kl`, nats a token, and `kl_se`, over samples."""
    measures: xr.Dataset | None
    """What `compare_measures` returns."""
    directions: xr.Dataset | None
    """What `directions_by_component` returns."""
    lens: xr.Dataset | None
    """What `lens` returns."""
    why: dict[str, str]
    """Field -> why it is None, in words that end with what to do."""


def explain(
    run: RunLike,
    *,
    adapter: str | None = None,
    model: str | Path | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """All that a run can tell of what its adapter learned, each with its error or null.

    Parameters
    ----------
    run
        An open run or its path or url, finished or not.
    adapter
        Name of the adapter; not needed if there is only one.
    model
        Folder of the model, whose safetensors have the unembedding; not needed if the run keeps it.
    n_workers
        Threads; by default one a processor.
    progress
        Called with (parts done, parts in all) of each step anew.

    Raises
    ------
    StoreError
        If no sample is wholly committed, or a chunk is broken.
    """
    run, why = as_run(run), dict[str, str]()
    qualified = qualify(run, adapter=adapter, n_workers=n_workers, progress=progress)
    ablation = measures = by_component = words = None
    try:
        ablation = ablation_by_part(run, adapter)
    except StoreError as error:
        why["ablation"] = str(error)
    if ablation is not None and ablation.attrs["parts"] == "components":
        measures = compare_measures(run, adapter=adapter, n_workers=n_workers, progress=progress)
    if run.stream == "pair":
        why["directions"] = "stream 'pair' keeps the whole change; capture stream 'adapted'"
    elif not run.has_states:
        why["directions"] = "the run keeps no states; capture it with `--states all`"
    elif sources := [source for source in sources_of(run, adapter) if source.delta.lora_B is not None]:
        by_component = directions_by_component(run, sources, n_workers=n_workers, progress=progress)
    else:
        why["directions"] = "no component's delta is kept as a factor, as with DoRA"
    try:
        words = lens(run, adapter=adapter, model=model, progress=progress)
    except StoreError as error:
        if model is not None:
            raise
        why["lens"] = str(error)
    return Explanation(qualified, ablation, measures, by_component, words, why)


def ablation_by_part(run: Run, adapter: str | None = None) -> xr.Dataset:
    """What taking out each part's delta does to the next token.

    Returns
    -------
    xarray.Dataset
        By `part`: `kl`, KL(adapted || adapted without it) in nats, the mean over samples of means over their tokens,
        and its standard error `kl_se`. Samples count whose captured tokens were all ablated. Attributes `parts`,
        `n_samples`, `n_tokens`.

    Raises
    ------
    StoreError
        If the run has no ablation, or no sample was ablated as a whole.
    """
    ablation = run.ablation(adapter)
    labels = {"counted": ("token", run.committed.values), "weight": ("token", token_weights(run))}
    measured = xr.Dataset({"kl": ablation.rename(part="component")}).assign_coords(labels)
    by_sample = reduce_tokens(measured, "kl", run)
    used = usable_samples(measured, run, "mean") & np.isfinite(by_sample).all(axis=1)
    if not used.any():
        raise StoreError(f"no sample of {run.place.name!r} was ablated as a whole yet; capture more of it")
    values = by_sample[used]
    lengths = (run.samples["token_stop"] - run.samples["token_start"]).values[used]
    return xr.Dataset(
        {"kl": ("part", values.mean(axis=0)), "kl_se": ("part", standard_error(values))},
        coords={"part": ablation["part"].values},
        attrs={"parts": ablation.attrs["parts"], "n_samples": int(used.sum()), "n_tokens": int(lengths.sum())},
    )


def directions_by_component(
    run: Run, sources: Sequence[Source], *, n_workers: int | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """How many directions components use, and what drives each one's first.

    Returns
    -------
    xarray.Dataset
        By `component`, with coordinates `kind` and `layer`: `rank`; `n_90` and `n_99`, directions that hold that share
        of the summed |delta|², and `n_99_half` (component, half), those of every other row (1,024 tokens), NaN where
        there is but one; `first_share`, that of the first direction; `token` (component, top), the tokens with its
        largest |score|, -1 where there are fewer. `driver`, the id of the token that is most over-represented among
        these, `driver_count` and `driver_share`, how often it occurs among them and its share of all tokens, and
        `driver_p`: the chance of so many or more if `top` tokens were drawn at random, times the different ids.
    """
    found = directions_of(sources, n_top=N_TOP, n_workers=n_workers, progress=progress)
    halves = _half_counts(sources, n_workers)
    there = np.flatnonzero((run.committed & run.with_states).values)
    of_token = run.tokens["token_id"].values
    ids, counts = np.unique(of_token[there], return_counts=True)
    drivers = [_driver(of_token[one.top_token[0][one.top_token[0] >= 0]], ids, counts) for one in found]
    places = [run.component_paths.index(source.component) for source in sources]
    by_component = {
        "rank": [one.rotation.shape[1] for one in found],
        "n_90": [n_holding(one.share, 0.9) for one in found],
        "n_99": [n_holding(one.share, 0.99) for one in found],
        "first_share": [one.share[0] for one in found],
        **{name: [driver[place] for driver in drivers] for place, name in enumerate(("driver", *DRIVER))},
    }
    return xr.Dataset(
        {name: ("component", np.array(values)) for name, values in by_component.items()}
        | {"n_99_half": (("component", "half"), halves)}
        | {"token": (("component", "top"), np.stack([one.top_token[0] for one in found]))},
        coords={
            "component": [source.component for source in sources],
            **{name: ("component", run.components[name].values[places]) for name in ("kind", "layer")},
        },
        attrs={"n_tokens": len(there), "n_ids": len(ids)},
    )


def _half_counts(sources: Sequence[Source], n_workers: int | None) -> np.ndarray:
    """Directions that hold 99 % of |delta|², of every other row: float64 (component, half)."""
    rows = state_rows(sources[0])
    if len(rows) < 2:
        return np.full((len(sources), 2), np.nan)

    def grams(row: int) -> list[np.ndarray]:
        return [gram(factor)[0] for factor in read_factors(sources, row) if factor is not None]

    halves = [[np.zeros((source.delta.rows.shape[1],) * 2) for source in sources] for _ in range(2)]
    for place, found in enumerate(in_order(grams, rows, n_workers or dask.system.CPU_COUNT)):
        for total, one in zip(halves[place % 2], found, strict=True):
            total += one
    counts = [
        [n_holding(rotate(total, basis(source)[1])[1], 0.99) for total, source in zip(half, sources, strict=True)]
        for half in halves
    ]
    return np.array(counts, np.float64).T


def _driver(top: np.ndarray, ids: np.ndarray, counts: np.ndarray) -> tuple[int, int, float, float]:
    """`driver`, `driver_count`, `driver_share` and `driver_p` of ids of top tokens, given how often each id occurs."""
    from scipy.stats import hypergeom  # type: ignore[import-untyped]

    if not len(top):
        return -1, 0, np.nan, np.nan
    found, n_found = np.unique(top, return_counts=True)
    of_all, n_tokens = counts[np.searchsorted(ids, found)], int(counts.sum())
    chances = hypergeom.sf(n_found - 1, n_tokens, of_all, len(top))
    best = int(np.argmin(chances))
    p = min(float(chances[best]) * len(ids), 1.0)
    return int(found[best]), int(n_found[best]), float(of_all[best] / n_tokens), p
