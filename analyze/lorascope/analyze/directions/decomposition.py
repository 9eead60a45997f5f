"""Singular directions of components, from Gram matrices of their factors, and the strongest tokens along each."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from lorascope.analyze.results.largest import largest_places
from lorascope.stores.progress import Progress
from lorascope.stores.reading.source import Source
from lorascope.stores.reading.walk import RowBlock, map_rows

N_TOP = 10
"""Number of strongest tokens that are kept per direction."""
NEGLIGIBLE = 1e-13
"""Share of the strongest direction's |delta|² below which another direction is only rounding of the factor."""


class Directions(NamedTuple):
    """Singular directions of one component's delta by descending share, as many as its rank; the last may be zero."""

    rotation: Float32[np.ndarray, "direction rank"]
    """`rotation @ z` are a token's coordinates of delta along the directions; NaN if lora_B isn't finite."""
    share: Float64[np.ndarray, " direction"]
    """Share of the summed |delta|²."""
    axes: Float64[np.ndarray, "direction basis"]
    """Coordinates of the directions in the orthonormal basis of features that `delta_basis` returns."""
    top_token: Int64[np.ndarray, "direction top"]
    top_score: Float32[np.ndarray, "direction top"]
    n_not_finite: int
    half_share: Float64[np.ndarray, "half direction"]
    """Shares in two halves of the data (every other row), each along its own directions; NaN if there is one row."""


def directions_of(
    sources: Sequence[Source],
    used: Bool[np.ndarray, " token"] | None = None,
    *,
    n_top: int = N_TOP,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> list[Directions]:
    """Return the singular directions of each component's delta over the used tokens; reads the run's rows twice.

    All components must have a factor and belong to one adapter. `map_rows` bounds the memory; see `directions`.
    """

    def report_progress(walk: int, done: int, total: int, _: str = "") -> None:
        """Report the rows done so far in both passes over the rows; `walk` is the number of this pass, 0 or 1."""
        if progress is not None:
            progress(walk * total + done, 2 * total)

    ranks = {source.component: source.delta.rows.shape[1] for source in sources}
    halves = {name: np.zeros((2, rank, rank)) for name, rank in ranks.items()}
    n_rows, n_not_finite = Counter[str](), Counter[str]()

    def block_grams(block: RowBlock) -> dict[str, tuple[np.ndarray, int]]:
        """Return component -> Gram matrix of its factor in these rows, and number of tokens that aren't finite."""
        return {name: gram_matrix(z) for name, z in block.factor.items()}

    options: dict[str, Any] = {"tokens": used, "n_threads": n_workers, "progress": partial(report_progress, 0)}
    for row_grams in map_rows(block_grams, sources, ["factor"], **options):
        for name, (row_gram, n_broken) in row_grams.items():
            halves[name][n_rows[name] % 2] += row_gram
            n_rows[name] += 1
            n_not_finite[name] += n_broken
    rotated = []
    for source in sources:
        half, r = halves[source.component], delta_basis(source)[1]
        rotated.append([singular_directions(tokens_gram, r) for tokens_gram in (half.sum(axis=0), *half)])
    rotations = [whole[0] for whole, *_ in rotated]
    tops = strongest_tokens(sources, rotations, used, n_top, n_workers, partial(report_progress, 1))
    every = []
    for source, ((rotation, share, axes), *parts), top in zip(sources, rotated, tops, strict=True):
        shares = np.stack([part[1] for part in parts])
        half_share = shares if n_rows[source.component] > 1 else np.full_like(shares, np.nan)
        sign = np.where(top.score[:, :1] < 0, np.float32(-1), np.float32(1))  # makes the largest |score| positive
        n_broken = n_not_finite[source.component]
        every.append(Directions(rotation * sign, share, axes * sign, top.token, top.score * sign, n_broken, half_share))
    return every


def n_leading(share: Float64[np.ndarray, " direction"], least: float) -> int:
    """Return the number of leading directions that have the share `least` of |delta|² together; 0 if delta is zero."""
    return int(np.searchsorted(np.cumsum(share), least)) + 1 if share[0] > 0 else 0


def gram_matrix(z: Float32[np.ndarray, "token rank"]) -> tuple[Float64[np.ndarray, "rank rank"], int]:
    """Return z^T z over tokens whose z is finite, float64 (rank, rank), and the number of other tokens."""
    is_finite = np.isfinite(z)
    wide = (z if is_finite.all() else z[is_finite.all(axis=1)]).astype(np.float64)
    return wide.T @ wide, len(z) - len(wide)


def delta_basis(source: Source) -> tuple[Float64[np.ndarray, "feature basis"], Float64[np.ndarray, "basis rank"]]:
    """Return Q and R of scaling * lora_B = Q R; Q is an orthonormal basis of the space of a component's deltas."""
    weights = source.delta.weights()
    q, r = np.linalg.qr(float(weights["scaling"]) * weights["lora_B"].astype(np.float64))
    return q, r


def singular_directions(
    gram: Float64[np.ndarray, "rank rank"], r: Float64[np.ndarray, "basis rank"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rotation, share and axes of delta's directions, given `gram` = z^T z and scaling * lora_B = Q r."""
    if not np.isfinite(r).all():
        return np.full(r.shape, np.nan, np.float32), np.full(len(r), np.nan), np.full((len(r), len(r)), np.nan)
    energy, w = np.linalg.eigh(r @ gram @ r.T)
    energy, axes = np.maximum(energy[::-1], 0), w.T[::-1]
    axes = np.where(energy[:, None] > NEGLIGIBLE * energy[0], axes, 0)
    share = energy / energy.sum() if energy[0] > 0 else energy
    return (axes @ r).astype(np.float32), share, axes


class TopTokens(NamedTuple):
    """Strongest tokens of each direction by descending |score|, ties in token order; a score of 0 means no token."""

    token: Int64[np.ndarray, "direction top"]
    score: Float32[np.ndarray, "direction top"]


def strongest_tokens(
    sources: Sequence[Source],
    rotations: Sequence[Float32[np.ndarray, "direction rank"]],
    used: Bool[np.ndarray, " token"] | None,
    n_top: int,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> list[TopTokens]:
    """Return, by component, the used tokens with the largest |score| along its directions; -1 and NaN if too few."""
    names = [source.component for source in sources]
    rotation_of = dict(zip(names, rotations, strict=True))
    tops = {name: empty_tops(len(rotation), n_top) for name, rotation in rotation_of.items()}

    def block_tops(block: RowBlock) -> dict[str, TopTokens]:
        """Return component -> strongest tokens of these rows, except tokens below all of the rows merged so far."""
        strongest = {}
        for name, z in block.factor.items():
            scores = scores_along(z, rotation_of[name])
            near = np.flatnonzero((np.abs(scores) >= np.abs(tops[name].score[:, -1:])).any(axis=0))
            strongest[name] = top_tokens(block.tokens[near], scores[:, near], n_top)
        return strongest

    walk = map_rows(block_tops, sources, ["factor"], tokens=used, n_threads=n_workers, progress=progress)
    for later in walk:
        tops |= {name: merge_tops(tops[name], tokens) for name, tokens in later.items()}
    return [mark_missing(tops[name]) for name in names]


def scores_along(
    z: Float32[np.ndarray, "token rank"], rotation: Float32[np.ndarray, "direction rank"]
) -> Float32[np.ndarray, "direction token"]:
    """Return delta's coordinates along directions, rotation @ z, float32 (direction, token), for tokens' factors z.

    They are equal for equal z, to the last bit, and NaN if a token's z isn't finite.
    """
    from lorascope.kernels.linear import delta_rows  # numba takes a quarter of a second

    out = np.empty((len(z), len(rotation)), np.float32)
    delta_rows(z, np.ascontiguousarray(rotation.T), np.float32(1), np.empty(0, np.float32), out)
    out[~np.isfinite(z).all(axis=1)] = np.nan
    return np.ascontiguousarray(out.T)


def empty_tops(n_directions: int, n: int) -> TopTokens:
    """Return a `TopTokens` with room for n tokens per direction, all with a score of 0, which means no token."""
    return TopTokens(np.full((n_directions, n), -1), np.zeros((n_directions, n), np.float32))


def top_tokens(
    tokens: Int64[np.ndarray, " token"], scores: Float32[np.ndarray, "direction token"], n: int
) -> TopTokens:
    """Return the n tokens with the largest |score| along each direction, or all if fewer; NaN counts as 0."""
    scores = np.where(np.isnan(scores), np.float32(0), scores)
    places = largest_places(np.abs(scores), n)
    return TopTokens(tokens[places], np.take_along_axis(scores, places, 1))


def merge_tops(tops: TopTokens, later: TopTokens) -> TopTokens:
    """Return the tokens with the largest |score| out of `tops` and of `later` tokens; earlier tokens win ties."""
    token, score = (np.concatenate(both, axis=1) for both in zip(tops, later, strict=True))
    order = largest_places(np.abs(score), tops.token.shape[1])
    return TopTokens(np.take_along_axis(token, order, 1), np.take_along_axis(score, order, 1))


def mark_missing(tops: TopTokens) -> TopTokens:
    """Return `tops` with token -1 and score NaN in place of entries with a score of 0, which are no tokens."""
    is_token = tops.score != 0
    return TopTokens(np.where(is_token, tops.token, -1), np.where(is_token, tops.score, np.float32(np.nan)))
