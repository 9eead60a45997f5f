"""Number of directions that each component uses, and the tokens at which its first one is strongest."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lorascope.stores import Run
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.progress import Progress
from lorascope.stores.reading.source import Source
from lorascope.stores.reading.token_choice import TokenChoice, chosen_token_weights, describe_choice

from .decomposition import NEGLIGIBLE, Directions, directions_of, n_leading, strongest_tokens

N_TOP = 10
"""Number of strongest tokens of a direction, among which the most over-represented one is searched."""
N_STRONGEST = 100
"""Number of strongest tokens that are read to find `N_TOP` with different ids or positions."""
N_DRAWS = 19
"""Number of random mixtures that a component's first direction is compared with: the fewest that allow p = 0.05."""

MOST_ROWS = 32
"""Most rows (of 1,024 tokens) that are read; of longer runs, which would take minutes, rows evenly spaced."""


def directions_by_component(
    run: Run,
    sources: Sequence[Source],
    tokens: TokenChoice = "all",
    *,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Return a dataset by component: how many directions its delta uses, and which token drives the first one.

    Returns
    -------
    xarray.Dataset
        By `component`, with coordinates `kind` and `layer`:

        - `rank`; `n_90` and `n_99`, number of directions that have 90 and 99 % of the summed |delta|²; `n_99_half`
          (component, half), the same in two halves of the data (every other row of 1,024 tokens), NaN if there is one
          row; `first_share`, the share of the first direction.
        - `token` (component, top): tokens with the largest |score| along the first direction, -1 if there are fewer.
        - `driver_count`, how often the most over-represented token (id) occurs among these; `driver_p`, the share of
          random directions (with this one) whose strongest tokens are as concentrated on one id. A random direction is
          a mixture of all of the component's directions, each scaled to the same share. p says whether the first
          direction is more about one token than they are; most directions have some driver.

        Tokens with the same id and position count once: samples that begin alike have the same deltas there.
        Of more than `MOST_ROWS` rows that have chosen tokens, this number is used, evenly spaced (attribute `rows`).
    """
    used = chosen_token_weights(run, tokens) > 0
    row, attributes = np.arange(len(used)) // ROW_TOKENS, {}
    if len(rows := np.unique(row[used])) > MOST_ROWS:
        used &= np.isin(row, rows[np.linspace(0, len(rows) - 1, MOST_ROWS).round().astype(int)])
        attributes["rows"] = f"{MOST_ROWS} evenly spaced rows of {len(rows)}"
    decomposed = directions_of(sources, used, n_top=N_STRONGEST, n_workers=n_workers, progress=progress)
    mixtures = _strongest_of_mixtures(sources, decomposed, used, n_workers, progress)
    token_ids = run.tokens["token_id"].values.astype(np.int64)
    places = token_ids << 32 | run.tokens["position"].values.astype(np.int64)
    ids, counts = np.unique(np.unique(places[used]) >> 32, return_counts=True)
    tops = [
        [_without_repeats(top, places) for top in (each.top_token[0], *draws)]  # of the first direction and random ones
        for each, draws in zip(decomposed, mixtures, strict=True)
    ]
    driver_counts, chances = _drivers([token_ids[top] for own in tops for top in own], ids, counts)
    driver_counts, chances = (values.reshape(len(tops), 1 + N_DRAWS) for values in (driver_counts, chances))
    values = {
        "rank": [each.rotation.shape[1] for each in decomposed],
        "n_90": [n_leading(each.share, 0.9) for each in decomposed],
        "n_99": [n_leading(each.share, 0.99) for each in decomposed],
        "first_share": [each.share[0] for each in decomposed],
        "driver_count": driver_counts[:, 0].astype(int),
        "driver_p": np.where(driver_counts[:, 0] > 0, (chances <= chances[:, :1]).mean(axis=1), np.nan),
    }
    halves = [
        [n_leading(share, 0.99) if np.isfinite(share).all() else np.nan for share in each.half_share]
        for each in decomposed
    ]
    first = [np.pad(own[0], (0, N_TOP - len(own[0])), constant_values=-1) for own in tops]
    component_places = [run.component_paths.index(source.component) for source in sources]
    return xr.Dataset(
        {name: ("component", np.array(column)) for name, column in values.items()}
        | {"n_99_half": (("component", "half"), halves), "token": (("component", "top"), np.stack(first))},
        coords={
            "component": [source.component for source in sources],
            **{name: ("component", run.components[name].values[component_places]) for name in ("kind", "layer")},
        },
        attrs={"tokens": describe_choice(tokens), "n_tokens": int(used.sum()), **attributes},
    )


def _without_repeats(tokens: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the first `N_TOP` tokens that differ in `places` (id and position); -1 is no token."""
    tokens = tokens[tokens >= 0]
    return tokens[np.sort(np.unique(places[tokens], return_index=True)[1])[:N_TOP]]


def _strongest_of_mixtures(
    sources: Sequence[Source],
    directions: Sequence[Directions],
    used: np.ndarray,
    n_workers: int | None,
    progress: Progress | None,
) -> list[np.ndarray]:
    """Return, by component, the strongest tokens (draw, top) of random mixtures of its directions, as a null.

    Directions are scaled to equal shares before they are mixed.
    """
    rng, mixtures = np.random.default_rng(0), list[np.ndarray]()
    for each in directions:
        scale = np.divide(1, np.sqrt(each.share), out=np.zeros_like(each.share), where=each.share > NEGLIGIBLE)
        mixtures.append((rng.standard_normal((N_DRAWS, len(scale))) * scale @ each.rotation).astype(np.float32))
    return [top.token for top in strongest_tokens(sources, mixtures, used, N_STRONGEST, n_workers, progress)]


def _drivers(tops: Sequence[np.ndarray], ids: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how often the most over-represented id occurs in each of `tops`, arrays of ids, and its chance.

    `counts` is how often each of `ids` occurs among all tokens. The chance is that of at least this count if tokens
    were drawn at random. It only ranks ids and isn't a p-value, since tokens of similar meaning cluster along any
    direction. Without ids, count and chance are 0 and NaN.
    """
    from scipy.stats import hypergeom  # type: ignore[import-untyped]

    different, n_top = map(list, zip(*(np.unique(top, return_counts=True) for top in tops), strict=True))
    stops = np.cumsum([len(own) for own in different])
    n_drawn = np.repeat([len(top) for top in tops], np.diff(stops, prepend=0))
    n_id = counts[np.searchsorted(ids, np.concatenate(different))]
    chances = np.split(hypergeom.sf(np.concatenate(n_top) - 1, counts.sum(), n_id, n_drawn), stops[:-1])
    best = [(own[at := np.argmin(p)], p[at]) if len(p) else (0, np.nan) for own, p in zip(n_top, chances, strict=True)]
    return np.array([n for n, _ in best]), np.array([p for _, p in best])
