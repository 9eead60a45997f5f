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

N_PARTS = (2, 4, 8)
"""Numbers of disjoint parts that the rows are divided into; every part gives an estimate."""
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
    "ceiling": "the most that this estimator can give for this many pairs; NaN where nothing holds it down",
    "verdict": "how far the value can be believed",
}
"""Field of an estimate -> its description."""
FIELDS = tuple(MEANINGS)
"""Fields of an estimate, in the order of arrays."""
VERDICT_FIELDS = ("value", "se", "low", "high", "half", "quarter", "eighth", "ceiling", "null_mean", "null_sd")
"""Fields that a verdict depends on."""
LEVEL = 0.95
"""Level of confidence of the intervals."""
VERDICTS = ("ok", "lower bound only", "saturated", "undersampled", "biased", "assumes Gaussian", "serial")
"""Verdicts on how far an estimate can be believed; `verdict` has the rules."""

NEAR_CEILING = 0.8
"""Share of its ceiling from which an estimate counts as saturated."""
GROWTH = 0.5
"""Share of ln 4: a growth that large, from a quarter of the rows to all, counts as saturated above half the ceiling."""
DRIFT = 0.02
"""Largest change of an estimate in nats, beyond noise, from a quarter of the rows to all."""
AGREEMENT = 0.05
"""Largest difference in nats, beyond noise, between two members of the panel that agree."""
WIDEST_INTERVAL = 0.05, 0.1
"""Largest distance from a value with verdict `ok` to an end of its interval: nats or a share, whichever is more."""
RESOLUTION = 0.2
"""Largest share of the ranks, along every coordinate, that contains k neighbours if these can see any dependence."""


def estimate(
    pairs: Pairs,
    names: Sequence[str],
    settings: Settings,
    *,
    n_shuffles: int,
    n_workers: int = 1,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return each estimator's value, error, null and verdict (all `FIELDS`) in nats, float64 (estimator, field).

    The verdict, how far the value can be believed, is a place in `VERDICTS`.

    Raises
    ------
    ValueError
        If an estimator refuses the pairs.
    """
    rng = np.random.default_rng(settings.seed)
    nulls = [partial(_shuffle_pairs, pairs, _shuffled_rows(pairs, rng)) for _ in range(n_shuffles)]
    cuts = {n: _disjoint_parts(pairs, n, rng) for n in N_PARTS}
    for n, parts in cuts.items():
        if not all(_is_large_enough(pairs.take(rows), settings.k) for rows in parts):
            cuts[n] = []
    jobs: list[Callable[[], Pairs]] = [lambda: pairs, *nulls]
    jobs += [partial(pairs.take, rows) for parts in cuts.values() for rows in parts]

    def evaluate_job(place: int) -> np.ndarray:
        """Return the estimators' values (estimator,) of one job: of all rows, a shuffle or a part."""
        # Job 0 is all rows, whose errors are raised. A shuffle or part may have ties or a constant column that all rows
        # don't have; if an estimator refuses it, the value is NaN.
        return evaluate(jobs[place](), names, settings, strict=not place)

    values = []
    for row in map_in_order(evaluate_job, range(len(jobs)), n_threads=n_workers):
        values.append(row)
        if progress is not None:
            progress(len(values), len(jobs))
    edges = np.cumsum([1, n_shuffles, *map(len, cuts.values())])[:-1]
    (whole,), null, *parts_of_all = np.split(np.array(values), edges)
    return _estimate_fields(pairs, names, settings, whole, null, dict(zip(N_PARTS, parts_of_all, strict=True)))


def _shuffle_pairs(pairs: Pairs, rows: np.ndarray) -> Pairs:
    """Return pairs whose y, with its groups, is reordered by `rows`, for the null of no dependence."""
    return pairs._replace(y=pairs.y[rows], groups_y=pairs.groups_y[rows])


def _shuffled_rows(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """Return the row of y for each row of x in a shuffle of whole samples, int64 (n,).

    Samples are concatenated in random order and rotated by a random number of rows, since their lengths differ; a few
    rows may get a y of their own sample.
    """
    order = np.argsort(pairs.groups_y, kind="stable")
    starts = np.flatnonzero(np.diff(pairs.groups_y[order], prepend=pairs.groups_y[order[0]] - 1))
    samples = np.split(order, starts[1:])
    moved = np.concatenate([samples[place] for place in rng.permutation(len(samples))])
    moved = np.roll(moved, rng.integers(len(moved)))
    source = np.empty_like(order)
    source[np.argsort(pairs.groups_x, kind="stable")] = moved
    return source


def _disjoint_parts(pairs: Pairs, n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Divide whole samples at random into n parts of about equal size; return the rows of each part."""
    labels, sizes = np.unique(pairs.groups_x, return_counts=True)
    order = rng.permutation(len(labels))
    before = np.cumsum(sizes[order]) - sizes[order] / 2
    part = np.empty(len(labels), np.int64)
    part[order] = np.minimum(before * n // len(pairs.x), n - 1)
    rows = part[np.searchsorted(labels, pairs.groups_x)]
    return [np.flatnonzero(rows == place) for place in range(n)]


def _is_large_enough(part: Pairs, k: int) -> bool:
    """Return whether a part has enough rows and groups for all estimators, and no constant column.

    Halves differ in size by at most the largest group; also in the smaller half, each row needs k rows of other groups.
    """
    n, most = len(part.x), np.bincount(part.groups_x, minlength=1).max()
    if n < least_rows(part) or n - 3 * most < 2 * k:
        return False
    return all((side.min(axis=0) < side.max(axis=0)).all() for side in (part.x, part.y))


def _estimate_fields(
    pairs: Pairs,
    names: Sequence[str],
    settings: Settings,
    whole: np.ndarray,
    null: np.ndarray,
    ladder: dict[int, np.ndarray],
) -> np.ndarray:
    """Combine values of all rows, of shuffles and of parts into all `FIELDS`, float64 (estimator, field).

    The input are values in nats: of all rows (estimator,), of shuffles (shuffle, estimator), and for each number of
    parts of these parts (part, estimator).
    """
    out = np.full((len(names), len(FIELDS)), np.nan)
    at = {field: out[:, place] for place, field in enumerate(FIELDS)}
    at["value"][:] = whole
    sizes = len(pairs.x), pairs.x.shape[1], pairs.y.shape[1]
    known_bias = {name: estimator.bias for name, estimator in ESTIMATORS.items() if estimator.bias}
    at["bias"][:] = [known_bias[name](*sizes) if name in known_bias else math.nan for name in names]
    at["ceiling"][:] = ceilings(pairs, names, settings)
    at["se"][:], half_width = _errors_from_parts(ladder, len(names))
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
    for n, field in zip(N_PARTS, ("half", "quarter", "eighth"), strict=True):
        if len(ladder[n]):
            # The bias falls as 1/rows, so that a part of 1/n of the rows has n times that of all rows.
            falls = [n * (name != "panel" and ESTIMATORS[name].null_is_bias) for name in names]
            at[field][:] = ladder[n].mean(axis=0) - np.where(falls, np.nan_to_num(at["bias"]) * falls, 0.0)
    if "panel" in names:
        place, members = names.index("panel"), [names.index(name) for name in PANEL]
        panel_bias = _largest_member_bias(ladder, members)
        if at["value"][place] - at["null_mean"][place] <= 2 * at["null_sd"][place]:
            panel_bias = at["null_mean"][place]  # not above the shuffles, which have the same bias
        at["bias"][place] = panel_bias
        at["value"][place] -= panel_bias
        for field in ("half", "quarter", "eighth"):
            at[field][place] = at[field][members].max() - panel_bias
    remaining = _remaining_bias(at)
    at["low"][:] = at["value"] - half_width + np.minimum(remaining, 0)
    at["high"][:] = at["value"] + half_width + np.maximum(remaining, 0)
    at["verdict"][:] = _verdicts(names, at, pairs, settings)
    return out


def _largest_member_bias(ladder: dict[int, np.ndarray], members: list[int]) -> float:
    """Return the bias in nats that comes from taking the largest of several noisy estimators, judged by parts.

    It falls as the root of the rows. Over n parts with 1/n of the rows each, the mean of the largest value has the bias
    of a part, and the largest mean has the bias of all rows. They differ by (root n - 1) times the bias of all rows.
    """
    more = times = 0.0
    for n, parts in ladder.items():
        of_members = parts[:, members] if len(parts) else np.full((1, 1), np.nan)
        if np.isfinite(of_members).all():
            more += float(of_members.max(axis=1).mean() - of_members.mean(axis=0).max())
            times += math.sqrt(n) - 1
    return more / times if times else 0.0


def _remaining_bias(at: dict[str, np.ndarray]) -> np.ndarray:
    """Return the change in nats that more rows would cause, (estimator,), if bias falls as the root of their number."""
    smaller, times = (at["half"], 2) if np.isnan(at["quarter"]).all() else (at["quarter"], 4)
    with np.errstate(invalid="ignore"):  # infinite estimates
        change = (at["value"] - smaller) / (math.sqrt(times) - 1)
    return np.asarray(np.nan_to_num(change, nan=0.0, posinf=0.0, neginf=0.0))


def _errors_from_parts(ladder: dict[int, np.ndarray], n_names: int) -> tuple[np.ndarray, np.ndarray]:
    """Return standard errors and half widths of 95 % intervals in nats, (estimator,) each, from parts of the rows.

    NaN without parts. The variance of an estimate falls as 1/rows: the variance over n parts, divided by n, is that of
    all rows.
    """
    freedom = sum(len(parts) - 1 for parts in ladder.values() if len(parts))
    if not freedom:
        return np.full(n_names, np.nan), np.full(n_names, np.nan)
    with np.errstate(invalid="ignore"):  # infinite estimates have no scatter
        squares = sum(((p - p.mean(axis=0)) ** 2).sum(axis=0) / n for n, p in ladder.items() if len(p))
    se = np.sqrt(squares / freedom)
    return se, stdtrit(freedom, (1 + LEVEL) / 2) * se


def _verdicts(names: Sequence[str], at: dict[str, np.ndarray], pairs: Pairs, settings: Settings) -> list[float]:
    """Return how far each estimate can be believed, from its fields `at`, as places in `VERDICTS`."""
    n, d = len(pairs.x), pairs.x.shape[1] + pairs.y.shape[1]
    if effective_rows(pairs) < LEAST_EFFECTIVE * n:
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
    """Return how far an estimate can be believed, one of `VERDICTS`, from its fields (nats, NaN if unknown).

    `says` is its best possible verdict.

    Notes
    -----
    The rules, in this order:

    - `saturated`: infinite, also in a part; at least 0.8 of its ceiling; or at least half of it, and grown by half of
      ln 4 or more from a quarter of the rows to all (if quarters are too small, half of ln 2 from a half).
    - `biased`: the mean of shuffles, whose true value is 0, differs from 0 by more than 0.02 nat plus twice their
      scatter, or the value is below 0 by more than 0.02 nat plus twice its standard error. Ties and clustered samples
      do this to nearest neighbours.
    - `undersampled`: changed by more than 0.02 nat plus twice its standard error from a quarter of the rows to all; too
      few rows for parts; or, if `says` is `ok`, an end of its interval is more than 0.05 nat and a tenth of the value
      away.
    - Otherwise `says`. An `ok` is no proof: dependence on scales below the distance of neighbours stays hidden.

    `estimate` gives `serial` to all estimators if rows have no groups and fewer than 0.9 of them count as independent
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
    if says == "ok" and max(high - value, value - low) > max(WIDEST_INTERVAL[0], WIDEST_INTERVAL[1] * value):
        return "undersampled"
    return says


def panel_verdicts(
    members: Mapping[str, tuple[float, float]], verdicts: Mapping[str, str], own: str = "ok"
) -> dict[str, str]:
    """Return verdicts by name: on `panel`, the largest of several estimators, and corrected ones on these members.

    `members` has their (value, standard error) in nats, `verdicts` the verdicts on them so far.

    Notes
    -----
    Apart from noise, and from what `biased` finds, no member is too high. So a member that is below the largest by more
    than 0.05 nat plus twice the largest one's standard error is only a lower bound. If the verdict on the largest
    member is neither `ok` nor `lower bound only`, the panel gets it too; otherwise `own`, the verdict on the panel's
    numbers, is decisive in the same way. Otherwise the panel is `ok` if a member with verdict `ok` is that near to the
    largest, and else `lower bound only`.
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


CHANCE_SD = 2.0
"""Standard deviations that an autocorrelation must be above the largest expected by chance over lags and columns."""
LEAST_EFFECTIVE = 0.9
"""Share of independent rows below which the verdict is `serial`."""


def effective_rows(pairs: Pairs) -> float:
    """Return how many independent rows would have the same sampling error of correlations as these rows.

    It is n / (1 + 2 sum_h r_x(h) r_y(h)). Here r(h) is the largest autocorrelation of a side's normal scores at lag h,
    and h are lags up to n / 4 at which both sides exceed chance. With groups it is n, since groups show what depends.

    References
    ----------
    Bartlett 1935, J. R. Statist. Soc. 98, 536.
    """
    n = len(pairs.x)
    if len(np.unique(pairs.groups_x)) < n:
        return float(n)
    # Ties in random order: otherwise a rare symbol that occurs twice at some lag would exceed chance.
    of_x, of_y = (_autocorrelation(normal_scores(side, seed=place)) for place, side in enumerate((pairs.x, pairs.y)))
    return float(n / (1 + 2 * (of_x * of_y).sum()))


def _autocorrelation(side: np.ndarray) -> np.ndarray:
    """Return the largest absolute autocorrelation over columns at lags 1 to n / 4, 0 within chance, float64 (lag,)."""
    n = len(side)
    spectrum = rfft(side - side.mean(axis=0), 2 * n, axis=0)
    covariances = irfft(np.abs(spectrum) ** 2, axis=0)[: n // 4 + 1]
    largest = np.abs(covariances[1:] / covariances[0]).max(axis=1)
    least = (np.sqrt(2 * np.log(covariances[1:].size)) + CHANCE_SD) / np.sqrt(n)
    return np.asarray(np.where(largest < least, 0.0, largest))
