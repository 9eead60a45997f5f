"""Tokens with the largest scores along directions, out of one walk over a run's rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

from lorascope.kernels.linear import delta_rows
from lorascope.stores.progress import Progress
from lorascope.stores.reading.source import Source
from lorascope.stores.reading.walk import RowBlock, walk_rows


class TopTokens(NamedTuple):
    """Tokens by descending |score| of each direction, equal ones in the order of tokens; scores of 0 stand for none."""

    token: Int64[np.ndarray, "direction top"]
    score: Float32[np.ndarray, "direction top"]


def strongest(
    sources: Sequence[Source],
    rotations: Sequence[Float32[np.ndarray, "direction rank"]],
    used: Bool[np.ndarray, " token"] | None,
    n_top: int,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> list[TopTokens]:
    """The used tokens with the largest |score| along some directions of each component; -1 and NaN where too few."""
    names = [source.component for source in sources]
    rotation_of = dict(zip(names, rotations, strict=True))
    tops = {name: no_tokens(len(rotation), n_top) for name, rotation in rotation_of.items()}

    def row_tops(block: RowBlock) -> dict[str, TopTokens]:
        return {
            name: larger_tokens(tops[name], scores(z, rotation_of[name]), block.tokens)
            for name, z in block.factor.items()
        }

    walk = walk_rows(sources, ["factor"], tokens=used, function=row_tops, n_threads=n_workers, progress=progress)
    for later in walk:
        tops |= {name: largest(tops[name], tokens) for name, tokens in later.items() if tokens.token.size}
    return [settled(tops[name]) for name in names]


def scores(
    z: Float32[np.ndarray, "token rank"], rotation: Float32[np.ndarray, "direction rank"]
) -> Float32[np.ndarray, "direction token"]:
    """Coordinates of delta along directions; equal z have equal ones, to the last bit. NaN where z isn't finite."""
    out = np.empty((len(z), len(rotation)), np.float32)
    delta_rows(z, np.ascontiguousarray(rotation.T), np.float32(1), np.empty(0, np.float32), out)
    out[~np.isfinite(z).all(axis=1)] = np.nan
    return np.ascontiguousarray(out.T)


def no_tokens(n_directions: int, n: int) -> TopTokens:
    """Places for n tokens of each direction, none of which is taken."""
    return TopTokens(np.full((n_directions, n), -1), np.zeros((n_directions, n), np.float32))


def larger_tokens(
    tops: TopTokens, scores: Float32[np.ndarray, "direction token"], tokens: Int64[np.ndarray, " token"]
) -> TopTokens:
    """Tokens with a larger |score| along any direction than the last of `tops`; NaN counts as 0."""
    scores = np.where(np.isnan(scores), np.float32(0), scores)
    columns = np.flatnonzero((np.abs(scores) > np.abs(tops.score[:, -1:])).any(axis=0))
    return TopTokens(np.broadcast_to(tokens[columns], (len(scores), len(columns))), scores[:, columns])


def largest(tops: TopTokens, later: TopTokens) -> TopTokens:
    """The largest of `tops` and of tokens that all come later, as many as `tops` has: of equal scores the first."""
    token, score = (np.concatenate(both, axis=1) for both in zip(tops, later, strict=True))
    order = np.argsort(-np.abs(score), axis=1, kind="stable")[:, : tops.token.shape[1]]
    return TopTokens(np.take_along_axis(token, order, 1), np.take_along_axis(score, order, 1))


def settled(tops: TopTokens) -> TopTokens:
    """The tokens with -1 and NaN where there is none."""
    is_there = tops.score != 0
    return TopTokens(np.where(is_there, tops.token, -1), np.where(is_there, tops.score, np.float32(np.nan)))
