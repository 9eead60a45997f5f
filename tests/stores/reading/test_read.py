import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.stores import StoreError, open_run, pull, verify, widen
from lorascope.stores.reading.read import missing_chunks
from lorascope.stores.reading.require_run import require_store

from ..on_disk import damage, edit_root, lose_rows

F32, BF16, F16 = (f"model.layers.{i}.mlp.up_proj" for i in range(3))


def as_float(block: np.ndarray) -> np.ndarray:
    if block.dtype == np.uint16:
        return (block.astype(np.uint32) << 16).view(np.float32)
    return block.astype(np.float32)


@pytest.mark.parametrize("component", [F32, BF16, F16])
def test_base_is_what_was_written_widened_to_float32(make_run: Any, component: str) -> None:
    run = make_run()
    base = open_run(run.path).base(component)
    assert (base.dims, base.dtype, base.name) == (("token", "feature"), np.float32, "base")
    assert base.data.numblocks == (3, 1)
    np.testing.assert_array_equal(base.values, as_float(run.whole(f"states/{component}/base")))


@pytest.mark.parametrize("biased", [False, True])
def test_delta_of_a_factor_and_lora(make_run: Any, biased: bool) -> None:
    run = make_run(biased=(False, biased, False))
    opened = open_run(run.path)
    bias = run.weights[f"adapters/default/lora_bias/{BF16}"].astype(np.float64) if biased else 0
    z = run.whole("adapters/default/factor")[:, 2:5]
    weight = run.weights[f"adapters/default/lora_B/{BF16}"]
    np.testing.assert_array_equal(opened.factor(BF16).values, z)
    np.testing.assert_array_equal(opened.lora_B(BF16).values, weight)
    expected = 2.0 * (z.astype(np.float64) @ weight.T.astype(np.float64) + bias)
    np.testing.assert_allclose(opened.delta(BF16).values, expected, rtol=0, atol=1e-5)
    lora = opened.lora(BF16)
    assert lora.name == "lora"
    np.testing.assert_array_equal(lora.values, opened.base(BF16).values + opened.delta(BF16).values)
    np.testing.assert_array_equal(opened.delta(F16).values, run.whole(f"adapters/default/delta/{F16}"))
    with pytest.raises(StoreError, match="is stored as delta; there is no factor"):
        opened.factor(F16)


@pytest.mark.parametrize("codec", ["zstd", "raw"])
@pytest.mark.parametrize("component", [F32, BF16, F16])
def test_rows_are_their_readers_own(make_run: Any, codec: str, component: str) -> None:
    run = open_run(make_run(stream="pair", codec=codec).path)
    rows = run.base_rows(component)
    expected = rows.read_row(1).copy()
    for block in (rows.read_row(1), rows.read_stored(1)):
        block -= block
    np.testing.assert_array_equal(rows.read_row(1), expected)


def test_pair_and_several_adapters(make_run: Any) -> None:
    run = make_run(stream="pair")
    pair = open_run(run.path)
    np.testing.assert_array_equal(pair.adapted(F32).values, run.whole(f"states/{F32}/adapted"))
    np.testing.assert_array_equal(pair.lora(F32).values, run.whole(f"states/{F32}/adapted"))
    assert pair.lora(F32).name == "lora"
    difference = as_float(run.whole(f"states/{BF16}/adapted")) - as_float(run.whole(f"states/{BF16}/base"))
    np.testing.assert_array_equal(pair.delta(BF16).values, difference)
    source = pickle.loads(pickle.dumps(pair.delta_arrays(BF16)))
    np.testing.assert_array_equal(source.to_dask()[1024:2048].compute(), difference[1024:2048])
    np.testing.assert_array_equal(pair.factor(BF16).values, run.whole("adapters/default/factor")[:, 2:5])
    two = open_run(make_run("two.zarr", stream="base", adapters=("a", "b")).path)
    assert two.adapters == ("a", "b")
    assert not np.array_equal(two.delta(F32, "a").values, two.delta(F32, "b").values)
    with pytest.raises(StoreError, match=r"`adapter` isn't given, .* name one of \['a', 'b'\]"):
        two.delta(F32)
    with pytest.raises(StoreError, match="only a run of stream 'pair' holds `adapted`"):
        two.adapted(F32)


def test_run_without_states_still_has_js(make_run: Any) -> None:
    run = make_run(states="none")
    opened = open_run(run.path)
    assert not opened.has_states
    np.testing.assert_array_equal(opened.js().values, run.whole("adapters/default/js"))
    for read in (opened.base, opened.delta, opened.factor):
        with pytest.raises(StoreError, match="captured with states 'none'"):
            read(F32)


def test_tables_come_back_as_given(make_run: Any) -> None:
    run = make_run()
    opened = open_run(run.path)
    for table in ("samples", "choices", "tokens"):
        dataset = getattr(opened, table)
        assert isinstance(dataset, xr.Dataset)
        for column, values in run.tables[table].items():
            assert dataset[column].values.tolist() == values, column
    assert opened.samples["ce"].attrs["units"] == "nat/token"
    assert opened.tokens["role"].attrs["flag_meanings"].startswith("prompt choice answer generated text system user")
    assert json.loads(opened.components["fused"].values[2]) == [["gate", 0, 3], ["up", 3, 6]]
    np.testing.assert_array_equal(opened.tokens["nll"].values, run.whole("tokens/nll"))
    assert "base_ce" not in opened.samples


def test_uncommitted_rows_read_as_nan_whatever_lies_there(make_run: Any) -> None:
    run = make_run(rows=(0, 2))
    # A chunk of a row that was never committed: its writer was killed before the digest.
    stale = run.path / f"states/{F32}/base/c.1.0"
    stale.write_bytes((run.path / f"states/{F32}/base/c.0.0").read_bytes())
    opened = open_run(run.path)
    assert opened.committed_rows.tolist() == [True, False, True]
    assert not opened.finished
    assert "2 of 3 rows, unfinished" in repr(opened)
    base = opened.base(F32)
    assert np.isnan(base[1024:2048].values).all()
    np.testing.assert_array_equal(base[:1024].values, run.blocks[0][f"states/{F32}/base"])
    assert np.isnan(opened.tokens["nll"].values[1024:2048]).all()
    assert opened.committed.values.tolist() == [True] * 1024 + [False] * 1024 + [True] * 100
    assert np.isnan(opened.delta(F32)[1024:2048].values).all()


def test_pickled_rows_are_small_and_know_which_are_there(make_run: Any) -> None:
    opened = open_run(make_run(rows=(0, 2)).path)
    delta, rows = opened.delta(F32), opened.base_rows(F32)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(delta)).values, delta.values)
    again = pickle.loads(pickle.dumps(rows))
    assert [again.is_committed(row) for row in range(3)] == [True, False, True]
    np.testing.assert_array_equal(again[:], rows[:])
    assert len(pickle.dumps(rows)) < 2500
    rows._committed = np.ones(80_000, np.bool_)  # of 80 million tokens
    assert len(pickle.dumps(rows)) < 12_500


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "flip", "folder"])
@pytest.mark.parametrize("path", [f"states/{F32}/base", f"states/{BF16}/base", "adapters/default/factor"])
def test_damaged_chunk_is_an_error_and_nan_to_a_stranger(make_run: Any, how: str, path: str) -> None:
    run = make_run()
    damage(run.path / path / "c.1.0", how)
    opened = open_run(run.path)
    words = {"missing": "is missing", "empty": "is empty", "folder": "is a folder"}.get(how, "is broken")
    words = (
        rf"chunk '{path}/c\.1\.0'.* {words}.*lorascope verify" if how != "folder" else f"/c.1.0` {words}, not a file"
    )
    with pytest.raises(StoreError, match=words):
        (opened.base(path.split("/")[1]) if path.startswith("states") else opened.factor(F32)).values
    if how == "missing":
        plain = as_float(xr.open_datatree(run.path, engine="zarr", chunks={})[path].values)
        assert np.isnan(plain[1024:2048]).all()
        assert not np.isnan(plain[:1024]).any()


def test_unknown_component_comes_with_a_hint(make_run: Any) -> None:
    opened = open_run(make_run().path)
    with pytest.raises(StoreError, match="no component 'model.layers.0.mlp.up' among the 3 of this run; did you mean"):
        opened.base("model.layers.0.mlp.up")
    with pytest.raises(StoreError, match="the first is 'model.layers.0.mlp.up_proj'"):
        opened.base("xyz")
    read = (opened.base, opened.factor, opened.lora_B, opened.delta, opened.lora, opened.delta_arrays, opened.source)
    components: tuple[Any, ...] = ("*.up_proj", "", 3, [F32], np.array([F32, BF16]))
    for component in components:
        for function in (*read, opened.base_rows, opened.__getitem__):
            words = f"`component` is {component!r}; give the path of one component, and no pattern or list; "
            with pytest.raises(StoreError, match=re.escape(words)):
                function(component)


def test_adapter_that_leaves_a_component_alone(make_run: Any) -> None:
    run = make_run()
    table = open_run(run.path)
    table.adapter = lambda name=None: xr.Dataset(  # type: ignore[method-assign]
        {"rank": ("component", [0, 3, 4]), "factor_start": ("component", [-1, 0, -1])}
    )
    with pytest.raises(StoreError, match="adapter 'default' leaves component 'model.layers.0.mlp.up_proj' alone"):
        table.delta(F32)


def test_what_is_no_run_of_this_version_is_refused(make_run: Any) -> None:
    root = make_run().path
    content = (root / "zarr.json").read_bytes()
    for change, words in (
        ({"format_version": 4}, "has format version 4; this lorascope reads versions 1, 2, 3: upgrade it"),
        ({"format": "other"}, "is a Zarr group but no lorascope run: `format` is 'other'"),
        ({"format": None}, "`format` is None"),
        ({"static_digest": None}, "is still being set up, or was interrupted then: it holds no row yet; wait"),
    ):
        edit_root(root, **change)
        with pytest.raises(StoreError, match=words):
            open_run(root)
        (root / "zarr.json").write_bytes(content)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("folder", "torn"):
        (tmp_path / name).mkdir()
    (tmp_path / "torn/zarr.json").write_text('{"zarr_format": 3, "node_')
    for name, words in (
        ("nothing", "doesn't exist"),
        ("file", "`.*file` is a file, and a run is a folder; name a run that `lorascope capture` wrote"),
        ("folder", "`.*folder` is an empty folder; name a run"),
        (".", "and the folders in it are no runs; name a run"),
        ("torn", "isn't a readable Zarr group"),
    ):
        with pytest.raises(StoreError, match=words):
            open_run(tmp_path / name)


def test_where_the_runs_are_is_said_of_a_folder_above_them(make_run: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_run(f"runs/{name}/run.zarr")
    (tmp_path / "runs/other/result.zarr").mkdir(parents=True)
    (tmp_path / "runs/other/result.zarr/zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    words = f"`{tmp_path}/runs` holds no run itself; there is one in `{tmp_path}/runs/one`, `{tmp_path}/runs/two`: name"
    for opens in (open_run, require_store):
        with pytest.raises(StoreError, match=re.escape(words)):
            opens(tmp_path / "runs")


def test_a_run_without_its_root_is_no_empty_folder(make_run: Any, tmp_path: Path) -> None:
    """Named itself, or by the folder that it is in."""
    path = make_run("demo/run.zarr").path
    (path / "zarr.json").unlink()
    words = f"`{path}` holds a run without its root 'zarr.json', and the other files can't replace it; put it back"
    opens = (open_run, verify, lambda place: pull(place, tmp_path / "copy.zarr"))
    cases = [(function, place) for function in opens for place in (path, path.parent, f"file://{path}")]
    for function, place in (*cases, (require_store, path), (require_store, str(path.parent))):
        with pytest.raises(StoreError, match=re.escape(words)):
            function(place)


KEYS: tuple[Any, ...] = (
    *(5, -1, np.int64(1030), [1, 2], [2000, 3, 3, -1], np.array([1024, 1023]), [], ...),
    *(slice(1000, 1050), slice(10, 2000, 7), slice(-3, None), slice(None, None, -1), slice(2000, 5, -333)),
    *(slice(20, 10), slice(2000, 1100), slice(5, 5)),
    *((5, 3), (5, slice(2, 4)), ([1, 1500], slice(None, None, -1)), (slice(1000, 1050), [1, 3])),
    *((slice(None, None, -7), -1), np.arange(2148) % 700 == 3, np.zeros(2148, bool)),
)


def test_rows_take_every_key_that_numpy_takes(make_run: Any) -> None:
    rows = open_run(make_run().path)._row_array(f"states/{BF16}/base")
    whole = rows[:]
    for key in KEYS:
        np.testing.assert_array_equal(rows[key], whole[key], err_msg=repr(key))
    with pytest.raises(IndexError, match="out of bounds"):
        rows[2148]


def test_damaged_table_or_weight_is_an_error(make_run: Any) -> None:
    run = make_run(biased=(True, False, False))
    cases: tuple[tuple[str, str, Any], ...] = (
        ("missing", "samples/ce/c.0", lambda run: run.samples),
        ("flip", "samples/ce/c.0", lambda run: run.samples),
        ("flip", "samples/token_stop/c.0", lambda run: run.samples),
        ("empty", "tokens/text/c.0", lambda run: run.tokens["text"].values),
        ("flip", "tokens/text/c.0", lambda run: run.base(F32)["text"].values),
        ("flip", f"adapters/default/lora_B/{F32}/c.0.0", lambda run: run.lora_B(F32)),
        ("missing", f"adapters/default/lora_bias/{F32}/c.0", lambda run: run.delta(F32)),
        ("flip", "adapters/default/scaling/c.0", lambda run: run.adapter()),
    )
    for how, key, read in cases:
        opened, content = open_run(run.path), (run.path / key).read_bytes()
        damage(run.path / key, how)
        words = {"flip": "is broken"}.get(how, f"is {how}")
        with pytest.raises(StoreError, match=f"chunk '{key}' {words}.*lorascope verify"):
            read(opened)
        (run.path / key).write_bytes(content)


def test_scores_without_the_adapter_may_be_there(make_run: Any) -> None:
    run = make_run(base_ce=[1.5, np.nan])
    opened = open_run(run.path)
    np.testing.assert_array_equal(opened.samples["base_ce"].values, [1.5, np.nan])
    assert "base_correct" not in opened.samples
    assert "base_loglik" not in opened.choices
    # Early writers left the chunk of a column out that they had no values for.
    (run.path / "samples/base_ce/c.0").unlink()
    assert np.isnan(open_run(run.path).samples["base_ce"].values).all()


def test_answers_may_be_there_each_by_itself(make_run: Any) -> None:
    opened = open_run(make_run("with.zarr", columns={"written": [" B.", "ü\n"], "base_written_correct": [1, -1]}).path)
    assert opened.samples["written"].values.tolist() == [" B.", "ü\n"]
    assert opened.samples["base_written_correct"].values.tolist() == [1, -1]
    assert "written_prediction" not in opened.samples
    assert not [name for name in open_run(make_run("without.zarr").path).samples if "written" in str(name)]


@pytest.mark.parametrize("column", ["written", "base_written_correct"])
def test_answers_that_were_lost_are_missed(make_run: Any, column: str) -> None:
    run = make_run(columns={"written": [" B.", "C"], "base_written_correct": [1, -1]})
    (run.path / f"samples/{column}/c.0").unlink()
    with pytest.raises(StoreError, match=f"chunk 'samples/{column}/c.0' is missing"):
        open_run(run.path).samples
    assert [problem.kind for problem in verify(run.path).problems] == ["missing", "digest"]
    assert missing_chunks(run.path) == [f"samples/{column}/c.0"]


def test_finished_run_that_lost_a_digest_or_has_a_broken_one_says_so(make_run: Any) -> None:
    run = make_run()
    assert open_run(run.path).lost_rows.tolist() == []
    lose_rows(run.path, 1)
    opened = open_run(run.path)
    assert opened.lost_rows.tolist() == [1]
    assert repr(opened).endswith("2 of 3 rows, 1 lost since it was finished>")
    assert open_run(make_run("part.zarr", rows=(0,)).path).lost_rows.tolist() == []
    for content in (b"", b"garbage that is no chunk", bytes(5000)):  # more than a digest isn't even read
        (run.path / "rows/digest/c.0.0").write_bytes(content)
        with pytest.raises(StoreError, match=r"'rows/digest/c.0.0'? (is empty|is broken)|has 5 kB, where"):
            open_run(run.path).committed_rows


def test_bits_of_bfloat16_say_so_to_a_stranger(make_run: Any) -> None:
    run = make_run()
    plain = xr.open_datatree(run.path, engine="zarr", chunks={})
    name = plain[f"states/{BF16}/base"].attrs["long_name"]
    assert name == "output of the frozen layer, W x (+ bias); bits of bfloat16 in uint16; widen before use"
    assert "bits" not in plain[f"states/{F32}/base"].attrs["long_name"]
    for wide in (open_run(run.path).base(BF16), widen(plain)[f"states/{BF16}/base"]):
        assert wide.attrs["long_name"] == "output of the frozen layer, W x (+ bias)"


def test_weight_of_tokens(make_run: Any) -> None:
    weight = np.linspace(1, 4, 2148, dtype=np.float32)
    tokens = open_run(make_run(weight=weight.tolist()).path).tokens
    np.testing.assert_array_equal(tokens["weight"].values, weight)
    assert "unbiased" in tokens["weight"].attrs["long_name"]
    early = open_run(make_run("early.zarr").path).tokens["weight"]
    assert (early.dtype, early.dims, set(early.values.tolist())) == (np.float32, ("token",), {1.0})
    assert early.attrs == tokens["weight"].attrs


def test_where_delta_comes_from(make_run: Any) -> None:
    run = make_run(delta_source=("factor", "factor", "difference"))
    assert open_run(run.path).adapter()["delta_source"].values.tolist() == ["factor", "factor", "difference"]
    edit_out(run.path, "adapters/default/delta_source")  # an early run's is derived
    for path in (run.path, make_run("derived.zarr").path):
        source = open_run(path).adapter()["delta_source"]
        assert (source.values.tolist(), source.dims) == (["factor", "factor", "branch"], ("component",))


def edit_out(root: Path, path: str) -> None:
    """An array that early writers didn't know."""
    content = json.loads((root / "zarr.json").read_text())
    del content["consolidated_metadata"]["metadata"][path]
    (root / "zarr.json").write_text(json.dumps(content))
    shutil.rmtree(root / path)


def test_reductions_are_read_back(make_run: Any) -> None:
    run = make_run(states="none", kl=True)
    opened = open_run(run.path)
    for name, path in (
        ("base_norm", "reductions/base_norm"),
        ("effective_width", "reductions/effective_width"),
        ("delta_norm", "adapters/default/delta_norm"),
        ("swallowed", "adapters/default/swallowed"),
        ("js", "adapters/default/js"),
    ):
        found = opened.reduction(name)
        assert (found.dims, found.dtype, found.name) == (("token", "component"), np.float32, name)
        assert found["component"].values.tolist() == [F32, BF16, F16]
        np.testing.assert_array_equal(found.values, run.whole(path))
    assert opened.js().attrs["units"] == "nat"
    kl = opened.reduction("kl")
    assert (kl.dims, kl.attrs["units"]) == (("token",), "nat")
    np.testing.assert_array_equal(kl.values, run.whole("adapters/default/kl"))
    with pytest.raises(ValueError, match="`name` is 'norm'; allowed are"):
        opened.reduction("norm")


def test_reduction_that_was_not_measured(make_run: Any) -> None:
    opened = open_run(make_run().path)
    for name in ("base_norm", "delta_norm", "kl"):
        with pytest.raises(StoreError, match=rf"\(states 'all'\) holds no '{name}'; it wasn't measured"):
            opened.reduction(name)
    run = make_run("early.zarr")
    edit_out(run.path, "adapters/default/swallowed")
    with pytest.raises(StoreError, match="holds no 'swallowed'"):
        open_run(run.path).reduction("swallowed")


def test_ablation_is_read_back_by_part(make_run: Any) -> None:
    run = make_run(rows=(0, 2), ablate="kinds", ablation_parts=("q_proj", "up_proj"))
    found = open_run(run.path).ablation()
    assert (found.dims, found.dtype, found.name, found.chunks is None) == (
        ("token", "part"),
        np.float32,
        "ablation",
        False,
    )
    assert (found.attrs["parts"], found.attrs["units"], found["part"].values.tolist()) == (
        "kinds",
        "nat",
        ["q_proj", "up_proj"],
    )
    whole = run.whole("adapters/default/ablation")
    whole[1024:2048] = np.nan
    np.testing.assert_array_equal(found.values, whole)
    some = open_run(run.path).ablation("default", sample="a")
    np.testing.assert_array_equal(some.sel(part="up_proj").values, whole[:1074, 1])
    with pytest.raises(StoreError, match="holds no ablation; capture it again with `--ablate"):
        open_run(make_run("without.zarr").path).ablation()


def test_importance_is_read_back_by_pass_and_direction(make_run: Any) -> None:
    run = make_run(adapters=("one", "two"), stream="base", importance=(1030, 9), n_tokens=100)
    found = open_run(run.path).importance("two")
    assert (found["gradient"].dims, found["gradient"].attrs["units"]) == (("pass", "direction"), "nat")
    assert "adapted model's own" in found["gradient"].attrs["long_name"]
    assert set(found.variables) == {
        path.rpartition("/")[2] for path in run.weights if path.startswith("adapters/two/i")
    }
    for name, values in found.variables.items():
        np.testing.assert_array_equal(values, run.weights[f"adapters/two/importance/{name}"])


def test_only_some_rows_keep_states(make_run: Any) -> None:
    run = make_run(states="sample", state_rows=(False, True, False))
    opened = open_run(run.path)
    assert (opened.states, opened.has_states) == ("sample", True)
    assert opened.state_rows.tolist() == [False, True, False]
    assert opened.with_states.values.tolist() == [False] * 1024 + [True] * 1024 + [False] * 100
    for lazy, path in (
        (opened.base(F32), f"states/{F32}/base"),
        (opened.factor(F32), "adapters/default/factor"),
        (opened.delta(F16), f"adapters/default/delta/{F16}"),
    ):
        assert np.isnan(lazy[:1024].values).all()
        assert np.isnan(lazy[2048:].values).all()
        assert not np.isnan(lazy[1024:2048].values).any()
        assert not (run.path / path / "c.0.0").exists()
    for path in ("adapters/default/js", "reductions/base_norm", "adapters/default/delta_norm"):
        assert path in run.blocks[0]
    np.testing.assert_array_equal(opened.js().values, run.whole("adapters/default/js"))
    for states in ("all", "none"):
        opened = open_run(make_run(f"{states}.zarr", states=states).path)
        assert {opened.has_states, *opened.state_rows.tolist(), *opened.with_states.values.tolist()} == {
            states == "all"
        }
