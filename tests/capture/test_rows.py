import threading
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.capture.rows import RowQueue
from lorascope.stores.layout import ROW_TOKENS
from lorascope.stores.write import RowWritten


class FakeWriter:
    """Holds rows back until it is told to go on, and keeps a copy of what it got."""

    def __init__(self, n_tokens: int, *, error: Exception | None = None) -> None:
        self.n_tokens = n_tokens
        self.go = threading.Event()
        self.rows: dict[int, dict[str, np.ndarray]] = {}
        self.error = error

    @property
    def row_arrays(self) -> dict[str, Any]:
        return {
            "a": ((ROW_TOKENS, 3), np.dtype("float32")),
            "b": ((ROW_TOKENS, 2), np.dtype("uint16")),
            "c": ((ROW_TOKENS,), np.dtype("float16")),
        }

    def row_tokens(self, row: int) -> slice:
        return slice(row * ROW_TOKENS, min((row + 1) * ROW_TOKENS, self.n_tokens))

    def write_row(self, row: int, blocks: dict[str, np.ndarray]) -> RowWritten:
        assert self.go.wait(10)
        if self.error:
            raise self.error
        self.rows[row] = {key: block.copy() for key, block in blocks.items()}
        return RowWritten(row, 100, 10)


def fill(rows: RowQueue, first: int, n: int) -> None:
    for segment in rows.take(n):
        values = torch.arange(first + segment.source.start, first + segment.source.stop, dtype=torch.float32)
        segment.buffer.tensors["a"][segment.target] = values[:, None].expand(-1, 3)
        segment.buffer.tensors["b"][segment.target] = (values[:, None] % 128).bfloat16().expand(-1, 2)
        segment.buffer.tensors["c"][segment.target] = (values % 128).half()
    rows.put()


@pytest.mark.parametrize("batch", [100, 1024, 1500, 3000])
def test_tokens_of_any_batches_land_in_their_rows(batch: int) -> None:
    n_tokens = 3 * ROW_TOKENS + 17
    writer = FakeWriter(n_tokens)
    writer.go.set()
    with RowQueue(writer, n_buffers=5, n_tokens=n_tokens) as rows:  # type: ignore[arg-type]
        for first in range(0, n_tokens, batch):
            fill(rows, first, min(batch, n_tokens - first))
        rows.drain()
        assert (rows.raw_bytes, rows.stored_bytes) == (400, 40)
    assert [len(writer.rows[row]["c"]) for row in range(4)] == [1024, 1024, 1024, 17]
    whole = {key: np.concatenate([writer.rows[row][key] for row in range(4)]) for key in "abc"}
    expected = np.arange(n_tokens, dtype=np.float32)
    np.testing.assert_array_equal(whole["a"], np.repeat(expected[:, None], 3, axis=1))
    widened = (whole["b"].astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(widened[:, 0], expected % 128)
    np.testing.assert_array_equal(whole["c"], (expected % 128).astype(np.float16))


def test_the_pass_waits_while_every_buffer_is_being_written() -> None:
    writer = FakeWriter(3 * ROW_TOKENS)
    with RowQueue(writer, n_buffers=2, n_tokens=3 * ROW_TOKENS) as rows:  # type: ignore[arg-type]
        fill(rows, 0, ROW_TOKENS)
        fill(rows, ROW_TOKENS, ROW_TOKENS)
        threading.Timer(0.3, writer.go.set).start()
        fill(rows, 2 * ROW_TOKENS, ROW_TOKENS)
        rows.drain()
        assert rows.seconds_waited > 0.2
    assert sorted(writer.rows) == [0, 1, 2]
    assert writer.rows[0]["a"][5, 0] == 5


def test_what_a_pass_does_not_fill_is_nan_not_an_older_row() -> None:
    writer = FakeWriter(2 * ROW_TOKENS)
    writer.go.set()
    with RowQueue(writer, n_buffers=1, n_tokens=2 * ROW_TOKENS) as rows:  # type: ignore[arg-type]
        fill(rows, 0, ROW_TOKENS)
        rows.take(ROW_TOKENS)
        rows.put()
        rows.drain()
    assert np.isnan(writer.rows[1]["a"]).all()
    assert set(np.unique(writer.rows[1]["b"])) == {0x7FC0}


@pytest.mark.parametrize("when", ["take", "drain"])
def test_error_of_the_writer_reaches_the_pass(when: str) -> None:
    writer = FakeWriter(9 * ROW_TOKENS, error=OSError(28, "No space left on device"))
    writer.go.set()
    with RowQueue(writer, n_buffers=1, n_tokens=9 * ROW_TOKENS) as rows:  # type: ignore[arg-type]
        fill(rows, 0, ROW_TOKENS)
        with pytest.raises(OSError, match="No space left"):
            rows.take(ROW_TOKENS) if when == "take" else rows.drain()
    assert writer.rows == {}


def test_memory_is_known_beforehand() -> None:
    with RowQueue(FakeWriter(10), n_buffers=3, n_tokens=10) as rows:  # type: ignore[arg-type]
        assert rows.n_bytes == 3 * ROW_TOKENS * (12 + 4 + 2)
