"""A Python process whose time and memory are limited, for work that somebody else's text can make endless.

It gets a task through marshal, which keeps tuples and keys of any type, and replies with lines of JSON, which can't
harm whoever reads them.
"""

import contextlib
import json
import marshal
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from .size import format_size

_START = """
import sys
sys.path[:] = sys.argv[4:]
from lorascope.stores.confined import serve
serve(*sys.argv[1:4])
"""


class ConfinedProcess:
    """Process that runs one function on task after task; it starts with the first task and is killed at the end.

    Parameters
    ----------
    function
        Takes a task (numbers, texts and their collections) and yields its results (JSON values). The process imports it
        by its module and name.
    seconds
        Most CPU time of a task.
    max_bytes
        Most memory on top of what the process takes once the function is imported.

    Notes
    -----
    The system ends the process at the limit of time, whatever it is doing. Should the parent be killed, the process
    ends with its task. macOS limits only the time, and Windows neither.
    """

    def __init__(self, function: Callable[[Any], Iterator[Any]], *, seconds: float, max_bytes: int) -> None:
        """Take the function and the limits; the process starts with its first task."""
        self._settings = f"{function.__module__}:{function.__name__}", seconds, max_bytes
        self._process: Any = None
        self._results: Iterator[Any] = iter(())

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def run(self, task: Any) -> Iterator[Any]:
        """Return an iterator of the function's results for a task; unread ones are lost when the next task begins.

        Raises
        ------
        TimeoutError, MemoryError
            If the task exceeds a limit.
        ChildProcessError
            If the function raises an error, or the process ends by itself.
        """
        for _ in self._results:  # unread, they would fill the pipe
            pass
        self._results = self._run(task)
        return self._results

    def _run(self, task: Any) -> Iterator[Any]:
        """Yield the results of `run`; the process starts if it hasn't yet."""
        name, seconds, max_bytes = self._settings
        if self._process is None:
            settings = (name, seconds, max_bytes, *sys.path)
            command = [sys.executable, "-P", "-W", "ignore", "-c", _START, *map(str, settings)]
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, **pipes, start_new_session=True)  # noqa: S603  # our own
        content = marshal.dumps(task)
        with contextlib.suppress(BrokenPipeError):  # it has ended, which is reported below
            self._process.stdin.write(b"%d\n%b" % (len(content), content))
            self._process.stdin.flush()
        for line in self._process.stdout:
            if not line.endswith(b"\n"):  # the process was ended while it wrote
                break
            kind, value = json.loads(line)
            if kind == "end":
                return
            if kind == "memory":
                raise MemoryError(f"took more than {format_size(max_bytes)} of memory")
            if kind == "error":
                raise ChildProcessError(f"failed ({value})")
            yield value
        if (code := self._process.wait()) == -getattr(signal, "SIGPROF", 0):
            raise TimeoutError(f"took more than {seconds:g} s")
        if code == -getattr(signal, "SIGKILL", 0):
            raise ChildProcessError("had its process killed, perhaps since the machine has no memory left")
        raise ChildProcessError(f"ended its process (exit code {code})")


def serve(name: str, seconds: str, max_bytes: str) -> None:
    """Reply to the tasks on standard input, within these limits, until it ends."""
    module, _, function = name.partition(":")
    tasks, sys.stdout = sys.stdin.buffer, sys.stderr  # whatever libraries print, replies go to the first one
    try:
        results = getattr(import_module(module), function)
        _limit_memory(int(max_bytes))
        while size := tasks.readline():
            task = marshal.loads(tasks.read(int(size)))  # noqa: S302  # what the parent wrote
            if hasattr(signal, "setitimer"):  # not on Windows
                signal.signal(signal.SIGPROF, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_PROF, float(seconds))
            try:
                for result in results(task):
                    _reply("result", result)
                _reply("end")
            except MemoryError:
                _reply("memory")
    except Exception as error:  # the parent raises it
        _reply("memory" if isinstance(error, MemoryError) else "error", f"{type(error).__name__}: {error}")


def _reply(kind: str, value: Any = None) -> None:
    """Write a line for the parent at once: before a limit ends the process, each result has left it."""
    assert sys.__stdout__ is not None
    line = json.dumps([kind, value], ensure_ascii=False)
    sys.__stdout__.buffer.write(line.encode("utf-8", "surrogatepass") + b"\n")  # texts may hold half a pair
    sys.__stdout__.buffer.flush()


def _limit_memory(max_bytes: int) -> None:
    """Let this process map at most this many bytes more than it has mapped."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # other systems than Linux, or a lower limit
        import resource

        n_mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (n_mapped + max_bytes,) * 2)
