import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.information.components import (
    ComponentPairs,
    ComponentRecord,
    component_pairs,
    component_record,
    lazily,
)
from lorascope.analyze.information.evidence import FIELDS, estimate
from lorascope.analyze.information.pairs import Settings
from lorascope.analyze.information.plan import Plan, make_plan
from lorascope.analyze.measuring.sources import Source, sources_of
from lorascope.stores import Run, open_run

from ...stored import store_states

LENGTHS = [15] * 20


def plan_of(run: Run, **options: Any) -> Plan:
    defaults: dict[str, Any] = {
        "estimator": "gaussian", "against": "lora", "n_tokens": 10**6, "n_axes": 3, "share": 1.0,
        "settings": Settings(seed=3), "unit": "nat", "n_shuffles": 2,
    }  # fmt: skip
    return make_plan(run, **{**defaults, **options})


def record_of(run: Run, **options: Any) -> ComponentRecord:
    return component_record(sources_of(run)[0], plan_of(run, **options))


def random_run(path: Path, *, n_features: int = 6, lengths: list[int] = LENGTHS, zero_delta: bool = False) -> Run:
    rng = np.random.default_rng(0)
    base, delta = rng.normal(size=(2, sum(lengths), n_features))
    return store_states(path, {"m.a": (base, delta * (not zero_delta))}, lengths=lengths)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return random_run(tmp_path_factory.mktemp("made") / "run.zarr")


def pairs_of(run: Run, **options: Any) -> ComponentPairs:
    found = component_pairs(sources_of(run)[0], plan_of(run, **options))
    assert isinstance(found, ComponentPairs)
    return found


def test_a_record_is_that_of_the_pairs(made: Run) -> None:
    options: dict[str, Any] = {"estimator": ("ksg1", "gaussian"), "n_tokens": 200}
    found, pairs = record_of(made, **options), pairs_of(made, **options)
    expected = estimate(pairs.pairs, ("ksg1", "gaussian"), Settings(seed=3), n_shuffles=2)
    np.testing.assert_array_equal(found.fields, expected)
    assert (found.note, found.n_tokens, found.n_samples, found.n_axes_x, found.n_axes_y) == ("", 200, 20, 3, 3)
    assert (found.share_x, found.share_y) == pairs.shares
    np.testing.assert_allclose([found.js, found.js_delta_alone], pairs.js.mean(axis=0), rtol=1e-6)


def test_a_component_that_cant_be_projected_has_a_note_and_no_values(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run.zarr", zero_delta=True)
    found = record_of(run, against="delta")
    assert found.note == "`delta`: the 300 tokens are all equal; they have no axes"
    assert found.fields.shape == (1, len(FIELDS))
    assert np.isnan(found.fields).all()
    assert np.isnan([found.js, found.share_x]).all()
    assert (found.n_tokens, found.n_samples, found.n_axes_x) == (0, 0, 0)


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
    assert found.n_tokens == 2 * n_samples


def test_too_few_samples_are_told(tmp_path: Path) -> None:
    """One of four samples holds no number."""
    rng = np.random.default_rng(0)
    base, delta = rng.normal(size=(2, 160, 6))
    base[:40] = np.nan
    run = store_states(tmp_path / "run.zarr", {"m.a": (base, delta)}, lengths=[40] * 4)
    words = "the 120 tokens that are left are of 3 samples; halves, shuffles and errors need at least 4"
    found = record_of(run, estimator="panel")
    assert (found.note, found.n_samples, found.n_not_finite) == (words, 3, 40)
    assert np.isnan(found.fields).all()


def test_each_component_is_a_task(many_rows: Path) -> None:
    run = open_run(many_rows)
    sources, plan = sources_of(run), plan_of(run, n_tokens=200)
    lazy = lazily(component_record, sources, plan)
    assert (lazy.shape, lazy.numblocks) == ((4,), (4,))
    for found, source in zip(lazy.compute(scheduler="synchronous"), sources, strict=True):
        np.testing.assert_array_equal(found.fields, component_record(source, plan).fields)


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
    short, long = (peak_bytes(sources_of(run)[0], plan_of(run, n_tokens=200)) for run in short_and_long)
    row_bytes = 4 * 1024 * N_FEATURES
    # In rows: base, delta and their sum 3; a piece in float64, twice as wide, and the one before 4; the rest is small.
    assert short < 8 * row_bytes
    assert long - short < 2 * 1024 * (N_ROWS[1] - N_ROWS[0])  # a mask of the run's tokens, a byte each
    assert long < N_ROWS[1] * row_bytes / 2


def peak_bytes(source: Source, plan: Plan) -> int:
    component_record(source, plan)  # what is compiled and cached, first
    tracemalloc.start()
    component_record(source, plan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
