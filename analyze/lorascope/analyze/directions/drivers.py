"""The number of directions that each component uses, and the token that drives its first one."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lorascope.stores import Run
from lorascope.stores.progress import Progress
from lorascope.stores.reading.source import Source
from lorascope.stores.reading.token_choice import TokenChoice, chosen_tokens, describe_choice

from .decomposition import NEGLIGIBLE, Directions, directions_of, n_holding
from .top_tokens import strongest

N_TOP = 10
"""Strongest tokens of a direction among which the most over-represented one is looked for."""
N_STRONGEST = 100
"""Strongest tokens that are read to find `N_TOP` that differ in id or position."""
N_DRAWS = 19
"""Random mixtures of a component's directions that its first is compared with: as few as can give a p of 0.05."""


def directions_by_component(
    run: Run,
    sources: Sequence[Source],
    tokens: TokenChoice = "all",
    *,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Count the directions that components use over some tokens (`chosen_tokens`), and find what drives the first ones.

    Returns
    -------
    xarray.Dataset
        By `component`, with coordinates `kind` and `layer`: `rank`; `n_90` and `n_99`, directions that hold that share
        of the summed |delta|², and `n_99_half` (component, half), those of every other row (1,024 tokens), NaN where
        there is but one; `first_share`, that of the first direction; `token` (component, top), the tokens with its
        largest |score|, -1 where there are fewer. `driver`, the id of the token that is most over-represented among
        these, `driver_count` and `driver_share`, how often it occurs among them and its share of all, and
        `driver_p`: the share of random directions, itself among them, whose strongest tokens are as much of one id.
        A random one is a mixture of all of the component's directions, each scaled to the same share. So p says
        whether the first is more about one token than any of them; most directions have such a token.

        Of tokens that have both id and position in common one counts, here and among all: a beginning that samples
        share gives each of them the same delta.
    """
    used = chosen_tokens(run, tokens) > 0
    directions = directions_of(sources, used, n_top=N_STRONGEST, n_workers=n_workers, progress=progress)
    mixtures = _strongest_of_mixtures(sources, directions, used, n_workers, progress)
    token_ids = run.tokens["token_id"].values.astype(np.int64)
    places = token_ids << 32 | run.tokens["position"].values.astype(np.int64)
    ids, counts = np.unique(np.unique(places[used]) >> 32, return_counts=True)

    def driver_of(top: np.ndarray) -> tuple[int, int, float, float]:
        return _driver(token_ids[top[top >= 0]], ids, counts)

    tops = [_without_repeats(each.top_token[0], places) for each in directions]
    drivers = [driver_of(top) for top in tops]
    chances = [[driver_of(_without_repeats(draw, places))[3] for draw in draws] for draws in mixtures]
    values = {
        "rank": [each.rotation.shape[1] for each in directions],
        "n_90": [n_holding(each.share, 0.9) for each in directions],
        "n_99": [n_holding(each.share, 0.99) for each in directions],
        "first_share": [each.share[0] for each in directions],
        "driver": [driver[0] for driver in drivers],
        "driver_count": [driver[1] for driver in drivers],
        "driver_share": [driver[2] for driver in drivers],
        "driver_p": [
            (1 + sum(chance <= driver[3] for chance in random)) / (1 + N_DRAWS) if driver[1] else np.nan
            for driver, random in zip(drivers, chances, strict=True)
        ],
    }
    halves = [
        [n_holding(share, 0.99) if np.isfinite(share).all() else np.nan for share in each.half_share]
        for each in directions
    ]
    rows = [run.component_paths.index(source.component) for source in sources]
    return xr.Dataset(
        {name: ("component", np.array(column)) for name, column in values.items()}
        | {"n_99_half": (("component", "half"), halves), "token": (("component", "top"), np.stack(tops))},
        coords={
            "component": [source.component for source in sources],
            **{name: ("component", run.components[name].values[rows]) for name in ("kind", "layer")},
        },
        attrs={"tokens": describe_choice(tokens), "n_tokens": int(used.sum())},
    )


def _without_repeats(tokens: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The first `N_TOP` of these tokens (-1 is none) that differ in `places` (token,), padded with -1."""
    tokens = tokens[tokens >= 0]
    first = np.sort(np.unique(places[tokens], return_index=True)[1])[:N_TOP]
    return np.pad(tokens[first], (0, N_TOP - len(first)), constant_values=-1)


def _strongest_of_mixtures(
    sources: Sequence[Source],
    directions: Sequence[Directions],
    used: np.ndarray,
    n_workers: int | None,
    progress: Progress | None,
) -> list[np.ndarray]:
    """Strongest tokens (draw, top) of random mixtures of each component's directions, all scaled to equal shares."""
    rng, mixtures = np.random.default_rng(0), list[np.ndarray]()
    for each in directions:
        scale = np.divide(1, np.sqrt(each.share), out=np.zeros_like(each.share), where=each.share > NEGLIGIBLE)
        mixtures.append((rng.standard_normal((N_DRAWS, len(scale))) * scale @ each.rotation).astype(np.float32))
    return [top.token for top in strongest(sources, mixtures, used, N_STRONGEST, n_workers, progress)]


def _driver(top_ids: np.ndarray, ids: np.ndarray, counts: np.ndarray) -> tuple[int, int, float, float]:
    """`driver`, `driver_count` and `driver_share` of the strongest tokens' ids, and the chance of so many of that id.

    `counts` says how often each of `ids` occurs. The chance is that of tokens drawn at random. It ranks; it is no p,
    since neighbours in meaning cluster along any direction.
    """
    from scipy.stats import hypergeom  # type: ignore[import-untyped]

    if not len(top_ids):
        return -1, 0, np.nan, np.nan
    different, n_top = np.unique(top_ids, return_counts=True)
    n_all, n_tokens = counts[np.searchsorted(ids, different)], int(counts.sum())
    chances = hypergeom.sf(n_top - 1, n_tokens, n_all, len(top_ids))
    best = int(np.argmin(chances))
    return int(different[best]), int(n_top[best]), float(n_all[best] / n_tokens), float(chances[best])
