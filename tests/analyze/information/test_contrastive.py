import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp  # type: ignore[import-untyped]

from lorascope.analyze.information import contrastive
from lorascope.analyze.information.contrastive import (
    choice_halves,
    error_of_mean,
    group_halves,
    infonce,
    paired_coordinates,
)


def gaussians(seed: int, n: int, dimension: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Every coordinate of x correlates with the same one of y."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dimension))
    return x, rho * x + np.sqrt(1 - rho**2) * rng.normal(size=x.shape)


@pytest.mark.parametrize(
    ("dimension", "rho", "below"), [(1, 0.75, 0.08), (2, 0.8, 0.15), (5, 0.5, 0.3)], ids=["1", "2", "5"]
)
def test_gaussians_of_known_information(dimension: int, rho: float, below: float) -> None:
    truth = -dimension / 2 * np.log(1 - rho**2)
    found = infonce(*gaussians(0, 1500, dimension, rho))
    assert truth - below < found.value_nats < truth + 3 * found.standard_error_nats


def test_a_shared_scale_without_correlation() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 2000, 5)) / np.sqrt(rng.chisquare(2, (2000, 1)) / 2)
    found = infonce(x, y)
    assert 0.25 < found.value_nats < 0.448 + 3 * found.standard_error_nats  # Student, 5 + 5, 2 degrees of freedom


def test_a_parity_that_no_single_pair_tells() -> None:
    rng = np.random.default_rng(2)
    x, sign = rng.choice([-1.0, 1.0], (1000, 2)), rng.choice([-1.0, 1.0], 1000)
    y = np.stack([sign, sign * x[:, 0] * x[:, 1]], axis=1)
    noisy = [side + 0.05 * rng.normal(size=side.shape) for side in (x, y)]
    found = infonce(*noisy)
    assert 0.1 < found.value_nats < np.log(2)


@pytest.mark.parametrize(("n", "dimension"), [(40, 1), (400, 1), (300, 3), (100, 40)])
def test_independent_sides_stay_at_0(n: int, dimension: int) -> None:
    found = np.array([infonce(*gaussians(seed, n, dimension, 0.0))[:2] for seed in range(10)])
    error = found[:, 0].std() / np.sqrt(len(found))
    assert found[:, 0].mean() < 3 * error + 1e-9
    assert (found[:, 0] < 4 * found[:, 1] + 1e-9).all()


def test_equal_sides_reach_the_ceiling() -> None:
    x = gaussians(3, 400, 12, 0)[0]
    found = infonce(x, x)
    assert found.ceiling_nats == pytest.approx(np.log(200))
    assert np.log(200) - 0.01 < found.value_nats <= np.log(200)


@given(st.integers(0, 10**6), st.integers(32, 120), st.integers(1, 4), st.floats(-1, 1))
@settings(max_examples=15)
def test_is_never_above_the_ceiling(seed: int, n: int, dimension: int, rho: float) -> None:
    found = infonce(*gaussians(seed, n, dimension, rho), groups=np.arange(n) // 3)
    assert found.value_nats <= found.ceiling_nats + 1e-9
    assert found.ceiling_nats < np.log(n / 2 + 3)


def test_monotone_maps_and_sides_count_for_little() -> None:
    x, y = gaussians(4, 1000, 2, 0.8)
    found = infonce(x, y)
    assert infonce(1e30 * x, np.exp(y) - 7).value_nats == pytest.approx(found.value_nats, abs=0.02)
    assert infonce(y, x).value_nats == pytest.approx(found.value_nats, abs=2 * found.standard_error_nats)


def test_a_seed_gives_a_number() -> None:
    x, y = gaussians(5, 300, 2, 0.7)
    state = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    assert infonce(x, y, seed=3) == infonce(x, y, seed=3)
    assert infonce(x, y, seed=3) != infonce(x, y, seed=4)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]  # noqa: NPY002


def test_what_rows_of_a_group_share_is_no_dependence() -> None:
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(40), 15)
    x, y = (rng.normal(size=(40, 2))[groups] + 0.1 * rng.normal(size=(600, 2)) for _ in range(2))
    assert infonce(x, y).value_nats > 1
    found = infonce(x, y, groups=np.array([f"sample {group}" for group in groups]))
    assert found.value_nats < 3 * found.standard_error_nats + 1e-9


def test_the_terms_are_infonce_of_the_kernel_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    rows = contrastive._Rows(rng.normal(size=(50, 3)), rng.normal(size=(50, 3)), rng.integers(0, 10, 50))
    centres = contrastive._Rows(rng.normal(size=(70, 3)), rng.normal(size=(70, 3)), np.arange(70))
    kernels = (contrastive.Kernel((0, 2), 0.5), contrastive.Kernel((1,), 0.3))
    expected = slow_terms(rows, centres, kernels)
    for block in (7, 1024):
        monkeypatch.setattr(contrastive, "BLOCK_ROWS", block)
        terms, ceilings = contrastive._terms(rows, centres, kernels)
        np.testing.assert_allclose(terms, expected, atol=1e-4)
    others = [(rows.labels != label).sum() for label in rows.labels]
    np.testing.assert_allclose(ceilings, np.log(1 + np.array(others)))


def slow_terms(
    rows: contrastive._Rows, centres: contrastive._Rows, kernels: tuple[contrastive.Kernel, ...]
) -> np.ndarray:
    """By plain sums of densities, in float64."""

    def critic(i: int, j: int) -> float:
        value = 0.0
        for columns, h in kernels:
            u, v = rows.u[i, columns], rows.v[j, columns]
            near_u = np.exp(-((centres.u[:, columns] - u) ** 2).sum(axis=1) / (2 * h**2))
            near_v = np.exp(-((centres.v[:, columns] - v) ** 2).sum(axis=1) / (2 * h**2))
            value += np.log(0.999 * near_u @ near_v * 70 / (near_u.sum() * near_v.sum()) + 0.001)
        return value

    out = []
    for i in range(len(rows.u)):
        compared = [j for j in range(len(rows.v)) if j == i or rows.labels[j] != rows.labels[i]]
        values = [critic(i, j) for j in compared]
        out.append(critic(i, i) - logsumexp(values) + np.log(len(values)))
    return np.array(out)


def test_maps_know_nothing_of_the_other_rows() -> None:
    x, y = gaussians(8, 200, 3, 0.6)
    fitted = np.arange(200) < 90
    u, v = paired_coordinates(x, y, fitted)
    changed = np.where(fitted[:, None], x, -5 * x)
    others = paired_coordinates(changed, y, fitted)
    np.testing.assert_array_equal(others[0][fitted], u[fitted])
    np.testing.assert_array_equal(others[1], v)
    assert u.shape == v.shape == (200, 4)  # three canonical pairs and the norms
    np.testing.assert_allclose(u[fitted].std(axis=0), 1, atol=0.05)


@pytest.mark.parametrize(
    ("dx", "dy", "n_pairs"), [(1, 1, 1), (1, 2, 2), (4, 1, 2), (20, 30, 9)], ids=["1+1", "1+2", "4+1", "20+30"]
)
def test_how_many_pairs_there_are(dx: int, dy: int, n_pairs: int) -> None:
    rng = np.random.default_rng(9)
    u, v = paired_coordinates(rng.normal(size=(400, dx)), rng.normal(size=(400, dy)), np.arange(400) < 200)
    assert u.shape == v.shape == (400, n_pairs)


def test_more_features_than_rows() -> None:
    rng = np.random.default_rng(10)
    shared = rng.normal(size=(200, 2))
    x, y = (shared @ rng.normal(size=(2, 300)) + 0.5 * rng.normal(size=(200, 300)) for _ in range(2))
    found = infonce(x, y)
    assert 2 < found.value_nats <= found.ceiling_nats


@given(st.lists(st.integers(1, 9), min_size=4, max_size=40), st.integers(0, 99))
def test_halves_are_of_whole_groups_two_at_least(sizes: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    first = group_halves(labels, seed)
    groups = [set(labels[half]) for half in (first, ~first)]
    assert not groups[0] & groups[1]
    assert min(map(len, groups)) >= 2
    assert abs(int(first.sum()) - int((~first).sum())) <= max(sizes)


def test_choosing_falls_back_on_rows_where_groups_are_few() -> None:
    labels = np.repeat([3, 7, 9], 10)
    numbered, fitted = choice_halves(labels, 0)
    np.testing.assert_array_equal(numbered, np.arange(30))
    assert fitted.sum() == 15
    numbered, _ = choice_halves(np.repeat([1, 2, 3, 4], [97, 1, 1, 1]), 0)
    assert numbered.max() == 99
    numbered, fitted = choice_halves(np.repeat([3, 7, 9, 11], 10), 0)
    np.testing.assert_array_equal(numbered, np.repeat(np.arange(4), 10))
    assert fitted.sum() == 20


def test_the_error_is_that_of_groups() -> None:
    rng = np.random.default_rng(11)
    terms = rng.normal(size=60)
    assert error_of_mean(terms, np.arange(60)) == pytest.approx(terms.std(ddof=1) / np.sqrt(60))
    sums = terms.reshape(20, 3).mean(axis=1)
    assert error_of_mean(terms, np.repeat(np.arange(20), 3)) == pytest.approx(sums.std(ddof=1) / np.sqrt(20))


def test_the_stated_error_is_the_scatter() -> None:
    found = np.array([infonce(*gaussians(seed, 300, 1, 0.8))[:2] for seed in range(40)])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(ddof=1), rel=0.35)


N = 40
PLAIN = np.random.default_rng(12).normal(size=(N, 2))
RARE = np.zeros((N, 1))
RARE[0] = 1


@pytest.mark.parametrize(
    ("x", "y", "groups", "words"),
    [
        (PLAIN[:, 0], PLAIN, None, "`x` has shape .40,.; it must be .row, feature."),
        (PLAIN, PLAIN[:, :0], None, "`y` has shape .40, 0.; it must be .row, feature."),
        (PLAIN, PLAIN[1:], None, "`x` has 40 rows and `y` 39; row i"),
        (PLAIN[:31], PLAIN[:31], None, "there are 31 rows; give at least 32"),
        (PLAIN, np.where(PLAIN[5, 1] == PLAIN, np.nan, PLAIN), None, "1 of 40 rows of `y` hold NaN .*, first row 5;"),
        (np.where(PLAIN[2, 0] == PLAIN, np.inf, PLAIN), PLAIN, None, "1 of 40 rows of `x` hold NaN .*, first row 2;"),
        (PLAIN, np.ones((N, 3)), None, "`y` is the same in all 40 rows; nothing depends on it"),
        (RARE, PLAIN, None, "`x` is the same in all 10 samples"),
        (PLAIN, PLAIN, np.arange(39), "`groups` has shape .39,.; it must be .40,."),
        (PLAIN, PLAIN, np.arange(N) % 3, "`groups` holds 3 groups; two halves need at least 4"),
        (PLAIN, PLAIN, np.maximum(np.arange(N) - 30, 0), "of the 40 rows one group holds 31, which leaves . to the"),
    ],
    ids=["flat", "empty", "lengths", "few", "nan", "inf", "constant", "rare", "labels", "groups", "large"],
)
def test_samples_that_are_none(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        infonce(x, y, groups=groups)


def test_rows_are_drawn_where_there_are_more_than_needed() -> None:
    among = np.arange(100) % 2 == 1
    np.testing.assert_array_equal(contrastive._some(among, 50, 0), np.arange(1, 100, 2))
    drawn = contrastive._some(among, 20, 0)
    assert len(np.unique(drawn)) == 20
    assert among[drawn].all()
