"""What an adapter learned, as far as a run can tell: where it acts, what matters, directions, words and ranks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from lorascope.analyze.ablation.compare_measures import compare_measures
from lorascope.analyze.directions.directions import (
    NEGLIGIBLE,
    Directions,
    directions_of,
    n_holding,
    strongest,
)
from lorascope.analyze.measuring.sources import sources_of
from lorascope.analyze.miub.qualify import qualify
from lorascope.analyze.miub.reduce import reduce_tokens, usable_samples
from lorascope.analyze.results.weights import standard_error, token_weights
from lorascope.analyze.words.lens import lens
from lorascope.stores import Run, StoreError
from lorascope.stores.progress import Progress
from lorascope.stores.reading.chosen_tokens import chosen_tokens
from lorascope.stores.reading.read import RunLike, as_run
from lorascope.stores.reading.source import Source
from lorascope.stores.reading.token_choice import TokenChoice, describe_choice

N_TOP = 10
"""Strongest tokens of a direction that are counted, at most."""
N_KEPT = 100
"""Strongest tokens of a direction among which these are looked for."""
N_DRAWS = 19
"""Random mixtures of a component's directions, beside which its first is held: as few as can give a p of 0.05."""


class Explanation(NamedTuple):
    """Numbers behind the page of `lorascope explain`; None where the run can't give them, for the reason in `why`."""

    qualified: xr.DataTree
    """What `qualify` returns."""
    ablation: xr.Dataset | None
    """What `ablation_by_part` returns."""
    measures: xr.Dataset | None
    """What `compare_measures` returns."""
    directions: xr.Dataset | None
    """What `directions_by_component` returns, of tokens after position 0, where there are some."""
    lens: xr.Dataset | None
    """What `lens` returns, of the same tokens."""
    why: dict[str, str]
    """Field -> why it is None, as the end of a sentence."""


def explain(
    run: RunLike,
    *,
    adapter: str | None = None,
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
    n_workers
        Threads; by default one a processor.
    progress
        Called with (parts done, parts in all) of each step anew.

    Raises
    ------
    StoreError
        If no sample is wholly committed, the adapter touches no component, or a chunk is broken.
    """
    run, why = as_run(run), dict[str, str]()
    run.adapter(adapter)  # raises where there is none of this name
    ablation = measures = by_component = words = None
    # A model's attention sink is at position 0: of some components its delta is far larger than all others.
    there = (run.committed & run.with_states).values
    position = run.read_once("tokens/position")[there]
    tokens = "from:1" if position.any() and not position.all() else "all"
    if not run.has_states:
        why["directions"] = why["lens"] = "the run keeps no states; capture it with `--states all`"
    elif not there.any():
        why["directions"] = why["lens"] = "none of the tokens with states is committed; capture more of the run"
    elif "unembedding/weight" not in run.arrays:
        why["lens"] = "the run holds no unembedding; capture it with `--unembedding`"
    else:
        try:
            words = lens(run, adapter=adapter, tokens=tokens, progress=progress)
        except StoreError as error:
            why["lens"] = str(error)
    qualified = qualify(run, adapter=adapter, n_workers=n_workers, progress=progress)
    if run.stream == "base":
        why["ablation"] = (
            "stream 'base' has no pass with the adapter; capture stream 'adapted' with `--ablate components`"
        )
    elif f"adapters/{adapter or run.adapters[0]}/ablation" not in run.arrays:
        why["ablation"] = "the run holds no ablation; capture it with `--ablate components`"
    elif (ablation := ablation_by_part(run, adapter)) is None:
        why["ablation"] = "no sample was ablated as a whole yet; capture more of the run"
    elif ablation.attrs["parts"] == "components":
        measures = compare_measures(run, adapter=adapter, n_workers=n_workers, progress=progress)
    if run.stream == "pair":
        why.setdefault("directions", "stream 'pair' keeps the whole change; capture stream 'adapted'")
    if "directions" not in why:
        if sources := [source for source in sources_of(run, adapter) if source.delta.lora_B is not None]:
            by_component = directions_by_component(run, sources, tokens, n_workers=n_workers, progress=progress)
        else:
            why["directions"] = "no component's delta is kept as a factor (as with DoRA), and only that has ranks"
    return Explanation(qualified, ablation, measures, by_component, words, why)


def ablation_by_part(run: Run, adapter: str | None = None) -> xr.Dataset | None:
    """What taking out each part's delta does to the next token; None if no sample was ablated as a whole yet.

    Returns
    -------
    xarray.Dataset
        By `part`: `kl`, KL(adapted || adapted without it) in nats, the mean over samples of means over their tokens;
        `behind`, how much less that is than the largest; and the standard errors of both, `kl_se` and `behind_se`.
        Samples count whose captured tokens were all ablated. Attributes `parts`, `n_samples`, `n_tokens`.

    Raises
    ------
    StoreError
        If the run has no ablation, or a chunk is broken.
    """
    ablation = run.ablation(adapter)
    labels = {"counted": ("token", run.committed.values), "weight": ("token", token_weights(run))}
    measured = xr.Dataset({"kl": ablation.rename(part="component")}).assign_coords(labels)
    by_sample = reduce_tokens(measured, "kl", run)
    used = usable_samples(measured, run, "mean") & np.isfinite(by_sample).all(axis=1)
    if not used.any():
        return None
    values = by_sample[used]
    behind = values[:, [values.mean(axis=0).argmax()]] - values
    lengths = (run.samples["token_stop"] - run.samples["token_start"]).values[used]
    found = {"kl": values.mean(axis=0), "kl_se": standard_error(values)}
    found |= {"behind": behind.mean(axis=0), "behind_se": standard_error(behind)}
    return xr.Dataset(
        {name: ("part", numbers) for name, numbers in found.items()},
        coords={"part": ablation["part"].values},
        attrs={"parts": ablation.attrs["parts"], "n_samples": int(used.sum()), "n_tokens": int(lengths.sum())},
    )


def directions_by_component(
    run: Run,
    sources: Sequence[Source],
    tokens: TokenChoice = "all",
    *,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """How many directions components use over some tokens (`chosen_tokens`), and what drives each one's first.

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
    found = directions_of(sources, used, n_top=N_KEPT, n_workers=n_workers, progress=progress)
    null = _null_tops(sources, found, used, n_workers, progress)
    of_token = run.tokens["token_id"].values.astype(np.int64)
    place = of_token << 32 | run.tokens["position"].values.astype(np.int64)
    ids, counts = np.unique(np.unique(place[used]) >> 32, return_counts=True)
    tops = [_different(one.top_token[0], place) for one in found]
    drivers = [_driver(of_token[top[top >= 0]], ids, counts) for top in tops]
    drawn = [
        [_driver(of_token[(top := _different(one, place))[top >= 0]], ids, counts)[3] for one in draws]
        for draws in null
    ]
    halves = [
        [n_holding(share, 0.99) if np.isfinite(share).all() else np.nan for share in one.half_share] for one in found
    ]
    places = [run.component_paths.index(source.component) for source in sources]
    by_component = {
        "rank": [one.rotation.shape[1] for one in found],
        "n_90": [n_holding(one.share, 0.9) for one in found],
        "n_99": [n_holding(one.share, 0.99) for one in found],
        "first_share": [one.share[0] for one in found],
        **{
            name: [one[index] for one in drivers]
            for index, name in enumerate(("driver", "driver_count", "driver_share"))
        },
        "driver_p": [
            (1 + sum(chance <= own[3] for chance in chances)) / (1 + N_DRAWS) if own[1] else np.nan
            for own, chances in zip(drivers, drawn, strict=True)
        ],
    }
    return xr.Dataset(
        {name: ("component", np.array(values)) for name, values in by_component.items()}
        | {"n_99_half": (("component", "half"), halves), "token": (("component", "top"), np.stack(tops))},
        coords={
            "component": [source.component for source in sources],
            **{name: ("component", run.components[name].values[places]) for name in ("kind", "layer")},
        },
        attrs={"tokens": describe_choice(tokens), "n_tokens": int(used.sum())},
    )


def _different(tokens: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The first `N_TOP` of these tokens, -1 for none, without those at whose place (token,) an earlier one stands."""
    tokens = tokens[tokens >= 0]
    first = np.sort(np.unique(place[tokens], return_index=True)[1])[:N_TOP]
    return np.pad(tokens[first], (0, N_TOP - len(first)), constant_values=-1)


def _null_tops(
    sources: Sequence[Source],
    found: Sequence[Directions],
    used: np.ndarray,
    n_workers: int | None,
    progress: Progress | None,
) -> list[np.ndarray]:
    """Strongest tokens (draw, top) of random mixtures of each component's directions, all scaled to equal shares."""
    rng, mixtures = np.random.default_rng(0), list[np.ndarray]()
    for one in found:
        scale = np.divide(1, np.sqrt(one.share), out=np.zeros_like(one.share), where=one.share > NEGLIGIBLE)
        mixtures.append((rng.standard_normal((N_DRAWS, len(scale))) * scale @ one.rotation).astype(np.float32))
    return [top.token for top in strongest(sources, mixtures, used, N_KEPT, n_workers, progress)]


def _driver(top: np.ndarray, ids: np.ndarray, counts: np.ndarray) -> tuple[int, int, float, float]:
    """`driver`, `driver_count`, `driver_share` of ids of top tokens, given how often each id occurs; and its chance.

    The chance is that of so many or more if tokens were drawn at random. It ranks; it is no p, since neighbours in
    meaning cluster along any direction.
    """
    from scipy.stats import hypergeom  # type: ignore[import-untyped]

    if not len(top):
        return -1, 0, np.nan, np.nan
    found, n_found = np.unique(top, return_counts=True)
    of_all, n_tokens = counts[np.searchsorted(ids, found)], int(counts.sum())
    chances = hypergeom.sf(n_found - 1, n_tokens, of_all, len(top))
    best = int(np.argmin(chances))
    return int(found[best]), int(n_found[best]), float(of_all[best] / n_tokens), float(chances[best])
