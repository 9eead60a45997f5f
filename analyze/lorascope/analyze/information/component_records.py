"""One component of a run at a time: the estimates of its chosen tokens, or why there are none."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from ..measuring.sources import Source
from ..threads import keep_one_blas_thread
from .component_pairs import ComponentPairs, NoPairs, component_pairs
from .estimators import sees_states
from .evidence import FIELDS, estimate
from .pairs import LEAST_GROUPS, LEAST_PAIRS, Pairs, refuse_unusable
from .plan import Plan

__all__ = ["ComponentRecord", "component_record", "lazily"]


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
    n_samples = len(np.unique(found.pairs.groups_x))
    is_whole = np.array(list(map(sees_states, plan.names)), np.bool_)
    notes = []
    for wanted, pairs_of in ((~is_whole, _projected), (is_whole, _whole_states)):
        if not wanted.any():
            continue
        names = [name for name, is_wanted in zip(plan.names, wanted, strict=True) if is_wanted]
        try:
            if n_samples < LEAST_GROUPS:
                raise ValueError(
                    f"the {len(found.tokens)} tokens that are left are of {n_samples} samples; halves, shuffles and "
                    f"errors need at least {LEAST_GROUPS}"
                )
            fields[wanted] = estimate(pairs_of(found), names, plan.settings, n_shuffles=plan.n_shuffles)
        except ValueError as error:
            notes.append(_of_component(str(error), plan))
    js, js_delta_alone = found.js.mean(axis=0, dtype=np.float64).tolist()
    return ComponentRecord(
        fields,
        "; ".join(dict.fromkeys(notes)),
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


def _projected(found: ComponentPairs) -> Pairs:
    refuse_unusable(found.pairs)
    return found.pairs


def _whole_states(found: ComponentPairs) -> Pairs:
    assert found.states is not None
    if len(found.tokens) < LEAST_PAIRS:
        raise ValueError(f"there are {len(found.tokens)} tokens with states of their own; give at least {LEAST_PAIRS}")
    return found.pairs._replace(x=found.states[0], y=found.states[1])


def _of_component(text: str, plan: Plan) -> str:
    """What an estimator says of its arrays, said of a component."""
    for theirs, ours in (("`x`", "`base`"), ("`y`", f"`{plan.against}`"), (" groups", " samples")):
        text = text.replace(theirs, ours)
    return text
