import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze import directions
from lorascope.analyze.directions.decomposition import (
    Directions,
    directions_of,
    gram_matrix,
    n_leading,
    singular_directions,
)
from lorascope.stores import Run, StoreError, open_run
from lorascope.stores.format.spec import ROW_TOKENS

from ..conftest import Small


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


@pytest.fixture
def of_arrays(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Directions]:
    """Directions of one component whose z, B and scaling are given, row by row as from a run."""

    def decompose(z: np.ndarray, lora_b: np.ndarray, scaling: float = 1.0, **options: Any) -> Directions:
        weights = {"lora_B": lora_b, "scaling": np.float32(scaling), "bias": None}
        rows = [z[start : start + ROW_TOKENS] for start in range(0, len(z), ROW_TOKENS)]
        monkeypatch.setattr("lorascope.stores.reading.walk.read_factors", lambda sources, row: [rows[row]])
        base = SimpleNamespace(
            n_rows=len(rows), is_committed=lambda row: True, n_tokens=lambda row: len(rows[row]), shape=lora_b.shape
        )
        source: Any = SimpleNamespace(
            component="made", base=base, delta=SimpleNamespace(rows=z, weights=lambda: weights)
        )
        return directions_of([source], **options)[0]

    return decompose


def normal(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def definition(delta: np.ndarray, n_top: int) -> tuple[np.ndarray, ...]:
    """Share, vectors, tokens and scores of the largest |score| by NumPy's own decomposition of the whole delta."""
    u, s, v = np.linalg.svd(delta.astype(np.float64), full_matrices=False)
    scores = (u * s).T
    top = np.argsort(-np.abs(scores), axis=1, kind="stable")[:, :n_top]
    return s**2 / (s**2).sum(), v, top, np.take_along_axis(scores, top, 1)


@pytest.mark.parametrize("index", [0, 1, 3])
def test_directions_are_right_singular_vectors_of_delta(run: Run, index: int) -> None:
    path = run.component_paths[index]
    delta, z = run.delta(path).values, run.factor(path).values
    found = directions(run, path)
    share, vector, top, score = definition(delta, 10)
    rank = z.shape[1]
    np.testing.assert_allclose(found["share"], share[:rank], atol=1e-7)
    assert np.abs(found["vector"].values @ vector[:rank].T) == pytest.approx(np.eye(rank), abs=1e-5)
    np.testing.assert_array_equal(found["top_token"], top[:rank])
    np.testing.assert_allclose(np.abs(found["top_score"]), np.abs(score[:rank]), rtol=1e-5)
    assert (found["top_score"].values[:, 0] > 0).all()
    by_token = (run.factor(path) @ found["rotation"]).transpose("token", "direction")
    np.testing.assert_allclose(by_token, delta @ found["vector"].values.T, atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(by_token.values.T, top[:rank], 1), found["top_score"], rtol=1e-4)
    assert (found.attrs["n_tokens"], found.attrs["n_not_finite"]) == (run.n_tokens, 0)
    assert found.attrs["component"] == path
    sums = np.cumsum(share)
    assert (found["n_90"], found["n_99"]) == ((sums < 0.9).sum() + 1, (sums < 0.99).sum() + 1)
    assert dict(found.sizes) == {"direction": rank, "rank": rank, "feature": delta.shape[1], "top": 10}


def test_fewer_or_more_tokens_can_be_kept(run: Run) -> None:
    path = run.component_paths[0]
    many, few = directions(run, path, n_top=3000), directions(run, path, n_top=1)
    np.testing.assert_array_equal(many["top_token"][:, :1], few["top_token"])
    assert (np.sort(many["top_token"].values[:, : run.n_tokens]) == np.arange(run.n_tokens)).all()
    assert (many["top_token"].values[:, run.n_tokens :] == -1).all()
    assert np.isnan(many["top_score"].values[:, run.n_tokens :]).all()


def test_tokens_that_are_not_there_are_left_out(unfinished: Path) -> None:
    some = open_run(unfinished)
    path, there = some.component_paths[0], some.committed.values
    found = directions(some, path)
    share, _, top, _ = definition(some.delta(path).values[there], 10)
    np.testing.assert_allclose(found["share"], share[:4], atol=1e-7)
    np.testing.assert_array_equal(found["top_token"], np.flatnonzero(there)[top[:4]])
    assert found.attrs["n_tokens"] == there.sum()


@pytest.mark.parametrize("tokens", ["from:1", [2, 2000, 2001, 2400, 1500]], ids=str)
def test_tokens_that_are_not_chosen_are_left_out(run: Run, tokens: Any) -> None:
    path = run.component_paths[0]
    position = run.tokens["position"].values
    chosen = np.flatnonzero(position > 0) if tokens == "from:1" else np.sort(tokens)
    assert 0 < len(chosen) < run.n_tokens
    found = directions(run, path, tokens=tokens, n_top=5)
    share, _, top, score = definition(run.delta(path).values[chosen], 5)
    np.testing.assert_allclose(found["share"], share[:4], atol=1e-6)
    np.testing.assert_array_equal(found["top_token"], chosen[top[:4]])
    np.testing.assert_allclose(np.abs(found["top_score"]), np.abs(score[:4]), rtol=1e-4)
    assert found.attrs["n_tokens"] == len(chosen)
    assert found.attrs["tokens"] == (tokens if tokens == "from:1" else "5 chosen")
    whole = directions(run, path)
    for every in (f"first:{2**40}", f"last:{2**40}"):
        xr.testing.assert_equal(directions(run, path, tokens=every), whole)
    with pytest.raises(ValueError, match="`tokens` is 'from:0'; allowed are .* or a sequence of indices"):
        directions(run, path, tokens="from:0")


def test_rows_without_states_are_left_out(make_small: Callable[..., Small]) -> None:
    some = make_small(states="sample", state_rows=(False, True), n_tokens=120)
    path = some.run.component_paths[0]
    found = directions(some.run, path)
    share, _, top, _ = definition(some.delta[path][ROW_TOKENS:], 10)
    np.testing.assert_allclose(found["share"], share[:2], atol=1e-6)
    np.testing.assert_array_equal(found["top_token"], ROW_TOKENS + top[:2])


def test_each_adapter_has_its_own(two_adapters: Path) -> None:
    some = open_run(two_adapters)
    path = some.component_paths[0]
    for name in some.adapters:
        share = definition(some.delta(path, name).values, 1)[0]
        np.testing.assert_allclose(directions(some, path, adapter=name)["share"], share[:4], atol=1e-7)


def test_a_direction_without_delta_is_zero(of_arrays: Callable[..., Directions]) -> None:
    z, lora_b = normal(1500, 4), normal(12, 4)
    lora_b[:, 2] = lora_b[:, 0] - lora_b[:, 1]
    found = of_arrays(z, lora_b, 0.5)
    share, _, top, _ = definition(0.5 * z.astype(np.float64) @ lora_b.T, 10)
    np.testing.assert_allclose(found.share, share[:4], atol=1e-7)
    np.testing.assert_array_equal(found.top_token[:3], top[:3])
    assert not found.rotation[3].any()
    assert not found.axes[3].any()
    assert (found.top_token[3] == -1).all()
    assert np.isnan(found.top_score[3]).all()


@pytest.mark.parametrize("what", ["z", "lora_b"])
def test_zero_delta_has_no_directions(of_arrays: Callable[..., Directions], what: str) -> None:
    arrays = {"z": normal(100, 2), "lora_b": normal(6, 2)}
    arrays[what][:] = 0
    found = of_arrays(**arrays)
    assert not found.share.any()
    assert not found.rotation.any()
    assert (found.top_token == -1).all()


def test_a_single_token_and_a_single_feature(of_arrays: Callable[..., Directions]) -> None:
    found = of_arrays(np.float32([[-3]]), np.float32([[2]]), 0.5)
    assert (found.rotation.item(), found.share.item(), abs(found.axes.item())) == (-1, 1, 1)
    assert (found.top_token[0, 0], found.top_score[0, 0]) == (0, 3)
    assert (found.top_token[0, 1:] == -1).all()


def test_tokens_whose_factor_isnt_finite_are_left_out_and_counted(of_arrays: Callable[..., Directions]) -> None:
    z, lora_b = normal(2000, 3), normal(8, 3)
    broken = z.copy()
    broken[[5, 1024, 1999], [0, 1, 2]] = np.nan, np.inf, -np.inf
    found = of_arrays(broken, lora_b)
    kept = np.delete(np.arange(2000), [5, 1024, 1999])
    share, _, top, _ = definition(z[kept].astype(np.float64) @ lora_b.T, 10)
    np.testing.assert_allclose(found.share, share[:3], atol=1e-7)
    np.testing.assert_array_equal(found.top_token, kept[top[:3]])
    assert found.n_not_finite == 3


def test_weights_that_are_not_finite_have_no_directions(of_arrays: Callable[..., Directions]) -> None:
    lora_b = normal(8, 3)
    lora_b[2, 1] = np.inf
    found = of_arrays(normal(50, 3), lora_b)
    assert np.isnan(found.rotation).all()
    assert np.isnan(found.share).all()
    assert (found.top_token == -1).all()


def test_equal_tokens_come_in_their_order(of_arrays: Callable[..., Directions]) -> None:
    """A token that stands in many samples, as the first of each does, has the same score to the last bit in each."""
    some = normal(1, 5)
    z = np.concatenate([normal(1000, 5) / 10, some, normal(300, 5) / 10, some, normal(1000, 5) / 10, some])
    found = of_arrays(z, normal(7, 5), n_top=3)
    np.testing.assert_array_equal(found.top_token[0], [1000, 1301, 2302])
    assert len(set(found.top_score[0].tolist())) == 1


@pytest.mark.parametrize("n_workers", [2, 5])
def test_no_number_depends_on_threads(of_arrays: Callable[..., Directions], n_workers: int) -> None:
    z, lora_b = normal(20 * ROW_TOKENS - 100, 3), normal(8, 3)
    one, more = of_arrays(z, lora_b, n_workers=1), of_arrays(z, lora_b, n_workers=n_workers)
    for name, values in one._asdict().items():
        np.testing.assert_array_equal(getattr(more, name), values, err_msg=name)


def test_the_order_of_tokens_changes_their_numbers_alone(of_arrays: Callable[..., Directions]) -> None:
    z, lora_b = normal(3000, 3), normal(8, 3)
    order = np.random.default_rng(0).permutation(3000)
    found, moved = of_arrays(z, lora_b), of_arrays(z[order], lora_b)
    np.testing.assert_allclose(moved.share, found.share, rtol=1e-12)
    np.testing.assert_array_equal(order[moved.top_token], found.top_token)
    np.testing.assert_allclose(moved.rotation, found.rotation, rtol=1e-5)


def test_as_many_directions_are_counted_as_hold_a_share() -> None:
    share = np.array([0.5, 0.25, 0.25, 0])
    assert [n_leading(share, least) for least in (0.4, 0.5, 0.6, 0.75, 0.76, 1)] == [1, 1, 2, 2, 3, 3]
    assert n_leading(np.zeros(2), 0.9) == n_leading(np.full(2, np.nan), 0.9) == 0


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 6), st.floats(1e-3, 1e3))
def test_rotations_keep_what_delta_is(seed: int, rank: int, width: int, scaling: float) -> None:
    """|delta|² of every token is that of its scores; also where lora_B has fewer features than ranks."""
    z, lora_b = normal(30, rank, seed=seed), normal(width, rank, seed=seed + 1)
    q, r = np.linalg.qr(scaling * lora_b.astype(np.float64))
    rotation, share, axes = singular_directions(gram_matrix(z)[0], r)
    delta = scaling * z.astype(np.float64) @ lora_b.T
    size = np.abs(delta).max()
    np.testing.assert_allclose(z @ rotation.T @ axes @ q.T, delta, atol=1e-5 * size)
    assert share.sum() == pytest.approx(1)
    assert (np.diff(share) <= 0).all()


def test_progress_counts_rows_twice(run: Run) -> None:
    seen: list[tuple[int, int]] = []
    directions(run, run.component_paths[0], progress=lambda done, total, part="": seen.append((done, total)))
    assert seen == [(3, 6), (6, 6)]  # rows of few ranks are read together


def test_what_has_no_factor_is_refused(
    run: Run, nothing_committed: Path, two_adapters: Path, make_small: Callable[..., Small]
) -> None:
    with pytest.raises(StoreError, match=r"has no directions in this run \(its delta is stored itself\)"):
        directions(run, run.component_paths[2])
    pair = make_small(stream="pair").run
    with pytest.raises(StoreError, match=r"has no directions in this run \(stream 'pair'\)"):
        directions(pair, pair.component_paths[0])
    with pytest.raises(StoreError, match="no row with states of .* is committed yet"):
        directions(nothing_committed, run.component_paths[0])
    with pytest.raises(StoreError, match="no component 'x'"):
        directions(run, "x")
    with pytest.raises(StoreError, match="`adapter` isn't given"):
        directions(two_adapters, run.component_paths[0])
    with pytest.raises(StoreError, match="states 'none'"):
        directions(make_small(states="none").run, pair.component_paths[0])
    for option in ("n_top", "n_workers"):
        with pytest.raises(ValueError, match=f"`{option}` is 0; give a whole number of at least 1"):
            directions(run, run.component_paths[0], **{option: 0})  # type: ignore[arg-type]


def test_a_broken_chunk_ends_it_with_its_name(many_rows: Path, tmp_path: Path) -> None:
    path = shutil.copytree(many_rows, tmp_path / "run.zarr")
    (path / "adapters/default/factor/c.1.0").unlink()
    with pytest.raises(StoreError, match=r"chunk 'adapters/default/factor/c.1.0' is missing"):
        directions(path, open_run(path).component_paths[0])
