import copy
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

from lorascope.analyze.measuring import tiles
from lorascope.analyze.measuring.compute import open_workers
from lorascope.analyze.measuring.lazy_measures import measure_sources
from lorascope.analyze.measuring.measures import MEASURES, Measure, resolve_measures, token_measure
from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.measuring.sources import component_sources
from lorascope.stores import Run, StoreError, open_run
from lorascope.stores.reading.rows import RowArray
from lorascope.stores.reading.source import group_sizes

from ..conftest import divergence, softmax, width

GOLDEN = Path(__file__).parents[2] / "stores" / "golden" / "v1.zarr"


def compute(array: da.Array, *, scheduler: Any = None, n_workers: int | None = None) -> np.ndarray:
    """(measure, token, component)."""
    with open_workers(scheduler, n_workers) as found:
        return found.compute(array, lambda: None).transpose(0, 2, 1)


def measure(run: Run, names: Sequence[str | Measure] = ("js",)) -> da.Array:
    return measure_sources(component_sources(run), names)


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


def definitions(base: np.ndarray, delta: np.ndarray) -> dict[str, np.ndarray]:
    """Every measure but the HSICs, from its definition in float64."""
    base, delta = base.astype(np.float64), delta.astype(np.float64)
    p, q = softmax(base), softmax(base + delta)
    order = np.random.default_rng(delta.shape[1]).permutation(delta.shape[1])
    norms = np.linalg.norm(base, axis=1), np.linalg.norm(delta, axis=1)
    return {
        "js": divergence(base, delta),
        "js_permuted": divergence(base, delta[:, order]),
        "js_delta_alone": divergence(base, delta - base),
        "kl_base_lora": (p * np.log(p / q)).sum(-1),
        "kl_lora_base": (q * np.log(q / p)).sum(-1),
        "entropy_base": -(p * np.log(p)).sum(-1),
        "entropy_lora": -(q * np.log(q)).sum(-1),
        "effective_width": width(base),
        "effective_width_lora": width(base + delta),
        "argmax_agreement": (base.argmax(-1) == (base + delta).argmax(-1)).astype(float),
        "base_norm": norms[0],
        "delta_norm": norms[1],
        "delta_ratio": norms[1] / norms[0],
        "delta_cosine": (base * delta).sum(-1) / norms[0] / norms[1],
    }


def test_measures_equal_their_definitions(run: Run) -> None:
    names = tuple(MEASURES)
    values = compute(measure(run, names))
    assert values.shape == (len(names), run.n_tokens, len(run.component_paths))
    for index, path in enumerate(run.component_paths):
        expected = definitions(run.base(path).values, run.delta(path).values)
        assert set(expected) == set(names)
        for name, found in zip(names, values[..., index], strict=True):
            np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_docs_list_every_measure() -> None:
    page = (Path(__file__).parents[3] / "docs" / "analysis.md").read_text()
    table = page[page.index("| name | definition") : page.index("**Mutual information**")]
    rows = [line for line in table.splitlines()[2:] if line.startswith("|")]
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(names) == sorted(MEASURES)


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_says_what_it_is(run: Run, name: str) -> None:
    attributes = MEASURES[name].outputs[name]
    assert attributes["long_name"]
    assert attributes["units"] in {"nat", "1"}
    together, alone = compute(measure(run, ("js", name) if name != "js" else ("js",))), compute(measure(run, (name,)))
    np.testing.assert_allclose(together[-1], alone[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("group_bytes", "tile_values", "n_workers"), [(1, 1, 1), (1, 10**9, 4), (100_000, 1000, 4), (10**9, 1, 4)]
)
def test_groups_tiles_and_threads_change_no_bit(
    run: Run, monkeypatch: pytest.MonkeyPatch, group_bytes: int, tile_values: int, n_workers: int
) -> None:
    names = ("js", "kl_base_lora", "base_norm", "argmax_agreement")
    expected = compute(measure(run, names), n_workers=2)
    monkeypatch.setattr(tiles, "TILE_VALUES", tile_values)
    array = measure_sources(component_sources(run), names, group_bytes=group_bytes)
    assert compute(array, n_workers=n_workers).tobytes() == expected.tobytes()


def test_missing_rows_change_no_other(run: Run, unfinished: Path) -> None:
    some = open_run(unfinished)
    found, expected = compute(measure(some)), compute(measure(run))
    there = some.committed.values
    assert found[:, there].tobytes() == expected[:, there].tobytes()
    assert np.isnan(found[:, ~there]).all()


def test_groups_are_neighbours_of_enough_bytes(run: Run) -> None:
    sources = component_sources(run)
    sizes = group_sizes(sources, group_bytes=2 * 4 * 1024 * sources[0].base.shape[1])
    assert sum(sizes) == len(sources)
    assert len(sizes) > 1
    assert group_sizes(sources, group_bytes=1) == [1] * len(sources)
    assert group_sizes([], 1) == []


def test_building_the_graph_reads_no_state(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("read while the graph was built")

    monkeypatch.setattr(RowArray, "read_stored", fail)
    lazy = measure(run)
    with pytest.raises(AssertionError, match="read while"):
        compute(lazy)


def test_unknown_and_repeated_measures_are_named(run: Run) -> None:
    with pytest.raises(ValueError, match="no measure 'kl'; there are"):
        measure(run, ("kl",))
    with pytest.raises(ValueError, match="measure 'js' is given twice"):
        measure(run, ("js", "js"))


def test_delta_stored_itself_and_bfloat16() -> None:
    golden = open_run(GOLDEN)
    values = compute(measure(golden))[0]
    for index, path in enumerate(golden.component_paths):
        expected = divergence(golden.base(path).values.astype(np.float64), golden.delta(path).values)
        np.testing.assert_allclose(values[:, index], expected, rtol=1e-5)


def test_our_measures_of_bfloat16_and_a_factor_take_one_pass(make_small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_small(dtype="bfloat16").run
    names = tuple(name for name in MEASURES if name != "js_delta_alone")
    in_tiles = compute(measure(run, names))  # widths are those of narrow rows
    monkeypatch.setattr("lorascope.analyze.measuring.lazy_measures.NARROW_WIDTH", 0)
    monkeypatch.delattr("lorascope.analyze.measuring.lazy_measures.row_tiles")
    np.testing.assert_allclose(compute(measure(run, names)), in_tiles, rtol=1e-6)
    np.testing.assert_allclose(compute(measure(run))[0], in_tiles[names.index("js")], rtol=1e-6)


def test_js_and_effective_width_come_with_the_divergences() -> None:
    assert [len(measure.outputs) for measure in resolve_measures(("js", "effective_width"))[0]] == [1, 1]
    needed, outputs = resolve_measures(("js", "effective_width", "kl_base_lora", "base_norm"))
    assert [next(iter(measure.outputs)) for measure in needed] == ["js", "base_norm"]
    assert list(outputs) == ["js", "effective_width", "kl_base_lora", "base_norm"]


def test_the_difference_of_a_pair(make_small: Any) -> None:
    small = make_small(stream="pair")
    np.testing.assert_allclose(compute(measure(small.run))[0], small.js(), rtol=1e-4)


def test_one_function_makes_a_measure(run: Run) -> None:
    @token_measure(long_name="largest |delta|", units="1", references="none")
    def delta_peak(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
        return np.abs(delta).max(axis=1)

    measured = measure_run(run, ("js", delta_peak))
    assert measured["delta_peak"].attrs == {"long_name": "largest |delta|", "units": "1", "references": "none"}
    expected = np.abs(run.delta(run.component_paths[0]).values).max(axis=1)
    np.testing.assert_allclose(measured["delta_peak"].values[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(measured["js"], measure_run(run, ("js",))["js"])


def test_run_without_states_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "states", "none")
    with pytest.raises(StoreError, match="captured with states 'none'"):
        measure(run)


def test_weights_of_another_run_at_the_same_place_are_not_taken(tmp_path: Path, make_small: Any) -> None:
    """Weights are kept by a worker from task to task; another run under the same name has others."""
    for n_samples in (3, 4):
        other = make_small(n_samples=n_samples)
        place = tmp_path / "run.zarr"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(other.run.path, place)
        values = compute(measure(open_run(place)))[0]
        np.testing.assert_allclose(values, other.js(), rtol=1e-4)


def test_weights_of_a_damaged_run_are_not_taken_for_its_original(tmp_path: Path, run: Run) -> None:
    """Both have the same digests in their root, and each chunk's own checksum is right."""
    path = next(source.component for source in component_sources(run) if source.delta.lora_B is not None)
    damaged = shutil.copytree(run.path, tmp_path / "run.zarr")
    lora_b = zarr.open_array(damaged / f"adapters/{run.adapters[0]}/lora_B/{path}", mode="r+")
    lora_b[:] = lora_b[:][::-1]
    of_damaged, of_original = (
        tiles.lora_weights(open_run(where).source(path)).lora_B_T for where in (damaged, run.path)
    )
    assert not np.array_equal(of_damaged, of_original)


def test_many_rows_and_components_are_no_matter_for_a_warning(run: Run) -> None:
    """Warnings are errors here; Dask has one for blocks that grow a hundredfold in number."""
    one = component_sources(run)[0]
    long = one._replace(base=copy.copy(one.base))
    long.base._committed = np.zeros(500, bool)
    long.base.shape = (500 * 1024, *one.base.shape[1:])
    found = measure_sources([long] * 500, ("js",), group_bytes=1)
    assert found.numblocks == (1, 500, 500)
    assert found.shape == (1, 500, 500 * 1024)


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (1.0, "1.0"),
        (None, "None"),
        ([0.0] * 2500, r"\[0.0"),
        (np.zeros(1), r"float64 of shape \(1,\)"),
        (np.zeros((1024, 1)), r"float64 of shape \(1024, 1\)"),
        (np.zeros(1024, complex), "complex128 of shape"),
        (np.array(["1"] * 1024), "<U1 of shape"),
    ],
)
def test_what_a_measure_must_return(run: Run, returned: Any, found: str) -> None:
    def mine(base: np.ndarray, delta: np.ndarray) -> Any:
        return returned

    with pytest.raises(ValueError, match=f"the measure 'mine' returned {found}.*it must return an array of real"):
        compute(measure(run, (token_measure(long_name="", units="1")(mine),)))


def test_an_own_measure_writes_into_nothing(make_small: Any) -> None:
    @token_measure(long_name="", units="1")
    def mine(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
        base *= 2
        return base[:, 0]

    run = make_small(dtype="bfloat16").run
    with pytest.raises(ValueError, match="read-only") as failed:
        compute(measure(run, (mine, "js")), scheduler="synchronous")
    assert "in the measure 'mine', at component" in failed.value.__notes__[0]


@pytest.mark.parametrize("name", ["js", "base_norm", "position", "done"])
def test_names_that_are_taken(name: str) -> None:
    def mine(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
        return base[:, 0]

    mine.__name__ = name
    with pytest.raises(ValueError, match=f"a measure can't be called '{name}'"):
        resolve_measures([Measure(function=mine, outputs={name: {}})])


@pytest.mark.parametrize("names", ["js", (), []])
def test_a_sequence_of_names_is_wanted(run: Run, names: Any) -> None:
    with pytest.raises(ValueError, match="give a sequence of at least one name"):
        measure(run, names)
