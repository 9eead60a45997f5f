import re
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.information.estimators import Settings
from lorascope.analyze.information.pairs import NoPairs, Projected, projected
from lorascope.analyze.information.plan import Plan, make_plan
from lorascope.analyze.information.projections import halves, random_axes
from lorascope.analyze.jensen_shannon import jensen_shannon
from lorascope.analyze.measuring.sources import Source, sources_of
from lorascope.stores import Run, StoreError, open_run

from ...stored import store_states

LENGTHS = [15] * 20


def plan_of(run: Run, **options: Any) -> Plan:
    defaults: dict[str, Any] = {
        "estimator": "panel", "against": "lora", "n_tokens": 10**6, "projection": "pca", "n_axes": 4, "share": 1.0,
        "n_blocks": 1, "settings": Settings(seed=3), "unit": "nat", "n_shuffles": 0,
    }  # fmt: skip
    return make_plan(run, **{**defaults, **options})


def pairs_of(run: Run, component: int = 0, **options: Any) -> Projected:
    (found,) = projected(sources_of(run)[component], plan_of(run, **options))
    assert isinstance(found, Projected), found
    return found


def why_not(run: Run, **options: Any) -> list[str]:
    return [
        found.why if isinstance(found, NoPairs) else ""
        for found in projected(sources_of(run)[0], plan_of(run, **options))
    ]


def random_states(*, n_features: int = 6, n_tokens: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Base and delta whose axes have plainly different variances, float32."""
    rng = np.random.default_rng(seed)
    scales = 3.0 ** -np.arange(n_features)
    turns = [np.linalg.qr(rng.normal(size=(n_features, n_features))).Q for _ in range(2)]
    base, delta = ((rng.normal(size=(n_tokens, n_features)) * scales) @ turn for turn in turns)
    return base.astype(np.float32), (0.5 * delta).astype(np.float32)


def exact_scores(states: np.ndarray, n_axes: int) -> np.ndarray:
    """States along their principal axes, of all tokens; the largest entry of each axis is positive."""
    centred = states - states.mean(axis=0, dtype=np.float64)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:n_axes].T
    return centred @ (axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(n_axes)]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return store_states(tmp_path_factory.mktemp("made") / "run.zarr", {"m.a": random_states()}, lengths=LENGTHS)


@pytest.mark.parametrize("against", ["lora", "delta"])
def test_pairs_are_states_along_the_principal_axes_of_all_tokens(made: Run, against: str) -> None:
    base, delta = random_states()
    found = pairs_of(made, against=against, n_tokens=120)
    assert len(found.tokens) == 120
    assert (np.diff(found.tokens) > 0).all()
    np.testing.assert_array_equal(found.pairs.groups_x, found.tokens // 15)
    np.testing.assert_array_equal(found.pairs.groups_y, found.pairs.groups_x)
    other = base + delta if against == "lora" else delta
    np.testing.assert_allclose(found.pairs.x, exact_scores(base, 4)[found.tokens], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.pairs.y, exact_scores(other, 4)[found.tokens], rtol=1e-6, atol=1e-9)
    variances = [np.linalg.svd(side - side.mean(axis=0), compute_uv=False) ** 2 for side in (base, other)]
    kept = [side[:4].sum() / side.sum() for side in variances]
    np.testing.assert_allclose(found.shares, kept, rtol=1e-5)
    assert (found.n_repeats, found.n_not_finite, found.states) == (0, 0, None)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 1.0])
def test_as_many_axes_as_keep_the_share(made: Run, share: float) -> None:
    found = pairs_of(made, share=share)
    for side, kept in zip((found.pairs.x, found.pairs.y), found.shares, strict=True):
        variances = side.var(axis=0)
        assert kept >= share or side.shape[1] == 4
        assert (variances[:-1].sum() / variances.sum()) * kept < share  # one less wouldn't do


def test_random_axes_are_the_same_for_both_sides(made: Run) -> None:
    base, delta = random_states()
    found = pairs_of(made, projection="random")
    vectors = random_axes(6, 4, seed=3).vectors
    np.testing.assert_allclose(found.pairs.x, base.astype(np.float64) @ vectors, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.pairs.y, (base + delta).astype(np.float64) @ vectors, rtol=1e-6, atol=1e-7)
    assert np.isnan(found.shares).all()
    assert pairs_of(made, projection="random", n_axes=9).pairs.x.shape == (300, 6)  # no more than features


def test_canonical_directions_are_found_on_samples_that_are_left_out(made: Run) -> None:
    found, every = pairs_of(made, projection="canonical", n_axes=2), pairs_of(made)
    first = halves(every.pairs.groups_x, seed=3)
    np.testing.assert_array_equal(found.tokens, every.tokens[~first])
    assert found.pairs.x.shape == found.pairs.y.shape == (len(found.tokens), 2)
    correlations = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(found.pairs.x.T, found.pairs.y.T, strict=True)]
    best = max(abs(np.corrcoef(a, b)[0, 1]) for a in every.pairs.x[~first].T for b in every.pairs.y[~first].T)
    assert correlations[0] > best - 0.05


def test_blocks_are_what_a_component_of_these_features_alone_would_be(tmp_path: Path, made: Run) -> None:
    base, delta = random_states()
    parts = {f"m.part_{i}": (base[:, 2 * i : 2 * i + 2], delta[:, 2 * i : 2 * i + 2]) for i in range(3)}
    alone = store_states(tmp_path / "run.zarr", parts, lengths=LENGTHS)
    blocks = projected(sources_of(made)[0], plan_of(made, n_blocks=3, estimator=("panel", "argmax")))
    for place, block in enumerate(blocks):
        assert isinstance(block, Projected)
        expected = pairs_of(alone, place, estimator=("panel", "argmax"))
        for side in ("x", "y"):
            np.testing.assert_allclose(getattr(block.pairs, side), getattr(expected.pairs, side), rtol=1e-9, atol=1e-12)
        assert block.states is not None
        np.testing.assert_array_equal(block.states[0], base[:, 2 * place : 2 * place + 2])
        np.testing.assert_array_equal(block.states[1], (base + delta)[:, 2 * place : 2 * place + 2])
        np.testing.assert_allclose(block.js[:, 0], jensen_shannon(base, delta), rtol=1e-5)  # over all features


def test_js_is_that_of_the_tokens(made: Run) -> None:
    base, delta = (side.astype(np.float64) for side in random_states())
    found = pairs_of(made, n_tokens=50)
    np.testing.assert_allclose(found.js[:, 0], jensen_shannon(base, delta)[found.tokens], rtol=1e-5)
    np.testing.assert_allclose(found.js[:, 1], jensen_shannon(base, delta - base)[found.tokens], rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"factored": False}, {"stream": "pair"}, {"dtype": "bfloat16"}, {"dtype": "bfloat16", "factored": False}],
    ids=str,
)
def test_every_kind_of_store(make_small: Any, options: dict[str, Any]) -> None:
    run = make_small(**options).run
    for place, path in enumerate(run.component_paths):
        base, lora = run.base(path).values, run.base(path).values + run.delta(path).values
        vectors = random_axes(base.shape[1], 2, seed=3).vectors
        found = pairs_of(run, place, n_axes=2, projection="random")
        np.testing.assert_array_equal(found.tokens, np.arange(run.n_tokens))
        np.testing.assert_allclose(found.pairs.x, base @ vectors, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.pairs.y, lora @ vectors, rtol=1e-5, atol=1e-5)
        expected = jensen_shannon(base.astype(np.float64), run.delta(path).values.astype(np.float64))
        np.testing.assert_allclose(found.js[:, 0], expected, rtol=1e-4)


def test_rows_that_arent_committed_have_no_pairs(unfinished: Path) -> None:
    run = open_run(unfinished)
    found = pairs_of(run)
    np.testing.assert_array_equal(found.tokens, np.flatnonzero(run.committed.values))


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_tokens_that_repeat_states_are_left_out(tmp_path: Path, noise: float) -> None:
    base, delta = random_states()
    rng = np.random.default_rng(1)
    for repeat, first in ((20, 4), (21, 4), (299, 50), (100, 20)):  # 100 repeats a repeat
        base[repeat] = base[first] * (1 + noise * rng.uniform(-1, 1, 6))
        delta[repeat] = delta[first] * (1 + noise * rng.uniform(-1, 1, 6))
    base[7] = base[8]  # with another delta: no repeat
    found = pairs_of(store_states(tmp_path / "run.zarr", {"m.a": (base, delta)}, lengths=LENGTHS), against="delta")
    assert found.n_repeats == 4
    np.testing.assert_array_equal(found.tokens, np.delete(np.arange(300), [20, 21, 100, 299]))
    assert len(found.js) == len(found.pairs.x) == len(found.pairs.groups_x) == 296


def test_different_states_that_are_near_along_few_axes_are_no_repeats(tmp_path: Path) -> None:
    """Two axes of large variance, along which tokens come in twos; they differ in the other features."""
    base, delta = random_states()
    rng = np.random.default_rng(1)
    sides = [np.column_stack([50 * side[:, :1], 0.1 * rng.normal(size=(300, 5))]) for side in (base, delta)]
    for side in sides:
        side[1::2, 0] = side[::2, 0]
    run = store_states(tmp_path / "run.zarr", {"m.a": (sides[0], sides[1])}, lengths=LENGTHS)
    plan = plan_of(run, n_axes=1)
    found = pairs_of(run, n_axes=1)
    assert len(plan.tokens) == len(found.tokens) == 300
    assert found.n_repeats == 0


def test_many_repeats_take_little_memory(tmp_path: Path) -> None:
    base, delta = random_states(n_tokens=6000)
    base[1000:], delta[1000:] = base[0], delta[0]
    run = store_states(tmp_path / "run.zarr", {"m.a": (base, delta)}, lengths=[15] * 400)
    plan, source = plan_of(run), sources_of(run)[0]
    tracemalloc.start()
    (found,) = projected(source, plan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, Projected)
    assert found.n_repeats == 5000
    assert peak < 5000**2 / 2 * 16 / 10  # a tenth of all pairs of them, each two places


def test_tokens_that_arent_finite_are_left_out_and_counted(make_small: Any) -> None:
    found = pairs_of(make_small(not_finite=True).run)
    assert found.n_not_finite == 1
    assert 3 not in found.tokens
    assert pairs_of(make_small(not_finite=True).run, 1).n_not_finite == 0


def test_constant_sides_are_named(tmp_path: Path, make_small: Any) -> None:
    zero = make_small(zero=True).run
    assert why_not(zero, against="delta") == ["`delta`: the 73 tokens are all equal; they have no axes"]
    assert why_not(zero) == [""]  # lora is base
    base, delta = random_states()
    base[:] = 1.5
    run = store_states(tmp_path / "run.zarr", {"m.a": (base, delta)}, lengths=LENGTHS)
    assert why_not(run) == ["`base`: the 300 tokens are all equal; they have no axes"]


def test_a_block_without_variance_spoils_no_other(tmp_path: Path, made: Run) -> None:
    base, delta = random_states()
    delta[:, 2:4] = 0
    run = store_states(tmp_path / "run.zarr", {"m.a": (base, delta)}, lengths=LENGTHS)
    options: dict[str, Any] = {"n_blocks": 3, "against": "delta"}
    assert why_not(run, **options) == ["", "`delta`: the 300 tokens are all equal; they have no axes", ""]
    found, expected = (projected(sources_of(each)[0], plan_of(each, **options)) for each in (run, made))
    for place in (0, 2):
        one, other = found[place], expected[place]
        assert isinstance(one, Projected)
        assert isinstance(other, Projected)
        np.testing.assert_allclose(one.pairs.y, other.pairs.y, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lengths", [[3] * 4, [1] * 4], ids=str)
def test_canonical_directions_of_few_tokens(tmp_path: Path, lengths: list[int]) -> None:
    states = {"m.a": random_states(n_tokens=sum(lengths))}
    run = store_states(tmp_path / "run.zarr", states, lengths=lengths)
    (found,) = projected(sources_of(run)[0], plan_of(run, projection="canonical"))
    if isinstance(found, Projected):  # an axis for each side, and six tokens to turn it on
        assert found.pairs.x.shape == found.pairs.y.shape == (6, 1)
    else:
        assert lengths == [1] * 4
        assert "2 samples of 1 and 1 directions correlate whatever they are; give more than 2 samples" in found.why


def test_a_broken_chunk_is_no_note(tmp_path: Path, many_rows: Path) -> None:
    shutil.copytree(many_rows, tmp_path / "run.zarr")
    (tmp_path / "run.zarr/states/model.layers.0.mlp.up_proj/base/c.1.0").write_bytes(b"broken")
    for options in ({}, {"projection": "random"}, {"n_blocks": 2}):
        run = open_run(tmp_path / "run.zarr")
        with pytest.raises(StoreError, match=re.escape("is broken")):
            projected(sources_of(run)[0], plan_of(run, **options))


def test_a_chunk_that_breaks_while_words_are_looked_for(make_small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trip that finds out which side is constant meets a lost chunk."""
    from lorascope.analyze.information import pairs

    run = make_small(zero=True).run
    original, calls = pairs.component_blocks, []

    def lost(source: Source, **options: Any) -> Any:
        calls.append(source)
        if len(calls) > 2:
            raise StoreError("a chunk is gone")
        return original(source, **options)

    monkeypatch.setattr(pairs, "component_blocks", lost)
    with pytest.raises(StoreError, match="a chunk is gone"):
        projected(sources_of(run)[0], plan_of(run, against="delta"))
