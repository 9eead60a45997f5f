import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.measuring import measured as module
from lorascope.analyze.measuring.compute import Workers
from lorascope.analyze.measuring.measured import measure_run
from lorascope.analyze.measuring.measures import token_measure
from lorascope.analyze.measuring.partial import Partial, partial_path
from lorascope.analyze.miub import miub
from lorascope.analyze.save import open_result
from lorascope.stores import Run, open_run

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
    assert set(measured.coords) >= {
        "component",
        "kind",
        "layer",
        "rank",
        "d_out",
        "sample_of_token",
        "position",
        "role",
    }
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
def test_what_goes_to_the_disk_is_what_stays_in_memory(run: Run, tmp_path: Path, name: str) -> None:
    expected = miub(run)
    found = miub(run, out=tmp_path / name)
    xr.testing.assert_equal(found.load(), expected)
    for key in set(expected.attrs) - {"fidelity_max", "fidelity_median"}:  # NaN here
        assert found.attrs[key] == expected.attrs[key]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    xr.testing.assert_equal(open_result(tmp_path / name).load(), expected)


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
    done = Partial(partial_path(target)).done
    assert 0 < done.sum() < len(done)
    result = miub(run, out=target, progress=lambda done, of: seen.append(of))
    assert seen[-1] == total * (~done).sum() / len(done)
    xr.testing.assert_equal(result.load(), miub(run))


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("torn", ["done", "zarr.json"])
def test_a_part_that_is_torn_is_computed_again(run: Run, tmp_path: Path, torn: str) -> None:
    target = tmp_path / "result.zarr"
    measure_run(run, ("js",), out=target)
    path = partial_path(target) / torn
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    xr.testing.assert_equal(miub(run, out=target).load(), miub(run))


def test_another_measurement_doesnt_go_on_with_this_one(run: Run, unfinished: Path, tmp_path: Path) -> None:
    target = tmp_path / "result.zarr"
    tasks: dict[str, int] = {}

    def count(name: str, some: Run, names: Any) -> None:
        tasks[name] = 0

        def one(done: int, total: int) -> None:
            tasks[name] += 1

        measure_run(some, names, out=target, progress=one)

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


def test_names_that_are_taken_are_refused_before_the_work(run: Run, tmp_path: Path) -> None:
    taken = tmp_path / "taken.zarr"
    taken.mkdir()
    calls: list[int] = []
    with pytest.raises(FileExistsError, match="is there already"):
        miub(run, out=taken, progress=lambda done, total: calls.append(done))
    with pytest.raises(ValueError, match="must end in .zarr"):
        miub(run, out=tmp_path / "x.csv", progress=lambda done, total: calls.append(done))
    assert not calls


@pytest.mark.parametrize(("n_threads", "most", "expected"), [(1, 1, 1), (1, 8, 8), (4, 8, 2), (100, 8, 1)])
def test_tasks_grow_on_a_cluster_while_every_worker_has_a_queue(n_threads: int, most: int, expected: int) -> None:
    rows = type("Rows", (), {"n_rows": 32, "shape": (32 * 1024, 4096)})()
    components = [type("S", (), {"base": rows})() for _ in range(8)]
    assert module._together(components, Workers(lambda array, done: array, n_threads, most)) == expected  # type: ignore
