import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.measuring import run as module
from lorascope.analyze.measuring.compute import Workers
from lorascope.analyze.measuring.measures import token_measure
from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.measuring.unfinished import Unfinished, unfinished_path
from lorascope.analyze.miub.miub import miub
from lorascope.analyze.results.digests import DONE, verify_result
from lorascope.analyze.results.save import open_result
from lorascope.stores import Run, StoreError, open_run
from lorascope.stores.places.file_lock import file_lock
from lorascope.stores.reading.source import DeltaSource

NAMES = ("js", "delta_ratio")


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 1)


def test_coordinates_say_what_everything_is(run: Run) -> None:
    measured = measure_run(run, NAMES)
    assert measured["js"].dims == ("token", "component")
    labels = {"component", "kind", "layer", "rank", "d_out", "sample_of_token", "position", "role"}
    assert set(measured.coords) >= labels
    assert measured["js"].attrs["units"] == "nat"
    assert list(measured.data_vars) == list(NAMES)


@pytest.mark.usefixtures("one_by_one")
def test_batches_change_no_bit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    single = measure_run(run, NAMES)
    monkeypatch.undo()
    xr.testing.assert_identical(single, measure_run(run, NAMES))


def test_progress_counts_every_task_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (1, 2**30):
        monkeypatch.setattr(module, "BATCH_BYTES", most)
        calls: list[tuple[int, int]] = []
        measure_run(run, NAMES, progress=lambda done, total, calls=calls: calls.append((done, total)))
        assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
        assert {total for _, total in calls} == {len(calls)}


@pytest.mark.parametrize("name", ["result.zarr", "result.nc"])
@pytest.mark.parametrize("states", ["all", "sample", "none"])
def test_what_goes_to_the_disk_is_what_stays_in_memory(
    run: Run, make_small: Any, tmp_path: Path, name: str, states: str
) -> None:
    if states != "all":  # js is that of the capture
        rows = {"state_rows": (True,)} if states == "sample" else {}
        run = make_small(states=states, js_share=1.0, **rows).run
    expected = miub(run)
    found = miub(run, out=tmp_path / name)
    xr.testing.assert_equal(found.load(), expected)
    for key in set(expected.attrs) - {"fidelity_max", "fidelity_median"}:  # NaN here
        assert found.attrs[key] == expected.attrs[key]
    xr.testing.assert_equal(open_result(tmp_path / name).load(), expected)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(FileExistsError, match="is there already"):
        miub(run, out=tmp_path / name, progress=lambda *_: pytest.fail("before any work"))


class Stopped(BaseException):
    pass


@pytest.mark.usefixtures("one_by_one")
def test_a_call_that_was_stopped_goes_on(run: Run, tmp_path: Path) -> None:
    target, total, seen = tmp_path / "result.zarr", 0, []

    def stop(done: int, of: int) -> None:
        nonlocal total
        total = of
        if done > of // 2:
            raise Stopped

    with pytest.raises(Stopped):
        miub(run, out=target, progress=stop)
    assert not target.exists()
    done = Unfinished(unfinished_path(target)).done
    assert 0 < done.sum() < len(done)
    result = miub(run, out=target, progress=lambda done, of: seen.append(of))
    assert seen[-1] == total * (~done).sum() / len(done)
    xr.testing.assert_equal(result.load(), miub(run))


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("torn", ["done", "zarr.json"])
def test_a_part_that_is_torn_is_computed_again(run: Run, tmp_path: Path, torn: str) -> None:
    target = tmp_path / "result.zarr"
    measure_run(run, ("js",), target)
    path = unfinished_path(target) / torn
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    xr.testing.assert_equal(miub(run, out=target).load(), miub(run))


def test_another_measurement_doesnt_go_on_with_this_one(run: Run, unfinished: Path, tmp_path: Path) -> None:
    target = tmp_path / "result.zarr"
    tasks: dict[str, int] = {}

    def count(name: str, some: Run, names: Any) -> None:
        tasks[name] = 0

        def one(done: int, total: int) -> None:
            tasks[name] += 1

        measure_run(some, names, target, progress=one)

    @token_measure(long_name="mine", units="1")
    def mine(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
        return base[:, 0]

    count("first", run, ("js",))
    count("again", run, ("js",))
    count("others", run, ("js", "delta_ratio"))
    count("rows", open_run(unfinished), ("js",))
    count("own", run, (mine,))
    count("own again", run, (mine,))
    assert tasks["again"] == 0
    assert {name for name, n in tasks.items() if n} == set(tasks) - {"again"}


@pytest.mark.parametrize(("n_threads", "most", "expected"), [(1, 1, 1), (1, 8, 8), (4, 8, 2), (100, 8, 1)])
def test_tasks_grow_on_a_cluster_while_every_worker_has_a_queue(n_threads: int, most: int, expected: int) -> None:
    rows = type("Rows", (), {"n_rows": 32, "shape": (32 * 1024, 4096), "first_part": None})()
    components = [type("S", (), {"base": rows, "delta": DeltaSource(rows)})() for _ in range(8)]  # type: ignore
    assert module._groups_per_task(components, Workers(lambda array, done: array, n_threads, most)) == expected  # type: ignore


def test_a_finish_that_was_interrupted_is_only_that(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong while reductions are written, js is there the next time."""
    target, calls = tmp_path / "result.zarr", []

    def fail(*args: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    for place in (
        "xarray.Dataset.to_zarr",
        "lorascope.analyze.measuring.unfinished.add_digests",
        "lorascope.analyze.results.digests._digest",
        "pathlib.Path.rename",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            with pytest.raises(OSError, match="no space left"):
                miub(run, out=target)
        assert Unfinished(unfinished_path(target)).done.all()
    with monkeypatch.context() as patch:
        remove = shutil.rmtree
        patch.setattr("shutil.rmtree", lambda path, **more: fail() if path == target / DONE else remove(path, **more))
        with pytest.raises(OSError, match="no space left"):
            miub(run, out=target, progress=lambda done, total: calls.append(done))
    assert not calls
    assert (target / DONE).exists()
    xr.testing.assert_equal(open_result(target).load(), miub(run))
    assert not verify_result(target)


def test_files_that_a_killed_process_left_half_written_are_not_in_the_result(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "result.zarr"

    def leave(unfinished: Path) -> None:
        (unfinished / "samples" / "zarr.7df6da50.partial").write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lorascope.analyze.measuring.unfinished.add_digests", leave)
        with pytest.raises(KeyboardInterrupt):
            miub(run, out=target)
    miub(run, out=target)
    assert not list(target.rglob("*.partial"))
    assert not verify_result(target)


def test_what_an_interrupted_finish_wrote_of_another_unit_goes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Js of tokens is that of any unit and reduction; names and units of what was made of it are not."""

    def stop(*_: Path) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", stop)
        with pytest.raises(Stopped):
            miub(run, out=tmp_path / "result.zarr")
    found, wanted = (
        miub(run, out=tmp_path / name, unit="bit", reduction="last") for name in ("result.zarr", "other.zarr")
    )
    for path in ("/", "tokens", "samples"):  # the root's attributes include the digest of all bytes
        xr.testing.assert_identical(found[path].to_dataset().load(), wanted[path].to_dataset().load())


def test_one_process_at_a_time(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "result.zarr"
    with (
        file_lock(target),
        pytest.raises(FileExistsError, match="is being written by process .* on host .* since .* UTC; wait for it"),
    ):
        miub(run, out=target)
    assert not list(tmp_path.iterdir())
    assert miub(run, out=target).sizes


def test_an_adapter_that_touches_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    table = run.adapter()
    monkeypatch.setattr(run, "adapter", lambda name=None: table.assign(rank=table["rank"] * 0))
    with pytest.raises(StoreError, match="adapter 'default' of .* changes no component"):
        measure_run(run, ("js",))


def test_an_answer_that_isnt_there_is_told_before_the_work(run: Run) -> None:
    calls: list[int] = []
    with pytest.raises(StoreError, match="has tokens of an answer"):
        miub(run, reduction="answer", progress=lambda done, total: calls.append(done))
    assert not calls


KILLED = """
import os, signal, sys
from lorascope.analyze import miub
from lorascope.analyze.measuring import run
from lorascope.stores import open_run

run.BATCH_BYTES = 1  # a batch for each component

def kill(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

miub(open_run(sys.argv[1]), out=sys.argv[2], progress=kill, scheduler="synchronous")
"""


@pytest.mark.parametrize("task", [1, 8])
def test_a_process_that_is_killed_loses_nothing_that_was_done(run: Run, tmp_path: Path, task: int) -> None:
    target, calls = tmp_path / "result.zarr", []
    words = [sys.executable, "-c", KILLED, str(run.path), str(target), str(task)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    done = Unfinished(unfinished_path(target)).done
    assert done.sum() == (task - 1) // run.n_rows
    found = miub(run, out=target, progress=lambda number, total: calls.append(total))
    assert calls
    xr.testing.assert_equal(found.load(), miub(run))
    assert [path.name for path in tmp_path.iterdir()] == ["result.zarr"]
    assert not verify_result(target)


@pytest.mark.parametrize("states", ["all", "none"])
def test_some_components_are_those_of_all(make_small: Any, tmp_path: Path, states: str) -> None:
    run = make_small(states=states, js_share=1.0).run
    whole, names = measure_run(run, ("js",)), run.component_paths
    for patterns in (["*.q_proj"], [names[2], names[0]]):
        kept = [path for path in names if path in patterns or (patterns == ["*.q_proj"] and path.endswith(".q_proj"))]
        assert kept
        found = measure_run(run, ("js",), component=patterns)
        xr.testing.assert_identical(found, whole.sel(component=kept))
        saved = miub(run, component=patterns, out=tmp_path / f"{patterns[0]}.zarr".replace("*", ""))
        assert saved["component"].values.tolist() == kept
        np.testing.assert_array_equal(saved["tokens/js"], found["js"])
    with pytest.raises(ValueError, match="'q' fits none of the .* components that the adapter changes"):
        measure_run(run, ("js",), component=["q"])
