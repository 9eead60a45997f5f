"""Threads, processes and a real cluster of separate processes: the same bits."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import pytest

from lorascope.analyze.measuring import cluster, tiles
from lorascope.analyze.measuring.compute import open_workers
from lorascope.analyze.measuring.measures import token_measure
from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.miub.miub import miub
from lorascope.stores import Run, StoreError, open_run

# A cluster's own threads and sockets end a moment after it does.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


@pytest.fixture(scope="module")
def expected(run: Run) -> bytes:
    return js(run, scheduler="synchronous")


@pytest.fixture(scope="module")
def two_workers() -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as local:
        yield local


def js(run: Run, **options: Any) -> bytes:
    return measure_run(run, ("js",), **options)["js"].values.tobytes()


@pytest.mark.parametrize("n_workers", [1, 4])
def test_threads_change_no_bit(run: Run, expected: bytes, n_workers: int) -> None:
    assert js(run, n_workers=n_workers) == expected


def test_processes_change_no_bit(run: Run, expected: bytes) -> None:
    with dask.config.set({"multiprocessing.context": "spawn"}):
        assert js(run, scheduler="processes", n_workers=2) == expected


def test_what_dask_is_configured_to_use_is_used(run: Run, expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    original = tiles.lora_weights
    monkeypatch.setattr(
        "lorascope.analyze.measuring.tiles.lora_weights", lambda s: seen.add(threading.get_ident()) or original(s)
    )
    with dask.config.set(scheduler="synchronous"):
        assert js(run) == expected
    assert seen == {threading.get_ident()}


def test_a_cluster_by_its_address(run: Run, expected: bytes, two_workers: Any) -> None:
    calls: list[tuple[int, int]] = []
    found = js(run, scheduler=two_workers.scheduler_address, progress=lambda done, total: calls.append((done, total)))
    assert found == expected
    assert calls[-1][0] == calls[-1][1] == len(calls)


def test_the_active_client_is_used_and_left_as_it_was(run: Run, expected: bytes, two_workers: Any) -> None:
    with distributed.Client(two_workers) as client:
        before = client.run(lambda dask_worker: sorted(dask_worker.plugins))
        assert js(run) == expected
        assert client.run(lambda dask_worker: sorted(dask_worker.plugins)) == before
        assert client.status == "running"


def test_own_functions_go_to_the_workers(run: Run, two_workers: Any) -> None:
    @token_measure(long_name="process", units="1")
    def process(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
        import os

        return np.full(len(base), os.getpid(), np.float32)

    found = measure_run(run, (process,), scheduler=two_workers.scheduler_address)["process"].values
    assert os.getpid() not in found


def test_errors_come_back_in_their_own_words(tmp_path: Path, make_small: Any, two_workers: Any) -> None:
    import shutil

    shutil.copytree(make_small().run.path, tmp_path / "run.zarr")
    chunk = next((tmp_path / "run.zarr" / "states").rglob("c.0.0"))
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\0")
    with pytest.raises(StoreError, match="is broken"):
        miub(open_run(tmp_path / "run.zarr"), scheduler=two_workers.scheduler_address)


def test_a_worker_that_is_killed_changes_nothing(run: Run, expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SIGKILL, in the middle of its tasks; the nanny starts another one, as a cluster would."""
    monkeypatch.setattr("lorascope.analyze.measuring.run.GROUP_BYTES", 1)

    @token_measure(long_name="js, slowly", units="nat")
    def slow(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
        time.sleep(0.2)
        return base[:, 0]

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as local:
        with distributed.Client(local, set_as_default=False) as client:
            pids = list(client.run(os.getpid).values())
        killed: list[int] = []

        def kill(done: int, total: int) -> None:
            if done == total // 3 and not killed:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        found = measure_run(run, ("js", slow), scheduler=local.scheduler_address, progress=kill)
    assert killed
    assert found["js"].values.tobytes() == expected
    assert np.isfinite(found["slow"].values).all()


def test_memory_of_a_worker_is_kept_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(cluster, "keep_freed_memory", lambda: calls.append("kept") or True)
    monkeypatch.setattr(cluster, "restore_memory_settings", lambda: calls.append("usual"))
    plugin = cluster.KeepFreedMemory()
    plugin.setup(None)
    plugin.teardown(None)
    assert calls == ["kept", "usual"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"scheduler": "tcp://127.0.0.1:1"}, OSError, "no Dask scheduler answers at 'tcp://127.0.0.1:1'"),
        ({"scheduler": "http://127.0.0.1:1"}, ValueError, "its address begins with one of"),
        ({"scheduler": "slurm"}, ValueError, "`scheduler` is 'slurm'; give an address"),
        *[({"n_workers": n}, ValueError, f"`n_workers` is {n!r}; give a whole") for n in (0, -1, 1.5, "2", True)],
    ],
)
def test_schedulers_that_arent_there(
    options: dict[str, Any], error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "TIMEOUT_SECONDS", 1)
    with pytest.raises(error, match=words), open_workers(**options):
        pass


def test_a_cluster_has_the_workers_it_has(two_workers: Any) -> None:
    address = two_workers.scheduler_address
    with pytest.raises(ValueError, match="`n_workers` is 3; a cluster has a fixed number"), open_workers(address, 3):
        pass


def test_a_cluster_without_workers_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as local:
        with open_workers(local.scheduler_address) as found:
            assert found.n_threads == 1
        assert "has no workers yet" in caplog.text


def test_several_analyses_by_one_client(run: Run, expected: bytes, two_workers: Any) -> None:
    with distributed.Client(two_workers, set_as_default=False) as client, ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: js(run, scheduler=client), range(3)))
    assert found == [expected] * 3


def test_a_cluster_in_this_process(run: Run, expected: bytes) -> None:
    with distributed.LocalCluster(n_workers=2, processes=False, dashboard_address=":0", silence_logs=50) as local:
        assert js(run, scheduler=distributed.Client(local, set_as_default=False)) == expected


def test_a_setting_of_dask_that_isnt_taken_is_named_as_such(run: Run) -> None:
    with dask.config.set(scheduler=dask.get), pytest.raises(ValueError, match="Dask's own setting `scheduler` is"):
        miub(run)
