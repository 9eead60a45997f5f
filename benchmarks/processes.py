"""Captures as real processes: started by fork from a warm parent, by the command line, or by torchrun."""

import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from phases import SITE, watch

HERE = Path(__file__).parent


class Running:
    """A capture that runs: one process, or torchrun's agent with its ranks."""

    def __init__(self, pid: int, log: Path, n_ranks: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.pid, self.log, self.n_ranks = pid, log, n_ranks
        self._process = process
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self._code is None and self._process is not None:
            self._code = self._process.poll()
        elif self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, seconds: float) -> int:
        """Its exit code; raises TimeoutError if it doesn't end, after putting an end to it."""
        stop = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > stop:
                self.kill_all()
                raise TimeoutError(f"still running after {seconds:.0f} s:\n{self.last_words()}")
            time.sleep(0.002)
        assert self._code is not None
        return self._code

    def ranks(self) -> list[int]:
        """Process ids by rank, as far as they have begun; the process itself where it is alone."""
        if self.n_ranks == 1:
            return [self.pid]
        found = {rank_of(child): child for child in children(self.pid)}
        return [found[rank] for rank in sorted(found) if rank >= 0]

    def send(self, number: int, pid: int | None = None) -> None:
        """Send a signal to one process; by default to the one that was started."""
        if self.poll() is None:
            os.kill(pid or self.pid, number)

    def kill_all(self) -> None:
        """SIGKILL to every rank and the agent."""
        for pid in [self.pid, *self.ranks()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        while self.poll() is None:
            time.sleep(0.002)

    def last_words(self) -> str:
        """The end of what it printed."""
        return "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-15:])

    def errors(self) -> list[str]:
        """Lines in which processes said why they ended."""
        return re.findall(r"^lorascope: error: (.*)$", self.log.read_text(errors="replace"), re.MULTILINE)


def warm_up() -> None:
    """Import what a capture imports; no thread is started, so that a fork is whole."""
    import torch

    torch.set_num_threads(1)
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import lorascope.cli.commands.capture
    import lorascope.cli.main  # noqa: F401


def fork(words: Sequence[str], notes: Path, log: Path) -> Running:  # noqa: RET503 (a child never gets there)
    """`lorascope WORDS` in a child of this process, which has imported everything already."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Running(pid, log, 1)
    become(words, log, lambda: watch(notes))


def become(words: Sequence[str], log: Path, prepare: Callable[[], None]) -> NoReturn:
    """Be `lorascope WORDS` in this process, a fork, which ends with it."""
    code = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare()
        from lorascope.cli.main import main

        code = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as error:  # as Python itself would end
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def command(words: Sequence[str], notes: Path, log: Path, n_ranks: int = 1) -> Running:
    """`python -m lorascope WORDS`, or with several ranks `torchrun --nproc-per-node N -m lorascope WORDS`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_ranks}"] if n_ranks > 1 else []
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "lorascope", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(notes),
            start_new_session=True,
        )
    return Running(process.pid, log, n_ranks, process)


def environment(notes: Path) -> Mapping[str, str]:
    """One thread a process, and a `sitecustomize` that notes where it stands."""
    site = notes.parent / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "CAPTURE_PHASES": str(notes),
        "CAPTURE_PHASES_CODE": str(HERE),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def children(pid: int) -> list[int]:
    """Processes that a process started, and theirs."""
    try:
        texts = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    own = [int(word) for text in texts for word in text.split()]
    return own + [further for child in own for further in children(child)]


def rank_of(pid: int) -> int:
    """The rank that torchrun gave a process; -1 if none."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return -1
    return next((int(entry[5:]) for entry in entries if entry.startswith(b"RANK=")), -1)


def kill_survivors(pids: Sequence[int], seconds: float) -> list[int]:
    """Processes that still run after `seconds` s; they are killed then."""
    stop = time.monotonic() + seconds
    while (left := alive(pids)) and time.monotonic() < stop:
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def alive(pids: Sequence[int]) -> list[int]:
    """Those that still run (a process that waits to be reaped doesn't)."""
    states = {}
    for pid in pids:
        try:
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [pid for pid, state in states.items() if state != "Z"]
