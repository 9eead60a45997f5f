"""One writer at a place: locks of real processes, and the errors of the others."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lorascope.stores import StoreError, pull
from lorascope.stores.places.file_lock import (
    HeldError,
    Holder,
    file_lock,
    may_be_running,
    parse_holder,
    run_lock,
    this_process,
)

HOLD = """
import sys
from pathlib import Path
from lorascope.stores.places.file_lock import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
IN_TURNS = """
import os, sys
from pathlib import Path
from lorascope.stores.places.file_lock import HeldError, file_lock
target, done = Path(sys.argv[1]), 0
while done < 10:
    try:
        with file_lock(target):
            inside = os.open(target, os.O_CREAT | os.O_EXCL)
            os.close(inside)
            target.unlink()
            done += 1
    except HeldError:
        pass
"""
SLEEP = """
import json, sys
from lorascope.stores.places.file_lock import this_process
print(json.dumps(this_process()._asdict()), flush=True)
sys.stdin.read()
"""


@contextmanager
def started(script: str, *words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and the first line that it printed; it ends with its input."""
    command = [sys.executable, "-c", script, *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline()


def ask(target: Path) -> None:
    with run_lock(target):
        pass


@pytest.mark.parametrize("how", ["lock", "link", "pull"])
def test_who_is_refused_learns_who_holds_it(make_run: Any, tmp_path: Path, how: str) -> None:
    source, out = make_run("raw.zarr", codec="raw", n_tokens=1100).path, tmp_path / "out.zarr"
    if how == "link":
        out.symlink_to(tmp_path / "elsewhere")
    attempt: Callable[[], Any] = (lambda: pull(source, out, samples=1)) if how == "pull" else (lambda: ask(out))
    held = tmp_path / "elsewhere" if how == "link" else out
    with started(HOLD, held) as (process, _):
        who = f"process {process.pid} on host {socket.gethostname()} since 2"
        with pytest.raises(HeldError, match=rf"^`{out}` is being written by {who}.{{15}} UTC; wait for it, or name an"):
            attempt()
        assert not held.exists()
    attempt()
    assert not list(tmp_path.glob(".*.lock"))


def test_folders_that_were_made_for_the_lock_alone_go_with_it(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for used in (False, True):
        with file_lock(tmp_path / "there/a/b/out"):
            if used:
                (tmp_path / "there/a/out").write_text("x")
        assert [one.name for one in (tmp_path / "there").rglob("*")] == (["a", "out"] if used else [])


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    with started(HOLD, out) as (process, _):
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert json.loads((tmp_path / ".out.zarr.lock").read_text())["process"] == process.pid
        with file_lock(out):
            assert json.loads((tmp_path / ".out.zarr.lock").read_text())["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_one_at_a_time_however_many_want_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IN_TURNS, str(tmp_path / "out")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0] * 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"host": 1}', "[" * 4000], ids=["empty", "cut", "list", "x", "deep"]
)
def test_holder_without_a_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / ".out.lock"
    file.write_text(content)
    with file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(HeldError, match="`.*out` is being written by another process; wait for it") as refused:
            ask(tmp_path / "out")
    assert refused.value.holder is None


def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with file_lock(tmp_path / "out"), file_lock(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_folder_of_another_user() -> None:
    """No lock can be made in it, and a run of one's own there is written all the same; one that is held is refused."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        out = Path(name, "run.zarr")
        with somebody(), file_lock(out):
            assert os.listdir(name) == []
        said = f"is being written by process {os.getpid()} on host"
        with file_lock(out), somebody(), pytest.raises(HeldError, match=said):
            ask(out)
        assert os.listdir(name) == []


@contextmanager
def somebody() -> Iterator[None]:
    """As a user who owns nothing."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_lies_below_a_file_is_said_by_the_writer(make_run: Any, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(StoreError, match="`.*x/a/b` lies below `.*x`, a file"):
        pull(make_run().path, tmp_path / "x/a/b")
    with pytest.raises(StoreError, match="`.*x/a` lies below `.*x`, a file"):
        pull(make_run("other.zarr").path, tmp_path / "x/a")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no such folder")
@pytest.mark.parametrize("there", ["folder", "link", "name"])
def test_lock_that_can_not_be_made_is_said_in_words(tmp_path: Path, there: str) -> None:
    target = tmp_path / ("n" * 252 if there == "name" else "run.zarr")
    lock = tmp_path / f".{target.name}.lock"
    if there == "folder":
        lock.mkdir()
    if there == "link":
        lock.symlink_to(tmp_path / "elsewhere")
    words = f"^`{lock}`, which keeps others from writing `{target}` meanwhile, can't be created .*name another place$"
    with pytest.raises(OSError, match=words), file_lock(target):
        pass


def test_folder_that_can_not_be_made_is_no_endless_wait() -> None:
    with pytest.raises(FileNotFoundError, match="/proc/nothing"):
        ask(Path("/proc/nothing/run.zarr"))


def test_nothing_is_held_of_an_object_store() -> None:
    with run_lock("s3://bucket/run.zarr"), run_lock("s3://bucket/run.zarr"):
        pass


def test_a_process_is_known_to_have_ended() -> None:
    assert not may_be_running(this_process())
    with started(SLEEP) as (_, line):
        holder = parse_holder(json.loads(line))
        assert holder is not None
        assert may_be_running(holder)
        later = holder._replace(started=str(int(holder.started) - 1))
        assert not may_be_running(later)  # its number was given again
    assert not may_be_running(holder)
    for elsewhere in (
        holder._replace(host="node7"),
        holder._replace(machine="another boot"),
        holder._replace(machine=""),
    ):
        assert may_be_running(elsewhere)


def test_a_machine_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", nothing)
    holder = this_process()
    assert (holder.machine, holder.started) == ("", "")
    assert may_be_running(holder)


@pytest.mark.parametrize(
    "change", [{"process": "1"}, {"process": True}, {"host": "x" * 1000}, {"since": None}, {"more": 1}]
)
def test_what_is_no_holder(change: dict[str, Any]) -> None:
    holder = Holder("node7", 4242, "2026-11-27 22:30 UTC", "boot", "17")
    assert str(holder) == "process 4242 on host node7 since 2026-11-27 22:30 UTC"
    assert parse_holder(holder._asdict()) == holder
    assert parse_holder(holder._asdict() | change) is None
