"""Errors of the operating system as sentences that name the run and the file, and say how to go on."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explain_write_errors(run: Path, key: str) -> Iterator[None]:
    """Whatever happens to a file of a run while it is written, as an error of the same kind in one line.

    Raises
    ------
    FileNotFoundError
        If the run's folder is gone, or the file was taken away meanwhile.
    OSError
        If the disk is full or fails, or something else lies there.
    """
    try:
        yield
    except OSError as error:
        raise _explained(run, key, error) from error


def _explained(run: Path, key: str, error: OSError) -> OSError:
    if isinstance(error, FileNotFoundError):
        if key != "zarr.json" and not (run / "zarr.json").exists():
            return FileNotFoundError(deleted_message(str(run)))
        return FileNotFoundError(
            f"{key!r} of `{run}` was taken away while it was written, by another process that writes there or by hand; "
            "let nobody else write there, and the same command goes on"
        )
    if isinstance(error, IsADirectoryError):
        return IsADirectoryError(
            f"{key!r} of `{run}` is a folder, where a file is to be; move it away, and the same command goes on"
        )
    mend = "free some space" if error.errno in _FULL else "mend that"
    explained = type(error)(
        f"{key!r} of `{run}` can't be written ({error.strerror or error}); {mend}, and the same command goes on"
    )
    explained.errno = error.errno
    return explained


def deleted_message(run: str) -> str:
    """The sentence about a run whose folder was deleted or moved away."""
    return (
        f"`{run}` was deleted or moved away while it was written; put it back and the same command goes on, or delete "
        "what is left of it and the same command begins anew"
    )
