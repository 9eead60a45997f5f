from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

from lorascope.analyze import measure as module
from lorascope.analyze.measure import MEASURES, compute, measure
from lorascope.analyze.sources import group_sources, sources_of
from lorascope.stores import Run, StoreError, open_run

GOLDEN = Path(__file__).parents[1] / "stores" / "golden" / "v1.zarr"


def softmax_js(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """The definition in float64, eq. 3 of the paper."""
    p, q = (np.exp(x - x.max(-1, keepdims=True)) for x in (base.astype(np.float64), base.astype(np.float64) + delta))
    p, q = (x / x.sum(-1, keepdims=True) for x in (p, q))
    m = (p + q) / 2
    kl = [np.where(x > 0, x * np.log(np.where(x > 0, x, 1) / m), 0).sum(-1) for x in (p, q)]
    return (kl[0] + kl[1]) / 2


def entropy_width(base: np.ndarray) -> np.ndarray:
    p = np.exp(base.astype(np.float64) - base.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.exp(-(p * np.log(p)).sum(-1))


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


def test_measures_equal_their_definitions(run: Run) -> None:
    values = compute(measure(run, tuple(MEASURES)))
    assert values.shape == (len(MEASURES), run.n_tokens, len(run.component_paths))
    for index, path in enumerate(run.component_paths):
        base, delta = run.base(path).values, run.delta(path).values
        found = dict(zip(MEASURES, values[..., index], strict=True))
        np.testing.assert_allclose(found["js"], softmax_js(base, delta), rtol=1e-5)
        np.testing.assert_allclose(found["effective_width"], entropy_width(base), rtol=1e-5)
        ratio = np.linalg.norm(delta.astype(np.float64), axis=1) / np.linalg.norm(base.astype(np.float64), axis=1)
        np.testing.assert_allclose(found["delta_ratio"], ratio, rtol=1e-5)
        order = np.random.default_rng(delta.shape[1]).permutation(delta.shape[1])
        np.testing.assert_allclose(found["js_permuted"], softmax_js(base, delta[:, order]), rtol=1e-5)


@pytest.mark.parametrize("group_bytes", [1, 100_000, 10**9])
@pytest.mark.parametrize("n_workers", [1, 4])
def test_grouping_and_threads_change_no_bit(
    run: Run, monkeypatch: pytest.MonkeyPatch, group_bytes: int, n_workers: int
) -> None:
    expected = compute(measure(run), n_workers=2)
    monkeypatch.setattr(module, "group_sources", lambda sources: group_sources(sources, group_bytes=group_bytes))
    assert compute(measure(run), n_workers=n_workers).tobytes() == expected.tobytes()


def test_processes_give_the_same(run: Run) -> None:
    expected = compute(measure(run))
    with dask.config.set({"multiprocessing.context": "spawn"}):
        assert compute(measure(run), scheduler="processes", n_workers=1).tobytes() == expected.tobytes()


def test_groups_are_neighbours_of_enough_bytes(run: Run) -> None:
    sources = sources_of(run)
    groups = group_sources(sources, group_bytes=2 * 4 * 1024 * sources[0].base.shape[1])
    assert [s.component for group in groups for s in group] == list(run.component_paths)
    assert len(groups) > 1
    assert [len(g) for g in group_sources(sources, group_bytes=1)] == [1] * len(sources)
    assert group_sources([]) == []


def test_building_the_graph_reads_no_state(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("read while the graph was built")

    monkeypatch.setattr("lorascope.stores.reading.rows.RowArray.read_row", fail)
    lazy = measure(run)
    with pytest.raises(AssertionError, match="read while"):
        compute(lazy)


def test_progress_reaches_the_end(run: Run) -> None:
    calls: list[tuple[int, int]] = []
    compute(measure(run), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] == len(calls)


def test_unknown_measure_is_named(run: Run) -> None:
    with pytest.raises(ValueError, match="no measure 'kl'; there are"):
        measure(run, ("kl",))


def test_delta_stored_itself_and_bfloat16() -> None:
    golden = open_run(GOLDEN)
    values = compute(measure(golden))[0]
    for index, path in enumerate(golden.component_paths):
        expected = softmax_js(golden.base(path).values, golden.delta(path).values)
        np.testing.assert_allclose(values[:, index], expected, rtol=1e-5)


def test_run_without_states_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.attributes, "states", "none")
    with pytest.raises(StoreError, match="captured with states 'none'"):
        measure(run)
