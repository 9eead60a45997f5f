"""A Python process whose time and memory are limited, for work that somebody else's text can make endless.

It gets a task as a line of JSON and replies to it with lines of JSON; nothing is pickled.
"""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from .size import format_size

_START = """
import json, sys
sys.path[:] = json.loads(sys.stdin.buffer.readline())
from lorascope.stores.confined import serve
serve()
"""


class ConfinedProcess:
    """Process that runs one function on task after task; it starts with the first task and is killed at the end.

    Parameters
    ----------
    function
        Takes a task (a JSON value) and yields its results (JSON values). The process imports it by its module and name.
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
        _, seconds, max_bytes = self._settings
        if self._process is None:
            command = [sys.executable, "-I", "-W", "ignore", "-c", _START]
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, **pipes, start_new_session=True)  # noqa: S603  # our own
            self._send(sys.path, self._settings)
        self._send(task)
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
        raise ChildProcessError(f"ended its process (exit code {code})")

    def _send(self, *values: Any) -> None:
        """Write values to the process, one a line; if it has ended, `run` says so."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"".join(map(_to_line, values)))
            self._process.stdin.flush()


def serve() -> None:
    """Reply to the tasks on standard input until it ends, within the limits that its first line states."""
    name, seconds, max_bytes = json.loads(sys.stdin.buffer.readline())
    module, _, function = name.partition(":")
    sys.stdout = sys.stderr  # whatever libraries print, replies go to the first one
    try:
        results = getattr(import_module(module), function)
        _limit_memory(max_bytes)
        for line in sys.stdin.buffer:
            if hasattr(signal, "setitimer"):  # not on Windows
                signal.signal(signal.SIGPROF, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                for result in results(json.loads(line)):
                    _reply("result", result)
                _reply("end")
            except MemoryError:
                _reply("memory")
    except Exception as error:  # the parent raises it
        _reply("error", f"{type(error).__name__}: {error}")


def _to_line(value: Any) -> bytes:
    """Return a JSON value as a line; halves of surrogate pairs, which texts may hold, stay what they are."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _reply(kind: str, value: Any = None) -> None:
    """Write a line for the parent at once: before a limit ends the process, each result has left it."""
    assert sys.__stdout__ is not None
    sys.__stdout__.buffer.write(_to_line([kind, value]))
    sys.__stdout__.buffer.flush()


def _limit_memory(max_bytes: int) -> None:
    """Let this process map at most this many bytes more than it has mapped."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # other systems than Linux, or a lower limit
        import resource

        n_mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (n_mapped + max_bytes,) * 2)
