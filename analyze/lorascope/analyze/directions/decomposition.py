"""Directions of components of one adapter: their factors summed over a run's tokens, rotated, and each one's tokens."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from lorascope.analyze.measuring.tiles import weights_of
from lorascope.stores.progress import Progress
from lorascope.stores.reading.source import Source
from lorascope.stores.reading.walk import RowBlock, walk_rows

from .top_tokens import strongest

N_TOP = 10
NEGLIGIBLE = 1e-13
"""Share of the strongest direction's |delta|² below which a direction is none: rounding of the factor has as much."""


class Directions(NamedTuple):
    """Directions of one component, by descending share; where there are fewer than ranks, the last are zero."""

    rotation: Float32[np.ndarray, "direction rank"]
    """Coordinates of delta along the directions are `rotation @ z`; NaN where lora_B isn't finite."""
    share: Float64[np.ndarray, " direction"]
    axes: Float64[np.ndarray, "direction basis"]
    """Their coordinates in the orthonormal basis of features that `basis` gives."""
    top_token: Int64[np.ndarray, "direction top"]
    top_score: Float32[np.ndarray, "direction top"]
    n_not_finite: int
    half_share: Float64[np.ndarray, "half direction"]
    """Shares as every other row with used tokens has them, each half along its own directions; NaN if it is but one."""


def directions_of(
    sources: Sequence[Source],
    used: Bool[np.ndarray, " token"] | None = None,
    *,
    n_top: int = N_TOP,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> list[Directions]:
    """Directions of components that have a factor, over the used tokens of rows with states, in two walks.

    `walk_rows` bounds the memory; see `directions`.
    """

    def on_walk(walk: int, done: int, total: int, _: str = "") -> None:
        if progress is not None:
            progress(walk * total + done, 2 * total)

    ranks = {source.component: source.delta.rows.shape[1] for source in sources}
    halves = {name: np.zeros((2, rank, rank)) for name, rank in ranks.items()}
    n_rows, n_not_finite = Counter[str](), Counter[str]()

    def grams(block: RowBlock) -> dict[str, tuple[np.ndarray, int]]:
        return {name: gram(z) for name, z in block.factor.items()}

    options: dict[str, Any] = {"tokens": used, "n_threads": n_workers, "progress": partial(on_walk, 0)}
    for row_grams in walk_rows(sources, ["factor"], function=grams, **options):
        for name, (row_gram, n_broken) in row_grams.items():
            halves[name][n_rows[name] % 2] += row_gram
            n_rows[name] += 1
            n_not_finite[name] += n_broken
    rotated = []
    for source in sources:
        half, r = halves[source.component], basis(source)[1]
        rotated.append([rotate(tokens_gram, r) for tokens_gram in (half.sum(axis=0), *half)])
    rotations = [whole[0] for whole, *_ in rotated]
    tops = strongest(sources, rotations, used, n_top, n_workers, partial(on_walk, 1))
    every = []
    for source, ((rotation, share, axes), *parts), top in zip(sources, rotated, tops, strict=True):
        shares = np.stack([part[1] for part in parts])
        half_share = shares if n_rows[source.component] > 1 else np.full_like(shares, np.nan)
        sign = np.where(top.score[:, :1] < 0, np.float32(-1), np.float32(1))  # makes the largest |score| positive
        n_broken = n_not_finite[source.component]
        every.append(Directions(rotation * sign, share, axes * sign, top.token, top.score * sign, n_broken, half_share))
    return every


def n_holding(share: Float64[np.ndarray, " direction"], least: float) -> int:
    """Number of leading directions that hold at least this share together; 0 where there are none."""
    return int(np.searchsorted(np.cumsum(share), least)) + 1 if share[0] > 0 else 0


def state_rows(source: Source) -> list[int]:
    """Committed rows whose states can be read."""
    return [row for row in range(source.base.n_rows) if source.base.is_committed(row)]


def gram(z: Float32[np.ndarray, "token rank"]) -> tuple[Float64[np.ndarray, "rank rank"], int]:
    """Z^T Z over tokens whose z is finite, and how many others there are."""
    is_finite = np.isfinite(z)
    wide = (z if is_finite.all() else z[is_finite.all(axis=1)]).astype(np.float64)
    return wide.T @ wide, len(z) - len(wide)


def basis(source: Source) -> tuple[Float64[np.ndarray, "feature basis"], Float64[np.ndarray, "basis rank"]]:
    """An orthonormal basis Q of what a component's delta can be, and R of scaling * lora_B = Q R."""
    weights = weights_of(source)
    q, r = np.linalg.qr(float(weights.scaling) * weights.lora_B_T.T.astype(np.float64))
    return q, r


def rotate(
    gram: Float64[np.ndarray, "rank rank"], r: Float64[np.ndarray, "basis rank"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation (direction, rank), share (direction,) and axes (direction, basis), as in `Directions`."""
    if not np.isfinite(r).all():
        return np.full(r.shape, np.nan, np.float32), np.full(len(r), np.nan), np.full((len(r), len(r)), np.nan)
    energy, w = np.linalg.eigh(r @ gram @ r.T)
    energy, axes = np.maximum(energy[::-1], 0), w.T[::-1]
    axes = np.where(energy[:, None] > NEGLIGIBLE * energy[0], axes, 0)
    share = energy / energy.sum() if energy[0] > 0 else energy
    return (axes @ r).astype(np.float32), share, axes
