"""One component of a run at a time: the record of its chosen tokens, or why there is none."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from ..measuring.sources import Source
from ..threads import keep_one_blas_thread
from .arrays import LEAST_GROUPS, LEAST_PAIRS, refuse_unusable
from .pairs import NoPairs, Projected, is_whole, projected
from .plan import Plan
from .record import FIELDS, record

__all__ = ["ComponentRecord", "lazily", "records_of"]


class ComponentRecord(NamedTuple):
    """All that is known of one block of a component's features."""

    fields: np.ndarray
    """Float64 (estimator, field) in nats; NaN where the states can't be estimated from."""
    note: str
    """Why they can't, or nothing."""
    js: tuple[float, float] = (float("nan"), float("nan"))
    """Means of `Projected.js`."""
    n_tokens: int = 0
    n_samples: int = 0
    n_repeats: int = 0
    n_not_finite: int = 0
    n_axes: tuple[int, int] = (0, 0)
    shares: tuple[float, float] = (float("nan"), float("nan"))


def lazily(function: Callable[[Source, Plan], Sequence[Any]], sources: Sequence[Source], plan: Plan) -> da.Array:
    """Object array (component, block) of what `function` gives for each component, one Dask task each."""
    components = np.empty(len(sources), object)
    components[:] = list(sources)
    whole: da.Array = da.map_blocks(
        _one,
        da.from_array(components, chunks=1),
        new_axis=1,
        chunks=(1, plan.n_blocks),
        dtype=object,
        meta=np.empty((0, 0), object),
        function=function,
        plan=plan,
    )
    return whole


def _one(sources: Any, *, function: Callable[[Source, Plan], Sequence[Any]], plan: Plan) -> np.ndarray:
    keep_one_blas_thread()
    out = np.empty((1, plan.n_blocks), object)
    for block, found in enumerate(function(sources[0], plan)):
        out[0, block] = found
    return out


def records_of(source: Source, plan: Plan) -> list[ComponentRecord]:
    """The records of a component, one for each block of its features.

    States that can't be estimated from, constant ones for instance, give NaN and a note that says why.
    """
    return [_record(found, plan) for found in projected(source, plan)]


def _record(found: Projected | NoPairs, plan: Plan) -> ComponentRecord:
    fields, notes = np.full((len(plan.names), len(FIELDS)), np.nan), []
    if isinstance(found, NoPairs):
        return ComponentRecord(fields, found.why, n_not_finite=found.n_not_finite)
    n_samples = len(np.unique(found.pairs.groups_x))
    whole = is_whole(plan.names)
    for wanted, estimate in ((~whole, _of_projected), (whole, _of_states)):
        names = [name for name, is_wanted in zip(plan.names, wanted, strict=True) if is_wanted]
        if not names:
            continue
        try:
            _refuse_few_samples(len(found.tokens), n_samples)
            fields[wanted] = estimate(found, names, plan)
        except ValueError as error:
            if (note := _in_our_words(str(error), plan)) not in notes:
                notes.append(note)
    js = found.js.mean(axis=0, dtype=np.float64) if len(found.js) else np.full(2, np.nan)
    return ComponentRecord(
        fields,
        "; ".join(notes),
        js=(float(js[0]), float(js[1])),
        n_tokens=len(found.tokens),
        n_samples=n_samples,
        n_repeats=found.n_repeats,
        n_not_finite=found.n_not_finite,
        n_axes=(found.pairs.x.shape[1], found.pairs.y.shape[1]),
        shares=found.shares,
    )


def _refuse_few_samples(n_tokens: int, n_samples: int) -> None:
    if n_samples < LEAST_GROUPS:
        raise ValueError(
            f"the {n_tokens} tokens that are left are of {n_samples} samples; halves, shuffles and errors need at "
            f"least {LEAST_GROUPS}"
        )


def _in_our_words(text: str, plan: Plan) -> str:
    """What an estimator says of its arrays, said of a component."""
    for theirs, ours in (("`x`", "`base`"), ("`y`", f"`{plan.against}`"), (" groups", " samples")):
        text = text.replace(theirs, ours)
    return text


def _of_projected(found: Projected, names: Sequence[str], plan: Plan) -> np.ndarray:
    for side, name in ((found.pairs.x, "base"), (found.pairs.y, plan.against)):
        if len(side) and (constant := int((side.min(axis=0) == side.max(axis=0)).sum())):
            raise ValueError(
                f"`{name}` is the same in all {len(side)} tokens along {constant} of its {side.shape[1]} axes"
            )
    refuse_unusable(found.pairs)
    return record(found.pairs, names, plan.settings, n_shuffles=plan.n_shuffles)


def _of_states(found: Projected, names: Sequence[str], plan: Plan) -> np.ndarray:
    assert found.states is not None
    if len(found.tokens) < LEAST_PAIRS:
        raise ValueError(f"there are {len(found.tokens)} tokens with states of their own; give at least {LEAST_PAIRS}")
    x, y = found.states
    return record(found.pairs._replace(x=x, y=y), names, plan.settings, n_shuffles=plan.n_shuffles)
