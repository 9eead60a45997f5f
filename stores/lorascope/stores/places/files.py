"""Read one file, if it is a regular one of a sensible size, and write one file or folder whole or not at all."""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import StoreError
from ..size import format_size

FILE_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_NONBLOCKING = getattr(os, "O_NONBLOCK", 0)  # Windows has neither this nor named pipes in folders


def open_regular(path: Path, *, at_most: int) -> BinaryIO:
    """Open a regular file of at most `at_most` bytes for reading, and follow links.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such file, a link leads nowhere, or the name is too long.
    StoreError
        If it isn't a regular file, or has more than `at_most` bytes.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise FileNotFoundError(errno.ENOENT, error.strerror, str(path)) from error
        raise
    _require_regular(path, status, at_most)  # before it is opened: opening a device may already have effects
    file = os.fdopen(os.open(path, os.O_RDONLY | _NONBLOCKING), "rb")
    try:
        _require_regular(path, os.fstat(file.fileno()), at_most)  # the file may have been replaced meanwhile
    except StoreError:
        file.close()
        raise
    return file


def read_regular(path: Path, *, at_most: int) -> bytes:
    """Return all bytes of a regular file; raises StoreError if it isn't one or is larger than `at_most`."""
    with open_regular(path, at_most=at_most) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # some system files never end


def require_size(name: str, n_bytes: int, at_most: int) -> None:
    """Raise StoreError if a file or object has more than `at_most` bytes; the error calls it by its `name`."""
    if n_bytes > at_most:
        raise StoreError(
            f"`{name}` has {format_size(n_bytes)}, where at most {format_size(at_most)} can be; "
            "it isn't what was written there"
        )


def _require_regular(path: Path, status: os.stat_result, at_most: int) -> None:
    """Raise StoreError unless `status` is that of a regular file of at most `at_most` bytes."""
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in FILE_KINDS if is_kind(status.st_mode)), "no regular file")
        raise StoreError(f"`{path}` is {kind}, not a file; put the file back")
    require_size(str(path), status.st_size, at_most)


PARTIAL = ".partial"
"""End of the names of unfinished files."""


@contextmanager
def atomic_write(target: Path, *, flush: bool = False, make_folder: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces `target` when the block ends without an error.

    Parameters
    ----------
    target
        File or folder to write. An existing file is replaced.
    flush
        Whether content and name are flushed to the disk, so that the file survives a power failure.
    make_folder
        Whether the target's folder is created if it is missing.

    Raises
    ------
    DiskFullError
        If the disk is full, whatever error the block raised then.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "result.csv"
    >>> with atomic_write(target) as partial:
    ...     _ = partial.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    # A name of this call alone; because of its dot no pattern `c.*` for chunks matches it.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    left = "what was there is unchanged" if os.path.lexists(target) else "nothing of it is left"
    try:
        with explain_full_disk(target, left, partial):
            if make_folder:
                target.parent.mkdir(parents=True, exist_ok=True)
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


FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors that a disk is full, and that a user's share of it is."""
FULL_BYTES = 2**16
"""Fewest free bytes of a disk that isn't full: some libraries raise errors without a number on a full one."""
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")


class DiskFullError(OSError):
    """Error that a file can't be written since its disk is full; the message says what is left, and what to do."""

    def __init__(self, message: str, number: int = errno.ENOSPC) -> None:
        """Keep the message, and the number of the system's error."""
        super().__init__(message)
        self.errno = number


@contextmanager
def explain_full_disk(target: Path, left: str, partial: Path | None = None) -> Iterator[None]:
    """Turn errors of the block into DiskFullError if the disk of `target` is full; `left` says what stays on it.

    An error that already names another file stays as it is, unless that file is in `partial`, which will be deleted.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFullError) and (partial is None or partial.name not in str(error)):
            raise
        if (full := full_disk_error(error, target, left)) is not None:
            raise full from error
        raise


def full_disk_error(error: BaseException, target: Path, left: str) -> DiskFullError | None:
    """Return a DiskFullError in place of an error that was raised while `target` was written; None if it isn't one.

    Libraries' errors without a number, and netCDF's that it isn't permitted to write where it is, are recognised by
    their text, or by the disk having no free bytes.
    """
    rust = _RUST_ERROR.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(rust[1]) if rust else None
    if number in (None, errno.EACCES) and isinstance(error, OSError | RuntimeError):
        folder = next(folder for folder in target.absolute().parents if folder.is_dir())
        if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free < FULL_BYTES:
            number = errno.ENOSPC
    if number not in FULL_DISK_ERRORS:
        return None
    mend = "free some space, and give the same command again"
    return DiskFullError(f"`{target}` can't be written ({os.strerror(number)}): {left}; {mend}", number)


def flush_to_disk(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk, so that they survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
