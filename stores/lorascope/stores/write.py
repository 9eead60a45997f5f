"""Writing rows: every chunk, then the row's digest, each flushed to the disk before the next."""

import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import zarr
from zarr.abc.buffer import Buffer as AnyBuffer
from zarr.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from .digest import combine, flush_directory, hash_file, replace_file
from .errors import StoreError
from .layout import ROW_TOKENS, chunk_key

__all__ = ["RowWritten", "RunWriter"]


class RowWritten(NamedTuple):
    """What committing one row took."""

    row: int
    raw_bytes: int
    """Bytes of the row's arrays in memory."""
    stored_bytes: int
    """Bytes of its chunks on disk."""


class RunWriter:
    """The owner of a run's rows; made by `create_run`.

    A row is written whole and once. It counts only when its digest is on the disk, and the digest is written only
    when all of the row's chunks are: whatever interrupts the writer, no reader sees half a row. Rows may come in any
    order and from several threads, one row from one of them.
    """

    def __init__(self, root: Path, *, arrays: Mapping[str, zarr.Array[Any]], digests: zarr.Array[Any]) -> None:
        self.path = root
        self._arrays = arrays
        self._digests = digests
        self._n_tokens = next(iter(arrays.values())).shape[0]
        self._committed: set[int] = set()
        self._threads = ThreadPoolExecutor(thread_name_prefix="lorascope-chunk")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown()

    @property
    def row_arrays(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Array path -> (shape of a full row's block, dtype) of everything that a row must bring."""
        return {path: ((ROW_TOKENS, *array.shape[1:]), np.dtype(array.dtype)) for path, array in self._arrays.items()}

    def row_tokens(self, row: int) -> slice:
        """The row's place on the token axis; the last row may be short."""
        return slice(row * ROW_TOKENS, min((row + 1) * ROW_TOKENS, self._n_tokens))

    def write_row(self, row: int, blocks: Mapping[str, np.ndarray]) -> RowWritten:
        """Write and commit one row; returns its size in memory and on disk.

        Parameters
        ----------
        row
            Index of the row.
        blocks
            Array path -> (token, ...) block for each of `row_arrays`, exactly the row's tokens long.

        Raises
        ------
        StoreError
            If the row doesn't exist or is committed already, or the blocks aren't what `row_arrays` asks for.
        OSError
            If the disk is full or fails; the row stays uncommitted.
        """
        self._check_row(row, blocks)
        written = list(self._threads.map(lambda path: self._write_chunk(path, row, blocks[path]), self._arrays))
        digest = combine((key, part) for key, part, _ in written)
        self._digests[row] = np.frombuffer(digest, dtype=np.uint8)
        file = self.path / chunk_key("rows/digest", row, 2)
        hash_file(file, flush=True)
        flush_directory(file.parent)
        self._committed.add(row)
        return RowWritten(row, sum(block.nbytes for block in blocks.values()), sum(size for _, _, size in written))

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Mark the run finished, add attributes to its root, and consolidate its metadata.

        All of it comes to the disk in one step: whatever interrupts it, the run is unfinished as before, or finished.

        Raises
        ------
        StoreError
            If a row is still missing.
        """
        missing = -(-self._n_tokens // ROW_TOKENS) - len(self._committed)
        if missing:
            raise StoreError(f"{missing} rows of `{self.path}` aren't committed; write them before finishing")
        replace_file(self.path / "zarr.json", consolidated_root(self.path, {**attributes, "finished": True}))

    def _check_row(self, row: int, blocks: Mapping[str, np.ndarray]) -> None:
        tokens = self.row_tokens(row)
        if row < 0 or tokens.start >= self._n_tokens:
            raise StoreError(f"row {row} doesn't exist; the run has {-(-self._n_tokens // ROW_TOKENS)} rows")
        if row in self._committed:
            raise StoreError(f"row {row} is committed already; a row is written once")
        if blocks.keys() != self._arrays.keys():
            wrong = sorted(blocks.keys() ^ self._arrays.keys())
            raise StoreError(f"row {row} must bring every array of the run and no other; {wrong[0]!r} differs")
        n_tokens = tokens.stop - tokens.start
        for path, array in self._arrays.items():
            wanted = (n_tokens, *array.shape[1:])
            if blocks[path].shape != wanted or blocks[path].dtype != array.dtype:
                found = f"{blocks[path].dtype} {blocks[path].shape}"
                raise StoreError(f"{path!r} of row {row} is {found}; it must be {array.dtype} {wanted}")

    def _write_chunk(self, path: str, row: int, block: np.ndarray) -> tuple[str, bytes, int]:
        array = self._arrays[path]
        array[self.row_tokens(row)] = block
        key = chunk_key(path, row, array.ndim)
        file = self.path / key
        part = hash_file(file, flush=True)
        flush_directory(file.parent)
        return key, part, file.stat().st_size


def consolidated_root(path: Path, attributes: Mapping[str, Any]) -> bytes:
    """Content of the root's zarr.json with further attributes and the metadata of every node.

    So a finished run opens with one read. Zarr makes it in memory, of a copy of the run's metadata; nothing is written.
    """
    copies: dict[str, AnyBuffer] = {
        file.relative_to(path).as_posix(): Buffer.from_bytes(file.read_bytes()) for file in path.rglob("zarr.json")
    }
    memory = MemoryStore(copies)
    zarr.open_group(memory, mode="r+", use_consolidated=False).attrs.update(dict(attributes))
    with warnings.catch_warnings():
        # Every reader of ours takes it; that the Zarr v3 specification doesn't know it yet is in docs/store-format.md.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part", category=UserWarning)
        zarr.consolidate_metadata(memory)
    return copies["zarr.json"].to_bytes()
