import numpy as np
import pytest

from lorascope.analyze.information import directions
from lorascope.analyze.information.projections import canonical_directions, whitened


def refined_directions(
    x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, *, is_apart: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    return directions.refined_directions(whitened(x, "x"), whitened(y, "y"), a, b, is_apart=is_apart)


def hidden_wave(seed: int, n: int = 1500, d: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """y's first coordinate is a wave of x's first one with noise; and the directions along those, in mixed columns."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, n, d))
    y[:, 0] = np.sin(3 * x[:, 0]) + 0.2 * y[:, 0]
    mixed = rng.normal(size=(2, d, d))
    a, b = (np.linalg.inv(m)[:, 0] for m in mixed)
    return x @ mixed[0], y @ mixed[1], a, b


def alike(rows: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    return abs(float(np.corrcoef(rows @ one, rows @ other)[0, 1]))


def rough(rows: np.ndarray, along: np.ndarray, seed: int) -> np.ndarray:
    """A direction along which rows correlate by 0.9 or so with those along this one."""
    white = np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T
    other = white @ np.random.default_rng(seed).normal(size=len(along))
    return np.asarray(along / (rows @ along).std() + 0.5 * other / (rows @ other).std())


@pytest.mark.parametrize("seed", range(3))
def test_a_rough_direction_becomes_the_right_one(seed: int) -> None:
    x, y, a, b = hidden_wave(seed)
    starts = [rough(rows, along, seed)[:, None] for rows, along in ((x, a), (y, b))]
    found = refined_directions(x, y, *starts)
    for rows, along, start, end in zip((x, y), (a, b), starts, found, strict=True):
        assert alike(rows, along, start[:, 0]) < 0.97
        assert alike(rows, along, end[:, 0]) > 0.99
        assert (rows @ end).std() == pytest.approx((rows @ start).std(), rel=1e-9)


def test_canonical_directions_of_gaussians_stay_as_they_are() -> None:
    n_moved = 0
    for seed in range(10):
        x, y = np.random.default_rng(seed).normal(size=(2, 1000, 4))
        y[:, 0] += x[:, 0]
        start = canonical_directions(whitened(x, "x"), whitened(y, "y"), 1)
        found = refined_directions(x, y, *start)
        n_moved += not np.allclose(found[0], start[0])
    # They tell most: what else is gained is by chance, of 6 free turns 3 / 1000 nats, and counts above 8 / 1000.
    assert n_moved <= 2


def test_directions_that_are_apart_give_what_is_uncorrelated() -> None:
    rng = np.random.default_rng(6)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    sources = rng.random((2000, 3))
    noisy = sources + rng.uniform(-0.2, 0.2, (2000, 3))
    x, y = sources @ turn, noisy @ turn
    together = refined_directions(x, y, turn.T[:, [0, 0]], turn.T[:, [0, 0]])
    apart = refined_directions(x, y, turn.T[:, [0, 0]] + [0.0, 0.3], turn.T[:, [0, 0]] + [0.0, 0.3], is_apart=True)
    for rows, same, other in zip((x, y), together, apart, strict=True):
        assert alike(rows, *same.T) == pytest.approx(1, abs=1e-9)
        assert alike(rows, *other.T) < 1e-6


def test_the_columns_that_a_side_is_written_in_mean_nothing() -> None:
    x, y, a, b = hidden_wave(0)
    start = rough(x, a, 0), rough(y, b, 1)
    mixed = np.random.default_rng(7).normal(size=(4, 4))
    here = refined_directions(x, y, start[0][:, None], start[1][:, None])[0]
    there = refined_directions(x @ mixed + 3, y, np.linalg.solve(mixed, start[0])[:, None], start[1][:, None])[0]
    assert alike(np.hstack([x, x @ mixed]), np.append(here, np.zeros(4)), np.append(np.zeros(4), there)) > 1 - 1e-6


def test_columns_that_repeat_others_are_borne() -> None:
    x, y, a, b = hidden_wave(0)
    twice = np.column_stack([x, x[:, 0]])
    found = refined_directions(twice, y, np.append(rough(x, a, 0), 0)[:, None], rough(y, b, 1)[:, None])
    assert alike(twice, np.append(a, 0), found[0][:, 0]) > 0.99
