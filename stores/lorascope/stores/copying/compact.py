"""Writing a run that was captured with raw codec again, compressed, row by row."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StoreError
from ..format.stored_array import StoredArray
from ..places.file_lock import run_lock
from ..places.place import Place
from ..progress import Progress
from ..reading.read import open_checked, open_group, open_run
from ..reading.run import Run
from ..reading.there import find_run
from .copy_rows import copy_rows, select
from .copy_target import add_step, copy_target, spec_of, tables_of, weights_of


def compact(source: str | Path, out: str | Path, *, progress: Progress | None = None) -> Run:
    """Copy a run with the format's own compression; the source doesn't change.

    Each row is checked against its digest when it is read, and each chunk is read back and compared, bytes and values,
    before its row is committed. If it is interrupted, the same call continues it. Except for root attributes, the
    result is byte for byte the store that a capture without `raw` would have written.

    Parameters
    ----------
    source
        Folder or url of a finished run.
    out
        Folder or url of the compressed run, new or empty.
    progress
        Called with (rows done, rows in all).

    Raises
    ------
    StoreError
        If the source isn't finished or is compressed already, a row of it is broken, something else is at `out`, or
        what was written isn't what is read back.
    FileExistsError
        If another process writes the copy.

    Notes
    -----
    Memory holds one row, and a chunk a thread.
    """
    source = find_run(source)
    run = open_checked(*open_group(source))
    if not run.finished or len(run.lost_rows):
        raise StoreError(f"`{run.place.name}` isn't finished; let its capture come to an end first")
    if all(array.compressed for array in run.arrays.values()):
        raise StoreError(f"`{run.place.name}` is compressed already; there is nothing to gain")
    spec = replace(spec_of(run), codec="default", attributes=add_step(run, "compact", range(run.n_rows)))
    with run_lock(out):
        target = copy_target(source, out, spec, tables=tables_of(run), weights=weights_of(run, spec))
        if isinstance(target, Run):
            return target
        whole = select(run, components=None, samples=None, token_share=None, seed=0, adapters=None)
        with target as writer:
            checked = _ReadBack(writer.place, open_checked(*open_group(out)).arrays)
            writer.place = checked

            def commit(row: int, blocks: Mapping[str, np.ndarray]) -> None:
                checked.blocks = blocks
                writer.write_row(row, blocks)

            copy_rows(run, whole, writer, commit, progress)
            writer.finish({})
        return open_run(out)


class _ReadBack:
    """A place that reads what it wrote, and compares its bytes and its values, before a write counts as done."""

    def __init__(self, place: Place, arrays: Mapping[str, StoredArray]) -> None:
        self._place = place
        self._arrays = arrays
        self.blocks: Mapping[str, np.ndarray] = {}
        """Array path -> what the chunk of it that is written next must hold."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place, name)

    def write(self, key: str, *pieces: bytes | memoryview) -> None:
        """Write, read, compare."""
        self._place.write(key, *pieces)
        path, _, name = key.rpartition("/")
        if path not in self.blocks:
            return
        found, block = self._place.read(key, at_most=self._arrays[path].max_bytes), self.blocks[path]
        as_written = found == b"".join(pieces)
        if as_written:
            read = self._arrays[path].decode(int(name.split(".")[1]), found)
            as_written = read.shape == block.shape and read.tobytes() == block.tobytes()
        if not as_written:
            raise StoreError(f"chunk {key!r} of `{self._place.name}` isn't what was written; its row wasn't committed")
