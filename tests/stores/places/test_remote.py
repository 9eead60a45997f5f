"""A run in an object store behind a real HTTP server that fails as servers do."""

import json
import pickle
import socket
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from lorascope.stores import StoreError, clear_torn, create_run, open_place, open_run, run_state, verify
from lorascope.stores.places import remote

from ..on_disk import go_on, stored

F32, BF16, F16 = (f"model.layers.{i}.mlp.up_proj" for i in range(3))
SMALL: dict[str, Any] = {"n_tokens": 1100, "states": "none"}


def write(url: str, run: Any, *, rows: tuple[int, ...] = (0, 1, 2)) -> None:
    with create_run(url, run.spec, tables=run.tables, weights=run.weights) as writer:
        for row in rows:
            writer.write_row(row, run.blocks[row])


def test_it_holds_what_a_folder_would(make_run: Any, s3: Any) -> None:
    run = make_run()
    go_on(s3.prefix, run)
    assert stored(s3.prefix) == stored(run.path)
    assert verify(s3.prefix).ok
    remote_run, local = open_run(s3.prefix), open_run(run.path)
    assert repr(remote_run).startswith(f"<Run '{s3.prefix}': stream adapted, 3 components")
    for component in (F32, BF16, F16):
        np.testing.assert_array_equal(remote_run.lora(component).values, local.lora(component).values)
    for table in ("samples", "choices", "tokens", "components"):
        assert getattr(remote_run, table).identical(getattr(local, table))
    np.testing.assert_array_equal(remote_run.js().values, local.js().values)


def test_row_is_committed_by_its_last_request(make_run: Any, s3: Any) -> None:
    run = make_run(rows=())
    with create_run(s3.prefix, run.spec, tables=run.tables, weights=run.weights) as writer:
        writer.write_row(0, run.blocks[0])
        s3.counted_from_now(lambda index, method: None)
        written = writer.write_row(1, run.blocks[1])
        methods = [request.split()[0] for request in s3.requests]
        # Before and after the chunks the root is still this run's.
        assert methods == ["HEAD", *["PUT"] * len(run.blocks[1]), "HEAD", "PUT"]
        assert s3.requests[-1].endswith("/rows/commit/c.1.0")
        assert writer.committed_rows.tolist() == [True, True, False]
    assert written.seconds_encode > 0
    assert written.seconds_write > 0


def test_opening_takes_few_requests(make_run: Any, s3: Any) -> None:
    run = make_run()
    write(s3.prefix, run, rows=(0,))
    s3.counted_from_now(lambda index, method: None)
    open_run(s3.prefix)
    assert not [request for request in s3.requests if request.endswith("zarr.json") and "bucket/zarr" in request]
    assert len(s3.requests) < 40


FAULTS = {
    "server errors": lambda index, method: "500" if index % 4 == 1 else None,
    "resets": lambda index, method: "reset" if index % 5 == 1 else None,
    "slow answers": lambda index, method: "slow" if index % 40 == 1 else None,
    "all of them": lambda index, method: (None, "500", None, None, "reset", None, None, "slow")[index % 8],
}


@pytest.mark.parametrize("faults", FAULTS, ids=str)
def test_passing_faults_change_nothing(make_run: Any, s3: Any, faults: str) -> None:
    run = make_run(**SMALL)
    s3.counted_from_now(FAULTS[faults])
    go_on(s3.prefix, run)
    np.testing.assert_array_equal(open_run(s3.prefix).js().values, open_run(run.path).js().values)
    s3.counted_from_now(lambda index, method: None)
    assert stored(s3.prefix) == stored(run.path)


@pytest.mark.slow
def test_lost_remote_is_one_line_and_the_same_command_goes_on(make_run: Any, s3: Any) -> None:
    """Lost at one request after the other: while it is set up, in a row's chunks, at its digest, and at the end."""
    run = make_run(**SMALL)
    s3.counted_from_now(lambda index, method: None)
    write(f"{s3.prefix}/first", run, rows=())
    set_up = len(s3.requests)
    s3.counted_from_now(lambda index, method: None)
    go_on(f"{s3.prefix}/second", run)
    total = len(s3.requests)
    expected = stored(run.path)
    seen = set()
    for n_requests in (0, 2, set_up // 2, set_up - 1, total - 12, total - 8):
        url = f"{s3.prefix}/{n_requests}"
        s3.counted_from_now(lambda index, method, n=n_requests: "reset" if index >= n else None)
        with pytest.raises(OSError, match="once it answers again, the same command goes on from here") as lost:
            go_on(url, run)
        message = str(lost.value)
        assert message.startswith(f"`{url}` failed (")
        assert "\n" not in message
        s3.counted_from_now(lambda index, method: None)
        seen.add(run_state(url))
        go_on(url, run)
        assert run_state(url) == "finished"
        assert stored(url) == expected
    assert seen == {"absent", "torn", "unfinished"}
    url = f"{s3.prefix}/finished"
    s3.counted_from_now(lambda index, method: "reset" if index >= total - 2 else None)
    go_on(url, run)  # what a finished run doesn't need any more can't be deleted
    s3.counted_from_now(lambda index, method: None)
    assert run_state(url) == "finished"
    assert stored(url) != expected
    go_on(url, run)
    assert stored(url) == expected


def test_lost_while_reading(make_run: Any, s3: Any) -> None:
    run = make_run(n_tokens=1100)
    write(s3.prefix, run, rows=(0,))
    opened = open_run(s3.prefix)
    s3.counted_from_now(lambda index, method: "reset")
    for read in (lambda: opened.samples, lambda: opened.base(F32).values, lambda: open_run(s3.prefix)):
        with pytest.raises(OSError, match="failed .* once it answers again"):
            read()


def test_refused_access_says_so(make_run: Any, s3: Any) -> None:
    run = make_run()
    s3.counted_from_now(lambda index, method: "403")
    with pytest.raises(PermissionError, match="refuses access .*; check the credentials in the environment"):
        write(s3.prefix, run)


def test_store_that_knows_no_range_from_the_end_is_asked_for_the_size(s3: Any) -> None:
    """As Azure's."""
    place = open_place(s3.prefix)
    place.write("c.0", b"world!")
    s3.counted_from_now(lambda index, method: "403" if index == 0 else None)
    assert place.read_part("c.0", -2, None, at_most=9) == b"d!"
    assert [request.split()[0] for request in s3.requests] == ["GET", "HEAD", "GET"]


def test_missing_bucket_says_so(make_run: Any, s3: Any) -> None:
    with pytest.raises(FileNotFoundError, match="can't be written to: there is no such bucket; create it first"):
        open_place("s3://nowhere/run").write("zarr.json", b"x")


def test_a_run_without_its_root_is_no_empty_place(make_run: Any, s3: Any) -> None:
    with pytest.raises(StoreError, match="holds no run; name one that `lorascope capture` wrote"):
        open_run(s3.prefix)
    go_on(s3.prefix, make_run())
    open_place(s3.prefix).delete(["zarr.json"])
    with pytest.raises(StoreError, match="holds a run without its root 'zarr.json', and the other files can't replace"):
        open_run(s3.prefix)


def test_credentials_stay_in_the_environment(make_run: Any, s3: Any) -> None:
    run = make_run()
    go_on(s3.prefix, run)
    opened = open_run(s3.prefix)
    said = [repr(opened), opened.place.name, repr(opened.place)]
    lazy = pickle.dumps([opened.place, opened.delta(F32), opened.delta_arrays(F32)])
    for secret in ("an-id", "a-secret"):
        assert not [text for text in said if secret in text]
        assert secret.encode() not in lazy
        assert not [key for key, content in stored(s3.prefix).items() if secret.encode() in content]
    np.testing.assert_array_equal(pickle.loads(lazy)[1].values, open_run(run.path).delta(F32).values)


def test_attempts_end() -> None:
    """Nobody waits for ever: attempts, each attempt, and all of them together are bounded."""
    assert set(remote.RETRY) == {"max_retries", "backoff", "retry_timeout"}
    assert {"connect_timeout", "timeout"} <= set(remote.CLIENT_DEFAULTS)


SET_UP = """
import pickle, sys, time
from lorascope.stores import create_run
from lorascope.stores.places.remote import ObjectPlace
url, spec, tables, weights = pickle.load(sys.stdin.buffer)
write = ObjectPlace.write
def slow(place, key, *pieces):
    if key.endswith("ce/c.0"):
        print("there", flush=True)
        time.sleep(600)
    write(place, key, *pieces)
ObjectPlace.write = slow
create_run(url, spec, tables=tables, weights=weights)
"""


def test_remote_set_up_of_a_living_process_is_left_alone(make_run: Any, s3: Any) -> None:
    run = make_run()
    command = [sys.executable, "-c", SET_UP]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pickle.dumps((s3.prefix, run.spec, run.tables, run.weights)))
        process.stdin.flush()
        assert process.stdout.readline() == b"there\n"
        while len(list(open_place(s3.prefix).keys())) < 20:
            time.sleep(0.01)
        assert run_state(s3.prefix) == "torn"
        who = f"process {process.pid} on host {socket.gethostname()} since 2.* UTC"
        says = f"^`{s3.prefix}` is being set up by {who}, which may still be at it; .* delete all below `{s3.prefix}`"
        before = stored(s3.prefix)
        with pytest.raises(StoreError, match=says):
            clear_torn(s3.prefix)
        assert before.items() <= stored(s3.prefix).items()
        process.kill()
        process.wait()
    clear_torn(s3.prefix)
    assert run_state(s3.prefix) == "absent"


@pytest.mark.parametrize("setter", [None, {"host": "node7"}], ids=["an older writer", "no holder"])
def test_remote_set_up_of_nobody_is_left_alone(make_run: Any, s3: Any, setter: Any) -> None:
    go_on(s3.prefix, make_run(**SMALL))
    place = open_place(s3.prefix)
    root = json.loads(place.read("zarr.json", at_most=2**31))
    del root["attributes"]["static_digest"]
    root["attributes"] |= {} if setter is None else {"set_up_by": setter}
    place.write("zarr.json", json.dumps(root).encode())
    before = stored(s3.prefix)
    with pytest.raises(StoreError, match="is being set up by a process that left no name, which may still be at it"):
        clear_torn(s3.prefix)
    assert stored(s3.prefix) == before
