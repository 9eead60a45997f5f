"""One process at a time makes what is to lie at a path."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def file_lock(target: Path) -> Iterator[None]:
    """No other process of this machine, or of one that shares the file's locks, makes the same meanwhile.

    Raises
    ------
    FileExistsError
        If another one does.
    """
    path = target.with_name(f".{target.name}.lock")
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a", encoding="ascii")  # noqa: SIM115 (closed below)
        _lock(file, target)
        if _is_still(file, path):
            break
        file.close()  # the one that held it has just taken it away
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows: it is open
            path.unlink(missing_ok=True)
        file.close()


def _lock(file: IO[str], target: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: whoever deletes or renames what another one has open fails there
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):  # a file system without locks
            return
        file.close()
        if not isinstance(error, BlockingIOError):
            raise
        raise FileExistsError(
            f"`{target}` is being made by another process; wait for it, or name another place"
        ) from None


def _is_still(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
