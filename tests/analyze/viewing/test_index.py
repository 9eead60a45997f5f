import json
import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from lorascope.analyze import directions, miub, verify_result
from lorascope.analyze.miub.experts import experts
from lorascope.analyze.viewing import index as module
from lorascope.analyze.viewing.index import index_path, view_index
from lorascope.stores import Run, StoreError, open_run
from lorascope.stores.format.codec import codec_problem
from lorascope.stores.places.file_lock import HeldError, file_lock
from lorascope.stores.places.place import open_place

from ...conftest import write_run
from ..conftest import Small
from ..miub.test_experts import write_mixture


class Stopped(KeyboardInterrupt):
    """What stops a call where a test wants it to."""


def copied(run: Path, folder: Path) -> Run:
    """A copy of a run in a writable folder."""
    return open_run(shutil.copytree(run, folder / "run.zarr"))


def group(path: Path) -> Any:
    return zarr.open_group(path, mode="r", use_consolidated=True)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} isn't JSON")


@pytest.fixture
def run(many_rows: Path, tmp_path: Path) -> Run:
    return copied(many_rows, tmp_path)


def test_it_holds_js_and_miub_of_the_run(run: Run) -> None:
    path = view_index(run)
    assert path == run.path.with_name("run.view.zarr")
    found, result = group(path)["adapters/default"], miub(run)
    np.testing.assert_array_equal(found["js"][:], result["tokens/js"].values)
    np.testing.assert_array_equal(found["miub"][:], result["samples/miub"].values)
    js = result["tokens/js"].values.astype(np.float64)
    scale = {"js": np.quantile(js, 0.995), "token": np.quantile(js.sum(axis=1), 0.995)}
    assert found.attrs["scale"] == pytest.approx(scale, rel=1e-6)
    assert found.attrs["n_state_tokens"] == run.n_tokens
    assert sorted(os.listdir(path.parent)) == ["run.view.zarr", "run.zarr"]
    about = {"format": "lorascope.view", "format_version": 1, "adapters": ["default"], "n_tokens": 2500}
    about |= {name: run.attributes[name] for name in ("static_digest", "fingerprint")}
    assert dict(group(path).attrs).items() >= about.items()
    for width, order in group(path)["permutation"].arrays():  # of js_permuted
        np.testing.assert_array_equal(order[:], np.random.default_rng(int(width)).permutation(int(width)))


def test_its_arrays_are_encoded_as_those_of_a_run(run: Run) -> None:
    path = view_index(run)
    document = json.loads((path / "zarr.json").read_text(), parse_constant=refuse_constant)
    nodes = document["consolidated_metadata"]["metadata"]
    on_disk = {one.parent.relative_to(path).as_posix() for one in path.rglob("zarr.json")} - {"."}
    assert set(nodes) == on_disk
    arrays = dict(group(path).arrays()) | {
        f"{name}/{key}": one for name, part in group(path).groups() for key, one in part.members(max_depth=None)
    }
    chunks = {name: one.chunks for name, one in arrays.items() if isinstance(one, zarr.Array)}
    assert chunks == {
        **{f"permutation/{width}": (width,) for width in (24, 32, 40, 64)},
        "adapters/default/js": (256, 4),
        "adapters/default/miub": (5,),
        "adapters/default/rotation": (1, 4, 4),
        "adapters/default/share": (4, 4),
        "adapters/default/top_token": (1, 4, 10),
        "adapters/default/top_score": (1, 4, 10),
    }
    for name in chunks:
        array = arrays[name]
        assert codec_problem(array.metadata) is None
        n_chunks = int(np.prod([-(-n // size) for n, size in zip(array.shape, array.chunks, strict=True)]))
        assert len(list((path / name).glob("c.*"))) == n_chunks  # those of nothing but fill, too
        assert all(array.metadata.dimension_names)


def test_it_holds_the_directions_of_each_component(run: Run) -> None:
    found = group(view_index(run))["adapters/default"]
    for place, path in enumerate(run.component_paths):
        here = {name: found[name][place] for name in ("rotation", "share", "top_token", "top_score")}
        if place == 2:  # its delta is stored
            assert (here.pop("top_token") == -1).all()
            assert all(np.isnan(one).all() for one in here.values())
            continue
        one = directions(run, path)
        rank = one.sizes["rank"]
        np.testing.assert_array_equal(here["rotation"][:rank, :rank], one["rotation"])
        np.testing.assert_array_equal(here["share"][:rank], one["share"].values.astype(np.float32))
        np.testing.assert_array_equal(here["top_token"][:rank], one["top_token"])
        np.testing.assert_array_equal(here["top_score"][:rank], one["top_score"])
        assert np.isnan(here["rotation"][rank:]).all()
        assert np.isnan(here["rotation"][:, rank:]).all()
        assert (here["top_token"][rank:] == -1).all()


def test_each_adapter_has_its_part(two_adapters: Path, tmp_path: Path) -> None:
    run = copied(two_adapters, tmp_path)
    parts: list[str] = []
    found = group(view_index(run, progress=lambda done, total, part="": parts.append(part)))
    assert list(dict.fromkeys(parts)) == ["js of a", "directions of a", "js of b", "directions of b"]
    assert found.attrs["adapters"] == ["a", "b"]
    for name in ("a", "b"):
        np.testing.assert_array_equal(found[f"adapters/{name}/js"][:], miub(run, adapter=name)["tokens/js"].values)
        one = directions(run, run.component_paths[0], adapter=name)
        np.testing.assert_array_equal(found[f"adapters/{name}/top_token"][0], one["top_token"])


@pytest.mark.parametrize("states", ["all", "none"])
def test_an_adapter_may_leave_every_component_alone(
    tmp_path: Path, states: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(write_run(tmp_path / "run.zarr", adapters=("a", "b"), idle="b"))
    monkeypatch.setattr(run, "states", states)
    found = group(view_index(run))["adapters/b"]
    assert found["rotation"].shape == (4, 0, 0)
    assert found.attrs["scale"] == {"js": 0, "token": 0}
    assert ("js" in found) == (states == "all")
    assert states == "none" or np.isnan(found["js"][:]).all()


@pytest.mark.parametrize("states", ["none", "sample"])
def test_js_of_the_capture_is_not_written_again(make_small: Callable[..., Small], tmp_path: Path, states: str) -> None:
    rows = {"state_rows": (False, True)} if states == "sample" else {}
    small = make_small(states=states, n_tokens=120, is_weighted=True, **rows)
    run = copied(small.run.path, tmp_path)  # type: ignore[arg-type]
    found = group(view_index(run))["adapters/default"]
    assert "js" not in found
    np.testing.assert_array_equal(found["miub"][:], miub(run)["samples/miub"].values)
    assert found.attrs["scale"]["js"] == pytest.approx(np.quantile(small.js(), 0.995), rel=1e-5)
    n_tokens = 1440 - 1024 if states == "sample" else 0
    assert found.attrs["n_state_tokens"] == n_tokens
    top = found["top_token"][:]
    assert (top >= 1024).all() if n_tokens else (top == -1).all()


def test_a_pair_has_js_and_no_directions(make_small: Callable[..., Small], tmp_path: Path) -> None:
    run = copied(make_small(stream="pair").run.path, tmp_path)  # type: ignore[arg-type]
    found = group(view_index(run))["adapters/default"]
    np.testing.assert_array_equal(found["js"][:], miub(run)["tokens/js"].values)
    assert np.isnan(found["rotation"][:]).all()
    assert found["rotation"].shape == (6, 2, 2)


def test_what_is_not_committed_is_nan(unfinished: Path, tmp_path: Path) -> None:
    run = copied(unfinished, tmp_path)
    found = group(view_index(run))["adapters/default"]
    there, result = run.committed.values, miub(run)
    np.testing.assert_array_equal(np.isnan(found["js"][:]).any(axis=1), ~there)
    np.testing.assert_array_equal(found["miub"][:], result["samples/miub"].values)
    assert np.isnan(found["miub"][:]).any()
    assert found.attrs["scale"]["js"] == pytest.approx(np.nanquantile(result["tokens/js"].values.astype("f8"), 0.995))
    assert found.attrs["n_state_tokens"] == there.sum()


def test_a_run_without_a_row_has_an_index(nothing_committed: Path, tmp_path: Path) -> None:
    path = view_index(copied(nothing_committed, tmp_path))
    found = group(path)["adapters/default"]
    assert np.isnan(found["js"][:]).all()
    assert np.isnan(found["miub"][:]).all()
    assert found.attrs.asdict() == {"scale": {"js": 0.0, "token": 0.0}, "n_state_tokens": 0}
    json.loads((path / "zarr.json").read_text(), parse_constant=refuse_constant)


def test_what_is_not_finite_is_nan_and_not_in_the_scale(make_small: Callable[..., Small], tmp_path: Path) -> None:
    run = copied(make_small(not_finite=True).run.path, tmp_path)  # type: ignore[arg-type]
    found = group(view_index(run))["adapters/default"]
    js = found["js"][:].astype(np.float64)
    assert np.argwhere(np.isnan(js)).tolist() == [[3, 0]]
    np.testing.assert_array_equal(found["miub"][:], miub(run)["samples/miub"].values)
    scale = {"js": np.nanquantile(js, 0.995), "token": np.quantile(np.nansum(js, axis=1), 0.995)}
    assert found.attrs["scale"] == pytest.approx(scale, rel=1e-6)


def test_the_scale_is_of_evenly_spaced_tokens(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCALE_VALUES", 4000)  # of 10,000: every third token
    monkeypatch.setattr(import_module("lorascope.analyze.miub.reduce"), "CHUNK_TOKENS", 256)
    found = group(view_index(run))["adapters/default"]
    js = miub(run)["tokens/js"].values.astype(np.float64)[::3]
    np.testing.assert_array_equal(found["js"][::3], js)
    scale = {"js": np.quantile(js, 0.995), "token": np.quantile(js.sum(axis=1), 0.995)}
    assert found.attrs["scale"] == pytest.approx(scale, rel=1e-6)


def test_an_index_is_made_once(run: Run) -> None:
    path = view_index(run)
    before = (path / "zarr.json").stat().st_mtime_ns
    assert view_index(run.path, progress=lambda *_: pytest.fail("it is made again")) == path
    assert (path / "zarr.json").stat().st_mtime_ns == before


def test_two_runs_beside_each_other_have_one_each(run: Run, two_adapters: Path) -> None:
    other = shutil.copytree(two_adapters, run.path.with_suffix(""))
    assert [group(view_index(one)).attrs["adapters"] for one in (run, other)] == [["default"], ["a", "b"]]
    assert group(index_path(run)).attrs["adapters"] == ["default"]


def test_one_of_a_run_that_has_grown_is_made_anew(tmp_path: Path) -> None:
    for rows in ((0, 2), (0, 1, 2)):
        run = open_run(write_run(tmp_path / "run.zarr", rows=rows))
        found = group(view_index(run))["adapters/default"]
        np.testing.assert_array_equal(np.isnan(found["js"][:, 0]), ~run.committed.values)
        shutil.rmtree(tmp_path / "run.zarr")
    assert os.listdir(tmp_path) == ["run.view.zarr"]


def test_one_whose_metadata_were_changed_is_made_anew(run: Run) -> None:
    path = view_index(run)
    assert not verify_result(path)
    file = path / "adapters" / "default" / "zarr.json"
    before = file.read_bytes()
    file.write_bytes(before.replace(b'"token": ', b'"token": 9'))
    assert file.read_bytes() != before
    assert verify_result(path)
    view_index(run)
    assert file.read_bytes() == before
    assert not verify_result(path)


def test_what_was_stopped_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Stopped

    for place in ("_write_js", "_write_directions", "_consolidate"):
        with monkeypatch.context() as patch:
            patch.setattr(module, place, stop)
            with pytest.raises(Stopped):
                view_index(run)
        assert not index_path(run).exists()
    parts: set[str] = set()
    path = view_index(run, progress=lambda done, total, part="": parts.add(part))
    assert parts == {"directions"}  # js was there
    np.testing.assert_array_equal(group(path)["adapters/default/js"][:], miub(run)["tokens/js"].values)
    assert sorted(os.listdir(path.parent)) == ["run.view.zarr", "run.zarr"]


def test_an_older_one_is_never_left_half_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view_index(write_run(tmp_path / "run.zarr", rows=(0, 2)))
    shutil.rmtree(tmp_path / "run.zarr")
    run = open_run(write_run(tmp_path / "run.zarr"))

    def stop(path: Path, **_: Any) -> None:
        if path.exists():
            (path / "zarr.json").unlink(missing_ok=True)
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(Stopped):
            view_index(run)
    np.testing.assert_array_equal(group(view_index(run))["adapters/default/js"][:], miub(run)["tokens/js"].values)


@pytest.mark.parametrize("leads", [True, False])
def test_a_link_in_its_place_is_replaced(tmp_path: Path, leads: bool) -> None:
    path = view_index(write_run(tmp_path / "run.zarr", rows=(0, 2)))
    path.rename(tmp_path / "away")
    path.symlink_to(tmp_path / ("away" if leads else "nowhere"))
    shutil.rmtree(tmp_path / "run.zarr")
    run = write_run(tmp_path / "run.zarr")
    assert group(view_index(run))["adapters/default"].attrs["n_state_tokens"] == 2500
    assert sorted(os.listdir(tmp_path)) == ["away", "run.view.zarr", "run.zarr"]


def test_one_process_at_a_time(run: Run) -> None:
    with file_lock(index_path(run)), pytest.raises(HeldError, match=r"run.view.zarr` is being written by"):
        view_index(run)
    view_index(run)


def test_another_process_may_have_made_it_meanwhile(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    there = iter([False, True])
    monkeypatch.setattr(module, "_is_current", lambda target, identity: next(there))
    assert not view_index(run).exists()


def test_a_folder_that_cant_be_written_to_is_refused_with_a_way(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda path, mode: False)
        with pytest.raises(PermissionError, match=r"can't be written to; .* `ln -s /.*run.zarr` makes one"):
            view_index(run)
        monkeypatch.chdir(run.path.parent)
        with pytest.raises(PermissionError, match=r"`ln -s /.*run.zarr` makes one"):  # it may be called elsewhere
            view_index(run.path.name)
    elsewhere = run.path.parent / "mine"
    elsewhere.mkdir()
    (elsewhere / "linked").symlink_to(run.path)
    assert view_index(elsewhere / "linked") == elsewhere / "linked.view"
    made = shutil.copytree(elsewhere / "linked.view", index_path(run))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert view_index(run) == made  # an existing index needs no writing


@pytest.mark.parametrize("content", [None, "[]", '{"attributes": {"format": "lorascope.run"}}'])
def test_something_else_is_never_replaced(run: Run, content: str | None) -> None:
    target = index_path(run)
    target.mkdir()
    (target / ("mine" if content is None else "zarr.json")).write_text(content or "")
    with pytest.raises(FileExistsError, match="an index of the view, which is written there; move it elsewhere"):
        view_index(run)
    assert len(os.listdir(target)) == 1


def test_a_broken_chunk_is_told(run: Run) -> None:
    (run.path / "states" / run.component_paths[0] / "base" / "c.1.0").write_bytes(b"no chunk")
    with pytest.raises(StoreError, match=r"chunk '.*base/c.1.0' is broken"):
        view_index(run)
    assert not index_path(run).exists()


def test_that_of_a_remote_run_lies_in_the_current_folder(
    many_rows: Path, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("one", "other"):
        remote = open_place(f"{s3.prefix}/{place}/run.zarr")
        for key, _ in open_place(many_rows).sizes():
            remote.write(key, (many_rows / key).read_bytes())
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda path, mode: False)
        with pytest.raises(PermissionError, match="can't be written to; change to a folder of yours"):
            view_index(f"{s3.prefix}/one/run.zarr")
    paths = [view_index(f"{s3.prefix}/{place}/run.zarr") for place in ("one", "other")]
    assert len(set(paths)) == 2
    assert {path.parent for path in paths} == {tmp_path}
    assert all(path.name.startswith("run-") for path in paths)


@pytest.mark.parametrize("stream", ["adapted", "pair"])
def test_it_holds_numbers_by_layer_and_expert(tmp_path: Path, stream: str) -> None:
    run = write_mixture(tmp_path / "run.zarr", stream=stream)
    numbers, expected = group(view_index(run))["adapters/default/experts"], experts(run, miub(run))
    assert {*numbers.array_keys()} == {"layer", *expected.data_vars}
    for name in numbers.array_keys():
        np.testing.assert_array_equal(numbers[name][...], expected[name].values)


def test_a_mixture_without_a_whole_sample_has_no_numbers_by_expert(tmp_path: Path) -> None:
    run = write_mixture(tmp_path / "run.zarr", rows=0)
    assert "experts" not in group(view_index(run))["adapters/default"]
