"""Directions in which an adapter moves a component: the right singular vectors of its delta over a run's tokens."""

from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.results.options import require_whole
from lorascope.analyze.results.tree import run_attributes
from lorascope.stores import StoreError
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike, as_run
from lorascope.stores.reading.token_choice import TokenChoice, chosen_tokens, describe_choice

from .decomposition import N_TOP, basis, directions_of, n_holding, state_rows


def directions(
    run: RunLike,
    component: str,
    *,
    adapter: str | None = None,
    tokens: TokenChoice = "all",
    n_top: int = N_TOP,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Singular directions of a component's delta over tokens, and the tokens at which each acts most.

    PEFT's own basis of z = A x is arbitrary: any invertible matrix can be moved between A and B. These directions
    aren't: they are the right singular vectors of delta (token, feature).

    Parameters
    ----------
    run
        An open run or its path or url, finished or not; tokens that aren't committed, or keep no states, are left out.
    component
        Its path.
    adapter
        Name of the adapter; not needed if there is only one.
    tokens
        Over which tokens with states: `all`; `first:N`, `last:N` or `from:N`, by position in each sample; a role such
        as `answer`; `every:K` or `share:P`, drawn from each sample; or indices on the token axis. `from:1` leaves
        position 0 out, often an attention sink, whose delta may hold nearly all of |delta|².
    n_top
        Tokens that are kept of each direction.
    n_workers
        Threads; by default one a processor. No number depends on it.
    progress
        Called with (rows read, rows in all); every row with chosen tokens is read twice.

    Returns
    -------
    xarray.Dataset
        By `direction`, in descending order of `share`, which is that of the summed |delta|²:

        `rotation` (direction, rank), float32: `rotation @ z` are the scores of a token, the coordinates of its delta
        along the directions, in the units of delta. `vector` (direction, feature): the directions themselves, of length
        1. `top_token` and `top_score` (direction, top): numbers and scores of the tokens with the largest |score|,
        equal ones in the tokens' order; -1 and NaN where fewer than `n_top` have one other than 0. The first is
        positive, which settles the sign of a direction. `n_90` and `n_99`: how many directions, the first ones, hold
        90 % and 99 % of the summed |delta|²; 0 where it is zero or not finite.

        A direction without delta, as where lora_B has a lower rank, is zero and has no tokens. So are those whose share
        is less than 1e-13 of the largest. Directions with equal shares are determined only together.

        Attributes: provenance, `tokens` and `n_tokens` that were used, and `n_not_finite` of them that were left out,
        since their z isn't finite.

    Raises
    ------
    StoreError
        If delta isn't kept as a factor, as with DoRA or in a run of stream `pair`, the adapter leaves the component
        alone, none of the tokens is committed and has states, or a chunk is broken.
    ValueError, IndexError
        If `tokens` isn't what it may be, or `n_top` or `n_workers` isn't a whole number of at least 1.

    Notes
    -----
    With delta = s Z B^T, s B = Q R and Z^T Z summed over rows in float64, the eigenvectors W of R Z^T Z R^T give
    rotation = W^T R and vector = W^T Q^T. A bias of lora_B isn't in it: it moves all tokens by the same.
    """
    require_whole("n_top", n_top)
    if n_workers is not None:
        require_whole("n_workers", n_workers)
    run = as_run(run)
    source = run.source(component, adapter)
    if source.delta.lora_B is None:
        why = "stream 'pair'" if run.stream == "pair" else "its delta is stored itself"
        raise StoreError(f"component {component!r} has no directions in this run ({why}); only a factor gives them")
    rows = state_rows(source)
    if not rows:
        raise StoreError(f"no row with states of {run.place.name!r} is committed yet; capture more of it")
    used = None if isinstance(tokens, str) and tokens == "all" else chosen_tokens(run, tokens) > 0
    n_tokens = sum(map(source.base.n_tokens, rows)) if used is None else int(used.sum())
    (decomposed,) = directions_of([source], used, n_top=n_top, n_workers=n_workers, progress=progress)
    values = decomposed._asdict() | {"vector": (decomposed.axes @ basis(source)[0].T).astype(np.float32)}
    variables: dict[str, Any] = {
        name: (("direction", *axis), values[name], {"long_name": text, "units": "1"})
        for name, axis, text in (
            ("rotation", ["rank"], "rotation @ z: coordinates of delta along the directions"),
            ("share", [], "share of the direction in the summed |delta|²"),
            ("vector", ["feature"], "right singular vectors of delta"),
            ("top_token", ["top"], "tokens with the largest |score|"),
            ("top_score", ["top"], "coordinate of these tokens' delta along the direction"),
        )
    }
    for percent in (90, 99):
        text = f"directions that hold {percent} % of the summed |delta|²"
        variables[f"n_{percent}"] = ((), n_holding(decomposed.share, percent / 100), {"long_name": text, "units": "1"})
    counts = {"tokens": describe_choice(tokens), "n_tokens": n_tokens, "n_not_finite": decomposed.n_not_finite}
    return xr.Dataset(variables, attrs={"component": component, **run_attributes(run, adapter), **counts})
