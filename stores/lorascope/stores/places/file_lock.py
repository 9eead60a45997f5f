"""Locks that let one process at a time write at a path, and the process that holds one."""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from .place import Place, open_place

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # Windows has neither
MOST_BYTES = 4096
"""Bytes of a lock file that are read: its holder takes some 200."""
MOST_ATTEMPTS = 100
"""Times that a folder is made for a lock before it counts as one that can't be made, as below `/proc`."""
NAMING_SECONDS = 0.1
"""A holder has written its name so soon after it took the lock."""


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


class HeldError(FileExistsError):
    """Another process makes what is to lie at a path."""

    def __init__(self, message: str, holder: Holder | None = None) -> None:
        super().__init__(message)
        self.holder = holder
        """Which process; None where that isn't known."""


@contextmanager
def file_lock(target: Path) -> Iterator[None]:
    """No other process of this machine, or of one that shares the file's locks, makes the same meanwhile.

    The lock is the operating system's, on a file beside the target that names its holder: it ends with the process,
    however that ends, and a file that is left is no obstacle. Where a file system has no locks, or nobody may make a
    file there, nothing is held.

    Raises
    ------
    HeldError
        If another one does: the message says which process, since when, and what to do.
    OSError
        If the lock's file can't be made, as on a full disk or where a folder of its name lies.
    """
    real = Path(os.path.realpath(target))  # a link to it is held as what it leads to
    path = real.parent / f".{real.name}.lock"
    made = [folder for folder in path.parents if not os.path.lexists(folder)]
    descriptor = None
    try:
        descriptor = _locked_file(path, target)
        yield
    finally:
        if descriptor is not None:
            with suppress(PermissionError):  # Windows: it is open; or the folder is somebody else's
                path.unlink(missing_ok=True)
            os.close(descriptor)
        for folder in made:
            with suppress(OSError):  # something was put there
                folder.rmdir()


def run_lock(path: str | Path | Place) -> AbstractContextManager[None]:
    """`file_lock` of a run's folder; nothing is held of an object store, which has no locks."""
    place = open_place(path)
    return file_lock(place.path) if isinstance(place.path, Path) else nullcontext()


def _locked_file(path: Path, target: Path) -> int | None:
    """Descriptor of the lock's file, locked and naming this process; None where there can be none."""
    attempts = count()
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _PLAIN, 0o666)
        except FileNotFoundError:  # who made the folder has just taken it away
            if next(attempts) == MOST_ATTEMPTS:
                raise
            continue
        except (FileExistsError, NotADirectoryError):  # below a file: whoever writes there says so
            return None
        except OSError as error:
            if error.errno not in _NOT_ALLOWED:
                raise OSError(
                    f"`{path}`, which keeps others from writing `{target}` meanwhile, can't be made "
                    f"({error.strerror}); look at what lies there, or name another place"
                ) from error
            try:
                descriptor = os.open(path, os.O_RDONLY | _PLAIN)  # another user's
            except OSError:
                return None
        try:
            if not _locked(descriptor):
                raise _refusal(descriptor, target)
            if _is_still(descriptor, path):
                _name(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the one that held it has just taken it away


def _locked(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: whoever deletes or renames what another one has open fails there
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _name(descriptor: int) -> None:
    with suppress(OSError):  # a full disk, or another user's file: the lock is held without a name
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(this_process()._asdict()).encode())


def _refusal(descriptor: int, target: Path) -> HeldError:
    time.sleep(NAMING_SECONDS)
    holder = None
    with suppress(OSError, ValueError, RecursionError):
        holder = holder_of(json.loads(os.read(descriptor, MOST_BYTES)))
    who = holder or "another process"
    return HeldError(f"`{target}` is being written by {who}; wait for it, or name another place", holder)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


LONGEST = 300
"""Characters of an entry; what is longer wasn't written by us."""


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
