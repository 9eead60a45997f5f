"""Processes with limits: a task ends at its limit, what was yielded before is there, and nothing stays behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lorascope.stores.confined import ConfinedProcess

TASKS = '''
import time


def work(task):
    """Yield what the task says, then do what it asks for."""
    words = iter(task)
    for word in words:
        if word == "builtin":
            word = mended
        yield word
        if word == "spin":
            while True:
                pass
        elif word == "grow":
            len(bytearray(2**30))
        elif word == "fail":
            raise LookupError("nothing there")
        elif word == "end":
            import os
            os._exit(7)
        elif word == "die":
            import os
            os.kill(os.getpid(), 9)
        elif word == "print":
            print("a warning of somebody's\\n" * 999)
        elif word == "repr":
            yield repr(next(words))
        elif word == "wait":
            time.sleep(60)
'''


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConfinedProcess]:
    (tmp_path / "confined_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "confined_tasks", raising=False)
    import confined_tasks  # type: ignore[import-not-found]

    with ConfinedProcess(confined_tasks.work, seconds=0.3, max_bytes=2**27) as made:
        yield made


def results(process: ConfinedProcess, task: list[Any]) -> list[Any]:
    return list(process.run(task))


def test_values_come_back_as_they_were(process: ConfinedProcess) -> None:
    values = [None, True, 2**70, 0.1, "a\r\n\u2028\0é😀", "\ud800\udc00"[:1], {"k": [float("inf"), {}]}, "x" * 300_000]
    assert results(process, values) == values
    assert results(process, []) == []


def test_tasks_come_as_they_are(process: ConfinedProcess) -> None:
    """JSON would make texts of the keys and lists of the tuples, which a template writes otherwise."""
    assert results(process, ["repr", {1: "one", None: 2, (3, 4): (5, [6]), "x": float("inf"), "\ud800": "\n"}]) == [
        "repr",
        r"{1: 'one', None: 2, (3, 4): (5, [6]), 'x': inf, '\ud800': '\n'}",
    ]


def test_paths_among_those_of_imports(process: ConfinedProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python passes by what isn't text there, and notebooks put paths there all the same."""
    monkeypatch.setattr(sys, "path", [*sys.path, Path("somewhere")])
    assert results(process, ["one"]) == ["one"]


def test_what_the_site_brings_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: ConfinedProcess
) -> None:
    """Such as the finders of packages that are installed for editing in a user's own folder."""
    (tmp_path / "sitecustomize.py").write_text("import builtins\nbuiltins.mended = 'mended'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert results(process, ["builtin"]) == ["mended"]


def test_unread_results_of_a_task_do_not_mix_with_the_next(process: ConfinedProcess) -> None:
    first = process.run(["x" * 100_000] * 5)
    assert next(first) == "x" * 100_000
    assert results(process, ["y" * 100_000]) == ["y" * 100_000]


def test_a_task_ends_at_the_limit_of_time(process: ConfinedProcess) -> None:
    begun = time.monotonic()
    run = process.run(["one", "spin"])
    assert [next(run), next(run)] == ["one", "spin"]
    with pytest.raises(TimeoutError, match=r"^took more than 0\.3 s$"):
        next(run)
    assert time.monotonic() - begun < 20
    with pytest.raises(TimeoutError):
        results(process, ["one"])


def test_a_task_ends_at_the_limit_of_memory_and_the_next_goes_on(process: ConfinedProcess) -> None:
    with pytest.raises(MemoryError, match=r"^took more than 134 MB of memory$"):
        results(process, ["grow"])
    assert results(process, ["one"]) == ["one"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("fail", r"failed \(LookupError: nothing there\)"),
        ("end", r"ended its process \(exit code 7\)"),
        ("die", "had its process killed, perhaps since the machine has no memory left"),
    ],
)
def test_other_ends_are_reported(word: str, message: str, process: ConfinedProcess) -> None:
    with pytest.raises(ChildProcessError, match=f"^{message}$"):
        results(process, ["one", word])


def test_what_a_function_prints_is_no_result(process: ConfinedProcess) -> None:
    assert results(process, ["print", "one"]) == ["print", "one"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the process in /proc")
@pytest.mark.parametrize("how", ["leave", "kill"])
def test_no_process_is_left(how: str, tmp_path: Path) -> None:
    """Neither after the context, nor when the parent is killed: then it ends with the task that it is at."""
    (tmp_path / "confined_tasks.py").write_text(TASKS)
    script = f"""
        import sys, time
        sys.path.insert(0, {str(tmp_path)!r})
        from confined_tasks import work
        from lorascope.stores.confined import ConfinedProcess
        with ConfinedProcess(work, seconds=0.3, max_bytes=2**27) as process:
            results = process.run(["wait"] if {how == "leave"} else ["one", "spin"])
            next(results), print(process._process.pid, flush=True)
            time.sleep(60 * {how == "kill"})
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    if how == "kill":
        parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
