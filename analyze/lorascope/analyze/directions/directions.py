"""Directions in which an adapter moves a component, and the text around the tokens where it moves it most."""

from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.results.options import require_whole
from lorascope.analyze.results.tree import run_attributes
from lorascope.stores import Run, StoreError
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.progress import Progress
from lorascope.stores.reading.chunks import read_chunk_columns
from lorascope.stores.reading.read import RunLike
from lorascope.stores.reading.token_choice import TokenChoice, chosen_token_weights, describe_choice

from .decomposition import N_TOP, delta_basis, directions_of, n_leading


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
    """Return the singular directions of a component's delta over tokens, and the strongest tokens along each.

    PEFT's own basis of the factor z = A x is arbitrary: any invertible matrix can be moved between A and B. These
    directions are well defined: they are the right singular vectors of delta (token, feature).

    Parameters
    ----------
    run, adapter, n_workers
        As for `miub`; only committed tokens with states count.
    component
        Path of the component.
    tokens
        Choice among the tokens with states: words of `lorascope.stores.reading.token_choice`, such as `answer`, or
        indices on the token axis. `from:1` excludes position 0, often an attention sink, whose delta may have nearly
        all of |delta|².
    n_top
        Number of strongest tokens that are returned per direction.
    progress
        Called with (rows read, rows in all); every row with chosen tokens is read twice.

    Returns
    -------
    xarray.Dataset
        By `direction`, in descending order of `share`, its share of the summed |delta|²:

        `rotation` (direction, rank), float32: `rotation @ z` are the scores of a token, the coordinates of its delta
        along the directions, in the units of delta. `vector` (direction, feature): the directions themselves, of length
        1. `top_token` and `top_score` (direction, top): numbers and scores of the tokens with the largest |score|,
        equal scores in token order; -1 and NaN if fewer than `n_top` tokens have a score other than 0. The first score
        is positive, which fixes the sign of a direction. `n_90` and `n_99`: number of leading directions that have 90 %
        and 99 % of the summed |delta|²; 0 if it is zero or not finite.

        A direction is zero and has no tokens if its share is below 1e-13 of the largest, such as when the rank of
        lora_B is lower than its number of columns. Directions with equal shares are only determined together.

        Attributes: provenance, the choice of `tokens`, their number `n_tokens`, and `n_not_finite`, the number of
        these that were skipped because their z isn't finite.

    Raises
    ------
    StoreError
        If delta isn't kept as a factor (as with DoRA, or in a run of stream `pair`), the adapter doesn't change the
        component, no token is committed and has states, or a chunk is broken.
    ValueError, IndexError
        If `tokens` isn't allowed, or `n_top` or `n_workers` isn't a whole number of at least 1.

    Notes
    -----
    With delta = s Z B^T, s B = Q R and Z^T Z summed over rows in float64, the eigenvectors W of R Z^T Z R^T give
    rotation = W^T R and vector = W^T Q^T. A bias of lora_B isn't included: it moves all tokens by the same vector.
    """
    require_whole("n_top", n_top)
    if n_workers is not None:
        require_whole("n_workers", n_workers)
    run = open_as_written(run)
    source = run.source(component, adapter)
    if source.delta.lora_B is None:
        why = "stream 'pair'" if run.stream == "pair" else "its delta is stored itself"
        raise StoreError(f"component {component!r} has no directions in this run ({why}); only a factor gives them")
    if not (run.committed & run.with_states).any():
        raise StoreError(f"no row with states of {run.place.name!r} is committed yet; capture more of it")
    used = chosen_token_weights(run, tokens) > 0
    (decomposed,) = directions_of([source], used, n_top=n_top, n_workers=n_workers, progress=progress)
    values = decomposed._asdict() | {"vector": (decomposed.axes @ delta_basis(source)[0].T).astype(np.float32)}
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
        variables[f"n_{percent}"] = ((), n_leading(decomposed.share, percent / 100), {"long_name": text, "units": "1"})
    counts = {"tokens": describe_choice(tokens), "n_tokens": int(used.sum()), "n_not_finite": decomposed.n_not_finite}
    return xr.Dataset(variables, attrs={"component": component, **run_attributes(run, adapter), **counts})


def contexts(run: RunLike, tokens: Any, *, width: int = 8) -> xr.Dataset:
    """Return the text of tokens, and of `width` tokens before and after them in the same sample, as a dataset.

    Parameters
    ----------
    tokens
        Numbers of tokens, an array of any shape, such as `top_token` of `directions`; -1 means no token.
    width
        Number of tokens before and after.

    Returns
    -------
    xarray.Dataset
        `before`, `text` and `after`, with the dimensions of `tokens`: text with an ellipsis for tokens that
        weren't captured; empty for -1. If the run keeps no text of tokens, their ids.

    Raises
    ------
    IndexError
        If the run has no such token.
    StoreError
        If a chunk is missing or broken.
    """
    run, tokens = open_as_written(run), xr.DataArray(tokens)
    flat = tokens.values.ravel()
    if len(outside := flat[(flat < -1) | (flat >= run.n_tokens)]):
        raise IndexError(
            f"`tokens` holds {int(outside[0])}; this run's tokens are 0 to {run.n_tokens - 1}, and -1 means no token"
        )
    start, stop = (np.append(run.read_static(f"samples/token_{end}"), -1) for end in ("start", "stop"))
    sample = np.where(flat < 0, -1, np.searchsorted(stop[:-1], flat, side="right"))
    places = flat[:, None] + np.arange(-width, width + 1)
    inside = (places >= start[sample, None]) & (places < stop[sample, None])
    pieces = np.full(
        (len(flat), 2, places.shape[1]), "", object
    )  # each token's text, and an ellipsis or nothing after it
    pieces[:, 0][inside] = _read_column(run, "text" if "tokens/text" in run.arrays else "token_id", places[inside])
    position = np.where(inside, 0, -1)
    position[inside] = _read_column(run, "position", places[inside])
    pieces[:, 1, :-1][inside[:, :-1] & inside[:, 1:] & (np.diff(position) > 1)] = "…"
    words = pieces.transpose(0, 2, 1).reshape(len(flat), 2 * places.shape[1])
    parts = {"before": slice(2 * width), "text": slice(2 * width, 2 * width + 1), "after": slice(2 * width + 1, None)}
    texts = {name: np.array(["".join(row) for row in words[:, part]], object) for name, part in parts.items()}
    return xr.Dataset({name: tokens.copy(data=values.reshape(tokens.shape)) for name, values in texts.items()})


def _read_column(run: Run, name: str, places: np.ndarray) -> np.ndarray:
    """Return a token table's column at `places`, an object array, reading only their chunks; ids as text."""
    array = run.arrays[f"tokens/{name}"]
    chunks, offsets = np.divmod(places, array.chunks[0])
    values = np.empty(len(places), object)
    for chunk in np.unique(chunks).tolist():
        here = chunks == chunk
        values[here] = read_chunk_columns(run.place, array, chunk)[0][offsets[here]]
    return np.array([f"{token} " for token in values], object) if name == "token_id" else values
