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
    canonical_axes,
    chosen_n_axes,
    feature_blocks,
    halves,
    principal_axes,
    project,
    random_axes,
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
def test_axes_equal_those_of_the_svd_where_the_projection_holds_all(states: np.ndarray) -> None:
    axes = principal_axes(in_blocks(states), 5, n_extra=25)
    vectors, variances = exact_axes(states)
    np.testing.assert_allclose(axes.variances, variances[:5], rtol=1e-9)
    np.testing.assert_allclose(np.abs(np.einsum("fa,fa->a", axes.vectors, vectors[:, :5])), 1, rtol=1e-9)
    np.testing.assert_allclose(axes.mean, states.mean(axis=0, dtype=np.float64), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(axes.total_variance, np.var(states, axis=0, ddof=1, dtype=np.float64).sum(), rtol=1e-12)
    assert axes.n_tokens == len(states)


@pytest.mark.parametrize("giant", [False, True])
@pytest.mark.parametrize("decay", [1.0, 1.5, 2.0])
def test_axes_of_a_power_law_come_close_to_the_principal_ones(decay: float, giant: bool) -> None:
    """Bounds of what was measured with several seeds, for the default `n_extra`."""
    states = power_law(2000, 200, decay=decay, giant=giant)
    axes = principal_axes(in_blocks(states), 20)
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
    n_extra=st.integers(0, 3),
)
def test_axes_are_orthonormal_and_variances_no_larger_than_they_can_be(
    seed: int, n_tokens: int, n_features: int, n_axes: int, n_extra: int
) -> None:
    states = np.random.default_rng(seed).normal(size=(n_tokens, n_features)).astype(np.float32)
    axes = principal_axes(in_blocks(states, 7), n_axes, n_extra=n_extra, seed=seed)
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
    expected = principal_axes(lambda: [states], 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projections, "PIECE_VALUES", piece_values)
        found = principal_axes(in_blocks(states, size), 4)
    np.testing.assert_allclose(found.variances, expected.variances, rtol=1e-7)
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-7)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)


def test_a_common_offset_changes_nothing() -> None:
    states = power_law(500, 30).astype(np.float64)
    expected, found = (principal_axes(in_blocks(states + offset), 5) for offset in (0, 1e6))
    np.testing.assert_allclose(found.variances, expected.variances, rtol=1e-7)
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-7)


def test_a_first_block_far_from_the_others_changes_nothing() -> None:
    states = power_law(2000, 30).astype(np.float64)
    states[:100] += 1e3
    axes = principal_axes(in_blocks(states), 5, n_extra=25)
    np.testing.assert_allclose(axes.variances, exact_axes(states)[1][:5], rtol=1e-8)


def test_seeds_differ_only_where_directions_are_left_out() -> None:
    states = power_law(400, 60)
    first, again, other = (principal_axes(in_blocks(states), 4, seed=seed) for seed in (1, 1, 2))
    assert first.vectors.tobytes() == again.vectors.tobytes()
    assert first.vectors.tobytes() != other.vectors.tobytes()
    whole, another = (principal_axes(in_blocks(states), 4, seed=seed, n_extra=60) for seed in (1, 2))
    np.testing.assert_allclose(whole.vectors, another.vectors, atol=1e-9)  # signs too
    largest = np.abs(whole.vectors).argmax(axis=0)
    assert (whole.vectors[largest, range(4)] > 0).all()


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
    axes = principal_axes(blocks, 4, n_extra=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert calls == ["pass", "pass"]
    assert axes.n_tokens == n_blocks * 1024
    # In bytes of a block: itself 1, a piece in float64 2, the piece before it, which its user holds, 2, and the mask of
    # what is finite 0.25; the rest is some arrays (feature, 6).
    assert peak < 5.5 * 1024 * n_features * 4
    assert peak < axes.n_tokens * n_features * 4 / 5


def test_empty_blocks_are_passed_over() -> None:
    states = rank_five()
    expected = principal_axes(lambda: [states], 3)
    found = principal_axes(lambda: [states[:0], states, states[:0]], 3)
    assert found.vectors.tobytes() == expected.vectors.tobytes()


@pytest.mark.parametrize(
    ("n_tokens", "n_features", "expected"), [(3, 40, 2), (300, 4, 4), (300, 40, 5)], ids=["tokens", "features", "rank"]
)
def test_there_are_no_axes_without_variance(n_tokens: int, n_features: int, expected: int) -> None:
    assert principal_axes(in_blocks(rank_five(n_tokens, n_features)), 9).variances.shape == (expected,)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([], "`blocks()` gave 0 tokens; a variance needs at least 2"),
        ([np.ones((1, 3))], "`blocks()` gave 1 tokens; a variance needs at least 2"),
        ([np.full((9, 3), 0.1), np.full((4, 3), 0.1)], "the 13 tokens are all equal; they have no axes"),
        ([np.zeros((9, 3))], "the 9 tokens are all equal"),
        (
            [np.eye(3), np.eye(4)],
            "block 1 of `blocks()` is (4, 4); each must be (token, feature), of the same features",
        ),
        ([np.ones(3)], "block 0 of `blocks()` is (3,); each must be"),
        ([np.ones((3, 0))], "block 0 of `blocks()` is (3, 0); each must be"),
        ([np.eye(3), [[1, np.nan, 2], [1, 2, 3]]], "block 1 of `blocks()` holds NaN or infinity in 1 of its 2 tokens"),
        ([[[np.inf, 1.0]]], "block 0 of `blocks()` holds NaN or infinity in 1 of its 1 tokens; leave these out"),
    ],
)
def test_blocks_that_have_no_axes(blocks: list[Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        principal_axes(lambda: [np.asarray(block) for block in blocks], 2)


def test_blocks_must_come_twice() -> None:
    once = iter([np.eye(3)])
    with pytest.raises(
        ValueError, match=r"`blocks\(\)` gave 3 tokens at first and 0 when called again; it must return"
    ):
        principal_axes(lambda: once, 2)


@pytest.mark.parametrize(("n_axes", "n_extra"), [(0, 10), (1, -1)])
def test_numbers_of_axes(n_axes: int, n_extra: int) -> None:
    with pytest.raises(
        ValueError, match=f"`n_axes` is {n_axes} and `n_extra` {n_extra}; they must be at least 1 and 0"
    ):
        principal_axes(in_blocks(rank_five()), n_axes, n_extra=n_extra)


def test_random_axes_are_orthonormal_and_evenly_spread() -> None:
    axes = random_axes(30, 4, seed=1)
    np.testing.assert_allclose(axes.vectors.T @ axes.vectors, np.eye(4), atol=1e-12)
    assert not axes.mean.any()
    assert axes.n_tokens == 0
    assert np.isnan([*axes.variances, axes.total_variance]).all()
    assert random_axes(30, 4, seed=1).vectors.tobytes() == axes.vectors.tobytes()
    # Each entry of a random direction in 3 dimensions is uniform on [-1, 1]: mean 0, variance 1/3, 2000 draws.
    entries = np.stack([random_axes(3, 1, seed=seed).vectors[:, 0] for seed in range(2000)])
    np.testing.assert_allclose(entries.mean(axis=0), 0, atol=5 * (1 / 3 / 2000) ** 0.5)
    np.testing.assert_allclose((entries**2).mean(axis=0), 1 / 3, atol=5 * (4 / 45 / 2000) ** 0.5)


@pytest.mark.parametrize("n_axes", [0, 4])
def test_number_of_random_axes(n_axes: int) -> None:
    with pytest.raises(ValueError, match=f"`n_axes` is {n_axes}; of 3 features there can be 1 to 3"):
        random_axes(3, n_axes, seed=0)


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


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_canonical_correlations_are_those_of_the_eigenproblem(ridge: float) -> None:
    x, y = two_sides()
    found = canonical_axes(x, y, 9, ridge=ridge)
    np.testing.assert_allclose(found.correlations, eigenproblem(x, y, ridge), rtol=1e-8)
    u, v = project(x, found.x), project(y, found.y)
    np.testing.assert_allclose(u.T @ v / (len(x) - 1), np.diag(found.correlations), atol=1e-9)
    for axes, side, scores in ((found.x, x, u), (found.y, y, v)):
        np.testing.assert_allclose(axes.variances, scores.var(axis=0, ddof=1), rtol=1e-8)
        np.testing.assert_allclose(axes.total_variance, side.var(axis=0, ddof=1).sum(), rtol=1e-12)
        assert axes.n_tokens == len(x)
        assert axes.variances.max() < 1 + 1e-9
    assert ridge or np.allclose(np.cov(u.T), np.eye(4), atol=1e-9)


def test_fewer_pairs_are_the_first_ones() -> None:
    x, y = two_sides()
    some, every = canonical_axes(x, y, 2), canonical_axes(x, y, 4)
    assert some.correlations.tolist() == every.correlations[:2].tolist()
    np.testing.assert_allclose(some.x.vectors, every.x.vectors[:, :2])
    np.testing.assert_allclose(some.y.vectors, every.y.vectors[:, :2])


def test_shared_directions_correlate_by_one_and_repeated_ones_count_once() -> None:
    rng = np.random.default_rng(1)
    shared, own = rng.normal(size=(200, 2)), rng.normal(size=(200, 3))
    x = np.concatenate([shared, own, shared @ [[1.0], [2.0]]], axis=1).astype(np.float32)  # rank 5, but for rounding
    y = np.concatenate([shared @ [[3, 1], [-1, 1]], np.full((200, 1), 7.0), rng.normal(size=(200, 1))], axis=1)
    found = canonical_axes(x, y, 9)
    np.testing.assert_allclose(found.correlations[:2], 1, rtol=1e-9)
    assert found.correlations.shape == (3,)
    assert found.correlations.max() <= 1
    assert found.correlations[2] < 0.5
    assert not found.y.vectors[2].any()
    assert np.isfinite(found.x.vectors).all()


def test_the_other_half_tells_how_much_was_fitted() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 100, 10))
    first = halves(np.arange(100), seed=0)
    found = canonical_axes(x[first], y[first], 1)
    u, v = project(x[~first], found.x)[:, 0], project(y[~first], found.y)[:, 0]
    assert found.correlations[0] > 0.6
    assert abs(np.corrcoef(u, v)[0, 1]) < 0.4


@given(shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3))
def test_canonical_correlations_dont_know_units(shift: float, scale: float) -> None:
    x, y = two_sides(60)
    mixed = y @ np.random.default_rng(4).normal(size=(4, 4)) * scale + shift
    np.testing.assert_allclose(
        canonical_axes(x, mixed, 4).correlations, canonical_axes(y, x, 4).correlations, rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize(
    ("x", "y", "options", "words"),
    [
        (np.eye(9), np.eye(9), {"n_axes": 0}, "`n_axes` is 0 and `ridge` 0.0; they must be at least 1 and 0"),
        (np.eye(9), np.eye(9), {"ridge": -1}, "`n_axes` is 1 and `ridge` -1; they must be at least 1 and 0"),
        (np.eye(9), np.ones((8, 2)), {}, "`x` is (9, 9) and `y` (8, 2); both must be (sample, feature), of the same"),
        (np.ones(9), np.eye(9), {}, "`x` is (9,) and `y` (9, 9); both must be"),
        (np.ones((0, 2)), np.ones((0, 2)), {}, "`x` is (0, 2) and `y` (0, 2); both must be"),
        (np.eye(3), np.diag([1, np.nan, 1]), {}, "`y` holds NaN or infinity; leave those samples out, of both sides"),
        (np.full((7, 2), 0.1), np.eye(7), {}, "`x` is the same in all 7 samples; it correlates with nothing"),
        (np.eye(9)[:, :4], np.eye(9)[:, 2:7], {}, "9 samples of 4 and 5 directions correlate whatever they are; give"),
    ],
)
def test_sides_that_cant_be_compared(x: np.ndarray, y: np.ndarray, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        canonical_axes(x, y, **{"n_axes": 1, **options})


@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=9), seed=st.integers(0, 50))
def test_halves_keep_groups_whole_and_are_as_equal_as_can_be(sizes: list[int], seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    first = halves(groups, seed=seed)
    assert not set(groups[first]) & set(groups[~first])
    assert 0 < first.sum() <= len(groups) / 2
    sums = {0}
    for size in sizes:
        sums |= {found + size for found in sums}
    assert first.sum() == max(found for found in sums if found <= len(groups) / 2)
    assert first.tolist() == halves(groups, seed=seed).tolist()


def test_halves_are_random_between_seeds() -> None:
    found = {halves(np.arange(20), seed=seed).tobytes() for seed in range(20)}
    assert len(found) == 20


@pytest.mark.parametrize("groups", [["a"] * 5, []])
def test_one_group_has_no_halves(groups: list[str]) -> None:
    with pytest.raises(ValueError, match=f"`groups` holds {len(set(groups))} group; two halves need at least 2"):
        halves(np.array(groups), seed=0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (3, 0.9)),
        ({"share": 0.5}, (1, 0.5)),
        ({"share": 0.500001}, (2, 0.75)),
        ({"share": 0.5, "least": 3}, (3, 0.9)),
        ({"most": 2}, (2, 0.75)),
        ({"share": 1.0}, (4, 0.95)),
        ({"least": 5, "most": 7}, (4, 0.95)),
    ],
)
def test_number_of_axes_by_share(options: dict[str, Any], expected: tuple[int, float]) -> None:
    found = chosen_n_axes(np.array([10.0, 5.0, 3.0, 1.0]), 20.0, **options)
    assert found.n_axes == expected[0]
    assert found.share_kept == pytest.approx(expected[1])


@given(
    variances=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), share=st.floats(0.01, 1), least=st.integers(1, 4)
)
def test_no_fewer_axes_would_do(variances: list[float], share: float, least: int) -> None:
    descending = np.sort(variances)[::-1]
    found = chosen_n_axes(descending, descending.sum(), share=share, least=least, most=12)
    assert found.share_kept >= share * (1 - 1e-9)
    is_least = found.n_axes == min(least, len(variances))
    assert is_least or descending[: found.n_axes - 1].sum() < share * descending.sum() * (1 + 1e-9)


@pytest.mark.parametrize(
    ("variances", "total", "options", "words"),
    [
        ([1.0], 1.0, {"share": 0}, "`share` is 0; it must be above 0 and at most 1"),
        ([1.0], 1.0, {"share": 1.5}, "`share` is 1.5; it must be above 0 and at most 1"),
        ([1.0], 1.0, {"least": 0}, "`least` is 0 and `most` 1 of 1 axes; it must be 1 <= `least` <= `most`"),
        ([1.0], 1.0, {"least": 3, "most": 2}, "`least` is 3 and `most` 2 of 1 axes"),
        ([], 1.0, {}, "`least` is 1 and `most` 0 of 0 axes"),
        ([], 1.0, {"most": 3}, "`least` is 1 and `most` 3 of 0 axes"),
        ([1.0], 0.0, {}, "`total_variance` is 0.0; it must be positive and finite"),
        ([1.0], np.nan, {}, "`total_variance` is nan; it must be positive and finite"),
        ([1.0], np.inf, {}, "`total_variance` is inf; it must be positive and finite"),
    ],
)
def test_shares_that_make_no_sense(variances: list[float], total: float, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        chosen_n_axes(np.array(variances), total, **options)


def test_blocks_of_features_cover_them_once() -> None:
    blocks = feature_blocks(576, 9)
    assert {block.stop - block.start for block in blocks} == {64}
    assert np.concatenate([np.arange(576)[block] for block in blocks]).tolist() == list(range(576))


@pytest.mark.parametrize(("n_blocks", "near"), [(7, "[6, 8]"), (0, "[1]"), (577, "[576]"), (-3, "[1]")])
def test_features_that_cant_be_cut_evenly(n_blocks: int, near: str) -> None:
    words = f"`n_blocks` is {n_blocks}; it must divide the 576 features; near it are {near}"
    with pytest.raises(ValueError, match=re.escape(words)):
        feature_blocks(576, n_blocks)
