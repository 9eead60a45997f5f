"""Mutual information for components of a run: the plan, the chosen tokens, and the work on one component.

Sides are base (the frozen layer's output), and lora (base + delta) or delta alone. JS is the Jensen-Shannon divergence
of their softmaxes.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from lorascope.analyze.results.options import require_whole
from lorascope.analyze.results.weights import prefix_repeats
from lorascope.kernels.softmax import jensen_shannon_rows
from lorascope.stores import Run, StoreError
from lorascope.stores.names import require_choice
from lorascope.stores.reading.source import Source
from lorascope.stores.reading.token_choice import TokenChoice, chosen_token_weights, describe_choice
from lorascope.stores.reading.walk import walk_rows

from ..measuring.tiles import factor_delta
from .estimators import check_settings, resolve_estimators
from .evidence import FIELDS, estimate
from .pairs import LEAST_GROUPS, Pairs, Settings, Unit, is_repeat, refuse_unusable
from .projections import Axes, n_axes_for, principal_axes, project

Against = Literal["lora", "delta"]
"""States that base may be compared with."""


class Plan(NamedTuple):
    """Tokens, estimators and options of `measure_information`, the same for all components and sent to every task."""

    choice: str
    """Choice of tokens as text, such as `answer`."""
    population: np.ndarray
    """Bool (token,): mask of the run's tokens that the choice takes; principal axes are theirs."""
    tokens: np.ndarray
    """Int64 (token,), ascending: places of the drawn tokens of the population on the run's token axis."""
    samples: np.ndarray
    """Int64 (token,): index of the sample of each drawn token."""
    n_prefix_repeats: int
    """Number of tokens that were excluded since an earlier one has the same id after the same ids."""
    names: tuple[str, ...]
    """Names of the estimators."""
    settings: Settings
    n_shuffles: int
    against: Against
    n_axes: int
    """Largest number of principal axes of each side."""
    share: float
    """Share of each side's variance that the axes should keep, within `n_axes`."""


def make_plan(
    run: Run, *, tokens: TokenChoice, estimator: str | Sequence[str], against: Against, n_tokens: int, n_axes: int,
    share: float, settings: Settings, unit: Unit, n_shuffles: int,
) -> Plan:  # fmt: skip
    """Check the options of `measure_information`, and return its plan: chosen tokens, estimators and settings."""
    names = resolve_estimators(estimator)
    check_settings(settings, unit, n_shuffles)
    require_choice("against", against, get_args(Against))
    require_whole("n_axes", n_axes)
    require_whole("n_tokens", n_tokens)
    if not 0 < share <= 1:
        raise ValueError(f"`share` is {share!r}; it must be above 0 and at most 1")
    if not (run.committed.values & run.with_states.values).any():
        raise StoreError(f"no committed row of {run.place.name!r} keeps states; there are no tokens to choose from")
    population = chosen_token_weights(run, tokens, seed=settings.seed) > 0
    drawn, samples, n_repeats = draw_tokens(run, population, int(n_tokens), seed=settings.seed)
    if (n_samples := len(np.unique(samples))) < LEAST_GROUPS:
        raise ValueError(
            f"{len(drawn)} tokens of {run.place.name!r} could be chosen, of {n_samples} samples; halves, shuffles and "
            f"errors need at least {LEAST_GROUPS}: choose more tokens, or capture more samples"
        )
    return Plan(
        describe_choice(tokens), population, drawn, samples, n_repeats, names, settings, n_shuffles, against,
        int(n_axes), share,
    )  # fmt: skip


def draw_tokens(
    run: Run, population: Bool[np.ndarray, " token"], n_tokens: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw at most `n_tokens` tokens of a population at random, about the same number from each sample.

    `population` is a mask of the run's tokens. Returns the drawn tokens' places on the run's token axis, ascending,
    int64 (token,); the index of each one's sample, int64 (token,); and the number of excluded tokens that repeat the
    states of an earlier token of the population.

    Notes
    -----
    In a causal model the states of a token depend only on the token and those before it. Tokens of different samples
    whose ids agree from position 0 on have the same states. Only the first of them is used, since estimators see
    repeats as perfect dependence. Prefixes are known if a sample's captured positions run from 0 without a gap; other
    tokens are all used. Weights of tokens (`run.tokens["weight"]`) have no effect.
    """
    is_repeat = prefix_repeats(run, population)
    candidates = np.flatnonzero(population & ~is_repeat)
    labels = np.asarray(run.tokens["sample"].values[candidates])
    chosen = _choose_evenly(labels, n_tokens, np.random.default_rng(seed))
    return candidates[chosen], labels[chosen], int(is_repeat.sum())


def _choose_evenly(labels: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Choose at most `n` entries, about the same number of each label at random; return their places, ascending."""
    _, groups, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    # Every label gets min(size, level) entries, and some labels, drawn at random, one more.
    at_least = np.cumsum(np.bincount(sizes)[::-1])[::-1]  # level -> number of labels with at least `level` entries
    totals = np.concatenate([[0], np.cumsum(at_least[1:])])  # level -> sum of min(size, level)
    level = int(np.searchsorted(totals, n, side="right")) - 1
    quotas = np.minimum(sizes, level)
    n_left = min(n, int(sizes.sum())) - int(quotas.sum())
    quotas[generator.permutation(np.flatnonzero(sizes > level))[:n_left]] += 1
    order = np.lexsort((generator.random(len(groups)), groups))
    ranks = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(np.sort(order[ranks < quotas[groups[order]]]))


REPEAT_DISTANCE = 1e-5
"""Distance of two tokens' projections, in standard deviations, below which they are one state up to rounding."""
REPEAT_JS_DISTANCE = 1e-4
"""Largest difference of such tokens' js in standard deviations: it has the rounding errors of all features."""


class ComponentPairs(NamedTuple):
    """States of base and of lora (or delta) at a component's chosen tokens, projected onto axes for estimators."""

    pairs: Pairs
    tokens: np.ndarray
    """Int64 (n,): places of the tokens on the run's token axis."""
    js: np.ndarray
    """Float32 (n, 2), nats: JS(softmax(base), softmax(lora)) over all features, and the same with delta for lora."""
    shares: tuple[float, float]
    """Shares of the variance of base and of the other side that their axes keep."""
    n_repeats: int
    """Number of tokens excluded since an earlier one has the same states."""
    n_not_finite: int
    """Number of tokens excluded for NaN or infinity."""
    why: str = ""
    """Reason why states can't be projected, if there are no pairs."""


class ComponentEstimates(NamedTuple):
    """Estimates of mutual information for one component, a note if some are missing, and further values of it."""

    fields: np.ndarray
    """Float64 (estimator, field) in nats; NaN if estimators refuse the states."""
    note: str
    """Reason why values are missing, or empty."""
    columns: dict[str, float]
    """Further values of the component by their names in the result of `measure_information`."""


class _TokenStates(NamedTuple):
    """States (base and delta) of some tokens at one component; the arrays aren't reused."""

    tokens: np.ndarray
    """Int64 (token,): places on the run's token axis, ascending."""
    base: np.ndarray
    """Float32 (token, feature)."""
    delta: np.ndarray
    """Float32 (token, feature)."""

    def other(self, plan: Plan) -> np.ndarray:
        """Return the states that base is compared with, (token, feature): base + delta, or delta alone."""
        return self.base + self.delta if plan.against == "lora" else self.delta


def component_blocks(source: Source, tokens: Bool[np.ndarray, " token"] | None = None) -> Iterator[_TokenStates]:
    """Yield base and delta of a component's tokens, one block per committed row, without NaN and infinity.

    `tokens` is a mask of the run's tokens, by default all; rows without a chosen token aren't read. Raises StoreError
    if a chunk is missing, empty or broken.
    """
    name, is_factored = source.component, source.delta.lora_B is not None
    for block in walk_rows([source], ("base", "factor" if is_factored else "delta"), tokens=tokens, n_threads=1):
        base = block.base[name]
        with np.errstate(over="ignore", invalid="ignore"):  # tokens that aren't finite are dropped
            delta = factor_delta(source, block.factor[name]) if is_factored else block.delta[name]
            finite = np.isfinite(base + delta).all(axis=1)
        states = _TokenStates(block.tokens, base, delta)
        yield states if finite.all() else _TokenStates(*(values[finite] for values in states))


def component_pairs(source: Source, plan: Plan) -> ComponentPairs:
    """Read a component's states, and return pairs (base, lora or delta) projected onto axes, or none and a reason.

    The states are read three times.
    """

    def chosen_blocks() -> Iterator[_TokenStates]:
        """Yield the finite states of the drawn tokens, one block per row."""
        mask = np.zeros(source.base.shape[0], np.bool_)
        mask[plan.tokens] = True
        return component_blocks(source, mask)

    try:
        axes = principal_axes(
            lambda: ((block.base, block.other(plan)) for block in component_blocks(source, plan.population)),
            plan.n_axes,
            names=("base", plan.against),
            seed=plan.settings.seed,
        )
        blocks = [_project_states(block, axes, plan) for block in chosen_blocks()]
        if not any(len(tokens) for tokens, *_ in blocks):
            raise ValueError("there are no tokens without NaN and infinity")
    except StoreError:  # a subclass of ValueError: a broken store isn't a property of the states
        raise
    except ValueError as error:
        n_chosen = len(plan.tokens)
        n_not_finite = n_chosen - sum(len(block.tokens) for block in chosen_blocks())
        why = f"all {n_chosen} tokens hold NaN or infinity" if n_not_finite == n_chosen else str(error)
        none, labels = np.empty((0, 0)), np.empty(0, np.int64)
        return ComponentPairs(
            Pairs(none, none, labels, labels), labels, np.empty((0, 2), np.float32), (np.nan, np.nan), 0, n_not_finite,
            why,
        )  # fmt: skip
    tokens, js, x, y = map(np.concatenate, zip(*blocks, strict=True))
    samples = plan.samples[np.searchsorted(plan.tokens, tokens)]
    pairs = Pairs(x, y, samples, samples)
    rows = np.flatnonzero(~(_near_repeats(pairs, js) | is_repeat(pairs)))
    (n_x, share_x), (n_y, share_y) = (n_axes_for(side, plan.share, plan.n_axes) for side in axes)
    return ComponentPairs(
        pairs.take(rows)._replace(x=x[rows, :n_x], y=y[rows, :n_y]),
        tokens[rows],
        js[rows],
        (share_x, share_y),
        n_repeats=len(samples) - len(rows),
        n_not_finite=len(plan.tokens) - len(samples),
    )


def _project_states(states: _TokenStates, axes: list[Axes], plan: Plan) -> tuple[np.ndarray, ...]:
    """Return a block's tokens, their two JS (token, 2) in nats, and base and lora (or delta) projected onto axes."""
    js = np.empty((2, len(states.base)), np.float32)
    jensen_shannon_rows(states.base, states.delta, js[0])
    jensen_shannon_rows(states.base, states.delta - states.base, js[1])
    return states.tokens, js.T, project(states.base, axes[0]), project(states.other(plan), axes[1])


def _near_repeats(pairs: Pairs, js: np.ndarray) -> np.ndarray:
    """Return a mask of pairs that equal an earlier pair up to rounding, in projections and in both JS, bool (n,).

    Tokens of one id have the same states before any attention; in float32 they differ by the batch that computed them.
    Different states may be close along a few axes, but then their js, which is over all features, differ.
    """
    again = np.zeros(len(js), np.bool_)
    if len(js) < 2:
        return again
    scaled = np.hstack(
        [
            _divided_by_sd(pairs.x),
            _divided_by_sd(pairs.y),
            _divided_by_sd(np.nan_to_num(js.astype(np.float64))) * (REPEAT_DISTANCE / REPEAT_JS_DISTANCE),
        ]
    )
    tree = cKDTree(scaled)
    nearest = tree.query(scaled, k=2, p=np.inf, distance_upper_bound=REPEAT_DISTANCE)[0][:, 1]
    for place in np.flatnonzero(np.isfinite(nearest)):  # a list of all near pairs could have n^2 entries
        if not again[place]:
            again[tree.query_ball_point(scaled[place], REPEAT_DISTANCE, p=np.inf)] = True
            again[place] = False
    return again


def _divided_by_sd(values: np.ndarray) -> np.ndarray:
    """Return columns divided by their standard deviations; constant columns unchanged."""
    spread = values.std(axis=0)
    return np.asarray(values / np.where(spread > 0, spread, 1.0))


def estimate_component(source: Source, plan: Plan) -> ComponentEstimates:
    """Return a component's estimates of mutual information; NaN, with a note, if its states can't be used."""
    component = component_pairs(source, plan)
    fields, note = np.full((len(plan.names), len(FIELDS)), np.nan), component.why
    n_samples = len(np.unique(component.pairs.groups_x))
    try:
        if n_samples < LEAST_GROUPS:
            raise ValueError(
                f"the remaining {len(component.tokens)} tokens are of {n_samples} samples; halves, shuffles and "
                f"errors need at least {LEAST_GROUPS}"
            )
        refuse_unusable(component.pairs)
        fields = estimate(component.pairs, plan.names, plan.settings, n_shuffles=plan.n_shuffles)
    except ValueError as error:
        note = note or str(error)  # messages about arrays become messages about states
        for array_word, state_word in (("`x`", "`base`"), ("`y`", f"`{plan.against}`"), (" groups", " samples")):
            note = note.replace(array_word, state_word)
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
    return ComponentEstimates(fields, note, columns)
