"""A run in a folder of this machine: files that are whole and on the disk, or absent."""

import errno
import mmap
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from .files import FULL_DISK_ERRORS, PARTIAL, DiskFullError, atomic_write, flush_to_disk, open_regular, read_regular

DIRECT_BYTES = 64 * 1024
"""Files of at least this size are written past the page cache."""
PIECE_BYTES = 4 * 2**20
"""Size of the buffer for direct writes."""
BLOCK_BYTES = 4096
"""Start and length of a direct write are multiples of this."""
MAX_WRITE_BYTES = 2**30
"""Most bytes of one direct write; the system's limit is just below 2 GiB."""
_O_DIRECT = getattr(os, "O_DIRECT", 0)  # only Linux has it; 0 changes nothing
_NOT_DIRECT_ERRORS = (errno.EINVAL, errno.ENOTSUP)

_buffers = threading.local()


@dataclass(frozen=True)
class FolderPlace:
    """Storage of one run in a folder of this machine's file system."""

    path: Path
    remote: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Path of the folder as text."""
        return str(self.path)

    def read(self, key: str, *, at_most: int) -> bytes:
        """Return a file's bytes; raises StoreError if it isn't regular or has more than `at_most`."""
        return read_regular(self.path / key, at_most=at_most)

    def read_part(self, key: str, start: int, stop: int | None, *, at_most: int) -> bytes:
        """Return bytes `start` to `stop` of a file, or the last ones, as a slice does; `at_most` limits the file."""
        with open_regular(self.path / key, at_most=at_most) as file:
            file.seek(start if start >= 0 else max(file.seek(0, os.SEEK_END) + start, 0))
            return file.read() if stop is None else file.read(stop - start)

    def size(self, key: str) -> int | None:
        """Return a file's size in bytes; None if there is no such file."""
        try:
            return (self.path / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sizes(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Yield (key, size in bytes) of every file below a folder, without temporary files."""
        for key in self.keys(folder):
            yield key, (self.path / key).lstat().st_size

    def keys(self, folder: str = "") -> Iterator[str]:
        """Yield the key of every file below a folder, without temporary files."""
        return (key for key in self._walk_files(folder) if not key.endswith(PARTIAL))

    def temporary_files(self) -> Iterator[str]:
        """Yield the keys of unfinished files of interrupted writers."""
        return (key for key in self._walk_files("") if key.endswith(PARTIAL))

    def _walk_files(self, folder: str) -> Iterator[str]:
        """Yield the keys of all files and links below a folder, always in the same order; links aren't followed."""
        for at, folders, files in os.walk(self.path / folder):
            folders.sort()
            links = [name for name in folders if os.path.islink(os.path.join(at, name))]  # not followed
            for name in sorted(files + links):
                yield (Path(at) / name).relative_to(self.path).as_posix()

    def mark(self, key: str) -> str | None:
        """Return a file's device, inode and time of change as text; None if there is no such file."""
        try:
            status = (self.path / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return f"{status.st_dev} {status.st_ino} {status.st_mtime_ns}"

    def write(self, key: str, *pieces: bytes | memoryview) -> None:
        """Write a file whole or not at all, with its content on the disk; errors say what to do."""
        with explain_write_errors(self.path, key):
            self._make_folder(key)
            with atomic_write(self.path / key, make_folder=False) as partial:
                _write_durably(partial, [memoryview(piece).cast("B") for piece in pieces])

    def _make_folder(self, key: str) -> None:
        """Create the folder of a key; the run's own only for the root, so that a deleted run stays deleted."""
        if "/" not in key:
            self.path.mkdir(parents=True, exist_ok=True)
        elif not (self.path / key).parent.is_dir():
            for folder in reversed(Path(key).parents[:-1]):
                (self.path / folder).mkdir(exist_ok=True)

    def flush(self, folder: str) -> None:
        """Flush the names in a folder to the disk; for the run's own folder also its name."""
        with explain_write_errors(self.path, folder or "zarr.json"):
            flush_to_disk(self.path / folder)
            if not folder:
                flush_to_disk(self.path.absolute().parent)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files, and folders that are empty then; missing files are ignored."""
        folders = set()
        for key in keys:
            (self.path / key).unlink(missing_ok=True)
            folders |= {(self.path / key).parents[up] for up in range(key.count("/"))}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            with suppress(OSError):  # it isn't empty
                folder.rmdir()

    def free_bytes(self) -> int | None:
        """Return the free bytes of the disk with this folder, which needn't exist yet."""
        folder = next(parent for parent in (self.path.absolute(), *self.path.absolute().parents) if parent.is_dir())
        return shutil.disk_usage(folder).free


def _write_durably(file: Path, pieces: list[memoryview]) -> None:
    """Write these pieces to a file, and flush its content to the disk."""
    if sum(map(len, pieces)) < DIRECT_BYTES or not _write_directly(file, pieces):
        with open(file, "wb", buffering=0) as stream:
            for piece in pieces:
                while piece:  # one write takes 2 GiB at most
                    piece = piece[stream.write(piece) :]
            os.fsync(stream.fileno())


def _write_directly(file: Path, pieces: list[memoryview]) -> bool:
    """Write past the page cache, which saves 4/5 of the CPU time; return False if that isn't possible."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _O_DIRECT, 0o666)
        try:
            for whole in _aligned_pieces(pieces):
                if os.write(descriptor, whole) != len(whole):
                    return False  # the disk is nearly full: a plain write raises the right error
            os.ftruncate(descriptor, sum(map(len, pieces)))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _NOT_DIRECT_ERRORS:
            return False
        raise
    return True


def _aligned_pieces(pieces: list[memoryview]) -> Iterator[memoryview]:
    """Yield the bytes of `pieces` in whole, page-aligned blocks, as direct writes need them.

    The last block is filled up.

    Aligned bytes are passed on as they are, all others through one buffer, which the next step overwrites.
    """
    buffer, n_filled = _aligned_buffer(), 0
    for piece in pieces:
        if not n_filled and np.frombuffer(piece, np.uint8).ctypes.data % BLOCK_BYTES == 0:
            n_whole = len(piece) // BLOCK_BYTES * BLOCK_BYTES
            for start in range(0, n_whole, MAX_WRITE_BYTES):
                yield piece[start : min(start + MAX_WRITE_BYTES, n_whole)]
            piece = piece[n_whole:]
        while piece:
            n_bytes = min(len(piece), PIECE_BYTES - n_filled)
            buffer[n_filled : n_filled + n_bytes] = piece[:n_bytes]
            piece, n_filled = piece[n_bytes:], n_filled + n_bytes
            if n_filled == PIECE_BYTES:
                yield buffer
                n_filled = 0
    if n_filled:
        yield buffer[: -(-n_filled // BLOCK_BYTES) * BLOCK_BYTES]


def _aligned_buffer() -> memoryview:
    """Return this thread's buffer of 4 MiB for direct writes, which begins at the start of a page."""
    if not hasattr(_buffers, "aligned"):
        _buffers.aligned = memoryview(mmap.mmap(-1, PIECE_BYTES))
    aligned: memoryview = _buffers.aligned
    return aligned


@contextmanager
def explain_write_errors(run: Path, key: str) -> Iterator[None]:
    """Turn an OSError while a run's file is written into one of the same type that says what to do.

    Raises
    ------
    FileNotFoundError
        If the run's folder or the file was deleted meanwhile.
    OSError
        If the disk is full or fails, or a folder has the file's name.
    """
    try:
        yield
    except OSError as error:
        raise _explained_error(run, key, error) from error


def _explained_error(run: Path, key: str, error: OSError) -> OSError:
    """Return an error of the same type as `error` that names the run's file and says what to do."""
    if isinstance(error, FileNotFoundError):
        if key != "zarr.json" and not (run / "zarr.json").exists():
            return FileNotFoundError(deleted_message(str(run)))
        return FileNotFoundError(
            f"{key!r} of `{run}` was deleted while it was written, by another process or by hand; "
            "make sure that nobody else writes there, and the same command goes on"
        )
    if isinstance(error, IsADirectoryError):
        return IsADirectoryError(
            f"{key!r} of `{run}` is a folder, but must be a file; move it away, and the same command goes on"
        )
    is_full = error.errno in FULL_DISK_ERRORS
    mend = "free some space" if is_full else "fix that"
    reason = os.strerror(error.errno) if error.errno is not None else str(error)
    explained = (DiskFullError if is_full else type(error))(
        f"{key!r} of `{run}` can't be written ({reason}); {mend}, and the same command goes on"
    )
    explained.errno = error.errno
    return explained


def deleted_message(run: str) -> str:
    """Return the message of an error about a run whose folder was deleted or moved away while it was written."""
    return (
        f"`{run}` was deleted or moved away while it was written; put it back and the same command goes on, or "
        "delete what is left of it and the same command starts again"
    )
