"""Pairs of one component: its axes from all tokens, and its chosen tokens along them."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from lorascope.stores import StoreError

from ..kernels.softmax import jensen_shannon_rows
from ..measuring.sources import Source
from .arrays import repeats
from .estimators import ESTIMATORS, Pairs
from .plan import Against, Plan
from .projections import (
    Axes,
    canonical_axes,
    chosen_n_axes,
    feature_blocks,
    halves,
    principal_axes,
    principal_axes_together,
    project,
    random_axes,
)
from .states import component_blocks

__all__ = ["NoPairs", "Projected", "is_whole", "projected"]

REPEAT = 1e-5
"""Distance of two tokens' projections, in standard deviations, below which they are one state with rounding."""
REPEAT_JS = 1e-4
"""The same of their two JS, whose rounding is that of all features, and of small differences between them."""
TOKENS_AN_AXIS = 20
"""Tokens for each principal axis that canonical directions are looked for in."""
MOST_CANONICAL = 64
"""Principal axes of each side that canonical directions are looked for in."""

Sides = tuple[np.ndarray, np.ndarray]
"""Of base and of what it is compared with."""


class Projected(NamedTuple):
    """Chosen tokens of a component along the axes of one block of its features: what estimates are made of."""

    pairs: Pairs
    tokens: np.ndarray
    """Int64 (n,): their places on the run's token axis."""
    js: np.ndarray
    """Float32 (n, 2): JS(softmax(base), softmax(lora)) over all features, and the same of delta alone, nats."""
    states: Sides | None
    """Both sides as they are, float32 (n, feature), where an estimator wants them."""
    shares: tuple[float, float]
    """Of base's and of the other side's variance that their axes keep; NaN where they aren't principal ones."""
    n_repeats: int
    """Tokens left out since an earlier one has the same states."""
    n_not_finite: int
    """Tokens left out for NaN or infinity."""


class NoPairs(NamedTuple):
    """A component, or block of its features, that can't be projected."""

    why: str
    """In words."""
    n_not_finite: int
    """As of `Projected`."""


class _Chosen(NamedTuple):
    """What is kept of the chosen tokens: little, unless whole states are asked for."""

    tokens: np.ndarray
    js: np.ndarray
    """Float32 (n, 2), as of `Projected`."""
    sides: list[Sides]
    """For each block of features both sides along their axes, float64 (n, axis)."""
    states: list[Sides]
    """For each block both sides as they are, float32 (n, feature); none where no estimator wants them."""


def projected(source: Source, plan: Plan) -> list[Projected | NoPairs]:
    """The pairs that estimates are made of, one for each block of features, or why there are none."""
    return _projected_parts(source, plan, feature_blocks(source.base.shape[1], plan.n_blocks))


def _projected_parts(source: Source, plan: Plan, parts: Sequence[slice]) -> list[Projected | NoPairs]:
    try:
        axes, chosen = _read(source, plan, parts)
    except StoreError:  # a broken store is no property of the states
        raise
    except ValueError as error:
        if len(parts) > 1:  # one part without variance spoils the trip of all
            return [found for part in parts for found in _projected_parts(source, plan, [part])]
        return [_no_pairs(source, plan, str(error))]
    return [_projected_part(chosen, axes[place], place, plan) for place in range(len(parts))]


def _no_pairs(source: Source, plan: Plan, why: str) -> NoPairs:
    n = len(plan.tokens)
    n_not_finite = sum(block.n_dropped for block in component_blocks(source, tokens=_mask(source, plan)))
    return NoPairs(f"all {n} tokens hold NaN or infinity" if n_not_finite == n else why, n_not_finite)


def _mask(source: Source, plan: Plan) -> np.ndarray:
    """Bool (token,): which of the run's are chosen."""
    wanted = np.zeros(source.base.shape[0], np.bool_)
    wanted[plan.tokens] = True
    return wanted


def _read(source: Source, plan: Plan, parts: Sequence[slice]) -> tuple[list[tuple[Axes, Axes]], _Chosen]:
    """Axes of each block of features, and the chosen tokens along them: three trips through the component."""
    axes = _axes(source, plan, parts)
    keeps_states = is_whole(plan.names).any()
    tokens, js = [], []
    sides: list[list[Sides]] = [[] for _ in parts]
    states: list[list[Sides]] = [[] for _ in parts]
    for block in component_blocks(source, tokens=_mask(source, plan)):
        tokens.append(block.tokens)
        js.append(_js(block.base, block.delta))
        other = _other(block.base, block.delta, plan.against)
        for place, part in enumerate(parts):
            base_axes, other_axes = axes[place]
            sides[place].append((project(block.base[:, part], base_axes), project(other[:, part], other_axes)))
            if keeps_states:
                states[place].append((block.base[:, part], other[:, part]))
    if not any(map(len, tokens)):
        raise ValueError("there are no tokens without NaN and infinity")
    chosen = np.concatenate(tokens), np.concatenate(js), _joined(sides), _joined(states) if keeps_states else []
    return axes, _Chosen(*chosen)


def _joined(parts: list[list[Sides]]) -> list[Sides]:
    return [(np.concatenate([a for a, _ in part]), np.concatenate([b for _, b in part])) for part in parts]


def _js(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    out = np.empty((2, len(base)), np.float32)
    jensen_shannon_rows(base, delta, out[0])
    jensen_shannon_rows(base, delta - base, out[1])
    return out.T


def _other(base: np.ndarray, delta: np.ndarray, against: Against) -> np.ndarray:
    return base + delta if against == "lora" else delta


def _axes(source: Source, plan: Plan, parts: Sequence[slice]) -> list[tuple[Axes, Axes]]:
    """Of base and of the other side, by block of features."""
    if plan.projection == "random":
        widths = [part.stop - part.start for part in parts]
        random = [random_axes(width, min(plan.n_axes, width), seed=plan.settings.seed) for width in widths]
        return [(axes, axes) for axes in random]

    def sides() -> Iterable[list[np.ndarray]]:
        for block in component_blocks(source):
            other = _other(block.base, block.delta, plan.against)
            yield [side[:, part] for part in parts for side in (block.base, other)]

    most = max(1, min(MOST_CANONICAL, len(plan.tokens) // TOKENS_AN_AXIS))
    n_axes = most if plan.projection == "canonical" else plan.n_axes
    try:
        found = principal_axes_together(sides, n_axes, seed=plan.settings.seed)
    except ValueError:
        for place, name in enumerate(("base", plan.against)):
            _refuse_constant(sides, place, name)
        raise
    return list(zip(found[::2], found[1::2], strict=True))


def _refuse_constant(sides: Callable[[], Iterable[list[np.ndarray]]], place: int, name: str) -> None:
    """Raise what is wrong with one side alone, by its name."""
    try:
        principal_axes(lambda: (blocks[place] for blocks in sides()), 1)
    except StoreError:
        raise
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from error


def _projected_part(chosen: _Chosen, axes: tuple[Axes, Axes], place: int, plan: Plan) -> Projected | NoPairs:
    samples = plan.samples[np.searchsorted(plan.tokens, chosen.tokens)]
    pairs = Pairs(*chosen.sides[place], samples, samples)
    rows = np.flatnonzero(~(_repeats(pairs, chosen.js) | repeats(pairs)))
    n_not_finite = len(plan.tokens) - len(chosen.tokens)
    n_repeats, shares = len(samples) - len(rows), (float("nan"), float("nan"))
    pairs = pairs.take(rows)
    try:
        if plan.projection != "random":
            pairs, shares = _along_few(pairs, axes, plan)
        if plan.projection == "canonical":
            pairs, later = _along_canonical(pairs, plan)
            rows = rows[later]
    except ValueError as error:
        return NoPairs(str(error), n_not_finite)
    states = None
    if chosen.states:
        base, other = chosen.states[place]
        states = base[rows], other[rows]
    return Projected(pairs, chosen.tokens[rows], chosen.js[rows], states, shares, n_repeats, n_not_finite)


def _along_few(pairs: Pairs, axes: tuple[Axes, Axes], plan: Plan) -> tuple[Pairs, tuple[float, float]]:
    """As many axes of each side as keep the share asked for, and what they keep."""
    most = MOST_CANONICAL if plan.projection == "canonical" else plan.n_axes
    x, y = (chosen_n_axes(side.variances, side.total_variance, share=plan.share, most=most) for side in axes)
    return pairs._replace(x=pairs.x[:, : x.n_axes], y=pairs.y[:, : y.n_axes]), (x.share_kept, y.share_kept)


def _along_canonical(pairs: Pairs, plan: Plan) -> tuple[Pairs, np.ndarray]:
    """The second half of the samples along canonical directions of the first, and which rows that is."""
    first = halves(pairs.groups_x, seed=plan.settings.seed)
    along = canonical_axes(pairs.x[first], pairs.y[first], plan.n_axes)
    pairs = pairs.take(~first)
    return pairs._replace(x=project(pairs.x, along.x), y=project(pairs.y, along.y)), ~first


def _repeats(pairs: Pairs, js: np.ndarray) -> np.ndarray:
    """Whether a pair is an earlier one but for rounding, with the same two js, bool (n,).

    Along few axes different states may come near each other; js is of all features, and tells them apart.
    Tokens of one id have the same states wherever no attention came before, and in float32 they differ by the batch
    that they were computed in.
    """
    again = np.zeros(len(js), np.bool_)
    if len(js) < 2:
        return again
    scaled = np.hstack(
        [_in_sd(pairs.x), _in_sd(pairs.y), _in_sd(np.nan_to_num(js.astype(np.float64))) * (REPEAT / REPEAT_JS)]
    )
    tree = cKDTree(scaled)
    nearest = tree.query(scaled, k=2, p=np.inf, distance_upper_bound=REPEAT)[0][:, 1]
    for place in np.flatnonzero(np.isfinite(nearest)):  # not all pairs of near ones: these may be n squared
        if not again[place]:
            again[tree.query_ball_point(scaled[place], REPEAT, p=np.inf)] = True
            again[place] = False
    return again


def _in_sd(values: np.ndarray) -> np.ndarray:
    spread = values.std(axis=0)
    return np.asarray(values / np.where(spread > 0, spread, 1.0))


def is_whole(names: Sequence[str]) -> np.ndarray:
    """Bool (estimator,): which are of states as they are, not of projected ones."""
    return np.array([name in ESTIMATORS and ESTIMATORS[name].whole for name in names], np.bool_)
