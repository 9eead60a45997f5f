"""An estimate with everything that shows how far to believe it: null, parts of the rows, interval, ceiling, verdict."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from scipy.fft import irfft, rfft  # type: ignore[import-untyped]
from scipy.special import stdtrit  # type: ignore[import-untyped]

from lorascope.stores.progress import Progress
from lorascope.stores.threads import map_in_order

from .estimators import ESTIMATORS, PANEL, ceilings, evaluate
from .gaussian import normal_scores
from .pairs import Pairs, Settings, least_rows

SHARES = (2, 4, 8)
"""The rows are cut into so many parts, and each is looked at alone."""
MEANINGS = {
    "value": "mutual information, less its bias where that is known",
    "bias": "what was taken off as bias",
    "se": "standard error, from the scatter of disjoint parts of the samples",
    "low": "lower end of the 95 % interval: noise, and the bias that parts of the samples show",
    "high": "upper end of the 95 % interval: noise, and the bias that parts of the samples show",
    "null_mean": "mean over shuffles of samples",
    "null_sd": "standard deviation over shuffles of samples",
    "p": "(1 + shuffles that reach the value) / (1 + shuffles)",
    "half": "mean over two halves of the samples",
    "quarter": "mean over four quarters of the samples",
    "eighth": "mean over eight eighths of the samples",
    "ceiling": "the most that this estimator can give for so many pairs; NaN where nothing holds it down",
    "verdict": "how far the value can be believed",
}
"""Columns of an estimate, and what they are."""
FIELDS = tuple(MEANINGS)
VERDICT_FIELDS = ("value", "se", "low", "high", "half", "quarter", "eighth", "ceiling", "null_mean", "null_sd")
"""Columns that a verdict rests on."""
LEVEL = 0.95
"""Level of confidence of the intervals."""
VERDICTS = ("ok", "lower bound only", "saturated", "undersampled", "biased", "assumes Gaussian", "serial")
"""Words for how far an estimate can be believed; `verdict` has the rules."""

NEAR_CEILING = 0.8
"""Share of its ceiling at which an estimate says that there is much, not how much."""
GROWTH = 0.5
"""Share of ln 4 by which an estimate that only counts its rows grows from a quarter of them to all."""
DRIFT = 0.02
"""Nats beyond the noise that an estimate may move from a quarter of the rows to all."""
AGREEMENT = 0.05
"""Nats beyond the noise up to which two members of the panel say the same."""
FARTHEST = 0.05, 0.1
"""Largest distance of an interval's end from a value that is `ok`: nats, or a share of it, whichever is more."""
RESOLUTION = 0.2
"""Share of the ranks, along every coordinate of both sides, in which k neighbours lie if they are to see everything."""


def estimate(
    pairs: Pairs,
    names: Sequence[str],
    settings: Settings,
    *,
    n_shuffles: int,
    n_workers: int = 1,
    progress: Progress | None = None,
) -> np.ndarray:
    """Float64 (estimator, field) in nats, fields as `FIELDS`; the verdict is a place in `VERDICTS`.

    Raises
    ------
    ValueError
        If an estimator refuses the pairs.
    """
    rng = np.random.default_rng(settings.seed)
    nulls = [partial(_shuffled, pairs, _shuffled_rows(pairs, rng)) for _ in range(n_shuffles)]
    cuts = {n: _parts(pairs, n, rng) for n in SHARES}
    for n, parts in cuts.items():
        if not all(_suffices(pairs.take(rows), settings.k) for rows in parts):
            cuts[n] = []
    jobs: list[Callable[[], Pairs]] = [lambda: pairs, *nulls]
    jobs += [partial(pairs.take, rows) for parts in cuts.values() for rows in parts]

    def evaluate_job(place: int) -> np.ndarray:
        # The first is the whole, whose mistakes are the user's. What an estimator refuses of a shuffle or a part, which
        # may hold ties or a constant column that the whole doesn't, is NaN.
        return evaluate(jobs[place](), names, settings, strict=not place)

    values = []
    for row in map_in_order(
        evaluate_job, range(len(jobs)), n_threads=n_workers
    ):  # which makes its pairs: few are in memory
        values.append(row)
        if progress is not None:
            progress(len(values), len(jobs))
    edges = np.cumsum([1, n_shuffles, *map(len, cuts.values())])[:-1]
    (whole,), null, *parts_of_all = np.split(np.array(values), edges)
    return _fields(pairs, names, settings, whole, null, dict(zip(SHARES, parts_of_all, strict=True)))


def _shuffled(pairs: Pairs, rows: np.ndarray) -> Pairs:
    return pairs._replace(y=pairs.y[rows], groups_y=pairs.groups_y[rows])


def _shuffled_rows(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """The row whose y each row of x gets, int64 (n,): samples change places whole, and keep their own structure.

    They are laid end to end in a random order and moved round by a random number of rows, since they differ in length;
    a few rows may meet their own sample.
    """
    order = np.argsort(pairs.groups_y, kind="stable")
    starts = np.flatnonzero(np.diff(pairs.groups_y[order], prepend=pairs.groups_y[order[0]] - 1))
    samples = np.split(order, starts[1:])
    moved = np.concatenate([samples[place] for place in rng.permutation(len(samples))])
    moved = np.roll(moved, rng.integers(len(moved)))
    source = np.empty_like(order)
    source[np.argsort(pairs.groups_x, kind="stable")] = moved
    return source


def _parts(pairs: Pairs, n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Whole samples dealt out to n parts of about as many rows: places of each part's rows."""
    labels, sizes = np.unique(pairs.groups_x, return_counts=True)
    order = rng.permutation(len(labels))
    before = np.cumsum(sizes[order]) - sizes[order] / 2
    part = np.empty(len(labels), np.int64)
    part[order] = np.minimum(before * n // len(pairs.x), n - 1)
    rows = part[np.searchsorted(labels, pairs.groups_x)]
    return [np.flatnonzero(rows == place) for place in range(n)]


def _suffices(part: Pairs, k: int) -> bool:
    """Tell whether there are enough rows of enough groups, and no constant column.

    Halves differ by at most the largest group; even in the smaller one, its rows must find k rows of other groups.
    """
    n, most = len(part.x), np.bincount(part.groups_x, minlength=1).max()
    if n < least_rows(part) or n - 3 * most < 2 * k:
        return False
    return all((side.min(axis=0) < side.max(axis=0)).all() for side in (part.x, part.y))


def _fields(
    pairs: Pairs,
    names: Sequence[str],
    settings: Settings,
    whole: np.ndarray,
    null: np.ndarray,
    ladder: dict[int, np.ndarray],
) -> np.ndarray:
    out = np.full((len(names), len(FIELDS)), np.nan)
    at = {field: out[:, place] for place, field in enumerate(FIELDS)}
    at["value"][:] = whole
    sizes = len(pairs.x), pairs.x.shape[1], pairs.y.shape[1]
    known_bias = {name: estimator.bias for name, estimator in ESTIMATORS.items() if estimator.bias}
    at["bias"][:] = [known_bias[name](*sizes) if name in known_bias else math.nan for name in names]
    at["ceiling"][:] = ceilings(pairs, names, settings)
    at["se"][:], half_width = _errors(ladder, len(names))
    for place, name in enumerate(names):
        known = null[np.isfinite(null[:, place]), place]
        if not len(known):
            continue
        at["null_mean"][place] = known.mean()
        at["null_sd"][place] = known.std(ddof=1) if len(known) > 1 else np.nan
        at["p"][place] = (1 + (known >= whole[place]).sum()) / (1 + len(known))
        if name != "panel" and ESTIMATORS[name].null_is_bias:
            at["bias"][place] = at["null_mean"][place]
            at["value"][place] -= at["null_mean"][place]
    for n, field in zip(SHARES, ("half", "quarter", "eighth"), strict=True):
        if len(ladder[n]):
            # A bias from few rows falls as 1/rows.
            falls = [n * (name != "panel" and ESTIMATORS[name].null_is_bias) for name in names]
            at[field][:] = ladder[n].mean(axis=0) - np.where(falls, np.nan_to_num(at["bias"]) * falls, 0.0)
    if "panel" in names:
        place, members = names.index("panel"), [names.index(name) for name in PANEL]
        bonus = _bonus_of_the_largest(ladder, members)
        if at["value"][place] - at["null_mean"][place] <= 2 * at["null_sd"][place]:
            bonus = at["null_mean"][place]  # shuffles, where all is noise, have about the same
        at["bias"][place] = bonus
        at["value"][place] -= bonus
        for field in ("half", "quarter", "eighth"):
            at[field][place] = at[field][members].max() - bonus
    left = _bias_left(at)
    at["low"][:] = at["value"] - half_width + np.minimum(left, 0)
    at["high"][:] = at["value"] + half_width + np.maximum(left, 0)
    at["verdict"][:] = _verdicts(names, at, pairs, settings)
    return out


def _bonus_of_the_largest(ladder: dict[int, np.ndarray], members: list[int]) -> float:
    """Nats by which noise alone lifts the largest of several members above their largest mean.

    It falls as the root of the rows. Of the n parts of 1/n of the rows, the mean of the largest has the bonus of that
    many rows, and the largest mean that of all rows: they differ by root n - 1 times what all rows have.
    """
    more = times = 0.0
    for n, parts in ladder.items():
        of_members = parts[:, members] if len(parts) else np.full((1, 1), np.nan)
        if np.isfinite(of_members).all():
            more += float(of_members.max(axis=1).mean() - of_members.mean(axis=0).max())
            times += math.sqrt(n) - 1
    return more / times if times else 0.0


def _bias_left(at: dict[str, np.ndarray]) -> np.ndarray:
    """Nats that more rows would still add or take, if bias falls as the root of the rows, float64 (estimator,)."""
    smaller, times = (at["half"], 2) if np.isnan(at["quarter"]).all() else (at["quarter"], 4)
    with np.errstate(invalid="ignore"):  # infinite estimates
        left = (at["value"] - smaller) / (math.sqrt(times) - 1)
    return np.asarray(np.nan_to_num(left, nan=0.0, posinf=0.0, neginf=0.0))


def _errors(ladder: dict[int, np.ndarray], n_names: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors, and half widths of the intervals, float64 (estimator,): NaN where there are no parts.

    An estimate's variance falls as 1/N, so that the scatter of parts of N/n rows, divided by n, is that of the whole.
    """
    freedom = sum(len(parts) - 1 for parts in ladder.values() if len(parts))
    if not freedom:
        return np.full(n_names, np.nan), np.full(n_names, np.nan)
    with np.errstate(invalid="ignore"):  # infinite estimates have no scatter
        squares = sum(((p - p.mean(axis=0)) ** 2).sum(axis=0) / n for n, p in ladder.items() if len(p))
    se = np.sqrt(squares / freedom)
    return se, stdtrit(freedom, (1 + LEVEL) / 2) * se


def _verdicts(names: Sequence[str], at: dict[str, np.ndarray], pairs: Pairs, settings: Settings) -> list[float]:
    n, d = len(pairs.x), pairs.x.shape[1] + pairs.y.shape[1]
    if effective_rows(pairs) < FEWEST * n:
        return [float(VERDICTS.index("serial"))] * len(names)
    sees_all = (settings.k / n) ** (1 / d) <= RESOLUTION
    words, members = {}, {}
    for place, name in enumerate(names):
        fields = {field: float(at[field][place]) for field in VERDICT_FIELDS}
        if name in PANEL:
            members[name] = (fields["value"], fields["se"])
        if name != "panel":
            if ESTIMATORS[name].null_is_bias:
                fields["null_mean"] = math.nan
            says, checked = ESTIMATORS[name].says, ESTIMATORS[name].checked_up_to
            if checked is not None and fields["value"] > checked(n):
                says = "assumes Gaussian"
            elif says == "ok" and not sees_all:
                says = "lower bound only"
            words[name] = verdict(says, **fields)
    if "panel" in names:
        place = names.index("panel")
        own = verdict("ok", **{field: float(at[field][place]) for field in VERDICT_FIELDS} | {"null_mean": math.nan})
        words |= panel_verdicts(members, {name: words[name] for name in PANEL}, own)
    return [float(VERDICTS.index(words[name])) for name in names]


def verdict(
    says: str,
    *,
    value: float,
    se: float,
    half: float,
    quarter: float,
    eighth: float,
    ceiling: float,
    low: float = math.nan,
    high: float = math.nan,
    null_mean: float = math.nan,
    null_sd: float = math.nan,
) -> str:
    """One of `VERDICTS` for an estimate: its fields in nats, NaN where unknown, and what its estimator `says` at best.

    Notes
    -----
    `saturated`: infinite, in a part too; at 0.8 of its ceiling or more; or at half of it, and grown by half of ln 4 or
    more from a quarter of the rows to all (half of ln 2 from a half, where quarters are too small). `undersampled`:
    moved by more than 0.02 nat plus twice its standard error on that way; too few rows to know; or no bound, and an end
    of its interval farther away than 0.05 nat and a tenth of the value. `biased`: shuffles, whose truth is 0, give more
    or less than 0 by 0.02 nat plus twice their scatter, or the value is below 0 by 0.02 nat plus twice its standard
    error; ties and samples whose rows cluster do that to neighbours. Else what the estimator says: `lower bound only`
    and `assumes Gaussian` stay that however many rows there are; an estimate that stays where it is, is `ok`. That is
    no proof: what changes within the distance of the nearest neighbours is hidden from them, whatever parts show.

    `serial`, which `estimate` gives, is said of all estimators where rows are alone, without groups, and those that
    follow each other, at once or at some distance, are alike on both sides: fewer than 0.9 of them count as independent
    (`effective_rows`).
    """
    if any(map(math.isinf, (value, half, quarter, eighth))) or value >= max(NEAR_CEILING * ceiling, DRIFT):
        return "saturated"
    smaller, times = (half, 2) if math.isnan(quarter) else (quarter, 4)
    drift = value - smaller
    if drift >= GROWTH * math.log(times) and value >= ceiling / 2:
        return "saturated"
    if abs(null_mean) > DRIFT + 2 * null_sd or value < -(DRIFT + 2 * se):
        return "biased"
    if math.isnan(drift + se) or abs(drift) > DRIFT + 2 * se:
        return "undersampled"
    if says == "ok" and max(high - value, value - low) > max(FARTHEST[0], FARTHEST[1] * value):
        return "undersampled"
    return says


def panel_verdicts(
    members: Mapping[str, tuple[float, float]], verdicts: Mapping[str, str], own: str = "ok"
) -> dict[str, str]:
    """Verdicts of `panel` and of its members (value and standard error), which correct what `verdict` says of each.

    Notes
    -----
    No member can say too much but for noise, and for what `biased` finds. One that is below the largest by more than
    0.05 nat plus twice that one's standard error is therefore no more than a lower bound, whatever it says of itself.
    The panel is as good as its largest member: where that one's verdict is neither `ok` nor `lower bound only`, so is
    the panel's; then comes its `own`, of the numbers of the panel itself. Else it is `ok` if a member that sees
    everything, and says `ok`, is the largest or comes as near; or `lower bound only`.
    """
    best = max(members, key=lambda name: members[name][0])
    value, error = members[best]
    near = AGREEMENT + (0.0 if math.isnan(error) else 2 * error)
    far = [name for name in members if not value - members[name][0] <= near and name != best]
    corrected = {name: "lower bound only" for name in far if verdicts[name] == "ok"}
    for word in (verdicts[best], own):
        if word not in ("ok", "lower bound only"):
            return {**corrected, "panel": word}
    is_ok = any(verdicts[name] == "ok" and name not in far for name in members)
    return {**corrected, "panel": "ok" if is_ok else "lower bound only"}


CHANCE = 2.0
"""Standard deviations by which an autocorrelation must exceed the largest of all lags and columns by chance."""
FEWEST = 0.9
"""Share of the rows that count, below which rows are said to be serial."""


def effective_rows(pairs: Pairs) -> float:
    """Number of independent rows whose correlations between the sides would scatter as much as those of these rows.

    n / (1 + 2 sum_h r_x(h) r_y(h)), with r the largest autocorrelation of a side's normal scores at lag h, over lags up
    to n / 4 where neither side's may be chance. Where rows have groups, these say what depends on what: all count.

    References
    ----------
    Bartlett 1935, J. R. Statist. Soc. 98, 536.
    """
    n = len(pairs.x)
    if len(np.unique(pairs.groups_x)) < n:
        return float(n)
    # Ties in a random order: else a rare symbol that comes twice at some distance would seem more than chance.
    of_x, of_y = (_autocorrelation(normal_scores(side, seed=place)) for place, side in enumerate((pairs.x, pairs.y)))
    return float(n / (1 + 2 * (of_x * of_y).sum()))


def _autocorrelation(side: np.ndarray) -> np.ndarray:
    """At lags 1 to n / 4, the largest size over columns, 0 where that may be chance, float64 (lag,)."""
    n = len(side)
    spectrum = rfft(side - side.mean(axis=0), 2 * n, axis=0)
    covariances = irfft(np.abs(spectrum) ** 2, axis=0)[: n // 4 + 1]
    largest = np.abs(covariances[1:] / covariances[0]).max(axis=1)
    least = (np.sqrt(2 * np.log(covariances[1:].size)) + CHANCE) / np.sqrt(n)
    return np.asarray(np.where(largest < least, 0.0, largest))
