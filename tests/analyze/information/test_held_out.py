import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import digamma, gammaln, ndtr

from lorascope.analyze.information import held_out
from lorascope.analyze.information.gaussian import gaussian_bias, gaussian_information, normal_scores
from lorascope.analyze.information.held_out import cca_ksg, characteristic_ksg, quadratic_cca_ksg, radial_ksg
from lorascope.analyze.information.ksg import extrapolated_ksg
from lorascope.analyze.information.pairs import Pairs, Settings
from lorascope.analyze.information.projections import WhiteSide, first_half, whitened

Sides = tuple[np.ndarray, np.ndarray]
N_SEEDS = 6


def scores_of(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Pairs:
    labels = np.arange(len(x)) if groups is None else groups
    return Pairs(x, y, labels, labels)


def linear(x: np.ndarray, y: np.ndarray, seed: int = 0) -> float:
    return cca_ksg(scores_of(x, y), Settings(seed=seed))


def quadratic(x: np.ndarray, y: np.ndarray, seed: int = 0) -> float:
    return quadratic_cca_ksg(scores_of(x, y), Settings(seed=seed))


def characteristic(x: np.ndarray, y: np.ndarray, seed: int = 0) -> float:
    return characteristic_ksg(scores_of(x, y), Settings(seed=seed))


def radial(x: np.ndarray, y: np.ndarray) -> float:
    return radial_ksg(scores_of(x, y), Settings())


def gaussian(rng: np.random.Generator, n: int, d: int, rho: float) -> Sides:
    x = rng.normal(size=(n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(n, d))


def student(rng: np.random.Generator, n: int, dx: int, dy: int, nu: float) -> Sides:
    """Spherical Student t."""
    rows = rng.normal(size=(n, dx + dy)) / np.sqrt(rng.chisquare(nu, size=(n, 1)) / nu)
    return rows[:, :dx], rows[:, dx:]


def student_information(dx: int, dy: int, nu: float) -> float:
    """The truth of a spherical Student t, nats: from the entropies of its parts, which are Student t of the same nu."""

    def part(v: float) -> float:
        return float(gammaln(v / 2) - v / 2 * digamma(v / 2))

    return part(nu) + part(nu + dx + dy) - part(nu + dx) - part(nu + dy)


def mean_and_error(estimate: Callable[[np.ndarray, np.ndarray], float], make: Callable[..., Sides]) -> Sides:
    found = [estimate(*make(np.random.default_rng(seed))) for seed in range(N_SEEDS)]
    return np.mean(found), np.std(found, ddof=1) / math.sqrt(N_SEEDS)  # type: ignore[return-value]


@pytest.mark.parametrize("estimate", [linear, quadratic, characteristic, radial])
@pytest.mark.parametrize("d", [1, 3])
def test_independent_sides_have_none(d: int, estimate: Callable[..., float]) -> None:
    mean, error = mean_and_error(estimate, lambda rng: (rng.normal(size=(1000, d)), rng.normal(size=(1000, d))))
    # Kraskov 2004, section III: at independence KSG is free of bias as far as numbers can tell.
    assert abs(mean) < 4 * error


@pytest.mark.parametrize(
    ("estimate", "d", "rho"),
    [(linear, 1, 0.9), (linear, 2, 0.6), (quadratic, 1, 0.9), (quadratic, 2, 0.6)],
)
def test_near_the_truth_of_gaussians(estimate: Callable[..., float], d: int, rho: float) -> None:
    truth = -d / 2 * math.log(1 - rho**2)
    mean, error = mean_and_error(estimate, lambda rng: gaussian(rng, 1000, d, rho))
    # Less what directions of 500 rows miss, and KSG in two dimensions: a tenth of it.
    assert 0.9 * truth - 4 * error < mean < truth + 0.02 + 4 * error


@pytest.mark.parametrize("estimate", [linear, characteristic])
def test_independent_pairs_add_up(estimate: Callable[..., float]) -> None:
    mean, error = mean_and_error(estimate, lambda rng: gaussian(rng, 1500, 4, 0.6))
    # In four dimensions a side neighbours alone find less than two thirds of it.
    assert 0.8 * -2 * math.log(1 - 0.6**2) < mean < -2 * math.log(1 - 0.6**2) + 4 * error


@pytest.mark.parametrize("estimate", [linear, characteristic])
@pytest.mark.parametrize("shared", ["cluster", "scale", "order"])
def test_what_pairs_share_is_counted_once(shared: str, estimate: Callable[..., float]) -> None:
    """Four coordinates a side that all tell the same cluster, scale or order: together they know what that is."""
    rng = np.random.default_rng(8)
    noise = rng.normal(size=(2, 1500, 4))
    if shared == "cluster":  # eight, whose centres each coordinate has in an order of its own
        cluster, truth = rng.integers(8, size=1500), math.log(8)
        x, y = (20 * rng.permuted(np.tile(np.arange(8), (4, 1)), axis=1)[:, cluster].T + side for side in noise)
    elif shared == "scale":
        truth = student_information(4, 4, 2)
        x, y = student(rng, 1500, 4, 4, 2)
    else:  # one coordinate with noise, written in four ways
        truth = -0.5 * math.log(1 - 0.9**2)
        one, other = (side[:, 0] for side in gaussian(rng, 1500, 1, 0.9))
        x, y = (
            np.stack([z, z**3, np.sinh(z), z + z**2 / 100], axis=1) + 1e-6 * rest
            for z, rest in zip((one, other), noise, strict=True)
        )
    assert estimate(normal_scores(x), normal_scores(y)) < truth + 0.06


@pytest.mark.parametrize("d", [1, 4])
def test_a_wave_along_one_of_many_coordinates_is_seen_at_its_own_frequency(d: int) -> None:
    """y is a turn of 5 x and noise, so that no line, product or norm shows it; hidden by rotations."""
    rng = np.random.default_rng(9)
    turns = rng.random((3000, d))
    noise = 0.05 * rng.normal(size=3000)
    other = np.column_stack([(5 * turns[:, 0] + noise) % 1, rng.random((3000, d - 1))])
    truth = -math.log(0.05 * math.sqrt(2 * math.pi * math.e))  # of a circle, less a normal that is narrow on it
    assert 0.8 * truth < characteristic(normal_scores(turns), normal_scores(other)) < truth + 0.06


@pytest.mark.parametrize("estimate", [linear, characteristic])
def test_a_wave_along_a_hidden_direction_is_seen_sharply(estimate: Callable[..., float]) -> None:
    """Two periods with noise, in one of four directions a side, which a canonical pair or one wave finds roughly."""
    rng = np.random.default_rng(12)
    x, y = rng.normal(size=(2, 3000, 4))
    y[:, 0] = np.sin(4 * np.pi * ndtr(x[:, 0])) / 0.7 + 0.3 * y[:, 0]
    turns = [np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2)]
    alone = extrapolated_ksg(x[:, :1], y[:, :1])
    assert 0.9 * alone < estimate(x @ turns[0], y @ turns[1]) < alone + 0.06


def test_directions_that_were_picked_by_chance_say_nothing() -> None:
    found = []
    for seed in range(N_SEEDS):
        rng = np.random.default_rng(seed)
        x, y = (normal_scores(rng.normal(size=(600, 25))) for _ in range(2))
        assert gaussian_information(x, y) > 0.5  # what the same rows say of themselves: 25^2 / 1200
        found.append((linear(x, y), quadratic(x, y)))
    means, errors = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / math.sqrt(N_SEEDS)
    assert (means < 4 * errors).all()
    # Halves of 300 rows leave KSG a standard deviation of some 0.025.
    assert np.max(found) < 4 * 0.025


@pytest.mark.parametrize("d", [1, 3])
def test_a_shared_scale_without_correlation_is_seen_by_products_and_norms(d: int) -> None:
    rng = np.random.default_rng(1)
    scale = np.exp(rng.normal(size=(2000, 1)))
    x, y = (normal_scores(scale * rng.normal(size=(2000, d))) for _ in range(2))
    for estimate in (quadratic, radial):
        assert estimate(x, y) > 0.1
    assert gaussian_information(x, y) - gaussian_bias(2000, d, d) < 0.02


def test_what_turns_with_the_distance_is_seen_by_features() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(3000, 2))
    y = x[:, :1] + 0.5 * rng.normal(size=(3000, 1))
    angle = 0.6 * (x**2).sum(axis=1)
    turned = np.stack(
        [x[:, 0] * np.cos(angle) - x[:, 1] * np.sin(angle), x @ [0, 1] * np.cos(angle) + x[:, 0] * np.sin(angle)]
    )
    # Gaussians before: half of the log of 1 + 1 / 0.5^2.
    assert 0.8 * 0.5 * math.log(5) < quadratic(normal_scores(turned.T), normal_scores(y)) < 0.5 * math.log(5) + 0.06
    assert linear(normal_scores(turned.T), normal_scores(y)) < 0.6 * 0.5 * math.log(5)


def test_signs_that_only_products_tell_are_seen_by_them() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2000, 2))
    y = np.sign(x[:, :1] * x[:, 1:]) * np.abs(rng.normal(size=(2000, 1))) + 0.1 * rng.normal(size=(2000, 1))
    found = quadratic(normal_scores(x), normal_scores(y))
    # Of ln 2 = 0.69 less the noise; in norms alone there is nothing.
    assert found > 0.2
    assert radial(normal_scores(x), normal_scores(y)) < 0.1


@pytest.mark.parametrize(("n", "n_features"), [(640, 32), (639, 22), (440, 22), (439, 2)])
def test_a_side_has_as_many_features_as_there_are_twenties_of_rows(
    n: int, n_features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 coordinates, as many times r and r^2, r and ln r: 17, with 15 products or 5 squares; or r and ln r alone."""
    widths = []

    def spied(side: np.ndarray, name: str, ridge: float) -> WhiteSide:
        widths.append(side.shape[1])
        return whitened(side, name, ridge)

    monkeypatch.setattr(held_out, "whitened", spied)
    quadratic(*gaussian(np.random.default_rng(0), n, 5, 0.5))
    assert widths == [n_features] * 4


def test_norms_of_one_coordinate_have_no_ties() -> None:
    """Ranks r and n + 1 - r have the same norm; neighbours on the radius don't count, which gave 0.03 of 0 here."""
    rng = np.random.default_rng(6)
    found = [radial(*(normal_scores(rng.normal(size=(100, 1))) for _ in range(2))) for _ in range(150)]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(150)


@pytest.mark.parametrize(("dx", "dy", "nu"), [(1, 1, 1), (3, 3, 2), (5, 5, 2), (4, 2, 1)])
def test_norms_tell_all_of_a_spherical_student_and_correlations_nothing(dx: int, dy: int, nu: float) -> None:
    truth = student_information(dx, dy, nu)
    mean, error = mean_and_error(radial, lambda rng: student(rng, 1500, dx, dy, nu))
    # KSG of one dimension a side, with its systematic error below 0.01 (Kraskov 2004, figure 4)
    assert abs(mean - truth) < 0.01 + 4 * error
    x, y = (normal_scores(side) for side in student(np.random.default_rng(0), 1500, dx, dy, nu))
    # Correlations of 0 with tails that move together: their squares are up to a few times 1/n.
    assert abs(gaussian_information(x, y) - gaussian_bias(1500, dx, dy)) < 0.03


@pytest.mark.parametrize("estimate", [cca_ksg, quadratic_cca_ksg, characteristic_ksg])
def test_no_sample_is_in_both_halves(estimate: Callable[..., float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions in which 40 samples differ by chance tell nothing of other samples, and much of the same ones."""
    groups = np.repeat(np.arange(40), 15)

    def mean_value() -> float:
        found = []
        for seed in range(4):
            rng = np.random.default_rng(seed)
            offsets = 3 * rng.normal(size=(2, 40, 5))
            x, y = (normal_scores(side[groups] + rng.normal(size=(600, 5))) for side in offsets)
            found.append(estimate(scores_of(x, y, groups), Settings()))
        return float(np.mean(found))

    whole = mean_value()
    monkeypatch.setattr(held_out, "first_half", lambda groups, *, seed: first_half(np.arange(len(groups)), seed=seed))
    torn = mean_value()
    assert whole < 0
    assert torn > whole + 0.1


def test_too_few_rows_for_the_directions_are_refused_in_words() -> None:
    x, y = gaussian(np.random.default_rng(5), 40, 10, 0.5)
    with pytest.raises(ValueError, match="20 samples of 10 and 10 directions always correlate perfectly"):
        linear(x, y)


def test_sizes_of_single_coordinates_tie_nowhere() -> None:
    """Scores of ranks r and n + 1 - r are as large as each other: k = 1 would find two rows in one place."""
    for seed in range(20):
        x, y = np.random.default_rng(seed).normal(size=(2, 60, 1))
        assert np.isfinite(quadratic_cca_ksg(scores_of(normal_scores(x), normal_scores(y)), Settings(k=1)))
