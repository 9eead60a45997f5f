"""A file or folder that is there whole, or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
