"""Text around tokens of a run."""

from typing import Any

import numpy as np
import xarray as xr

from lorascope.stores import Run
from lorascope.stores.reading.chunks import read_chosen
from lorascope.stores.reading.read import RunLike, as_run


def contexts(run: RunLike, tokens: Any, *, width: int = 8) -> xr.Dataset:
    """Text of tokens and of `width` tokens before and after them in the same sample.

    Parameters
    ----------
    tokens
        Numbers of tokens, an array of any shape, such as `top_token` of `directions`; -1 is none.

    Returns
    -------
    xarray.Dataset
        `before`, `text` and `after`, with the dimensions of `tokens`: text that runs on from one to the next, with an
        ellipsis for tokens that weren't captured; empty where there is no token. A run that keeps no text of tokens
        gives their ids. IndexError if it has no such token, StoreError if a chunk is missing or broken.
    """
    run, tokens = as_run(run), xr.DataArray(tokens)
    flat = tokens.values.ravel()
    if len(outside := flat[(flat < -1) | (flat >= run.n_tokens)]):
        raise IndexError(
            f"`tokens` holds {int(outside[0])}; this run's tokens are 0 to {run.n_tokens - 1}, and -1 means no token"
        )
    start, stop = (np.append(run.read_once(f"samples/token_{end}"), -1) for end in ("start", "stop"))
    sample = np.where(flat < 0, -1, np.searchsorted(stop[:-1], flat, side="right"))
    places = flat[:, None] + np.arange(-width, width + 1)
    inside = (places >= start[sample, None]) & (places < stop[sample, None])
    pieces = np.full((len(flat), 2, places.shape[1]), "", object)  # each word, and what follows it
    pieces[:, 0][inside] = _column(run, "text" if "tokens/text" in run.arrays else "token_id", places[inside])
    position = np.where(inside, 0, -1)
    position[inside] = _column(run, "position", places[inside])
    pieces[:, 1, :-1][inside[:, :-1] & inside[:, 1:] & (np.diff(position) > 1)] = "…"
    words = pieces.transpose(0, 2, 1).reshape(len(flat), 2 * places.shape[1])
    parts = {"before": slice(2 * width), "text": slice(2 * width, 2 * width + 1), "after": slice(2 * width + 1, None)}
    texts = {name: np.array(["".join(row) for row in words[:, part]], object) for name, part in parts.items()}
    return xr.Dataset({name: tokens.copy(data=values.reshape(tokens.shape)) for name, values in texts.items()})


def _column(run: Run, name: str, places: np.ndarray) -> np.ndarray:
    """Values of a column of tokens at some places, read from the chunks that hold them; ids as text."""
    array = run.arrays[f"tokens/{name}"]
    chunks, offsets = np.divmod(places, array.chunks[0])
    values = np.empty(len(places), object)
    for chunk in np.unique(chunks).tolist():
        here = chunks == chunk
        values[here] = read_chosen(run.place, array, chunk)[0][offsets[here]]
    return np.array([f"{token} " for token in values], object) if name == "token_id" else values
