"""Estimates for the components of a run: the plan, which tokens are used, and one component at a time."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from lorascope.analyze.results.options import require_whole
from lorascope.kernels.softmax import jensen_shannon_rows
from lorascope.stores import Run, StoreError
from lorascope.stores.reading.source import Source
from lorascope.stores.reading.walk import walk_rows

from ..measuring.tiles import factor_delta
from .estimators import check_settings, resolve_estimators
from .evidence import FIELDS, estimate
from .pairs import LEAST_GROUPS, Pairs, Settings, Unit, refuse_unusable, repeats
from .projections import Axes, n_axes_for, principal_axes, project

Against = Literal["lora", "delta"]


class Plan(NamedTuple):
    """Settings of what is done with each component; small, since it goes to every task."""

    tokens: np.ndarray
    """Int64 (token,), ascending: places of the chosen tokens."""
    samples: np.ndarray
    """Int64 (token,): their samples."""
    n_prefix_repeats: int
    """Tokens that couldn't be chosen, for an earlier one has the same id after the same ids."""
    names: tuple[str, ...]
    """Names of the estimators."""
    settings: Settings
    n_shuffles: int
    against: Against
    n_axes: int
    """The most principal axes for each side."""
    share: float
    """The part of each side's variance that axes are to keep, if so many do."""


def make_plan(
    run: Run, *, estimator: str | Sequence[str], against: Against, n_tokens: int, n_axes: int, share: float,
    settings: Settings, unit: Unit, n_shuffles: int,
) -> Plan:  # fmt: skip
    """The plan that these options ask for; they are those of `measure_information`, which says what is raised."""
    names = resolve_estimators(estimator)
    check_settings(settings, unit, n_shuffles)
    if against not in get_args(Against):
        raise ValueError(f"`against` is {against!r}; allowed are {', '.join(map(repr, get_args(Against)))}")
    require_whole("n_axes", n_axes)
    require_whole("n_tokens", n_tokens)
    if not 0 < share <= 1:
        raise ValueError(f"`share` is {share!r}; it must be above 0 and at most 1")
    tokens, samples, n_repeats = choose_tokens(run, int(n_tokens), seed=settings.seed)
    if (n_samples := len(np.unique(samples))) < LEAST_GROUPS:
        raise ValueError(
            f"{len(tokens)} tokens of {run.place.name!r} could be chosen, of {n_samples} samples; halves, shuffles and "
            f"errors need at least {LEAST_GROUPS}: choose more tokens, or capture more samples"
        )
    return Plan(tokens, samples, n_repeats, names, settings, n_shuffles, against, int(n_axes), share)


def choose_tokens(run: Run, n_tokens: int, *, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """A random choice of so many tokens, or all, as many from each sample as far as it has them.

    Returns their places on the run's token axis, ascending, int64 (token,); index of each one's sample, which stays
    whole in halves, parts and shuffles; and how many tokens repeat the states of an earlier one.

    Notes
    -----
    In a causal model a token's states depend on it and the tokens before it alone. Two tokens of different samples
    whose ids are the same from position 0 on have the same states: of those the first is kept, since to an estimator
    repeats look like perfect dependence. Prefixes are known where a sample's captured positions run from 0 without a
    gap; other tokens are kept. Weights of tokens (`run.tokens["weight"]`) play no part.
    """
    usable = run.committed.values & run.with_states.values
    if not usable.any():
        raise StoreError(f"no committed row of {run.place.name!r} keeps states; there are no tokens to choose from")
    repeats = _repeats(run, usable)
    candidates = np.flatnonzero(usable & ~repeats)
    labels = np.asarray(run.tokens["sample"].values[candidates])
    chosen = _spread(labels, n_tokens, np.random.default_rng(seed))
    return candidates[chosen], labels[chosen], int(repeats.sum())


def _repeats(run: Run, usable: np.ndarray) -> np.ndarray:
    """Bool (token,): usable tokens that repeat an earlier one of them, prefix and all."""
    starts = run.samples["token_start"].values
    samples, positions, ids = (run.tokens[name].values for name in ("sample", "position", "token_id"))
    # Positions of a sample ascend, so that one equal to its place says that none before it is missing.
    known = positions == np.arange(run.n_tokens) - starts[samples]
    n_known = np.bincount(samples[known], minlength=len(starts))
    repeats = np.zeros(run.n_tokens, bool)
    alike, prefixes, place = np.flatnonzero(n_known), np.zeros(np.count_nonzero(n_known), np.int64), 0
    while len(alike) > 1:  # samples that share their first `place` ids with another, and number of that prefix
        tokens = starts[alike] + place
        keys = prefixes * (int(ids.max()) + 1) + ids[tokens]
        _, prefixes, counts = np.unique(keys, return_inverse=True, return_counts=True)
        candidates = np.flatnonzero(usable[tokens])
        later = np.delete(candidates, np.unique(prefixes[candidates], return_index=True)[1])
        repeats[tokens[later]] = True
        place += 1
        shared = (counts[prefixes] > 1) & (n_known[alike] > place)
        alike, prefixes = alike[shared], prefixes[shared]
    return repeats


def _spread(labels: np.ndarray, n_wanted: int, generator: np.random.Generator) -> np.ndarray:
    """Places, ascending, of about as many entries of each label, random among its own."""
    _, groups, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    # The same number of each as far as it has them, and one more of some drawn by chance.
    at_least = np.cumsum(np.bincount(sizes)[::-1])[::-1]  # level -> groups of so many or more
    totals = np.concatenate([[0], np.cumsum(at_least[1:])])  # level -> sum of min(size, level)
    level = int(np.searchsorted(totals, n_wanted, side="right")) - 1
    quotas = np.minimum(sizes, level)
    n_left = min(n_wanted, int(sizes.sum())) - int(quotas.sum())
    quotas[generator.permutation(np.flatnonzero(sizes > level))[:n_left]] += 1
    order = np.lexsort((generator.random(len(groups)), groups))
    ranks = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(np.sort(order[ranks < quotas[groups[order]]]))


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
    why: str = ""
    """Reason why there are no pairs, where states can't be projected."""


class ComponentRecord(NamedTuple):
    """All that is known of one component."""

    fields: np.ndarray
    """Float64 (estimator, field) in nats; NaN where the states can't be estimated from."""
    note: str
    """Reason why values are missing, or nothing."""
    columns: dict[str, float]
    """Values of the component beside its estimates, by their names in the result of `measure_information`."""


class _States(NamedTuple):
    """Some tokens' states at one component: arrays of their own, safe to keep."""

    tokens: np.ndarray
    """Int64 (token,): places on the run's token axis, ascending."""
    base: np.ndarray
    """Float32 (token, feature), as delta."""
    delta: np.ndarray

    def other(self, plan: Plan) -> np.ndarray:
        """The side that base is compared with."""
        return self.base + self.delta if plan.against == "lora" else self.delta


def component_blocks(source: Source, tokens: Bool[np.ndarray, " token"] | None = None) -> Iterator[_States]:
    """States of a component, one committed row after the other, without tokens that aren't finite.

    `tokens` is a mask of the run's tokens, by default all: rows without a chosen one aren't read. Raises StoreError if
    a chunk is missing, empty or broken.
    """
    name, is_factored = source.component, source.delta.lora_B is not None
    for block in walk_rows([source], ("base", "factor" if is_factored else "delta"), tokens=tokens, n_threads=1):
        base = block.base[name]
        with np.errstate(over="ignore", invalid="ignore"):  # tokens that aren't finite are dropped here
            delta = factor_delta(source, block.factor[name]) if is_factored else block.delta[name]
            finite = np.isfinite(base + delta).all(axis=1)
        yield _States(block.tokens[finite], base[finite], delta[finite])


def component_pairs(source: Source, plan: Plan) -> ComponentPairs:
    """The pairs that estimates of a component are made of, or why there are none: three trips through its states."""

    def chosen() -> Iterator[_States]:
        mask = np.zeros(source.base.shape[0], np.bool_)
        mask[plan.tokens] = True
        return component_blocks(source, mask)

    try:
        axes = principal_axes(
            lambda: ((block.base, block.other(plan)) for block in component_blocks(source)),
            plan.n_axes,
            names=("base", plan.against),
            seed=plan.settings.seed,
        )
        blocks = [_projected(block, axes, plan) for block in chosen()]
        if not any(len(tokens) for tokens, *_ in blocks):
            raise ValueError("there are no tokens without NaN and infinity")
    except StoreError:  # a broken store is no property of the states
        raise
    except ValueError as error:
        n_chosen = len(plan.tokens)
        n_not_finite = n_chosen - sum(len(block.tokens) for block in chosen())
        why = f"all {n_chosen} tokens hold NaN or infinity" if n_not_finite == n_chosen else str(error)
        none, labels = np.empty((0, 0)), np.empty(0, np.int64)
        return ComponentPairs(
            Pairs(none, none, labels, labels), labels, np.empty((0, 2), np.float32), (np.nan, np.nan), 0, n_not_finite,
            why,
        )  # fmt: skip
    tokens, js, x, y = map(np.concatenate, zip(*blocks, strict=True))
    samples = plan.samples[np.searchsorted(plan.tokens, tokens)]
    pairs = Pairs(x, y, samples, samples)
    rows = np.flatnonzero(~(_near_repeats(pairs, js) | repeats(pairs)))
    (n_x, share_x), (n_y, share_y) = (n_axes_for(side, plan.share, plan.n_axes) for side in axes)
    return ComponentPairs(
        pairs.take(rows)._replace(x=x[rows, :n_x], y=y[rows, :n_y]),
        tokens[rows],
        js[rows],
        (share_x, share_y),
        n_repeats=len(samples) - len(rows),
        n_not_finite=len(plan.tokens) - len(samples),
    )


def _projected(states: _States, axes: list[Axes], plan: Plan) -> tuple[np.ndarray, ...]:
    """Tokens of a row, their js as in `ComponentPairs`, and both sides along their axes."""
    js = np.empty((2, len(states.base)), np.float32)
    jensen_shannon_rows(states.base, states.delta, js[0])
    jensen_shannon_rows(states.base, states.delta - states.base, js[1])
    return states.tokens, js.T, project(states.base, axes[0]), project(states.other(plan), axes[1])


def _near_repeats(pairs: Pairs, js: np.ndarray) -> np.ndarray:
    """Tell which pairs are an earlier one but for rounding, with the same two js, bool (n,).

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


def component_record(source: Source, plan: Plan) -> ComponentRecord:
    """The record of a component; states that can't be estimated from give NaN and a note that says why."""
    component = component_pairs(source, plan)
    fields, note = np.full((len(plan.names), len(FIELDS)), np.nan), component.why
    n_samples = len(np.unique(component.pairs.groups_x))
    try:
        if n_samples < LEAST_GROUPS:
            raise ValueError(
                f"the {len(component.tokens)} tokens that are left are of {n_samples} samples; halves, shuffles and "
                f"errors need at least {LEAST_GROUPS}"
            )
        refuse_unusable(component.pairs)
        fields = estimate(component.pairs, plan.names, plan.settings, n_shuffles=plan.n_shuffles)
    except ValueError as error:
        note = note or str(error)  # what an estimator says of its arrays, said of a component
        for theirs, ours in (("`x`", "`base`"), ("`y`", f"`{plan.against}`"), (" groups", " samples")):
            note = note.replace(theirs, ours)
    js = [np.nan, np.nan] if component.why else component.js.mean(axis=0, dtype=np.float64).tolist()
    columns = {
        "js": js[0],
        "js_delta_alone": js[1],
        "n_tokens": len(component.tokens),
        "n_samples": n_samples,
        "n_repeats": component.n_repeats,
        "n_not_finite": component.n_not_finite,
        "n_axes_x": component.pairs.x.shape[1],
        "n_axes_y": component.pairs.y.shape[1],
        "share_x": component.shares[0],
        "share_y": component.shares[1],
    }
    return ComponentRecord(fields, note, columns)
