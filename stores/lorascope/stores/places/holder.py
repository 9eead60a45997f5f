"""Process that writes at a place, as others read of it."""

import os
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

LONGEST = 300
"""Characters of an entry; what is longer wasn't written by us."""


class Holder(NamedTuple):
    """A process that writes."""

    host: str
    process: int
    since: str
    """Time in UTC, to the minute."""
    machine: str
    """Scope of process numbers: the machine's boot and its namespace of processes; empty where nobody says."""
    started: str
    """When the process began, in the kernel's own count; empty where nobody says."""

    def __str__(self) -> str:
        return f"process {self.process} on host {self.host} since {self.since}"


def this_process() -> Holder:
    """The process that asks, as one that writes from now on."""
    since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Holder(socket.gethostname(), os.getpid(), since, _machine(), _started(os.getpid()))


def holder_of(document: Any) -> Holder | None:
    """The process that `_asdict` was written of; None if it is something else."""
    if not isinstance(document, dict) or document.keys() != set(Holder._fields):
        return None
    texts = [value for name, value in document.items() if name != "process"]
    fits = type(document["process"]) is int and all(isinstance(text, str) and len(text) <= LONGEST for text in texts)
    return Holder(**document) if fits else None


def may_live(holder: Holder) -> bool:
    """Whether another process than this one may still be at work, as one of another machine always may."""
    here = this_process()
    if not here.machine or (here.host, here.machine) != (holder.host, holder.machine):
        return True
    if (here.process, here.started) == (holder.process, holder.started):
        return False
    try:
        os.kill(holder.process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return _started(holder.process) in (holder.started, "")


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
