"""Read one file, if it is a regular one of a sensible size, and write one file or folder whole or not at all."""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import StoreError
from ..size import format_size

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_UNBLOCKED = getattr(os, "O_NONBLOCK", 0)  # Windows has neither this nor named pipes in folders


def open_regular(path: Path, *, at_most: int) -> BinaryIO:
    """Open a file to read, links followed; nothing of it is read yet.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If nothing is there, links lead nowhere, or no file can have this name.
    StoreError
        If it isn't a regular file, or has more than `at_most` bytes.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise FileNotFoundError(errno.ENOENT, error.strerror, str(path)) from error
        raise
    _require_regular(path, status, at_most)  # opening a device may already do something
    file = os.fdopen(os.open(path, os.O_RDONLY | _UNBLOCKED), "rb")
    try:
        _require_regular(path, os.fstat(file.fileno()), at_most)  # another one may lie there by now
    except StoreError:
        file.close()
        raise
    return file


def read_regular(path: Path, *, at_most: int) -> bytes:
    """All bytes of a file; raises as `open_regular`."""
    with open_regular(path, at_most=at_most) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # some files of the system have no end


def require_size(name: str, n_bytes: int, at_most: int) -> None:
    """Raise StoreError where a file or object has more bytes than it can have."""
    if n_bytes > at_most:
        raise StoreError(
            f"`{name}` has {format_size(n_bytes)}, where at most {format_size(at_most)} can be; "
            "it isn't what was written there"
        )


def _require_regular(path: Path, status: os.stat_result, at_most: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in KINDS if is_kind(status.st_mode)), "no regular file")
        raise StoreError(f"`{path}` is {kind}, not a file; put the file back")
    require_size(str(path), status.st_size, at_most)


PARTIAL = ".partial"
"""Ends the name of a file that an interrupted writer left unfinished."""


@contextmanager
def atomic_write(target: Path, *, flush: bool = False, make_folder: bool = True) -> Iterator[Path]:
    """A name beside `target` to write to, which takes the target's place when the block ends without an error.

    Parameters
    ----------
    target
        File or folder that is to be. A file that is there is replaced.
    flush
        Whether the file is on the disk before its name is, so that it survives the loss of power.
    make_folder
        Whether the target's own folder is made where it is missing.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "result.csv"
    >>> with atomic_write(target) as partial:
    ...     _ = partial.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    if make_folder:
        target.parent.mkdir(parents=True, exist_ok=True)
    # This call's own name; its dot keeps it out of every `c.*` that looks for chunks.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield partial
        if flush:
            flush_to_disk(partial)
        os.replace(partial, target)
        if flush:
            flush_to_disk(target.parent)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        raise


def flush_to_disk(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive the loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
