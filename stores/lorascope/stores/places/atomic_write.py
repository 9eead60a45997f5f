"""A file or folder that is there whole, or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_write"]


@contextmanager
def atomic_write(target: Path, *, flush: bool = False) -> Iterator[Path]:
    """A name beside `target` to write to, which takes the target's place when the block ends without an error.

    Parameters
    ----------
    target
        File or folder that is to be; its own folder is made. A file that is there is replaced.
    flush
        Whether the file is on the disk before its name is, so that it survives the loss of power.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "result.csv"
    >>> with atomic_write(target) as partial:
    ...     _ = partial.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")  # of this call alone
    try:
        yield partial
        if flush:
            _flush(partial)
        os.replace(partial, target)
        if flush:
            _flush(target.parent)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
