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

from .files import full_disk_error
from .place import Place, open_place

_NO_LOCK_ERRORS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_PERMISSION_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS)
_OPEN_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # Windows has neither
MAX_LOCK_FILE_BYTES = 4096
"""Most bytes of a lock file that are read; the text about its holder has about 200."""
MAX_ATTEMPTS = 100
"""Number of attempts to create the folder of a lock; below `/proc`, say, it can't be created."""
NAMING_SECONDS = 0.1
"""Time to wait for a holder to write its name after it took the lock."""


class Holder(NamedTuple):
    """Process that writes at a path: its host, id and start, and the identity of its machine."""

    host: str
    process: int
    since: str
    """When it began to write, in UTC, to the minute."""
    machine: str
    """Identity of the machine's boot and process namespace, so that process ids are unique; empty if unknown."""
    started: str
    """When the process began, as the kernel counts; empty if unknown."""

    def __str__(self) -> str:
        """Return text for errors, such as `process 12 on host gpu1 since 2026-01-01 10:00 UTC`."""
        return f"process {self.process} on host {self.host} since {self.since}"


class HeldError(FileExistsError):
    """Error that another process is writing at a path."""

    def __init__(self, message: str, holder: Holder | None = None) -> None:
        """Keep the writing process, if it is known, along with the message."""
        super().__init__(message)
        self.holder = holder
        """The writing process; None if it isn't known."""


@contextmanager
def file_lock(target: Path) -> Iterator[None]:
    """Lock a path inside of this context, so that no other process writes there.

    It is a lock of the operating system on a file next to the target, which names its holder. It ends with the process,
    however that ends, and a file that remains is no obstacle. Nothing is locked if the file system has no locks, or
    this process isn't allowed to create the file.

    Raises
    ------
    HeldError
        If another process holds the lock: the message says which one, since when, and what to do.
    OSError
        If the lock file can't be created, for example because the disk is full or a folder has its name.
    """
    real = Path(os.path.realpath(target))  # a link and its target share one lock
    path = real.parent / f".{real.name}.lock"
    made = [folder for folder in path.parents if not os.path.lexists(folder)]
    descriptor = None
    try:
        descriptor = _open_locked_file(path, target)
        yield
    finally:
        if descriptor is not None:
            with suppress(PermissionError):  # Windows: it is open; or the folder belongs to somebody else
                path.unlink(missing_ok=True)
            os.close(descriptor)
        for folder in made:
            with suppress(OSError):  # it isn't empty any more
                folder.rmdir()


def run_lock(path: str | Path | Place) -> AbstractContextManager[None]:
    """Return a context that locks a run's folder; for a run in an object store, one that does nothing.

    The lock is `file_lock`.
    """
    place = open_place(path)
    return file_lock(place.path) if isinstance(place.path, Path) else nullcontext()


def _open_locked_file(path: Path, target: Path) -> int | None:
    """Open and lock a lock file, write this process into it, and return its descriptor; None if not permitted.

    Raises HeldError if another process has locked it.
    """
    attempts = count()
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN_FLAGS, 0o666)
        except FileNotFoundError:  # the process that created the folder has just removed it
            if next(attempts) == MAX_ATTEMPTS:
                raise
            continue
        except (FileExistsError, NotADirectoryError):  # its folder is a file: writing there raises a clearer error
            return None
        except OSError as error:
            if (full := full_disk_error(error, path, "nothing was written")) is not None:
                raise full from error
            if error.errno not in _PERMISSION_ERRORS:
                raise OSError(
                    f"`{path}`, which keeps others from writing `{target}` meanwhile, can't be created "
                    f"({error.strerror}); look at that path, or name another place"
                ) from error
            try:
                descriptor = os.open(path, os.O_RDONLY | _OPEN_FLAGS)  # it is another user's
            except OSError:
                return None
        try:
            if not _try_lock(descriptor):
                raise _held_error(descriptor, target)
            if _is_same_file(descriptor, path):
                _write_holder(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has just removed it


def _try_lock(descriptor: int) -> bool:
    """Lock an open file without waiting, and return whether that worked; True too if the system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows: a file that another process has open can't be deleted or renamed anyway
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCK_ERRORS:
            raise
    return True


def _write_holder(descriptor: int) -> None:
    """Write this process's `Holder` into the lock file as JSON; a failure is ignored."""
    with suppress(OSError):  # a full disk, or another user's file: the lock is held anyway
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(this_process()._asdict()).encode())


def _held_error(descriptor: int, target: Path) -> HeldError:
    """Return the HeldError that names the process in the lock file, or `another process` if it is unreadable."""
    time.sleep(NAMING_SECONDS)
    holder = None
    with suppress(OSError, ValueError, RecursionError):
        holder = parse_holder(json.loads(os.read(descriptor, MAX_LOCK_FILE_BYTES)))
    who = holder or "another process"
    return HeldError(f"`{target}` is being written by {who}; wait for it, or name another place", holder)


def _is_same_file(descriptor: int, path: Path) -> bool:
    """Return whether the open file is still the one at this path, neither deleted nor replaced."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


MAX_HOLDER_CHARACTERS = 300
"""Most characters of an entry of a `Holder` that is read."""


def this_process() -> Holder:
    """Return this process as a `Holder`, which writes from now on."""
    since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Holder(socket.gethostname(), os.getpid(), since, _machine_identity(), _start_of_process(os.getpid()))


def parse_holder(document: Any) -> Holder | None:
    """Return the `Holder` whose `_asdict()` is this document from JSON; None if it is something else."""
    if not isinstance(document, dict) or document.keys() != set(Holder._fields):
        return None
    texts = [value for name, value in document.items() if name != "process"]
    fits = type(document["process"]) is int and all(
        isinstance(text, str) and len(text) <= MAX_HOLDER_CHARACTERS for text in texts
    )
    return Holder(**document) if fits else None


def may_be_running(holder: Holder) -> bool:
    """Return whether this may be another process that still runs; True for any process of another machine."""
    here = this_process()
    if not here.machine or (here.host, here.machine) != (holder.host, holder.machine):
        return True
    if (here.process, here.started) == (holder.process, holder.started):
        return False
    try:
        os.kill(holder.process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        pass
    return _start_of_process(holder.process) in (holder.started, "")


def _machine_identity() -> str:
    """Return boot id and process namespace of this machine, which make process ids unique; empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_of_process(process: int) -> str:
    """Return when a process began, as text in clock ticks since the boot; empty if unknown."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
