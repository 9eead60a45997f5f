from typing import NamedTuple

import numpy as np
import pytest

from lorascope.analyze.kernels.neighbours import BLOCK, neighbour_counts


class Found(NamedTuple):
    counts_x: np.ndarray
    counts_y: np.ndarray
    nearest_k: np.ndarray


def counts_of(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    k: int,
    *,
    second: bool,
    euclidean: bool,
    part: slice = slice(None),
) -> Found:
    """Of points (dimension, point) whose blocks ascend by x[0]."""
    n = x.shape[1]
    starts = np.arange(0, n, BLOCK)
    edges = np.stack([np.minimum.reduceat(x[0], starts), np.maximum.reduceat(x[0], starts)], axis=1)
    found = Found(np.full((n, 1), -1), np.full((n, 1), -1), np.full((n, 1), -1.0))
    start, stop, _ = part.indices(n)
    is_grouped = len(np.unique(groups)) < n
    neighbour_counts(x, y, edges, groups, groups, is_grouped, np.array([k]), second, euclidean, start, stop, *found)
    return found


def reference(x: np.ndarray, y: np.ndarray, groups: np.ndarray, k: int, *, second: bool, euclidean: bool) -> Found:
    """From the definition, with all distances at once."""
    differences = [side[:, :, None] - side[:, None, :] for side in (x, y)]
    of_x, of_y = ((d**2).sum(axis=0) if euclidean else np.abs(d).max(axis=0, initial=0.0) for d in differences)
    alike = groups[:, None] == groups
    of_x[alike] = of_y[alike] = np.inf
    both = np.maximum(of_x, of_y)
    order = np.argsort(both, axis=1)[:, :k]
    kth = np.take_along_axis(both, order, axis=1)[:, -1:]
    if not second:
        return Found((of_x < kth).sum(axis=1), (of_y < kth).sum(axis=1), kth[:, 0])
    radii = [np.take_along_axis(side, order, axis=1).max(axis=1, keepdims=True) for side in (of_x, of_y)]
    return Found((of_x <= radii[0]).sum(axis=1), (of_y <= radii[1]).sum(axis=1), kth[:, 0])


def random_sides(n: int, dx: int, dy: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.random.default_rng([n, d]).normal(size=(d, n)) for d in (dx, dy))
    order = np.argsort(x[0])
    return np.ascontiguousarray(x[:, order]), np.ascontiguousarray(y[:, order])


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("n", [20, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 1])
def test_counts_are_those_of_the_definition(n: int, second: bool, euclidean: bool) -> None:
    """Also in many coordinates: four go together, and the rest one by one. Distances round alike in every count."""
    for dx, dy in ((1, 1), (2, 5), (4, 3), (9, 8)):
        x, y = random_sides(n, dx, dy)
        for groups in (np.arange(n), np.random.default_rng(n).integers(0, n // 5, n)):
            found = counts_of(x, y, groups, 3, second=second, euclidean=euclidean)
            expected = reference(x, y, groups, 3, second=second, euclidean=euclidean)
            np.testing.assert_array_equal(found.counts_x[:, 0], expected.counts_x)
            np.testing.assert_array_equal(found.counts_y[:, 0], expected.counts_y)
            np.testing.assert_allclose(found.nearest_k[:, 0], expected.nearest_k, rtol=1e-14)


@pytest.mark.parametrize("second", [False, True])
def test_ties_on_a_lattice(second: bool) -> None:
    """Distances that are equal count where the radius is closed and don't where it is open, also across blocks."""
    n = 3 * BLOCK
    x, y = np.sort(np.arange(n) // 3 * 1.0)[None], np.tile([0.0, 1.0, 2.0], n // 3)[None]
    found = counts_of(x, y, np.arange(n), 4, second=second, euclidean=False)
    expected = reference(x, y, np.arange(n), 4, second=second, euclidean=False)
    np.testing.assert_array_equal(found.nearest_k[:, 0], expected.nearest_k)
    if not second:  # which of equally near pairs are the nearest is open, and with it the second variant's radii
        np.testing.assert_array_equal(found.counts_x[:, 0], expected.counts_x)
        np.testing.assert_array_equal(found.counts_y[:, 0], expected.counts_y)


def test_a_point_far_from_its_block_finds_neighbours_in_others() -> None:
    x, y = np.arange(4.0 * BLOCK)[None], np.random.default_rng(0).normal(size=(1, 4 * BLOCK))
    y *= 1e4  # the nearest pairs lie blocks away
    for second in (False, True):
        found = counts_of(x, y, np.arange(4 * BLOCK), 5, second=second, euclidean=True)
        expected = reference(x, y, np.arange(4 * BLOCK), 5, second=second, euclidean=True)
        np.testing.assert_array_equal(found.counts_x[:, 0], expected.counts_x)
        np.testing.assert_array_equal(found.counts_y[:, 0], expected.counts_y)


def test_only_the_points_asked_for_are_filled_in() -> None:
    x, y = random_sides(700, 2, 1)
    whole = counts_of(x, y, np.arange(700), 2, second=False, euclidean=False)
    part = counts_of(x, y, np.arange(700), 2, second=False, euclidean=False, part=slice(250, 520))
    for everything, some in zip(whole, part, strict=True):
        np.testing.assert_array_equal(some[250:520], everything[250:520])
        assert (some[:250] == -1).all()
        assert (some[520:] == -1).all()
