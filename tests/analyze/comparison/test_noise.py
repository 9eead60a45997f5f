import math

import numpy as np
import pytest

from lorascope.analyze.comparison.noise import accuracy_error, items_needed, noise_share, pair_z


def test_error_is_binomial() -> None:
    np.testing.assert_allclose(
        accuracy_error(np.array([0.5, 0.9, 0, 1]), np.array([100, 900, 10, 10])), [0.05, 0.01, 0, 0]
    )


def test_share_by_loops() -> None:
    rng = np.random.default_rng(0)
    block = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    accuracy, error = rng.uniform(0.2, 0.9, 9), rng.uniform(0.01, 0.1, 9)
    squares = sum(((accuracy[block == b] - accuracy[block == b].mean()) ** 2).sum() for b in range(3))
    noise = sum((error[block == b] ** 2).mean() * ((block == b).sum() - 1) for b in range(3)) / 6
    assert noise_share(accuracy, error, block) == pytest.approx((noise, squares / 6, noise * 6 / squares))


def test_accuracies_that_are_nothing_but_noise_have_a_share_of_1() -> None:
    rng = np.random.default_rng(1)
    p, n = np.repeat(rng.uniform(0.3, 0.9, 3000), 4), 200
    accuracy = rng.binomial(n, p) / n
    found = noise_share(accuracy, accuracy_error(accuracy, np.full(len(p), n)), np.repeat(np.arange(3000), 4))
    assert found.share == pytest.approx(1, abs=0.05)


def test_noise_attenuates_as_the_share_says() -> None:
    rng = np.random.default_rng(2)
    truth, n = rng.uniform(0.4, 0.6, 4000), 100
    accuracy = rng.binomial(n, truth) / n
    block = np.repeat(np.arange(1000), 4)
    share = noise_share(accuracy, accuracy_error(accuracy, np.full(4000, n)), block).share
    r = np.corrcoef(*(v - np.bincount(block, v)[block] / 4 for v in (truth, accuracy)))[0, 1]
    assert r == pytest.approx(math.sqrt(1 - share), abs=0.03)


def test_no_variance_no_share() -> None:
    words = "accuracy is constant in every block; noise has no share of a variance of 0"
    with pytest.raises(ValueError, match=words):
        noise_share(np.array([0.1, 0.1, 0.5, 0.5]), np.full(4, 0.1), np.array([0, 0, 1, 1]))


def test_z_of_pairs() -> None:
    accuracy, error = np.array([0.5, 0.6, 0.5, 0.0, 1.0]), np.array([0.03, 0.04, 0.03, 0.0, 0.0])
    pairs = np.array([[0, 1], [1, 0], [0, 2], [3, 4], [4, 3], [3, 3]])
    np.testing.assert_allclose(pair_z(accuracy, error, pairs), [-2, 2, 0, -np.inf, np.inf, 0])


def test_needed_items_make_two_standard_errors() -> None:
    accuracy, pairs = np.array([0.5, 0.62, 0.5, 0.0]), np.array([[0, 1], [1, 3], [0, 2]])
    needed = items_needed(accuracy, pairs)
    assert needed[2] == np.inf
    for n, pair in zip(needed[:2], pairs[:2], strict=True):
        z = pair_z(accuracy, accuracy_error(accuracy, np.full(4, n)), pair[None])
        assert abs(z[0]) == pytest.approx(2)
