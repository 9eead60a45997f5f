import math
from typing import Any

import numpy as np
import pytest
from scipy.signal import lfilter

from lorascope.analyze import mutual_information
from lorascope.analyze.information.estimators import ESTIMATORS, evaluate, resolve_estimators
from lorascope.analyze.information.evidence import (
    FIELDS,
    LEAST_EFFECTIVE,
    N_PARTS,
    VERDICTS,
    _disjoint_parts,
    _is_large_enough,
    _shuffle_pairs,
    _shuffled_rows,
    effective_rows,
    estimate,
)
from lorascope.analyze.information.pairs import Pairs, Settings, check_pairs

RNG = np.random.default_rng


def shuffled(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    return _shuffle_pairs(pairs, _shuffled_rows(pairs, rng))


def correlated(seed: int, n: int = 400, d: int = 1, rho: float = 0.6, groups: Any = None) -> Pairs:
    rng = RNG(seed)
    x = rng.normal(size=(n, d))
    return check_pairs(x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(n, d)), groups)


def fields(
    pairs: Pairs, estimator: Any = "gaussian", *, n_shuffles: int = 0, n_workers: int = 1, **settings: Any
) -> dict[str, Any]:
    """Numbers of one estimator, or arrays of several."""
    names = resolve_estimators(estimator)
    values = estimate(pairs, names, Settings(**settings), n_shuffles=n_shuffles, n_workers=n_workers)
    return {field: values[:, place] if len(names) > 1 else values[0, place] for place, field in enumerate(FIELDS)}


def word(found: dict[str, Any]) -> str:
    return VERDICTS[int(found["verdict"])]


def of_lengths(lengths: Any, seed: int = 0) -> Pairs:
    """Samples of these numbers of rows in a random order, row i of x and y at x = i and y = -i."""
    groups = RNG(seed).permutation(np.repeat(np.arange(len(lengths)), lengths))
    rows = np.arange(float(len(groups)))
    return Pairs(rows[:, None], -rows[:, None], groups, groups)


@pytest.mark.parametrize("lengths", [[1] * 50, [7] * 20, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 30]])
def test_a_shuffle_moves_y_in_whole_samples(lengths: list[int]) -> None:
    pairs = of_lengths(lengths)
    moved = shuffled(pairs, RNG(1))
    for same in ("x", "groups_x"):
        assert getattr(moved, same) is getattr(pairs, same)
    source = -moved.y[:, 0].astype(int)
    np.testing.assert_array_equal(np.sort(source), np.arange(len(source)))
    np.testing.assert_array_equal(moved.groups_y, pairs.groups_y[source])
    # Read in the order of x's samples, y comes sample by sample, each one's rows in their own order, wherever the round
    # begins and ends.
    read = source[np.argsort(pairs.groups_x, kind="stable")]
    turns = pairs.groups_y[read] != np.roll(pairs.groups_y[read], 1)
    assert turns.sum() == len(lengths)
    steps_back = (read < np.roll(read, 1)) & ~turns
    assert steps_back.sum() <= 1  # where the round began, perhaps within a sample


def test_p_is_as_likely_to_be_any_of_its_values_where_there_is_nothing() -> None:
    found = []
    for seed in range(300):
        x, y = RNG(seed).normal(size=(2, 60))
        found.append(fields(check_pairs(x, y), n_shuffles=9, seed=seed)["p"])
    values, counts = np.unique(np.round(found, 12), return_counts=True)
    np.testing.assert_allclose(values, np.arange(1, 11) / 10)
    # Chi squared of 9 freedoms: above 28 once in 1,000 times.
    assert ((counts - 30) ** 2 / 30).sum() < 28


def test_p_counts_equal_shuffles_and_cant_be_0() -> None:
    assert fields(correlated(0, rho=0.99), n_shuffles=3)["p"] == 1 / 4
    found = fields(correlated(0, rho=0.0), "classifier", n_shuffles=4)  # a certificate is cut at 0
    assert (found["value"], found["null_mean"], found["p"]) == (0, 0, 1)


@pytest.mark.parametrize("lengths", [[1] * 300, [5] * 60, [*range(1, 30)] * 3])
@pytest.mark.parametrize("n", N_PARTS)
def test_parts_are_whole_samples_each_in_one_part(n: int, lengths: list[int]) -> None:
    pairs = of_lengths(lengths)
    parts = [pairs.take(rows) for rows in _disjoint_parts(pairs, n, RNG(2))]
    assert len(parts) == n
    rows = np.concatenate([part.x[:, 0] for part in parts])
    np.testing.assert_array_equal(np.sort(rows), pairs.x[:, 0])
    labels = [set(part.groups_x.tolist()) for part in parts]
    assert sum(map(len, labels)) == len(lengths)
    for part in parts:
        np.testing.assert_array_equal(part.y, -part.x)
        assert abs(len(part.x) - len(rows) / n) <= max(lengths)


@pytest.mark.parametrize(
    ("lengths", "k", "n", "suffice"),
    [
        ([900, *[5] * 40], 3, 8, False),  # parts within the longest sample, of nothing
        ([50] * 7, 3, 8, False),  # fewer samples than parts
        ([1] * 400, 50, 8, False),  # parts of 50 rows, where each row would need 50 others
        ([30, 1, 1, 1, 1, 1, 1, 1] * 8, 3, 8, False),  # halves of one sample
        ([20] * 7, 3, 2, False),  # and where there are three in a part
        ([1] * 256, 3, 8, True),
        ([8] * 32, 3, 8, True),
        ([*range(1, 18)] * 5, 3, 8, True),
    ],
)
def test_parts_are_large_enough_where_every_estimator_takes_them(
    lengths: list[int], k: int, n: int, suffice: bool
) -> None:
    pairs = of_lengths(lengths)
    pairs = pairs._replace(x=RNG(3).normal(size=pairs.x.shape), y=RNG(4).normal(size=pairs.y.shape))
    parts = [pairs.take(rows) for rows in _disjoint_parts(pairs, n, RNG(3))]
    for check in (estimates, _is_large_enough):
        assert all(check(part, k) for part in parts) == suffice


def estimates(part: Pairs, k: int) -> bool:
    """Whether every estimator takes the part."""
    try:
        evaluate(part, list(ESTIMATORS), Settings(k=k))
    except (ValueError, RuntimeWarning):  # of nothing there is no standard deviation
        return False
    return True


def test_parts_in_which_a_column_doesnt_vary_arent_looked_at() -> None:
    rng = RNG(4)
    x, y = rng.normal(size=(2, 800))
    rare = np.where(np.arange(800) % 200 == 0, x, 0.0)
    found = fields(check_pairs(np.stack([rare, x], axis=1), x + y), "ksg1", n_shuffles=1)
    assert math.isnan(found["eighth"])
    assert np.isfinite(found["value"])


def test_errors_and_intervals_of_gaussians_are_right() -> None:
    found = [fields(correlated(seed), seed=seed) for seed in range(200)]
    values, errors, low, high = (np.array([one[field] for one in found]) for field in ("value", "se", "low", "high"))
    scatter = values.std(ddof=1)
    # The scatter of 200 values is known to 5 %, and errors rest on parts as small as 50 rows.
    assert 0.75 * scatter < errors.mean() < 1.25 * scatter
    truth = -0.5 * math.log(1 - 0.6**2)
    # 95 % of 200, with a standard deviation of 1.5 %
    assert 0.9 < ((low < truth) & (truth < high)).mean() < 0.99
    assert abs(values.mean() - truth) < 4 * scatter / math.sqrt(200)


def test_the_ladder_is_made_of_means_over_parts() -> None:
    pairs = correlated(5, 800)
    found = fields(pairs, "ksg1", seed=9)
    rng, squares = RNG(9), 0.0
    for n, field in zip(N_PARTS, ("half", "quarter", "eighth"), strict=True):
        parts = _disjoint_parts(pairs, n, rng)
        values = [evaluate(pairs.take(rows), ["ksg1"], Settings(seed=9))[0] for rows in parts]
        assert found[field] == pytest.approx(np.mean(values), rel=1e-12)
        squares += (n - 1) * np.var(values, ddof=1) / n
    # Each size says n times the whole's variance with n - 1 freedoms: 11 in all.
    assert found["se"] == pytest.approx(math.sqrt(squares / 11), rel=1e-12)
    # Student's t, and what is left of a bias that falls as the root of the rows: as much as fell from a quarter to all
    left, noise = found["value"] - found["quarter"], 2.20098516 * found["se"]
    assert found["high"] - found["value"] == pytest.approx(noise + max(left, 0), rel=1e-8)
    assert found["value"] - found["low"] == pytest.approx(noise + max(-left, 0), rel=1e-8)


@pytest.mark.parametrize(
    ("n", "d", "groups", "known"),
    [
        (256, 1, None, 3),
        (255, 1, None, 2),
        (127, 1, None, 1),
        (63, 1, None, 0),
        (256, 7, None, 2),  # 2 (7 + 7 + 3) = 34 rows a part
        (60, 7, None, 0),
        (400, 1, 7, 0),
        (400, 1, 12, 1),
        (400, 1, 50, 3),
    ],
)
def test_the_ladder_ends_where_parts_are_too_small(n: int, d: int, groups: int | None, known: int) -> None:
    labels = None if groups is None else np.arange(n) % groups
    found = fields(correlated(6, n, d, groups=labels), n_shuffles=2)
    there = [np.isfinite(found[field]) for field in ("half", "quarter", "eighth")]
    assert there == [True] * known + [False] * (3 - known)
    for field in ("se", "low", "high"):
        assert np.isfinite(found[field]) == (known > 0)
    if not known:
        assert word(found) == "undersampled"


def test_the_null_is_made_of_shuffles() -> None:
    pairs = correlated(5, 100)
    found = fields(pairs, "ksg1", n_shuffles=4, seed=9)
    rng = RNG(9)
    values = [evaluate(shuffled(pairs, rng), ["ksg1"], Settings())[0] for _ in range(4)]
    assert found["null_mean"] == pytest.approx(np.mean(values), rel=1e-12)
    assert found["null_sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)


def test_the_null_of_noise_curves_is_their_bias() -> None:
    pairs = correlated(9, 300, 3)
    place = resolve_estimators("noise").index("noise_0.1")
    raw, found = fields(pairs, "noise"), fields(pairs, "noise", n_shuffles=5)
    assert found["bias"][place] == found["null_mean"][place] > 0
    assert found["value"][place] == pytest.approx(raw["value"][place] - found["null_mean"][place], abs=1e-12)
    assert math.isnan(raw["bias"][place])


def test_what_the_largest_member_has_from_noise_is_the_panels_bias() -> None:
    """Parts tell it: the mean of their largest lies above their largest mean by root n - 1 times that of all rows."""
    pairs = correlated(9, 600, 2, rho=0.7)
    names, rng = resolve_estimators("panel"), RNG(0)
    found = fields(pairs, "panel")
    more = times = 0.0
    for n in N_PARTS:
        parts = np.array(
            [evaluate(pairs.take(rows), names, Settings())[:-1] for rows in _disjoint_parts(pairs, n, rng)]
        )
        more += parts.max(axis=1).mean() - parts.mean(axis=0).max()
        times += math.sqrt(n) - 1
    assert found["bias"][-1] == pytest.approx(more / times, rel=1e-12)
    assert found["bias"][-1] > 0
    assert found["value"][-1] == pytest.approx(found["value"][:-1].max() - found["bias"][-1], rel=1e-12)


def test_a_panel_that_shuffles_reach_has_their_mean_for_its_bias() -> None:
    found = fields(correlated(3, 300, rho=0.0), "panel", n_shuffles=9)
    assert found["bias"][-1] == found["null_mean"][-1] > 0


def test_copies_are_saturated_and_infinity_is_said() -> None:
    x = RNG(13).normal(size=(400, 2))
    found = fields(check_pairs(x, x), ["gaussian", "ksg1", "panel"], n_shuffles=2)
    assert found["value"][0] == math.inf
    names = resolve_estimators(["gaussian", "ksg1", "panel"])
    for name in ("gaussian", "ksg1", "panel"):
        assert VERDICTS[int(found["verdict"][names.index(name)])] == "saturated"


def test_what_shuffles_and_parts_alone_refuse_is_not_known() -> None:
    """Their ties and constant columns are none of the user's: no pair of the whole occurs twice."""
    a = RNG(1).normal(size=1000)
    found = fields(check_pairs(np.maximum(a, 0), np.maximum(-a, 0)), "panel", n_shuffles=3)
    assert np.isfinite(found["value"]).all()
    rare = np.zeros(2000)
    rare[RNG(2).permutation(2000)[:14]] = RNG(3).normal(size=14)
    found = fields(check_pairs(RNG(4).normal(size=2000), rare), "panel", n_shuffles=3)
    assert np.isfinite(found["value"]).all()
    assert np.isnan(found["eighth"]).all()


def test_a_gaussian_copula_above_what_rows_can_speak_against_assumes_gaussian() -> None:
    """Twenty pairs of .99 have 39 nats; a thousand rows have a million pairs, and ln of that is 13.8."""
    strong, weak = (fields(correlated(3, 1000, d=20, rho=rho), "panel", n_shuffles=2) for rho in (0.99, 0.5))
    names = resolve_estimators("panel")
    words = [
        VERDICTS[int(found["verdict"][names.index(name)])]
        for found in (strong, weak)
        for name in ("gaussian_copula", "panel")
    ]
    assert strong["value"][names.index("gaussian_copula")] > 30
    assert "lower bound only" not in words[:2]
    assert words[2] == "lower bound only"


def series(rng: np.random.Generator, n: int, d: int, coefficient: float) -> np.ndarray:
    """Stationary autoregressive series of variance 1, float64 (n, d)."""
    noise = rng.normal(size=(n, d))
    noise[1:] *= np.sqrt(1 - coefficient**2)
    return np.asarray(lfilter([1], [1, -coefficient], noise, axis=0))


@pytest.mark.parametrize("d", [1, 8])
def test_independent_rows_all_count(d: int) -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        pairs = check_pairs(*rng.normal(size=(2, 500, d)))
        assert effective_rows(pairs) > LEAST_EFFECTIVE * 500
        # One side alone may follow itself: its rows still meet the other side's in a random order.
        assert effective_rows(pairs._replace(x=series(rng, 500, d, 0.98))) > LEAST_EFFECTIVE * 500


@pytest.mark.parametrize("coefficient", [0.5, 0.9])
def test_serial_rows_count_as_often_as_bartlett_says(coefficient: float) -> None:
    """1 + 2 sum r^2h = (1 + r^2) / (1 - r^2) rows of such series count once."""
    found = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        found.append(effective_rows(check_pairs(*(series(rng, 4000, 1, coefficient) for _ in range(2)))))
    expected = 4000 * (1 - coefficient**2) / (1 + coefficient**2)
    assert np.median(found) == pytest.approx(expected, rel=0.1)


def test_seasons_and_interleaved_series_are_serial_though_rows_that_meet_are_not_alike() -> None:
    rng = np.random.default_rng(0)
    quarters = np.pi / 2 * np.arange(400)  # a quarter turn on, nothing of a wave is left
    season = check_pairs(*(np.sin(quarters + phase) + 0.3 * rng.normal(size=400) for phase in (1.0, 0.3)))
    assert effective_rows(season) < 0.1 * 400
    for seed in range(10):
        rng = np.random.default_rng(seed)
        interleaved = check_pairs(*(series(rng, 200, 5, 0.98).ravel() for _ in range(2)))
        assert effective_rows(interleaved) < LEAST_EFFECTIVE * 1000


def test_rare_symbols_that_both_sides_share_arent_serial() -> None:
    for seed in range(50):
        rare = (np.random.default_rng(seed).random(500) < 0.02).astype(int)
        rare[0] = 1
        assert effective_rows(check_pairs(rare, rare)) > LEAST_EFFECTIVE * 500


def test_independent_series_are_told_unless_groups_say_what_depends_on_what() -> None:
    rng = np.random.default_rng(0)
    x, y = (series(rng, 500, 1, 0.98) for _ in range(2))
    found = mutual_information(x, y, n_shuffles=5)
    assert float(found["value"].sel(estimator="panel")) > 0.15  # of independent series
    assert set(found["verdict"].values.tolist()) == {"serial"}
    assert found.attrs["n_effective"] < 100
    grouped = mutual_information(x, y, n_shuffles=5, groups=np.arange(500) // 50)
    assert "serial" not in grouped["verdict"].values
    assert grouped.attrs["n_effective"] == 500
    order = rng.permutation(500)
    shuffled = mutual_information(x[order], y[order], n_shuffles=5)
    assert "serial" not in shuffled["verdict"].values  # whoever shuffles says that rows are independent
