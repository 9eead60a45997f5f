import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.capture.buffers.copies import StreamCopier
from lorascope.capture.buffers.row_buffer import RowBuffer, array_bytes, buffer_bytes
from lorascope.capture.buffers.rows import QUEUE_BYTES, RowQueue, queue_bytes_needed, row_spans
from lorascope.capture.errors import CaptureError
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.writing.write import RowWritten

from ..card import Card, card

__all__ = ["card"]

ARRAYS: dict[str, Any] = {
    "states/a/base": ((ROW_TOKENS, 3), np.dtype("float32")),
    "states/b/base": ((ROW_TOKENS, 2), np.dtype("uint16")),
    "tokens/nll": ((ROW_TOKENS,), np.dtype("float32")),
    "adapters/x/js": ((ROW_TOKENS, 2), np.dtype("float32")),
}
ROW_BYTES = ROW_TOKENS * (12 + 4 + 4 + 8)
SMALL_BYTES = ROW_TOKENS * 12
"""Of a row without states."""


class FakeWriter:
    """Holds rows back until `go` is set, and keeps a copy of each."""

    def __init__(self, n_tokens: int, *, error: Exception | None = None, stateless: frozenset[int] = frozenset()):
        self.n_tokens = n_tokens
        self.go = threading.Event()
        self.rows: dict[int, dict[str, np.ndarray]] = {}
        self.begun: list[int] = []
        self.error = error
        self.stateless = stateless

    def row_arrays(self, row: int) -> dict[str, Any]:
        return {path: a for path, a in ARRAYS.items() if row not in self.stateless or not path.startswith("states/")}

    def write_row(self, row: int, blocks: Any) -> RowWritten:
        self.begun.append(row)
        assert self.go.wait(10)
        if self.error:
            raise self.error
        self.rows[row] = {key: block.copy() for key, block in blocks.items()}
        return RowWritten(row, 100, 10, 2.0, 1.0)


def make(writer: FakeWriter, *, batch: int = ROW_TOKENS, **options: Any) -> RowQueue:
    starts = np.append(np.arange(0, writer.n_tokens, batch), writer.n_tokens)
    spans = row_spans(starts, [slice(index, index + 1) for index in range(len(starts) - 1)])
    return RowQueue(writer, n_tokens=writer.n_tokens, spans=spans, **options)


def fill(rows: RowQueue, first: int, n: int) -> int:
    """Every array of the next n tokens with their own numbers; returns how many of them got a place."""
    segments = rows.take(first, n)
    for segment in segments:
        values = torch.arange(first + segment.source.start, first + segment.source.stop, dtype=torch.float32)
        if (a := segment.claim("states/a/base", slice(0, 3))) is not None:
            a[segment.target] = values[:, None].expand(-1, 3)
        if (b := segment.claim("states/b/base", slice(0, 2))) is not None:
            b[segment.target] = (values[:, None] % 128).bfloat16().expand(-1, 2)
        nll = segment.claim("tokens/nll", slice(0, 1))
        assert nll is not None
        nll[segment.target] = values
    rows.put()
    return sum(segment.source.stop - segment.source.start for segment in segments)


@pytest.mark.parametrize("batch", [100, 1500, 3000])
def test_tokens_of_any_batches_land_in_their_rows(batch: int) -> None:
    n_tokens = 3 * ROW_TOKENS + 17
    writer = FakeWriter(n_tokens)
    writer.go.set()
    with make(writer, batch=batch) as rows:
        for first in range(0, n_tokens, batch):
            fill(rows, first, min(batch, n_tokens - first))
        rows.drain()
        assert (rows.raw_bytes, rows.stored_bytes, rows.seconds_encode, rows.seconds_write) == (400, 40, 8.0, 4.0)
        assert sorted(rows.written_rows) == [0, 1, 2, 3]
    assert [len(writer.rows[row]["tokens/nll"]) for row in range(4)] == [1024, 1024, 1024, 17]
    whole = {key: np.concatenate([writer.rows[row][key] for row in range(4)]) for key in ARRAYS}
    expected = np.arange(n_tokens, dtype=np.float32)
    np.testing.assert_array_equal(whole["states/a/base"], np.repeat(expected[:, None], 3, axis=1))
    widened = (whole["states/b/base"].astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(widened[:, 0], expected % 128)
    np.testing.assert_array_equal(whole["tokens/nll"], expected)
    assert np.isnan(whole["adapters/x/js"]).all()  # measured of some tokens only, here of none


@pytest.mark.parametrize("batch", [300, 2500])
def test_only_wanted_rows_are_written_and_whole(batch: int) -> None:
    n_tokens = 4 * ROW_TOKENS + 5
    writer = FakeWriter(n_tokens)
    writer.go.set()
    wanted = np.array([False, True, False, False, True])
    n_placed = 0
    with make(writer, batch=batch, rows=wanted) as rows:
        for first in range(0, n_tokens, batch):
            n = min(batch, n_tokens - first)
            if rows.has_expected_rows(first, n):  # a batch that touches no wanted row needn't pass at all
                n_placed += fill(rows, first, n)
        rows.drain()
    assert sorted(writer.rows) == [1, 4]
    assert n_placed == ROW_TOKENS + 5
    np.testing.assert_array_equal(writer.rows[1]["tokens/nll"], np.arange(ROW_TOKENS, 2 * ROW_TOKENS))
    np.testing.assert_array_equal(writer.rows[4]["states/a/base"][:, 0], np.arange(4 * ROW_TOKENS, n_tokens))


def test_the_pass_waits_while_every_buffer_is_being_written() -> None:
    writer = FakeWriter(4 * ROW_TOKENS)
    filled: list[int] = []
    filled_at_go: list[int] = []

    def go() -> None:
        filled_at_go.append(len(filled))
        writer.go.set()

    with make(writer, queue_bytes=2 * ROW_BYTES) as rows:
        timer = threading.Timer(0.3, go)
        timer.start()
        for row in range(4):
            fill(rows, row * ROW_TOKENS, ROW_TOKENS)
            filled.append(row)
        timer.join()
        rows.drain()
        assert rows.seconds_waited > 0
    assert filled_at_go[0] <= 2
    assert sorted(writer.rows) == [0, 1, 2, 3]
    assert writer.rows[0]["states/a/base"][5, 0] == 5


@pytest.mark.parametrize("when", ["take", "put", "drain"])
def test_error_of_the_writer_reaches_the_pass_and_no_other_row_is_begun(when: str) -> None:
    writer = FakeWriter(9 * ROW_TOKENS, error=OSError(28, "No space left on device"))
    ask = {"take": lambda rows: rows.take(3 * ROW_TOKENS, ROW_TOKENS), "put": RowQueue.put, "drain": RowQueue.drain}

    def write() -> None:
        with make(writer, queue_bytes=3 * ROW_BYTES) as rows:
            for row in range(3):  # two threads hold a row each, and one waits for them
                fill(rows, row * ROW_TOKENS, ROW_TOKENS)
            writer.go.set()
            while not any(task.done() for task in rows._writing):
                pass
            ask[when](rows)

    with pytest.raises(OSError, match="No space left"):
        write()
    assert writer.rows == {}
    assert sorted(writer.begun) == [0, 1]


def test_pass_that_waits_for_a_buffer_hears_of_an_error_that_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A future knows its error a moment after its work has ended, and nothing else would wake the pass again."""
    writer = FakeWriter(9 * ROW_TOKENS, error=OSError(28, "No space left on device"))
    caught: list[Exception] = []

    def linger(self: RowQueue, row: int, buffer: RowBuffer) -> RowWritten | None:
        try:
            return write(self, row, buffer)
        finally:
            time.sleep(0.2)

    def run() -> None:
        try:
            with make(writer, queue_bytes=3 * ROW_BYTES) as rows:
                for row in range(4):
                    fill(rows, row * ROW_TOKENS, ROW_TOKENS)
        except OSError as error:
            caught.append(error)

    write = RowQueue._write_row
    monkeypatch.setattr(RowQueue, "_write_row", linger)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    threading.Timer(0.2, writer.go.set).start()
    thread.join(30)
    assert [str(error) for error in caught] == ["[Errno 28] No space left on device"]


def test_error_of_the_pass_leaves_rows_that_wait_unwritten() -> None:
    writer = FakeWriter(9 * ROW_TOKENS)

    def fail() -> None:
        with make(writer, queue_bytes=3 * ROW_BYTES) as rows:
            for row in range(3):
                fill(rows, row * ROW_TOKENS, ROW_TOKENS)
            threading.Timer(0.1, writer.go.set).start()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert sorted(writer.rows) == [0, 1]


def test_no_row_is_begun_after_a_stop_and_those_begun_are_finished() -> None:
    writer = FakeWriter(4 * ROW_TOKENS)
    writer.go.set()
    with make(writer, batch=1500) as rows:
        fill(rows, 0, 1500)
        rows.drop_unstarted_rows()
        assert rows.has_expected_rows(1500, 1500)
        assert fill(rows, 1500, 1500) == 2 * ROW_TOKENS - 1500
        assert not rows.has_expected_rows(3000, ROW_TOKENS)
        rows.drain()
    assert sorted(writer.rows) == [0, 1]
    assert len(writer.rows[1]["tokens/nll"]) == ROW_TOKENS


def test_process_that_only_computes_stops_after_the_same_batch_as_the_one_that_writes() -> None:
    for start in (0, ROW_TOKENS - 1, ROW_TOKENS, 1500):
        expected = []
        for fills in (True, False):
            writer = FakeWriter(4 * ROW_TOKENS)
            writer.go.set()
            with make(writer, batch=1500, fills=fills) as rows:
                fill(rows, 0, start)
                rows.drop_unstarted_rows()
                expected.append([rows.has_expected_rows(first, 1) for first in range(start, writer.n_tokens, 512)])
        assert expected[0] == expected[1]
        assert any(expected[0]) == (start % ROW_TOKENS > 0)


def omit(segment: Any) -> None:
    segment.claim("states/a/base", slice(0, 3))
    segment.claim("tokens/nll", slice(0, 1))


def part(segment: Any) -> None:
    omit(segment)
    segment.claim("states/b/base", slice(1, 2))


def overlap(segment: Any) -> None:
    segment.claim("states/a/base", slice(0, 2))
    segment.claim("states/a/base", slice(1, 3))
    segment.claim("states/b/base", slice(0, 2))
    segment.claim("tokens/nll", slice(0, 1))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (omit, "its 1024 tokens of 'states/b/base' were filled up to column 0 of 2, by .* nothing"),
        (part, r"'states/b/base' were filled up to column 0 of 2, by \(first, last\) column: {\(1, 2\): 1024}"),
        (overlap, "'states/a/base' were filled up to column 2 of 3"),
    ],
)
def test_row_that_a_pass_did_not_fill_is_not_written(spoil: Callable[[Any], None], words: str) -> None:
    """The buffer still holds the numbers of the row before: without the account they would be written again."""
    writer = FakeWriter(2 * ROW_TOKENS)
    writer.go.set()

    def write() -> None:
        with make(writer) as rows:
            fill(rows, 0, ROW_TOKENS)
            spoil(rows.take(ROW_TOKENS, ROW_TOKENS)[0])
            rows.put()

    with pytest.raises(CaptureError, match=f"row 1 isn't written: .*{words}"):
        write()
    assert sorted(writer.rows) == [0]


def test_blocks_begin_at_pages() -> None:
    """Where a direct write takes them without a copy."""
    blocks = RowBuffer(ARRAYS).blocks(ROW_TOKENS)
    assert {block.ctypes.data % 4096 for block in blocks.values()} == {0}
    assert {path: (block.shape, block.dtype) for path, block in blocks.items()} == ARRAYS


def test_tokens_that_come_twice_or_not_at_all_are_caught_at_once() -> None:
    buffer = RowBuffer(ARRAYS)
    buffer.reset()
    buffer.claim("states/a/base", slice(0, 3), slice(0, 10))
    with pytest.raises(CaptureError, match="'states/a/base' comes for tokens 0 to 10 of a row after 10 of its tokens"):
        buffer.claim("states/a/base", slice(0, 3), slice(0, 10))
    with pytest.raises(CaptureError, match="for tokens 12 to 20 of a row after 10 of its tokens; a pass put it twice"):
        buffer.claim("states/a/base", slice(0, 3), slice(12, 20))
    assert buffer.claim("states/c/base", slice(0, 3), slice(0, 10)) is None


def test_memory_is_known_beforehand_and_held() -> None:
    writer = FakeWriter(10 * ROW_TOKENS)
    writer.go.set()
    with make(writer, queue_bytes=5 * ROW_BYTES) as rows:
        assert rows.n_bytes == 3 * ROW_BYTES  # one that is filled and two ahead
        for row in range(10):
            fill(rows, row * ROW_TOKENS, ROW_TOKENS)
            held = {id(buffer): buffer for buffer in (*rows._open.values(), *rows._free)}
            assert rows._held_bytes <= rows.n_bytes
            assert sum(buffer.memory.nbytes for buffer in held.values()) <= rows._held_bytes


def test_memory_that_is_foreseen_is_what_the_buffers_hold() -> None:
    """Of arrays that don't fill their pages, too."""
    arrays: Any = {"states/a/base": ((ROW_TOKENS, 3), np.dtype("uint16")), "tokens/nll": ((100,), np.dtype("float32"))}
    size = buffer_bytes(map(array_bytes, arrays.values()))
    assert size == 2 * 4096 + 4096
    writer = FakeWriter(3 * ROW_TOKENS)
    writer.row_arrays = lambda row: arrays  # type: ignore[method-assign]
    with make(writer) as rows:
        assert rows.n_bytes == 3 * size
        buffers = [rows._wait_for_buffer(row) for row in range(3)]
        assert rows._held_bytes == sum(buffer.memory.nbytes for buffer in buffers) == rows.n_bytes


def test_rows_without_states_take_less_memory_and_free_buffers_make_room(card: Callable[..., Card]) -> None:
    writer, devices = FakeWriter(6 * ROW_TOKENS, stateless=frozenset({1, 2, 4})), card()
    writer.go.set()
    copier = StreamCopier(torch.device("cuda:0"))
    # Room for one row with states and no other row.
    with make(writer, queue_bytes=ROW_BYTES, copier=copier) as rows:
        assert rows.n_bytes == ROW_BYTES
        for row in range(6):
            fill(rows, row * ROW_TOKENS, ROW_TOKENS)
            assert rows._held_bytes <= ROW_BYTES
        rows.drain()
    devices.check()
    assert devices.most_registered == ROW_BYTES
    assert [len(writer.rows[row]) for row in range(6)] == [4, 2, 2, 4, 2, 4]
    assert writer.rows[5]["states/a/base"][7, 0] == 5 * ROW_TOKENS + 7


@pytest.mark.parametrize(
    ("sizes", "spans", "allowed", "expected"),
    [
        ([10] * 9, [range(1), range(2)], None, 40),  # two that a batch fills, and two ahead
        ([10] * 3, [range(1)], None, 30),  # never more than there are
        ([10] * 9, [range(1)], 17, 17),
        ([0, 10, 0, 3], [range(2), range(2, 4)], None, 13),
        ([QUEUE_BYTES] * 9, [range(3)], None, 4 * QUEUE_BYTES),  # the default gives way: a batch, and one being written
        ([], [], None, 0),
    ],
)
def test_bytes_of_the_queue(sizes: list[int], spans: list[range], allowed: int | None, expected: int) -> None:
    assert queue_bytes_needed(sizes, spans, allowed) == expected
