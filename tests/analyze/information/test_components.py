import re
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.information.components import (
    ComponentEstimates,
    ComponentPairs,
    Plan,
    component_pairs,
    draw_tokens,
    estimate_component,
    make_plan,
)
from lorascope.analyze.information.evidence import FIELDS, estimate
from lorascope.analyze.information.pairs import Settings
from lorascope.analyze.measuring.jensen_shannon import jensen_shannon
from lorascope.analyze.measuring.sources import component_sources
from lorascope.stores import Run, StoreError, open_run
from lorascope.stores.reading.source import Source

from ...stored import store_states


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


def plan_of(run: Run, **options: Any) -> Plan:
    defaults: dict[str, Any] = {
        "tokens": "all", "estimator": "panel", "against": "lora", "n_tokens": 10**6, "n_axes": 4, "share": 1.0,
        "settings": Settings(seed=3), "unit": "nat", "n_shuffles": 2,
    }  # fmt: skip
    return make_plan(run, **{**defaults, **options})


def test_tokens_are_those_of_the_seed(run: Run) -> None:
    plan = plan_of(run, n_tokens=50)
    np.testing.assert_array_equal(plan.tokens, draw_tokens(run, np.ones(run.n_tokens, bool), 50, seed=3)[0])
    np.testing.assert_array_equal(plan.samples, run.tokens["sample"].values[plan.tokens])
    assert len(plan_of(run, n_tokens=10**6).tokens) == run.n_tokens


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"estimator": "ksg9"}, "`estimator` names 'ksg9'; allowed are panel, noise, ksg1"),
        ({"against": "base"}, "`against` is 'base'; allowed are 'lora', 'delta'"),
        ({"n_axes": 0}, "`n_axes` is 0; give a whole number of at least 1"),
        ({"n_tokens": 1.5}, "`n_tokens` is 1.5; give a whole number of at least 1"),
        ({"share": 0.0}, "`share` is 0.0; it must be above 0 and at most 1"),
        ({"share": float("nan")}, "`share` is nan; it must be above 0 and at most 1"),
        ({"unit": "dit"}, "`unit` is 'dit'; allowed are 'nat', 'bit'"),
        ({"settings": Settings(k=0)}, "`k` is 0; give a whole number of at least 1"),
        ({"tokens": "form:1"}, "`tokens` is 'form:1'; allowed are 'all', 'prompt', "),
        ({"n_tokens": 3}, "of 3 samples; halves, shuffles and errors need at least 4: choose more tokens, or capture"),
    ],
)
def test_options_that_cant_be(run: Run, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        plan_of(run, **options)


def test_runs_without_chosen_states_are_refused(make_small: Any, nothing_committed: Path, run: Run) -> None:
    for empty in (make_small(states="none").run, open_run(nothing_committed)):
        with pytest.raises(StoreError, match=r"run\.zarr' keeps states; there are no tokens to choose from"):
            plan_of(empty)
    with pytest.raises(StoreError, match="`tokens` takes none of the tokens of .* that have states"):
        plan_of(run, tokens="from:99999")


LENGTHS = [15] * 20


def pairs_of(run: Run, component: int = 0, **options: Any) -> ComponentPairs:
    found = component_pairs(component_sources(run)[component], plan_of(run, **options))
    assert not found.why
    return found


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
    np.testing.assert_allclose(found.shares, [side[:4].sum() / side.sum() for side in variances], rtol=1e-5)
    assert (found.n_repeats, found.n_not_finite) == (0, 0)


def test_js_is_that_of_the_tokens(made: Run) -> None:
    base, delta = (side.astype(np.float64) for side in random_states())
    found = pairs_of(made, n_tokens=50)
    np.testing.assert_allclose(found.js[:, 0], jensen_shannon(base, delta)[found.tokens], rtol=1e-5)
    np.testing.assert_allclose(found.js[:, 1], jensen_shannon(base, delta - base)[found.tokens], rtol=1e-5)


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
    """An axis of large variance, along which tokens come in twos; they differ in the other features."""
    base, delta = random_states()
    rng = np.random.default_rng(1)
    sides = [np.column_stack([50 * side[:, :1], 0.1 * rng.normal(size=(300, 5))]) for side in (base, delta)]
    for side in sides:
        side[1::2, 0] = side[::2, 0]
    found = pairs_of(store_states(tmp_path / "run.zarr", {"m.a": tuple(sides)}, lengths=LENGTHS), n_axes=1)
    assert (len(found.tokens), found.n_repeats) == (300, 0)


def test_many_repeats_take_little_memory(tmp_path: Path) -> None:
    base, delta = random_states(n_tokens=6000)
    base[1000:], delta[1000:] = base[0], delta[0]
    run = store_states(tmp_path / "run.zarr", {"m.a": (base, delta)}, lengths=[15] * 400)
    plan, source = plan_of(run), component_sources(run)[0]
    tracemalloc.start()
    found = component_pairs(source, plan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.n_repeats == 5000
    assert peak < 5000**2 / 2 * 16 / 10  # a tenth of all pairs of them, each two places


def test_tokens_that_arent_there_or_finite_are_left_out(make_small: Any, unfinished: Path) -> None:
    found = pairs_of(make_small(not_finite=True).run)
    assert found.n_not_finite == 1
    assert 3 not in found.tokens
    assert pairs_of(make_small(not_finite=True).run, 1).n_not_finite == 0
    run = open_run(unfinished)
    np.testing.assert_array_equal(pairs_of(run).tokens, np.flatnonzero(run.committed.values))


def test_constant_sides_are_named(tmp_path: Path, make_small: Any) -> None:
    zero = make_small(zero=True).run
    found = component_pairs(component_sources(zero)[0], plan_of(zero, against="delta"))
    assert (found.why, found.n_not_finite) == ("`delta`: the 73 tokens are all equal; they have no axes", 0)
    assert len(found.tokens) == len(found.pairs.x) == len(found.js) == 0
    pairs_of(zero)  # lora is base
    base, delta = random_states()
    base[:] = 1.5
    run = store_states(tmp_path / "run.zarr", {"m.a": (base, delta)}, lengths=LENGTHS)
    found = component_pairs(component_sources(run)[0], plan_of(run))
    assert (found.why, found.n_not_finite) == ("`base`: the 300 tokens are all equal; they have no axes", 0)


def test_a_broken_chunk_is_no_note(tmp_path: Path, many_rows: Path) -> None:
    shutil.copytree(many_rows, tmp_path / "run.zarr")
    (tmp_path / "run.zarr/states/model.layers.0.mlp.up_proj/base/c.1.0").write_bytes(b"broken")
    run = open_run(tmp_path / "run.zarr")
    with pytest.raises(StoreError, match=re.escape("is broken")):
        component_pairs(component_sources(run)[0], plan_of(run))


def record_of(run: Run, **options: Any) -> ComponentEstimates:
    return estimate_component(
        component_sources(run)[0], plan_of(run, **{"estimator": "gaussian", "n_axes": 3, **options})
    )


def random_run(path: Path, *, n_features: int = 6, lengths: list[int] = LENGTHS, zero_delta: bool = False) -> Run:
    rng = np.random.default_rng(0)
    base, delta = rng.normal(size=(2, sum(lengths), n_features))
    return store_states(path, {"m.a": (base, delta * (not zero_delta))}, lengths=lengths)


def test_a_record_is_that_of_the_pairs(made: Run) -> None:
    options: dict[str, Any] = {"estimator": ("ksg1", "gaussian"), "n_tokens": 200, "n_axes": 3}
    found, pairs = record_of(made, **options), pairs_of(made, **options)
    expected = estimate(pairs.pairs, ("ksg1", "gaussian"), Settings(seed=3), n_shuffles=2)
    np.testing.assert_array_equal(found.fields, expected)
    assert found.note == ""
    assert [found.columns[name] for name in ("n_tokens", "n_samples", "n_axes_x", "n_axes_y")] == [200, 20, 3, 3]
    assert (found.columns["share_x"], found.columns["share_y"]) == pairs.shares
    js = [found.columns[name] for name in ("js", "js_delta_alone")]
    np.testing.assert_allclose(js, pairs.js.mean(axis=0), rtol=1e-6)


def test_a_component_that_cant_be_projected_has_a_note_and_no_values(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run.zarr", zero_delta=True)
    found = record_of(run, against="delta")
    assert found.note == "`delta`: the 300 tokens are all equal; they have no axes"
    assert found.fields.shape == (1, len(FIELDS))
    assert np.isnan(found.fields).all()
    assert np.isnan([found.columns["js"], found.columns["share_x"]]).all()
    assert [found.columns[name] for name in ("n_tokens", "n_samples", "n_axes_x")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("n_samples", "options", "words"),
    [
        (20, {"n_axes": 20}, "there are 40 rows for 20 + 20 dimensions; give at least 86, or project to fewer"),
        (8, {}, "there are 16 rows for 3 + 3 dimensions; give at least 32"),
    ],
)
def test_too_few_tokens_are_told(tmp_path: Path, n_samples: int, options: dict[str, Any], words: str) -> None:
    run = random_run(tmp_path / "run.zarr", n_features=24, lengths=[2] * n_samples)
    found = record_of(run, **options)
    assert words in found.note
    assert np.isnan(found.fields).all()
    assert found.columns["n_tokens"] == 2 * n_samples


def test_too_few_samples_are_told(tmp_path: Path) -> None:
    """One of four samples holds no number."""
    rng = np.random.default_rng(0)
    base, delta = rng.normal(size=(2, 160, 6))
    base[:40] = np.nan
    run = store_states(tmp_path / "run.zarr", {"m.a": (base, delta)}, lengths=[40] * 4)
    words = "the remaining 120 tokens are of 3 samples; halves, shuffles and errors need at least 4"
    found = record_of(run, estimator="panel")
    assert (found.note, found.columns["n_samples"], found.columns["n_not_finite"]) == (words, 3, 40)
    assert np.isnan(found.fields).all()


N_FEATURES, N_ROWS = 128, (5, 20)


@pytest.fixture(scope="module")
def short_and_long(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Runs of 5 and 20 rows."""
    row = np.random.default_rng(0).normal(size=(2, 1024, N_FEATURES)).astype(np.float32)
    runs = []
    for n in N_ROWS:
        states = [np.concatenate([np.roll(side, i, axis=1) for i in range(n)]) for side in row]
        folder = tmp_path_factory.mktemp("rows")
        runs.append(store_states(folder / "run.zarr", {"m.a": (states[0], states[1])}, lengths=[128] * (8 * n)))
    return runs


def test_memory_doesnt_grow_with_the_tokens_of_a_store(short_and_long: list[Run]) -> None:
    """A component's task holds a row, what it chose of the others, and no more."""
    short, long = (peak_bytes(component_sources(run)[0], plan_of(run, n_tokens=200)) for run in short_and_long)
    row_bytes = 4 * 1024 * N_FEATURES
    # In rows: base, delta and their sum 3; a piece in float64, twice as wide, and the one before 4; the rest is small.
    assert short < 8 * row_bytes
    assert long - short < 2 * 1024 * (N_ROWS[1] - N_ROWS[0])  # a mask of the run's tokens, a byte each
    assert long < N_ROWS[1] * row_bytes / 2


def peak_bytes(source: Source, plan: Plan) -> int:
    estimate_component(source, plan)  # what is compiled and cached, first
    tracemalloc.start()
    estimate_component(source, plan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
