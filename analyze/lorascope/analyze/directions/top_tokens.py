"""Tokens with the largest scores along directions, kept while later and later tokens are seen."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64


class TopTokens(NamedTuple):
    """Tokens by descending |score| of each direction, equal ones in the order of tokens; scores of 0 stand for none."""

    token: Int64[np.ndarray, "direction top"]
    score: Float32[np.ndarray, "direction top"]


def no_tokens(n_directions: int, n: int) -> TopTokens:
    """Places for n tokens of each direction, none of which is taken."""
    return TopTokens(np.full((n_directions, n), -1), np.zeros((n_directions, n), np.float32))


def larger_tokens(
    tops: TopTokens, scores: Float32[np.ndarray, "direction token"], tokens: Int64[np.ndarray, " token"]
) -> TopTokens:
    """Those of some tokens that have a larger |score| along any direction than the last of `tops`; NaN counts as 0."""
    scores = np.where(np.isnan(scores), np.float32(0), scores)
    columns = np.flatnonzero((np.abs(scores) > np.abs(tops.score[:, -1:])).any(axis=0))
    return TopTokens(np.broadcast_to(tokens[columns], (len(scores), len(columns))), scores[:, columns])


def largest(tops: TopTokens, later: TopTokens) -> TopTokens:
    """As many tokens as `tops` has, out of these and of tokens that all come later: of equal scores the first."""
    token, score = (np.concatenate(both, axis=1) for both in zip(tops, later, strict=True))
    order = np.argsort(-np.abs(score), axis=1, kind="stable")[:, : tops.token.shape[1]]
    return TopTokens(np.take_along_axis(token, order, 1), np.take_along_axis(score, order, 1))


def settled(tops: TopTokens) -> TopTokens:
    """The tokens with -1 and NaN where there is none."""
    is_there = tops.score != 0
    return TopTokens(np.where(is_there, tops.token, -1), np.where(is_there, tops.score, np.float32(np.nan)))
