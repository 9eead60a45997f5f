import numpy as np
import pytest
from scipy.optimize import approx_fprime

from lorascope.kernels.pair_directions import (
    DENSITY_FLOOR,
    GRID_EDGE,
    GRID_POINTS,
    GRID_SPACING,
    _information,
    turn_pair,
    wave_covariance_and_slopes,
)


def smoothing(*widths: float) -> np.ndarray:
    places = np.arange(GRID_POINTS) * GRID_SPACING
    return np.array([np.exp(-((places - places[:, None]) ** 2) / (2 * width**2)) for width in widths])


def slow_information(u: np.ndarray, v: np.ndarray, kernels: np.ndarray) -> float:
    """Row by row: each weighs the four grid points around it by its distance along both axes."""
    places = np.arange(GRID_POINTS) * GRID_SPACING - GRID_EDGE
    weights = [
        np.maximum(1 - np.abs(np.clip(side, -GRID_EDGE, None)[:, None] - places) / GRID_SPACING, 0) for side in (u, v)
    ]
    joint = kernels[0] @ (weights[0].T @ weights[1]) @ kernels[1]
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0) / joint.sum()
    ratio = np.log((joint + DENSITY_FLOOR) / (product + DENSITY_FLOOR))
    return float(np.einsum("ni,ij,nj->n", weights[0], ratio, weights[1]).mean())


@pytest.mark.parametrize("widths", [(0.25, 0.25), (0.25, 0.03)])
def test_information_on_the_grid(widths: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    u = rng.normal(size=700).clip(-3.4, 3.4)
    v = np.sin(3 * u) + 0.3 * rng.normal(size=700)
    slopes, kernels = np.empty((2, 700)), smoothing(*widths)
    value = _information(u, v, kernels, *slopes)
    assert value == pytest.approx(slow_information(u, v, kernels), rel=1e-12)
    u[0], v[0] = 99.0, -99.0  # counts at the edge
    assert np.isfinite(_information(u, v, kernels, *slopes))


def test_slopes_are_those_of_the_log_ratio() -> None:
    """Between points of the grid the log ratio is linear in u; moving one of many rows hardly changes densities."""
    rng = np.random.default_rng(1)
    u = rng.normal(size=200_000).clip(-3.4, 3.4)
    v = (0.8 * u + 0.6 * rng.normal(size=200_000)).clip(-3.4, 3.4)
    kernels, slopes = smoothing(0.25, 0.25), np.empty((2, 200_000))
    value = _information(u, v, kernels, *slopes)
    # Of a Gaussian pair with correlation r, the log ratio's slope along u is (r v - r^2 u) / (1 - r^2).
    inner = (np.abs(u) < 2) & (np.abs(v) < 2)
    expected = (0.8 * v - 0.64 * u)[inner] / 0.36
    assert value == pytest.approx(-0.5 * np.log(0.36), abs=0.06)  # smoothing over a quarter lowers it
    assert np.corrcoef(slopes[0][inner], expected)[0, 1] > 0.98


def test_a_pair_is_turned_to_where_it_has_more_information_and_stays_apart() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 4, 2000))
    y[0] = np.sin(3 * x[0]) + 0.2 * y[0]
    y[0] /= y[0].std()
    kernels, before = smoothing(0.25, 0.25), np.eye(4)[3:]
    a, b = (np.array([0.9, along, 0.3, 0.0]) for along in (0.3, -0.3))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    assert turn_pair(x, y, kernels, before, before, a, b)
    for turned in (a, b):
        assert abs(turned[0]) > 0.98
        assert abs(turned[3]) < 1e-12
        assert np.linalg.norm(turned) == pytest.approx(1, rel=1e-12)
    independent, start = rng.normal(size=(4, 2000)), np.array([1.0, 0, 0, 0])
    still = start.copy()
    assert not turn_pair(x, independent, kernels, before[:0], before[:0], still, still.copy())
    np.testing.assert_array_equal(still, start)


@pytest.mark.parametrize("n", [7, 500])
def test_the_covariance_of_waves_and_its_gradient(n: int) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(3, n)), rng.normal(size=(2, n))
    y[0] += np.sin(2 * x[0])
    both, slopes = rng.normal(size=5), np.empty(5)

    def expected(at: np.ndarray) -> float:
        sides = [np.stack([np.cos(phase), np.sin(phase)]) for phase in (at[:3] @ x, at[3:] @ y)]
        return -float((np.cov(*sides, bias=True)[:2, 2:] ** 2).sum())

    value = wave_covariance_and_slopes(both, x, y, slopes)
    assert value == pytest.approx(expected(both), rel=1e-12)
    np.testing.assert_allclose(slopes, approx_fprime(both, expected, 1e-7), atol=1e-6)
