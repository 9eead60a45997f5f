from typing import NamedTuple

import numpy as np
import pytest

from lorascope.kernels.neighbours import BLOCK, neighbour_counts, neighbour_counts_of_numbers


class Found(NamedTuple):
    counts_x: np.ndarray
    counts_y: np.ndarray
    distances: np.ndarray


def counts_of(x: np.ndarray, y: np.ndarray, groups: np.ndarray, k: int) -> Found:
    """Of points (dimension, point) whose blocks ascend by x[0]."""
    n = x.shape[1]
    starts = np.arange(0, n, BLOCK)
    edges = np.stack([np.minimum.reduceat(x[0], starts), np.maximum.reduceat(x[0], starts)], axis=1)
    found = Found(np.full((2, n), -1), np.full((2, n), -1), np.full((2, n), -1.0))
    neighbour_counts(x, y, edges, groups, groups, np.arange(n), k, *found)
    return found


def reference(x: np.ndarray, y: np.ndarray, groups: np.ndarray, k: int) -> Found:
    """From the definition, with all distances at once."""
    of_x, of_y = (np.abs(side[:, :, None] - side[:, None, :]).max(axis=0) for side in (x, y))
    alike = groups[:, None] == groups
    of_x[alike] = of_y[alike] = np.inf
    nearest = np.sort(np.maximum(of_x, of_y), axis=1)[:, [0, k - 1]].T
    counts = [(side < nearest[:, :, None]).sum(axis=2) for side in (of_x, of_y)]
    return Found(*counts, nearest)


def counts_of_numbers(x: np.ndarray, y: np.ndarray, groups: np.ndarray, k: int) -> Found:
    n = x.shape[1]
    order = np.argsort(x[0], kind="stable")
    found = Found(np.full((2, n), -1), np.full((2, n), -1), np.full((2, n), -1.0))
    of_y, labels = y[0][order], groups[order]
    neighbour_counts_of_numbers(x[0][order], of_y, np.argsort(of_y), labels, labels, np.arange(n), k, *found)
    return Found(*(one[:, np.argsort(order)] for one in found))


def compare(x: np.ndarray, y: np.ndarray, groups: np.ndarray, k: int) -> None:
    expected = reference(x, y, groups, k)
    for function in (counts_of, counts_of_numbers)[: 2 if len(x) == len(y) == 1 else 1]:
        for found, wanted in zip(function(x, y, groups, k), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def random_sides(n: int, dx: int, dy: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.random.default_rng([n, d]).normal(size=(d, n)) for d in (dx, dy))
    order = np.argsort(x[0])
    return np.ascontiguousarray(x[:, order]), np.ascontiguousarray(y[:, order])


@pytest.mark.parametrize("n", [20, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 1])
def test_counts_are_those_of_the_definition(n: int) -> None:
    """Also in many coordinates: four go together, and the rest one by one. Distances round alike in every count."""
    for dx, dy in ((1, 1), (2, 5), (4, 3), (9, 8)):
        x, y = random_sides(n, dx, dy)
        for groups in (np.arange(n), np.random.default_rng(n).integers(0, n // 5, n)):
            compare(x, y, groups, 3)


def test_ties_on_a_lattice() -> None:
    """A point whose distance equals the radius doesn't count, also across blocks."""
    n = 3 * BLOCK
    compare(np.sort(np.arange(n) // 3 * 1.0)[None], np.tile([0.0, 1.0, 2.0], n // 3)[None], np.arange(n), 4)


def test_a_point_far_from_its_block_finds_neighbours_in_others() -> None:
    x, y = np.arange(4.0 * BLOCK)[None], np.random.default_rng(0).normal(size=(1, 4 * BLOCK))
    compare(x, 1e4 * y, np.arange(4 * BLOCK), 5)  # the nearest pairs lie blocks away
