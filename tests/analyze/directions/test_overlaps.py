from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import linalg, stats  # type: ignore[import-untyped]

from lorascope.analyze import base_overlap, compare_directions, directions
from lorascope.stores import Run, StoreError, open_run

from ...stored import store_factors

N_TOKENS = 3000


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Run]:
    """A run of one component `a` with this base and B; each column of B moves separate tokens, one in `rank`."""

    def store(lora_b: np.ndarray, base: np.ndarray | None = None, *, model: str = "") -> Run:
        rank = lora_b.shape[1]
        return store_factors(
            tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr",
            {"a": np.eye(rank)[np.arange(N_TOKENS) % rank]},
            {"a": lora_b},
            lengths=[N_TOKENS],
            bases=None if base is None else {"a": base},
            provenance={"model": {"sha256": model}} if model else None,
        )

    return store


def turned(width: int, seed: int = 1) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width))).Q


def whole(run: Run, path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions, principal directions of base and its variance along each, by NumPy's decompositions of the whole."""
    base = run.base(path).values.astype(np.float64)
    _, s, axes = np.linalg.svd(base - base.mean(axis=0), full_matrices=False)
    return directions(run, path)["vector"].values.astype(np.float64), axes, s**2


@pytest.mark.parametrize("index", [0, 1, 3])
def test_overlap_with_the_base_is_that_of_its_singular_vectors(many_rows: Path, index: int) -> None:
    run = open_run(many_rows)
    path = run.component_paths[index]
    vectors, axes, variances = whole(run, path)
    found = base_overlap(run, path)
    k = int((np.cumsum(variances) / variances.sum() < 0.9).sum()) + 1
    width = len(axes)
    overlap = ((vectors @ axes[:k].T) ** 2).sum(axis=1)
    np.testing.assert_allclose(found["base_overlap"], overlap, atol=1e-9)
    np.testing.assert_allclose(found["base_share"], (vectors @ axes.T) ** 2 @ variances / variances.sum(), rtol=1e-9)
    below = stats.beta.cdf(overlap, k / 2, (width - k) / 2)
    np.testing.assert_allclose(found["base_overlap_quantile"], below, atol=1e-6)
    assert (found.attrs["n_axes"], found.attrs["base_overlap_null"]) == (k, k / width)
    assert found.attrs["axes_share"] == pytest.approx(variances[:k].sum() / variances.sum())
    assert (found.attrs["base_share_null"], found.attrs["n_tokens"]) == (1 / width, run.n_tokens)


def test_of_a_wide_base_the_random_projection_is_close(stored: Callable[..., Run]) -> None:
    """Variances fall like 1/k in 400 features, so the first 64 have less than 90 %."""
    rng, axes = np.random.default_rng(0), turned(400)
    base = rng.normal(size=(N_TOKENS, 400)) / np.sqrt(np.arange(1, 401)) @ axes.T + 5
    base[7, 3] = np.inf
    run = stored(np.stack([3 * axes[:, 0], 2 * axes[:, 300], rng.normal(size=400) / 20], axis=1), base)
    found = base_overlap(run, "a")
    vectors = directions(run, "a")["vector"].values.astype(np.float64)
    kept = np.delete(base.astype(np.float32).astype(np.float64), 7, axis=0)
    _, s, own = np.linalg.svd(kept - kept.mean(axis=0), full_matrices=False)
    assert (found.attrs["n_axes"], found.attrs["n_tokens"]) == (64, N_TOKENS - 1)
    np.testing.assert_allclose(found["base_overlap"], ((vectors @ own[:64].T) ** 2).sum(axis=1), atol=0.02)
    np.testing.assert_allclose(found["base_share"], (vectors @ own.T) ** 2 @ s**2 / (s**2).sum(), rtol=1e-6)
    assert found["base_overlap"].values[0] > 0.99
    assert found["base_overlap_quantile"].values[0] > 1 - 1e-9
    assert found["base_overlap_quantile"].values[1] < 1e-9


def test_random_directions_are_anywhere_among_random_ones(stored: Callable[..., Run]) -> None:
    """The quantile is uniform, whatever the base."""
    rng = np.random.default_rng(2)
    base = rng.normal(size=(N_TOKENS, 120)) / np.arange(1, 121)
    run = stored(rng.normal(size=(120, 60)), base)
    found = base_overlap(run, "a")
    assert stats.kstest(found["base_overlap_quantile"], "uniform").pvalue > 0.01


def test_a_direction_that_is_zero_overlaps_with_nothing(stored: Callable[..., Run]) -> None:
    lora_b = np.eye(8)[:, :3]
    lora_b[:, 2] = 0
    run = stored(lora_b, np.random.default_rng(0).normal(size=(N_TOKENS, 8)) / np.arange(1, 9))
    for name, values in base_overlap(run, "a").items():
        np.testing.assert_array_equal(np.isnan(values), [False, False, True], err_msg=str(name))
    with pytest.raises(ValueError, match="`base`: the 3000 tokens are all equal"):
        base_overlap(stored(lora_b), "a")


def test_no_number_of_the_overlap_depends_on_threads(many_rows: Path) -> None:
    path = open_run(many_rows).component_paths[0]
    assert base_overlap(many_rows, path, n_workers=1).identical(base_overlap(many_rows, path, n_workers=3))


def test_angles_are_those_of_scipy(two_adapters: Path) -> None:
    run = open_run(two_adapters)
    for path in (run.component_paths[0], run.component_paths[3]):
        found = compare_directions(run, run, path, adapter="a", other_adapter="b")
        each = [directions(run, path, adapter=name) for name in "ab"]
        one, other = (of["vector"].values[: int(of["n_99"])].T.astype(np.float64) for of in each)
        angles = np.sort(linalg.subspace_angles(one, other))
        np.testing.assert_allclose(found["cosine"], np.cos(angles), atol=1e-6)
        assert found["overlap"] == pytest.approx((np.cos(angles) ** 2).mean())
        assert found["null_mean"] == max(one.shape[1], other.shape[1]) / len(one)
        assert (found.attrs["n_directions"], found.attrs["other_n_directions"]) == (one.shape[1], other.shape[1])
        assert (found.attrs["adapter"], found.attrs["other_adapter"]) == ("a", "b")


def test_shared_directions_are_found_and_others_are_not(stored: Callable[..., Run]) -> None:
    axes = turned(50)
    one, same = stored(axes[:, :4], model="m"), stored(axes[:, :4] @ turned(4), model="m")
    part, none = stored(axes[:, 2:8], model="m"), stored(axes[:, 10:13], model="m")
    found = compare_directions(one, same, "a")
    np.testing.assert_allclose(found["cosine"], 1, atol=1e-6)
    assert found["p"] == 1 / 201
    found = compare_directions(one, part, "a")
    np.testing.assert_allclose(found["cosine"], [1, 1, 0, 0], atol=1e-3)
    assert found["overlap"] == pytest.approx(0.5)
    assert found["null_mean"] == 6 / 50
    assert found["p"] == 1 / 201
    assert compare_directions(part, one, "a")["overlap"] == pytest.approx(0.5)
    found = compare_directions(one, none, "a")
    assert found["overlap"] == pytest.approx(0, abs=1e-6)
    assert found["p"] == 1


def test_of_unrelated_adapters_p_is_uniform(stored: Callable[..., Run]) -> None:
    rng = np.random.default_rng(4)
    runs = [stored(rng.normal(size=(30, 3))) for _ in range(9)]
    found = [compare_directions(a, b, "a") for i, a in enumerate(runs) for b in runs[:i]]
    assert stats.kstest([float(one["p"]) for one in found], "uniform").pvalue > 0.01
    assert np.mean([one["overlap"] for one in found]) == pytest.approx(3 / 30, abs=0.02)
    assert all(0.1 < one["null_95"] < 0.3 for one in found)


def test_a_subspace_that_is_everything_overlaps_by_chance(stored: Callable[..., Run]) -> None:
    found = compare_directions(stored(turned(6)), stored(turned(6)[:, :2]), "a")
    assert [round(float(found[name]), 6) for name in ("overlap", "null_mean", "p")] == [1, 1, 1]


def test_what_can_not_be_compared_is_refused(stored: Callable[..., Run], many_rows: Path, two_adapters: Path) -> None:
    some: list[Any] = [stored(np.eye(8)[:, :2], model=name) for name in ("m1", "m2", "")]
    with pytest.raises(ValueError, match=r"of different models \(sha256 m1 and m2\); compare adapters of one model"):
        compare_directions(some[0], some[1], "a")
    assert compare_directions(some[0], some[2], "a")["overlap"] == pytest.approx(1)  # a run that doesn't say
    with pytest.raises(ValueError, match="'a' has 8 features in one run, 9 in the other"):
        compare_directions(some[0], stored(np.eye(9)[:, :2]), "a")
    with pytest.raises(ValueError, match="delta of 'a' by 'default' is zero or isn't finite; it has no directions"):
        compare_directions(some[0], stored(np.zeros((8, 2))), "a")
    with pytest.raises(StoreError, match="no component 'a'"):
        compare_directions(some[0], many_rows, "a")
    with pytest.raises(StoreError, match="`adapter` isn't given"):
        compare_directions(two_adapters, two_adapters, open_run(two_adapters).component_paths[0])
