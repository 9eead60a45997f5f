"""One component of a run at a time: its chosen tokens along axes from all tokens, and their estimates or why none."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from lorascope.stores import StoreError

from ..kernels.softmax import jensen_shannon_rows
from ..measuring.sources import Source
from ..threads import keep_one_blas_thread
from .evidence import FIELDS, estimate
from .pairs import LEAST_GROUPS, Pairs, refuse_unusable, repeats
from .plan import Plan
from .projections import Axes, n_axes_for, principal_axes, project
from .states import States, component_blocks

__all__ = ["ComponentPairs", "ComponentRecord", "NoPairs", "component_pairs", "component_record", "lazily"]

REPEAT = 1e-5
"""Two tokens whose projections lie closer than this, in standard deviations, are one state with rounding."""
REPEAT_JS = 1e-4
"""Two tokens' JS may differ by this, in standard deviations: theirs is the rounding of all features."""


class ComponentPairs(NamedTuple):
    """Chosen tokens of a component along its axes: what estimates are made of."""

    pairs: Pairs
    tokens: np.ndarray
    """Int64 (n,): their places on the run's token axis."""
    js: np.ndarray
    """Float32 (n, 2): JS(softmax(base), softmax(lora)) over all features, and the same of delta alone, nats."""
    shares: tuple[float, float]
    """Parts of base's and of the other side's variance that their axes keep."""
    n_repeats: int
    """Tokens left out since an earlier one has the same states."""
    n_not_finite: int
    """Tokens left out for NaN or infinity."""


class NoPairs(NamedTuple):
    """A component that can't be projected."""

    why: str
    n_not_finite: int
    """Tokens with NaN or infinity."""


def component_pairs(source: Source, plan: Plan) -> ComponentPairs | NoPairs:
    """The pairs that estimates of a component are made of, or why there are none: three trips through its states."""
    try:
        axes = _principal_axes(source, plan)
        blocks = [_Block.of(block, axes, plan) for block in _chosen_states(source, plan)]
        if not any(len(block.tokens) for block in blocks):
            raise ValueError("there are no tokens without NaN and infinity")
    except StoreError:  # a broken store is no property of the states
        raise
    except ValueError as error:
        n_chosen = len(plan.tokens)
        n_not_finite = n_chosen - sum(len(block.tokens) for block in _chosen_states(source, plan))
        why = f"all {n_chosen} tokens hold NaN or infinity" if n_not_finite == n_chosen else str(error)
        return NoPairs(why, n_not_finite)
    return _without_repeats(_Block(*map(np.concatenate, zip(*blocks, strict=True))), axes, plan)


class _Block(NamedTuple):
    """What is kept of some chosen tokens."""

    tokens: np.ndarray
    js: np.ndarray
    x: np.ndarray
    """Float64 (n, axis), as y."""
    y: np.ndarray

    @classmethod
    def of(cls, states: States, axes: tuple[Axes, Axes], plan: Plan) -> "_Block":
        """Tokens of a row along the axes of both sides."""
        js = np.empty((2, len(states.base)), np.float32)
        jensen_shannon_rows(states.base, states.delta, js[0])
        jensen_shannon_rows(states.base, states.delta - states.base, js[1])
        return cls(states.tokens, js.T, project(states.base, axes[0]), project(_other(states, plan), axes[1]))


def _principal_axes(source: Source, plan: Plan) -> tuple[Axes, Axes]:
    """Axes of base and of the other side, from all tokens."""
    base, other = principal_axes(
        lambda: ((block.base, _other(block, plan)) for block in component_blocks(source)),
        plan.n_axes,
        names=("base", plan.against),
        seed=plan.settings.seed,
    )
    return base, other


def _other(states: States, plan: Plan) -> np.ndarray:
    return states.base + states.delta if plan.against == "lora" else states.delta


def _chosen_states(source: Source, plan: Plan) -> Iterator[States]:
    wanted = np.zeros(source.base.shape[0], np.bool_)
    wanted[plan.tokens] = True
    return component_blocks(source, wanted)


def _without_repeats(chosen: _Block, axes: tuple[Axes, Axes], plan: Plan) -> ComponentPairs:
    """Each state once, and as many axes of each side as keep the share asked for."""
    samples = plan.samples[np.searchsorted(plan.tokens, chosen.tokens)]
    pairs = Pairs(chosen.x, chosen.y, samples, samples)
    rows = np.flatnonzero(~(_near_repeats(pairs, chosen.js) | repeats(pairs)))
    (n_x, share_x), (n_y, share_y) = (n_axes_for(side, plan.share, plan.n_axes) for side in axes)
    return ComponentPairs(
        pairs.take(rows)._replace(x=pairs.x[rows, :n_x], y=pairs.y[rows, :n_y]),
        chosen.tokens[rows],
        chosen.js[rows],
        (share_x, share_y),
        n_repeats=len(samples) - len(rows),
        n_not_finite=len(plan.tokens) - len(samples),
    )


def _near_repeats(pairs: Pairs, js: np.ndarray) -> np.ndarray:
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


class ComponentRecord(NamedTuple):
    """All that is known of one component: estimates, and by name the columns of `measure_information` beside them."""

    fields: np.ndarray
    """Float64 (estimator, field) in nats; NaN where the states can't be estimated from."""
    note: str
    js: float = math.nan
    js_delta_alone: float = math.nan
    n_tokens: int = 0
    n_samples: int = 0
    n_repeats: int = 0
    n_not_finite: int = 0
    n_axes_x: int = 0
    n_axes_y: int = 0
    share_x: float = math.nan
    share_y: float = math.nan


def lazily(function: Callable[[Source, Plan], Any], sources: Sequence[Source], plan: Plan) -> da.Array:
    """Object array (component,) of what `function` gives for each component, one Dask task each."""
    components = np.empty(len(sources), object)
    components[:] = list(sources)
    whole: da.Array = da.map_blocks(
        _one, da.from_array(components, chunks=1), dtype=object, meta=np.empty(0, object), function=function, plan=plan
    )
    return whole


def _one(sources: np.ndarray, *, function: Callable[[Source, Plan], Any], plan: Plan) -> np.ndarray:
    keep_one_blas_thread()
    out = np.empty(1, object)
    out[0] = function(sources[0], plan)
    return out


def component_record(source: Source, plan: Plan) -> ComponentRecord:
    """The record of a component; states that can't be estimated from give NaN and a note that says why."""
    found = component_pairs(source, plan)
    fields = np.full((len(plan.names), len(FIELDS)), np.nan)
    if isinstance(found, NoPairs):
        return ComponentRecord(fields, found.why, n_not_finite=found.n_not_finite)
    n_samples, note = len(np.unique(found.pairs.groups_x)), ""
    try:
        if n_samples < LEAST_GROUPS:
            raise ValueError(
                f"the {len(found.tokens)} tokens that are left are of {n_samples} samples; halves, shuffles and "
                f"errors need at least {LEAST_GROUPS}"
            )
        refuse_unusable(found.pairs)
        fields = estimate(found.pairs, plan.names, plan.settings, n_shuffles=plan.n_shuffles)
    except ValueError as error:
        note = str(error)  # what an estimator says of its arrays, said of a component
        for theirs, ours in (("`x`", "`base`"), ("`y`", f"`{plan.against}`"), (" groups", " samples")):
            note = note.replace(theirs, ours)
    js, js_delta_alone = found.js.mean(axis=0, dtype=np.float64).tolist()
    return ComponentRecord(
        fields,
        note,
        js,
        js_delta_alone,
        len(found.tokens),
        n_samples,
        found.n_repeats,
        found.n_not_finite,
        found.pairs.x.shape[1],
        found.pairs.y.shape[1],
        *found.shares,
    )
