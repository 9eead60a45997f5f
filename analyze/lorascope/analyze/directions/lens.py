"""Words of an adapter: tokens that its mean deltas promote and suppress, compared with random deltas."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float32, Float64
from safetensors.numpy import save_file

from lorascope.analyze.results.largest import largest_places
from lorascope.analyze.results.options import refuse_target, require_whole
from lorascope.analyze.results.tree import run_attributes
from lorascope.stores import Run, StoreError
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.names import suggestion_or_first_name
from lorascope.stores.places.files import atomic_write
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike
from lorascope.stores.reading.source import DeltaSource
from lorascope.stores.reading.token_choice import TokenChoice, chosen_token_weights, describe_choice
from lorascope.stores.reading.walk import RowBlock, map_rows

WRITERS = frozenset(
    {"o_proj", "out_proj", "c_proj", "dense", "wo", "down_proj", "dense_4h_to_h", "fc2", "fc_out", "w2"}
)
"""Kinds of components whose output is added to the residual stream."""
LAYERS = {
    **dict.fromkeys(
        [f"{name}ForCausalLM" for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Phi3")],
        ("self_attn.o_proj", "mlp.down_proj"),
    ),
    "GPT2LMHeadModel": ("attn.c_proj", "mlp.c_proj"),
    "GPTNeoXForCausalLM": ("attention.dense", "mlp.dense_4h_to_h"),
}
"""Model class whose layers add two components' outputs to the residual stream unchanged -> ends of their paths."""
BLOCK = 2048
"""Number of token ids whose unembedding is in memory at once: 64 MiB in float64 at a width of 4096."""
LEVEL = 0.05
"""Family-wise p up to which a token counts in `n_promoted` and `n_suppressed`."""
MIN_DRAWS = 19
"""Fewest draws with which a p can be as small as `LEVEL`."""


class Site(NamedTuple):
    """Place of a mean delta: a component, or the residual stream after a layer."""

    name: str
    kind: str
    layer: int
    delta: np.ndarray
    """Mean delta, float64 (feature,)."""
    n_tokens: int
    """Number of tokens behind the mean."""


def lens(
    run: RunLike,
    *,
    component: str | None = None,
    adapter: str | None = None,
    tokens: TokenChoice = "all",
    n_top: int = 10,
    n_draws: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Return tokens that a component's mean delta promotes and suppresses, seen through the model's unembedding.

    Parameters
    ----------
    run
        An open run, or its path or url.
    component
        Path of a component that writes into the residual stream; by default all such components.
    adapter
        Name of the adapter; not needed if there is only one.
    tokens
        Captured tokens whose mean is taken, weighted by `tokens/weight`; chosen as for `directions`. The first few
        tokens of text unrelated to the training show a learned habit best (arXiv 2510.13900).
    n_top
        Number of promoted tokens, and of suppressed ones, that are returned.
    n_draws
        Number of random draws behind p-values; at least 19.
    seed
        Seed of the random draws.
    progress
        Called with (parts done, parts in all) while deltas are read, then while scores are computed.

    Returns
    -------
    xarray.Dataset
        By `site`: components of a kind in `WRITERS` that are as wide as the stream, in the run's order. In a run of
        stream `pair`, where delta is adapted - base, also `after layer L`: the sum over all components that wrote up to
        that layer, which is the change of the residual stream itself, except for the model's rounding. This needs a
        model class in `LAYERS`, both components of each layer up to L, and the input embedding if the adapter changes
        it; attribute `no_sums` says why these sites are missing.

        `promoted_id`, `promoted` (the text), `promoted_score`, `promoted_z`, `promoted_p` (site, top), and the same
        for `suppressed`; `n_promoted`, `n_suppressed`: number of token ids with p up to 0.05; `delta` (site, feature),
        the mean; `delta_norm`, its length; `n_tokens`, the number of tokens behind it. Tokens whose delta isn't finite,
        isn't committed or isn't kept are skipped, and components without other tokens.

    Raises
    ------
    StoreError
        If the run was captured without `--unembedding` or has no states; if it has no such component or token, or no
        component that writes into the stream; if the unembedding lacks a token of the run; or if a chunk is broken.
    ValueError
        If a setting isn't allowed.

    Notes
    -----
    A token's score is w . (norm * delta), minus the mean over all tokens, because an equal change of all logits changes
    no probability; delta's mean over features is subtracted first if the norm is centred. The score isn't a logit: the
    norm divides by the size of the residual stream, which the run doesn't store, so scores are logits times that size.
    They keep the order of tokens, even if the model caps its logits; effects of later layers aren't included.

    The null is the same delta with random signs of its features. z is the score divided by its standard deviation over
    such deltas, the root of sum_f (w norm)_f^2 delta_f^2. Tokens are ranked by z, because raw scores favour tokens with
    a long unembedding whatever delta is. p is family-wise at one site: the share of draws, with the data as one of
    them, whose largest |z| over the whole vocabulary is at least the token's |z|.

    Permuted features would be another null, but it moves a large feature of delta to features where the unembedding is
    large: with SmolLM2's unembedding and 30 random deltas with one huge feature where the unembedding varies most, all
    30 were significant under that null, and 1 under this one. Both nulls ignore what words have in common: ten of one
    topic say more than the p of each. For comparison with an adapter that learned no habit, train one on shuffled
    labels.
    """
    require_whole("n_top", n_top)
    require_whole("n_draws", n_draws, MIN_DRAWS)
    run = open_as_written(run)
    unembedding = run.unembedding()
    n_vocabulary, width = unembedding["weight"].shape
    if (largest := int(run.read_static("tokens/token_id").max(initial=-1))) >= n_vocabulary:
        raise StoreError(f"the unembedding knows {n_vocabulary} tokens, but the run has token {largest}")
    paths, why = _paths_to_read(run, component, adapter, width)
    chosen = chosen_token_weights(run, tokens, seed=seed)
    weight = np.where(chosen > 0, chosen * run.tokens["weight"].values, 0.0)
    sites = _mean_deltas(run, paths, adapter, weight, progress)
    if len(sites) < len(paths):
        why = "the delta of a component is finite at none of the tokens"
    sums = [] if why else _stream_sites(sites, LAYERS[_model_class(run)])
    sites = [site for site in sites if site.kind in WRITERS] + sums
    deltas = np.stack([site.delta for site in sites])
    scores = _score_vocabulary(unembedding, deltas, n_draws, seed, progress)
    values: dict[str, Any] = {
        **_strongest_words(unembedding["text"].values, scores, min(n_top, n_vocabulary)),
        "delta": (("site", "feature"), deltas.astype(np.float32), "mean delta over tokens"),
        "delta_norm": ("site", np.linalg.norm(deltas, axis=1), "Euclidean norm of the mean delta"),
        "n_tokens": ("site", [site.n_tokens for site in sites], "tokens that the mean is over"),
    }
    return xr.Dataset(
        {name: (dims, numbers, {"long_name": text, "units": "1"}) for name, (dims, numbers, text) in values.items()},
        {
            "site": np.array([site.name for site in sites], object),
            "kind": ("site", np.array([site.kind for site in sites], object)),
            "layer": ("site", [site.layer for site in sites]),
        },
        {
            **run_attributes(run, adapter),
            "tokens": describe_choice(tokens),
            "n_draws": n_draws,
            "seed": seed,
            "no_sums": why if sums or why else "not both components of the first layer were captured",
        },
    )


def save_steering(result: xr.Dataset, path: str | Path) -> Path:
    """Write the mean deltas that `lens` returns as steering vectors to a safetensors file; return its path.

    A vector, float32 (feature,), moves the residual stream as the adapter does on average if it is added where the site
    writes. The file's metadata contain the result's attributes.

    Raises
    ------
    ValueError
        If the name doesn't end in `.safetensors`.
    FileExistsError
        If the file exists.
    """
    target = refuse_target(Path(path), {".safetensors": "safetensors"})
    vectors = {str(name): np.ascontiguousarray(result["delta"].sel(site=name).values) for name in result["site"].values}
    with atomic_write(target) as partial:
        save_file(vectors, partial, {str(name): str(value) for name, value in result.attrs.items()})
    return target


def _paths_to_read(run: Run, component: str | None, adapter: str | None, width: int) -> tuple[list[str], str]:
    """Return paths of components to read, and why their sum isn't the residual stream's change (empty if it is)."""
    table, ranks = run.components, run.adapter(adapter)["rank"].values
    wide = table.isel(component=(ranks > 0) & (table["d_out"].values == width))
    is_writer = np.isin(wide["kind"].values, list(WRITERS))
    writers = wide["path"].values[is_writer].tolist()
    if component is not None and component in run and component not in writers:
        hint = suggestion_or_first_name(component, writers)
        raise StoreError(f"component {component!r} doesn't write into the residual stream{hint}")
    if not writers:
        kinds = ", ".join(sorted(WRITERS))
        raise StoreError(f"no component of {run.place.name!r} is {width} wide and of one of the kinds {kinds}")
    if component is not None:
        run.delta_arrays(component, adapter)  # raises if there is no such component
        return [component], "one component was asked for"
    if run.stream != "pair":
        return writers, f"stream {run.stream!r} has no pass without the adapter to compare with"
    name = _model_class(run)
    if name not in LAYERS:
        return writers, f"how the layers of a {name or 'model'} add up isn't known"
    return wide["path"].values[is_writer | (wide["layer"].values < 0)].tolist(), ""


def _model_class(run: Run) -> str:
    """Return the class name of the run's model, such as `LlamaForCausalLM`; empty if unknown."""
    return str(run.attributes.get("provenance", {}).get("model", {}).get("class", ""))


def _mean_deltas(
    run: Run,
    paths: Sequence[str],
    adapter: str | None,
    weight: Float64[np.ndarray, " token"],
    progress: Progress | None,
) -> list[Site]:
    """Return one `Site` per component with its weighted mean delta over tokens at which it is finite.

    Factors are read where they are stored, and deltas otherwise.
    """
    sources = {path: run.source(path, adapter) for path in paths}
    sums: dict[str, np.ndarray] = {}
    for kind in ("factor", "delta"):
        some = [source for source in sources.values() if (source.delta.lora_B is None) == (kind == "delta")]
        row_sums = partial(_row_sums, kind=kind, weight=weight)
        for row in map_rows(row_sums, some, [kind], tokens=weight > 0, progress=progress):
            sums |= {path: sums.get(path, 0) + row_sum for path, row_sum in row.items()}
    facts = run.components.set_index(component="path").sel(component=list(paths))
    named = zip(paths, facts["kind"].values.tolist(), facts["layer"].values.tolist(), strict=True)
    sites = [
        Site(path, kind, layer, _mean_delta(sums[path], sources[path].delta), int(sums[path][-1]))
        for path, kind, layer in named
        if path in sums and sums[path][-1]
    ]
    if not any(site.kind in WRITERS for site in sites):
        raise StoreError(f"delta of {paths[0]!r} or any other is finite at none of the tokens; look at the run")
    return sites


def _row_sums(block: RowBlock, *, kind: str, weight: Float64[np.ndarray, " token"]) -> dict[str, np.ndarray]:
    """Return component -> weighted sums of columns over a row's finite tokens, sum of weights, number of tokens."""
    sums = {}
    for path, values in getattr(block, kind).items():
        is_finite = np.isfinite(values).all(axis=1)
        own = weight[block.tokens[is_finite]]
        sums[path] = np.concatenate([own @ values[is_finite].astype(np.float64), [own.sum(), len(own)]])
    return sums


def _mean_delta(sums: Float64[np.ndarray, " column"], delta: DeltaSource) -> Float64[np.ndarray, " feature"]:
    """Return a component's mean delta, float64 (feature,), from weighted sums; sums of factors go through lora_B."""
    mean: np.ndarray = sums[:-2] / sums[-2]
    if weights := delta.weights():
        mean = weights["lora_B"].astype(np.float64) @ mean
        mean = float(weights["scaling"]) * (mean if weights["bias"] is None else mean + weights["bias"])
    return mean


def _stream_sites(sites: Sequence[Site], parts: tuple[str, str]) -> list[Site]:
    """Return a `Site` per layer with the residual stream's mean change, until a layer lacks one of its two `parts`."""
    before = [site for site in sites if site.layer < 0]
    total = np.sum([site.delta for site in before], axis=0)
    sums: list[Site] = []
    for layer in range(1 + max(site.layer for site in sites)):
        own = [site for site in sites if site.layer == layer and site.name.endswith(parts)]
        if len(own) < len(parts):
            break
        total = total + own[0].delta + own[1].delta
        sums.append(Site(f"after layer {layer}", "", layer, total, min(site.n_tokens for site in sites)))
    return sums


class _Scores(NamedTuple):
    """Scores of all token ids for the mean delta of each site (a component, or the stream after a layer)."""

    raw: Float32[np.ndarray, "site vocabulary"]
    z: Float32[np.ndarray, "site vocabulary"]
    largest: Float64[np.ndarray, "site draw"]
    """Largest |z| over the vocabulary in each draw of signs, ascending."""

    def p(self, site: int, z: np.ndarray) -> np.ndarray:
        """Return p-values of z at a site: the share of draws, the data as one, whose largest |z| is at least z.

        It is 1 for negative z.
        """
        n = self.largest.shape[1]
        return np.asarray((1 + n - np.searchsorted(self.largest[site], z)) / (1 + n))


def _score_vocabulary(
    unembedding: xr.Dataset,
    deltas: Float64[np.ndarray, "site feature"],
    n_draws: int,
    seed: int,
    progress: Progress | None,
) -> _Scores:
    """Return scores of all token ids for each site's mean delta, and the largest |z| per draw of random signs."""
    (n, width), rng = unembedding["weight"].shape, np.random.default_rng(seed)
    signs = rng.choice(np.array([-1, 1], np.float32), (n_draws, width))
    longest = np.abs(deltas).max(axis=1, keepdims=True)
    units = np.divide(deltas, longest, out=np.zeros_like(deltas), where=longest > 0)  # so that squares don't overflow
    narrow = units.astype(np.float32)
    raw, z = np.empty((2, len(deltas), n), np.float32)
    largest = np.zeros((len(deltas), n_draws))
    mean = sum(block.sum(axis=0) for _, block in _weight_blocks(unembedding)) / n
    for part, block in _weight_blocks(unembedding):
        weight = block - mean
        raw[:, part] = deltas @ weight.T
        error = np.sqrt(np.square(units) @ np.square(weight).T)
        per_error = np.divide(1, error, out=np.zeros_like(error), where=error > 0)
        z[:, part] = units @ weight.T * per_error
        rows = weight.astype(np.float32)
        for site, unit in enumerate(narrow):
            drawn = np.abs(rows @ (signs * unit).T) * per_error[site, :, None].astype(np.float32)
            largest[site] = np.maximum(largest[site], drawn.max(axis=0))
        if progress is not None:
            progress(part.stop, n)
    return _Scores(raw, z, np.sort(largest))


def _weight_blocks(unembedding: xr.Dataset) -> Iterator[tuple[slice, Float64[np.ndarray, "vocabulary feature"]]]:
    """Yield slices of token ids and their unembedding times the weight of the final norm, centred if that is."""
    n, norm = unembedding.sizes["vocabulary"], unembedding["norm"].values.astype(np.float64)
    for start in range(0, n, BLOCK):
        part = slice(start, min(start + BLOCK, n))
        weight = unembedding["weight"][part].values * norm
        if not np.isfinite(weight).all():
            raise StoreError("the unembedding holds numbers that aren't finite; look at the model")
        # w . (norm * (x - mean(x))) is (w * norm - mean(w * norm)) . x
        yield part, weight - weight.mean(axis=1, keepdims=True) if unembedding.attrs["centred"] else weight


def _strongest_words(text: np.ndarray, scores: _Scores, n_top: int) -> dict[str, Any]:
    """Return name -> (dimensions, values, description) of promoted and suppressed tokens, and of their counts."""
    variables: dict[str, Any] = {}
    for name, sign in (("promoted", 1), ("suppressed", -1)):
        ids = np.stack([largest_places(sign * z, n_top) for z in scores.z])
        raw, z = (np.take_along_axis(values, ids, axis=1) for values in (scores.raw, scores.z))
        p = np.stack([scores.p(site, sign * top_z) for site, top_z in enumerate(z)])
        n = [int((scores.p(site, sign * all_z) <= LEVEL).sum()) for site, all_z in enumerate(scores.z)]
        axes = ("site", "top")
        variables |= {
            name: (axes, text[ids], f"text of the tokens that are {name} most"),
            f"{name}_id": (axes, ids, "their ids"),
            f"{name}_score": (
                axes,
                raw,
                "their logits less the mean of all, times the size that the final norm divides by",
            ),
            f"{name}_z": (axes, z, "score by its standard deviation over random signs of delta's features"),
            f"{name}_p": (axes, p, "p of z, family-wise over the vocabulary"),
            f"n_{name}": ("site", n, f"token ids that are {name} with p up to {LEVEL}"),
        }
    return variables
