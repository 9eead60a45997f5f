import doctest
import re
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.information import projections
from lorascope.analyze.information.projections import (
    Axes,
    canonical_directions,
    first_half,
    n_axes_for,
    principal_axes,
    project,
    whitened,
)


def power_law(n_tokens: int, n_features: int, *, decay: float = 2.0, seed: int = 0, giant: bool = False) -> np.ndarray:
    """Float32 states whose variances fall like k^-decay in random directions; with a channel of 1e4 among ones of 1."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(n_features, n_features))).Q
    scales = np.arange(1, n_features + 1) ** (-decay / 2)
    states = rng.normal(size=(n_tokens, n_features)) * (scales / np.linalg.norm(scales) * n_features**0.5) @ turn.T
    if giant:
        states[:, 7] = 1e4 * states[:, 7] + 3e4
    return states.astype(np.float32)


def in_blocks(states: np.ndarray, size: int = 100) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (states[start : start + size] for start in range(0, len(states), size))


def axes_of(blocks: Callable[[], Any], n_axes: int, *, seed: int = 0) -> Axes:
    """Axes of one side."""
    (found,) = principal_axes(lambda: map(_alone, blocks()), n_axes, names=["states"], seed=seed)
    return found


def _alone(block: np.ndarray) -> list[np.ndarray]:
    return [block]


def exact_axes(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal axes (feature, axis) and variances, by the full SVD in float64."""
    centred = states.astype(np.float64)
    centred -= centred.mean(axis=0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    return directions.T, values**2 / (len(states) - 1)


def rank_five(n_tokens: int = 300, n_features: int = 40) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.normal(size=(n_tokens, 5)) * [9, 5, 3, 2, 1] @ rng.normal(size=(5, n_features)) + 2


def test_examples() -> None:
    found = doctest.testmod(projections)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("states", [rank_five(), power_law(400, 30)], ids=["low rank", "as many axes as features"])
def test_axes_equal_those_of_the_svd_where_the_projection_holds_all(
    monkeypatch: pytest.MonkeyPatch, states: np.ndarray
) -> None:
    monkeypatch.setattr(projections, "N_EXTRA", 25)
    axes = axes_of(in_blocks(states), 5)
    vectors, variances = exact_axes(states)
    np.testing.assert_allclose(axes.variances, variances[:5], rtol=1e-9)
    np.testing.assert_allclose(np.abs(np.einsum("fa,fa->a", axes.vectors, vectors[:, :5])), 1, rtol=1e-9)
    np.testing.assert_allclose(axes.mean, states.mean(axis=0, dtype=np.float64), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(axes.total_variance, np.var(states, axis=0, ddof=1, dtype=np.float64).sum(), rtol=1e-12)


@pytest.mark.parametrize("giant", [False, True])
@pytest.mark.parametrize("decay", [1.0, 1.5, 2.0])
def test_axes_of_a_power_law_come_close_to_the_principal_ones(decay: float, giant: bool) -> None:
    """Bounds of what was measured with several seeds."""
    states = power_law(2000, 200, decay=decay, giant=giant)
    axes = axes_of(in_blocks(states), 20)
    vectors, variances = exact_axes(states)
    along = np.var(project(states, axes), axis=0, ddof=1)
    kept = slice(1, None) if giant else slice(None)  # without the channel that would hide all others in the sum
    assert along[kept].sum() > 0.985 * variances[:20][kept].sum()
    np.testing.assert_allclose(axes.variances[:5], variances[:5], rtol=0.02)
    assert scipy.linalg.subspace_angles(axes.vectors[:, :3], vectors[:, :3]).max() < 0.1
    if giant:
        assert abs(axes.vectors[7, 0]) > 1 - 1e-6


@given(
    seed=st.integers(0, 1000),
    n_tokens=st.integers(2, 60),
    n_features=st.integers(1, 12),
    n_axes=st.integers(1, 8),
)
def test_axes_are_orthonormal_and_variances_no_larger_than_they_can_be(
    seed: int, n_tokens: int, n_features: int, n_axes: int
) -> None:
    states = np.random.default_rng(seed).normal(size=(n_tokens, n_features)).astype(np.float32)
    axes = axes_of(in_blocks(states, 7), n_axes, seed=seed)
    assert len(axes.variances) == min(n_axes, n_features, n_tokens - 1)
    np.testing.assert_allclose(axes.vectors.T @ axes.vectors, np.eye(len(axes.variances)), atol=1e-8)
    scores = project(states, axes)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-8)
    slack = 1e-9 * axes.total_variance
    assert (axes.variances <= np.var(scores, axis=0, ddof=1) + slack).all()
    assert (axes.variances <= exact_axes(states)[1][: len(axes.variances)] + slack).all()
    assert (np.diff(axes.variances) <= 0).all()


@given(size=st.integers(1, 300), piece_values=st.sampled_from([1, 300, 10**9]))
def test_where_blocks_are_cut_changes_the_rounding_only(size: int, piece_values: int) -> None:
    states = power_law(300, 20, giant=True) + np.float32(100)
    expected = axes_of(lambda: [states], 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projections, "PIECE_VALUES", piece_values)
        found = axes_of(in_blocks(states, size), 4)
    np.testing.assert_allclose(found.variances, expected.variances, rtol=1e-7)
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-7)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)


def test_seeds_differ_only_where_directions_are_left_out() -> None:
    states = power_law(400, 60)
    first, again, other = (axes_of(in_blocks(states), 4, seed=seed) for seed in (1, 1, 2))
    assert first.vectors.tobytes() == again.vectors.tobytes()
    assert first.vectors.tobytes() != other.vectors.tobytes()
    whole, another = (axes_of(in_blocks(states[:, :14]), 4, seed=seed) for seed in (1, 2))
    np.testing.assert_allclose(whole.vectors, another.vectors, atol=1e-9)  # signs too
    assert (whole.vectors[np.abs(whole.vectors).argmax(axis=0), range(4)] > 0).all()


def test_sides_side_by_side_have_the_axes_of_each_alone() -> None:
    x, y = power_law(300, 20), power_law(300, 7, seed=1)
    together = principal_axes(lambda: zip(in_blocks(x)(), in_blocks(y)(), strict=True), 3, seed=5)
    for axes, side in zip(together, (x, y), strict=True):
        assert axes.vectors.tobytes() == axes_of(in_blocks(side), 3, seed=5).vectors.tobytes()


def test_two_passes_one_block_at_a_time() -> None:
    """A block is gone before the next one is made; what is kept has nothing to do with the number of tokens."""
    n_features, n_blocks, calls = 256, 30, []

    def blocks() -> Iterator[np.ndarray]:
        calls.append("pass")
        for index in range(n_blocks):
            block = [power_law(8, 8, seed=index).repeat(n_features // 8, axis=1).repeat(128, axis=0)]
            last = weakref.ref(block[0])
            yield block.pop()
            assert last() is None

    tracemalloc.start()
    axes = axes_of(blocks, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert calls == ["pass", "pass"]
    # In bytes of a block: itself 1, a piece in float64 2, the piece before it, which its user holds, 2, and the mask of
    # what is finite 0.25; the rest is some arrays (feature, 14).
    assert np.isfinite(axes.variances).all()
    assert peak < 6 * 1024 * n_features * 4


@pytest.mark.parametrize(
    ("n_tokens", "n_features", "expected"), [(3, 40, 2), (300, 4, 4), (300, 40, 5)], ids=["tokens", "features", "rank"]
)
def test_there_are_no_axes_without_variance(n_tokens: int, n_features: int, expected: int) -> None:
    assert axes_of(in_blocks(rank_five(n_tokens, n_features)), 9).variances.shape == (expected,)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([], "`states` has 0 tokens; a variance needs at least 2"),
        ([np.ones((1, 3))], "`states` has 1 tokens; a variance needs at least 2"),
        ([np.full((9, 3), 0.1), np.full((4, 3), 0.1)], "`states`: the 13 tokens are all equal; they have no axes"),
        ([np.zeros((9, 3))], "the 9 tokens are all equal"),
        ([np.eye(3), [[1, np.nan, 2], [1, 2, 3]]], "`states` contains NaN or infinity; drop those tokens"),
    ],
)
def test_blocks_that_have_no_axes(blocks: list[Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        axes_of(lambda: [np.asarray(block) for block in blocks], 2)


def test_blocks_must_come_twice() -> None:
    once = iter([np.eye(3)])
    with pytest.raises(
        ValueError, match=r"`sides\(\)` gave 3 tokens at the first call and 0 at the second; it must return"
    ):
        axes_of(lambda: once, 2)


def two_sides(n: int = 500, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Six and four features that share three directions, with noise and scales of their own."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 3))
    x = shared @ rng.normal(size=(3, 6)) + rng.normal(size=(n, 6))
    y = shared @ rng.normal(size=(3, 4)) + rng.normal(size=(n, 4))
    return x * [1, 1e4, 1, 1e-3, 1, 1] + 50, y


def eigenproblem(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """Canonical correlations, descending: [0 R; R' 0] w = rho [R_x 0; 0 R_y] w of the correlation matrix."""
    d = x.shape[1]
    both = np.corrcoef(np.concatenate([x, y], axis=1).T) + ridge * np.eye(d + y.shape[1])
    within = scipy.linalg.block_diag(both[:d, :d], both[d:, d:])
    return np.asarray(scipy.linalg.eigh(both - within, within, eigvals_only=True)[::-1][: min(d, y.shape[1])])


def canonical_axes(x: np.ndarray, y: np.ndarray, n_axes: int, *, ridge: float = 0.0) -> tuple[Axes, Axes]:
    a, b = canonical_directions(whitened(x, "x", ridge), whitened(y, "y", ridge), n_axes)
    return Axes(x.mean(axis=0, dtype=np.float64), a), Axes(y.mean(axis=0, dtype=np.float64), b)


def correlations_of(x: np.ndarray, y: np.ndarray, axes: tuple[Axes, Axes]) -> np.ndarray:
    """How well each pair correlates, float64 (axis,)."""
    u, v = project(x, axes[0]), project(y, axes[1])
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(u.T, v.T, strict=True)])


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_canonical_covariances_are_those_of_the_eigenproblem(ridge: float) -> None:
    x, y = two_sides()
    found = canonical_axes(x, y, 9, ridge=ridge)
    u, v = project(x, found[0]), project(y, found[1])
    np.testing.assert_allclose(u.T @ v / (len(x) - 1), np.diag(eigenproblem(x, y, ridge)), atol=1e-8)
    assert max(scores.var(axis=0, ddof=1).max() for scores in (u, v)) < 1 + 1e-9
    assert ridge or np.allclose(np.cov(u.T), np.eye(4), atol=1e-9)


def test_shared_directions_correlate_by_one_and_repeated_ones_count_once() -> None:
    rng = np.random.default_rng(1)
    shared, own = rng.normal(size=(200, 2)), rng.normal(size=(200, 3))
    x = np.concatenate([shared, own, shared @ [[1.0], [2.0]]], axis=1).astype(np.float32)  # rank 5, except for rounding
    y = np.concatenate([shared @ [[3, 1], [-1, 1]], np.full((200, 1), 7.0), rng.normal(size=(200, 1))], axis=1)
    found = canonical_axes(x, y, 9)
    correlations = correlations_of(x, y, found)
    np.testing.assert_allclose(correlations[:2], 1, rtol=1e-9)
    assert correlations.shape == (3,)
    assert correlations[2] < 0.5
    assert not found[1].vectors[2].any()
    assert np.isfinite(found[0].vectors).all()


@given(shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3))
def test_canonical_correlations_dont_know_units(shift: float, scale: float) -> None:
    x, y = two_sides(60)
    mixed = y @ np.random.default_rng(4).normal(size=(4, 4)) * scale + shift
    found = correlations_of(x, mixed, canonical_axes(x, mixed, 4))
    np.testing.assert_allclose(found, correlations_of(y, x, canonical_axes(y, x, 4)), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.full((7, 2), 0.1), np.eye(7), "`x` is the same in all 7 samples; it correlates with nothing"),
        (np.eye(9)[:, :4], np.eye(9)[:, 2:7], "9 samples of 4 and 5 directions always correlate perfectly; give"),
    ],
)
def test_sides_that_cant_be_compared(x: np.ndarray, y: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        canonical_axes(x, y, 1)


@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=9), seed=st.integers(0, 50))
def test_halves_keep_groups_whole_and_are_as_equal_as_can_be(sizes: list[int], seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    first = first_half(groups, seed=seed)
    assert not set(groups[first]) & set(groups[~first])
    assert 0 < first.sum() <= len(groups) / 2
    sums = {0}
    for size in sizes:
        sums |= {found + size for found in sums}
    assert first.sum() == max(found for found in sums if found <= len(groups) / 2)
    assert first.tolist() == first_half(groups, seed=seed).tolist()


@pytest.mark.parametrize(
    ("share", "most", "expected"),
    [(0.9, 9, (3, 0.9)), (0.5, 9, (1, 0.5)), (0.500001, 9, (2, 0.75)), (0.9, 2, (2, 0.75)), (1.0, 7, (4, 0.95))],
)
def test_number_of_axes_by_share(share: float, most: int, expected: tuple[int, float]) -> None:
    axes = Axes(np.zeros(5), np.eye(5)[:, :4], np.array([10.0, 5.0, 3.0, 1.0]), 20.0)
    n_axes, kept = n_axes_for(axes, share, most)
    assert (n_axes, kept) == (expected[0], pytest.approx(expected[1]))
