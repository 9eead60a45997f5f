"""Write rows: every chunk, then the row's digest, each durable before the next."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from ..errors import StoreError
from ..format.codec import encode_chunk
from ..format.digests import chunk_digest, combine_digests, combine_row_digests, with_fingerprint, with_root_digest
from ..format.layout import COMMITS, DIGESTS, chunk_key, commit_path, is_kept_with_states
from ..format.meshes import row_ranges, stored_meshes
from ..format.spec import ROW_TOKENS
from ..places.folder import deleted_message
from ..places.place import Place
from ..reading.chunks import read_digests
from ..reading.root import read_root, require_root_digest
from ..reading.run import Run
from ..reading.state import root_attributes

Result = TypeVar("Result")
RowArrays = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


class RowWritten(NamedTuple):
    """Size of a row that was written, in bytes, and the seconds that it took."""

    row: int
    raw_bytes: int
    """Bytes of the row's arrays in memory."""
    stored_bytes: int
    """Bytes of its chunks on disk."""
    seconds_encode: float
    """Seconds of compressing and hashing, summed over chunks, which are processed in parallel."""
    seconds_write: float
    """Seconds of writing and flushing, summed over chunks."""


class _Chunk(NamedTuple):
    """Key, digest, size and times of a chunk that was written."""

    key: str
    digest: bytes
    """Digest of the chunk's bytes."""
    n_bytes: int
    seconds_encode: float
    seconds_write: float


class RunWriter:
    """Writer of a run's rows (1,024 tokens each); made by `create_run` and `resume_run`.

    A row is written once, as a whole. Its digest is written after all of its chunks are safely on disk, and only a row
    with a digest counts. So no reader sees half a row, even if the writer is interrupted. Rows may be written in any
    order, by several threads and processes, but each row by only one of them.

    Parameters
    ----------
    run
        The run, which isn't finished.
    decode_back
        Whether each chunk is decoded and compared with its values before it is written.
    """

    def __init__(self, run: Run, *, decode_back: bool) -> None:
        """Prepare to write rows; nothing is written yet."""
        self.place = run.place
        self.path = run.path
        self.n_tokens, self.n_rows = run.n_tokens, run.n_rows
        self._version = run.format_version
        self._static_digest: str = run.attributes["static_digest"]
        self._root_mark: str | None = None
        self._decode_back = decode_back
        self._arrays = run.arrays
        self._state_rows = run.state_rows
        self._committed = {int(row) for row in np.flatnonzero(run.committed_rows)}
        self._threads = ThreadPoolExecutor(thread_name_prefix="lorascope-chunk")

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the writing threads; the run stays unfinished unless `finish` was called, and errors pass on."""
        self._threads.shutdown()

    @property
    def committed_rows(self) -> np.ndarray:
        """Mask of rows that are committed now, by any writer, bool (row,); read at each access."""
        return np.asarray(self._read_digests().any(axis=1))

    def _read_digests(self) -> np.ndarray:
        """Return the digests of rows that are committed now, by any writer, uint8 (row, byte); zero for others."""
        known = {"format_version": self._version, "finished": False, "static_digest": self._static_digest}
        return read_digests(self.place, known, self._arrays)

    def row_arrays(self, row: int) -> RowArrays:
        """Return the arrays that `write_row` needs for this row: path -> (shape of a full row's block, dtype)."""
        return {
            path: ((ROW_TOKENS, *array.shape[1:]), array.dtype)
            for path, array in self._arrays.items()
            if array.by_row and (self._state_rows[row] or not is_kept_with_states(path))
        }

    def row_tokens(self, row: int) -> slice:
        """Return the row's slice of the token axis; the last row may be short."""
        return slice(row * ROW_TOKENS, min((row + 1) * ROW_TOKENS, self.n_tokens))

    def delete_unfinished_files(self) -> None:
        """Delete the unfinished files of interrupted writers; call it only while nobody writes."""
        self.place.delete(list(self.place.temporary_files()))

    def write_row(self, row: int, blocks: Mapping[str, np.ndarray]) -> RowWritten:
        """Write a row's chunks, commit it by its digest, and return its size and the time that it took.

        Parameters
        ----------
        row
            Index of the row.
        blocks
            Array path -> (token, ...) block for each of `row_arrays`, exactly the row's tokens long.

        Raises
        ------
        StoreError
            If the row doesn't exist or is committed already, the blocks don't fit `row_arrays`, or another run is at
            this place now.
        OSError
            If the disk is full or fails, the run's folder is gone, or an object store fails; the row stays uncommitted.
        """
        self._require_valid_blocks(row, blocks)
        self._require_same_run()
        chunks = collect_results([self._threads.submit(self._write_chunk, path, row, blocks[path]) for path in blocks])
        start = time.perf_counter()
        # After all are written, so that each folder is flushed once.
        collect_results([self._threads.submit(self.place.flush, path) for path in blocks])
        flushed = time.perf_counter() - start
        self._require_same_run()
        digest = combine_digests((chunk.key, chunk.digest) for chunk in chunks)
        commits = commit_path(self._version)
        self._write_chunk(commits, row, np.frombuffer(digest, dtype=np.uint8)[None])
        self.place.flush(commits)
        self._committed.add(row)
        return RowWritten(
            row,
            raw_bytes=sum(block.nbytes for block in blocks.values()),
            stored_bytes=sum(chunk.n_bytes for chunk in chunks),
            seconds_encode=sum(chunk.seconds_encode for chunk in chunks),
            seconds_write=flushed + sum(chunk.seconds_write for chunk in chunks),
        )

    def begin_mesh(self, tensor_parallel: int) -> None:
        """Store that rows committed from now on come from this many processes a layer, unless earlier ones did too.

        Call it only while nobody writes. Raises StoreError if the root was changed.
        """
        root = read_root(self.place)
        require_root_digest(root)
        meshes = stored_meshes(root.attributes)
        if meshes[-1]["tensor_parallel"] != tensor_parallel:
            meshes.append({"tensor_parallel": tensor_parallel, "before": row_ranges(self.committed_rows)})
            write_document(self.place, {**root.document, "attributes": {**root.attributes, "meshes": meshes}})

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Mark the run finished and add attributes to its root; may be called again.

        Both happen in one step: if it is interrupted, the run is unfinished as before, or finished. From version 3 on,
        the digests of all rows are put into one object before that step, and deleted one by one after it.

        Raises
        ------
        StoreError
            If a row is missing, the root was changed, or another run is at this place now.
        FileNotFoundError
            If the run is gone.
        """
        self._require_same_run()
        digests = self._read_digests()
        missing = int((~digests.any(axis=1)).sum())
        if missing:
            raise StoreError(f"{missing} rows of `{self.place.name}` aren't committed; write them before finishing")
        root = read_root(self.place)
        require_root_digest(root)
        added = {**with_fingerprint(attributes), "finished": True}
        if self._version >= 3:
            added["rows_digest"] = combine_row_digests(dict(enumerate(map(bytes, digests))))
            length = self._arrays[DIGESTS].chunks[0]
            for chunk, first in enumerate(range(0, self.n_rows, length)):
                self._write_chunk(DIGESTS, chunk, digests[first : first + length])
            self.place.flush(DIGESTS)
        write_document(self.place, {**root.document, "attributes": {**root.attributes, **added}})
        delete_commits(self.place)

    def _require_same_run(self) -> None:
        """Raise FileNotFoundError if the run is gone, and StoreError if another run took its place."""
        mark = self.place.mark("zarr.json")
        if mark is not None and mark == self._root_mark:
            return
        if mark is None:
            raise FileNotFoundError(deleted_message(self.place.name))
        if (root_attributes(self.place) or {}).get("static_digest") != self._static_digest:
            raise StoreError(
                f"another run took the place of `{self.place.name}` while it was written; move that one away and put "
                "this one back, and the same command goes on, or name another place"
            )
        self._root_mark = mark

    def _require_valid_blocks(self, row: int, blocks: Mapping[str, np.ndarray]) -> None:
        """Raise StoreError unless the row can be written and `blocks` are its arrays, each of its shape and dtype."""
        if not 0 <= row < self.n_rows:
            raise StoreError(f"row {row} doesn't exist; the run has {self.n_rows} rows")
        if row in self._committed:
            raise StoreError(f"row {row} is committed already; a row is written once")
        expected = self.row_arrays(row)
        if blocks.keys() != expected.keys():
            wrong = sorted(blocks.keys() ^ expected.keys())
            raise StoreError(f"row {row} must bring every array of its own and no other; {wrong[0]!r} differs")
        tokens = self.row_tokens(row)
        for path, ((_, *rest), dtype) in expected.items():
            shape = (tokens.stop - tokens.start, *rest)
            if blocks[path].shape != shape or blocks[path].dtype != dtype:
                stored = f"{blocks[path].dtype} {blocks[path].shape}"
                raise StoreError(f"{path!r} of row {row} is {stored}; it must be {dtype} {shape}")

    def _write_chunk(self, path: str, row: int, block: np.ndarray) -> _Chunk:
        """Encode, hash and write a chunk, and return its key, digest, size and times."""
        key = chunk_key(path, row, block.ndim)
        start = time.perf_counter()
        pieces = encode_chunk(self._arrays[path], block, decode_back=self._decode_back)
        digest = chunk_digest(self._version, *pieces)
        encoded = time.perf_counter()
        self.place.write(key, *pieces)
        n_bytes = sum(piece.nbytes for piece in pieces)
        return _Chunk(key, digest, n_bytes, encoded - start, time.perf_counter() - encoded)


def collect_results(tasks: Sequence[Future[Result]]) -> list[Result]:
    """Return the results of tasks in order; if one fails, wait until no task runs any more, then raise its error."""
    try:
        return [task.result() for task in tasks]
    except BaseException:
        # The caller may reuse its blocks then, and a late chunk could overwrite that of a second attempt.
        for task in tasks:
            task.cancel()
        wait(tasks)
        raise


def delete_commits(place: Place) -> None:
    """Delete the digests of single rows, which a finished run doesn't need; before version 3 they are elsewhere.

    Where that fails they stay, as in an object store that lets nobody delete.
    """
    with suppress(OSError):
        keys = [key for key in place.keys(COMMITS) if key.startswith(f"{COMMITS}/c.")]
        if keys:
            place.delete(keys)


def write_document(place: Place, document: Mapping[str, Any]) -> None:
    """Replace the run's root `zarr.json` by this document with its digest added."""
    place.write("zarr.json", with_root_digest(document))
    place.flush("")
