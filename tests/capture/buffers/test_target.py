"""Outputs of a batch into rows, also where copies come late, as they do from a GPU."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.capture.buffers import target as target_module
from lorascope.capture.buffers.copies import DirectCopier, StreamCopier
from lorascope.capture.buffers.rows import RowQueue
from lorascope.capture.buffers.target import BatchTarget, Meter, empty_target
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.writing.write import RowWritten

from ..card import Card, card, on_card

__all__ = ["card"]

CUDA = torch.device("cuda:0")
BASE, FACTOR, JS = "states/a/base", "adapters/x/factor", "adapters/x/js"
ARRAYS: dict[str, Any] = {
    BASE: ((ROW_TOKENS, 3), np.dtype("float32")),
    FACTOR: ((ROW_TOKENS, 5), np.dtype("float32")),
    JS: ((ROW_TOKENS, 4), np.dtype("float32")),
    "tokens/nll": ((ROW_TOKENS,), np.dtype("float32")),
}


class Writer:
    def __init__(self, n_tokens: int) -> None:
        self.n_tokens = n_tokens
        self.rows: dict[int, dict[str, np.ndarray]] = {}

    def row_arrays(self, row: int) -> Any:
        return ARRAYS

    def write_row(self, row: int, blocks: Any) -> RowWritten:
        self.rows[row] = {path: block.copy() for path, block in blocks.items()}
        return RowWritten(row, 1, 1, 0.0, 0.0)


def queue(writer: Writer, n_rows: int = 2, **options: Any) -> RowQueue:
    return RowQueue(writer, n_tokens=writer.n_tokens, spans=[range(n_rows)], **options)


def run_batch(rows: RowQueue, first: int, output: torch.Tensor, flat: np.ndarray) -> None:
    """One batch of two components of 2 and 3 factor columns, which fire in the wrong order."""
    measured = np.arange(len(flat)) % 3 == 0
    target = BatchTarget((2, len(output) // 2), flat, measured, rows.take(first, len(flat)), rows.copier)
    target.put(BASE, output)
    target.put(FACTOR, output[:, :3] * 10, slice(2, 5))
    target.put(FACTOR, output[:, :2] * 20, slice(0, 2))
    target.put_values(JS, target.take_measured(output)[:, 0].double(), 3, measured=True)
    target.put_values(JS, target.take_measured(output)[:, 1].double(), 1, measured=True)
    target.put_values("tokens/nll", target.take(output)[:, 2].clone())
    output.fill_(-1)  # the model goes on, and may use its memory again
    target.flush()
    rows.put()


@pytest.mark.parametrize("late", [False, True], ids=["direct", "late"])
@pytest.mark.parametrize("batch", [700, 3000])
@pytest.mark.parametrize("selection", ["padded", "strided"])
def test_every_number_lands_under_its_token(late: bool, batch: int, selection: str, card: Callable[..., Card]) -> None:
    n_tokens = 2 * ROW_TOKENS + 40
    states = torch.randn(n_tokens, 3, generator=torch.Generator().manual_seed(0))
    writer, copier, devices = Writer(n_tokens), StreamCopier(CUDA) if late else DirectCopier(), card()
    if late:
        devices.go.clear()
        threading.Timer(0.1, devices.go.set).start()
    with queue(writer, 3, copier=copier) as rows:
        for first in range(0, n_tokens, batch):
            part = states[first : first + batch]
            n = len(part)
            flat = np.arange(n) * 2 if selection == "strided" else np.arange(n) + 9 * (np.arange(n) >= n // 2)
            output = torch.full((int(flat[-1]) + 2, 3), torch.nan)
            output[torch.from_numpy(flat)] = part
            run_batch(rows, first, on_card(output) if late else output, flat)
        rows.drain()
    devices.check()
    assert (devices.n_copied > 0) == late
    whole = {path: np.concatenate([writer.rows[row][path] for row in range(3)]) for path in ARRAYS}
    expected = states.numpy()
    np.testing.assert_array_equal(whole[BASE], expected)
    np.testing.assert_array_equal(whole[FACTOR], np.concatenate([expected[:, :2] * 20, expected * 10], axis=1))
    np.testing.assert_array_equal(whole["tokens/nll"], expected[:, 2])
    measured = np.concatenate([np.arange(min(batch, n_tokens - f)) % 3 == 0 for f in range(0, n_tokens, batch)])
    for column, feature in ((3, 0), (1, 1)):
        np.testing.assert_array_equal(whole[JS][:, column], np.where(measured, expected[:, feature], np.nan))
    assert np.isnan(whole[JS][:, [0, 2]]).all()


def test_row_is_not_written_before_its_last_copy_is_done(card: Callable[..., Card]) -> None:
    writer, devices = Writer(ROW_TOKENS), card()
    devices.go.clear()
    with queue(writer, 1, copier=StreamCopier(CUDA)) as rows:
        run_batch(rows, 0, on_card(torch.randn(ROW_TOKENS, 3)), np.arange(ROW_TOKENS))
        threading.Event().wait(0.2)
        assert writer.rows == {}  # the pass has gone on, and nothing is on its way to the disk
        devices.go.set()
        rows.drain()
    devices.check()
    assert devices.n_copied == 4  # base, and factor, js and nll each together
    assert sorted(writer.rows) == [0]


def test_buffer_is_not_used_again_before_its_row_is_written(card: Callable[..., Card]) -> None:
    writer, devices = Writer(3 * ROW_TOKENS), card()
    devices.go.clear()
    states = torch.randn(3 * ROW_TOKENS, 3)
    row_bytes = ROW_TOKENS * 4 * (3 + 5 + 4 + 1)
    with queue(writer, 1, queue_bytes=row_bytes, copier=StreamCopier(CUDA)) as rows:  # a single buffer
        threading.Timer(0.2, devices.go.set).start()
        for row in range(3):
            output = states[row * ROW_TOKENS : (row + 1) * ROW_TOKENS].clone()
            run_batch(rows, row * ROW_TOKENS, on_card(output), np.arange(ROW_TOKENS))
        rows.drain()
    devices.check()
    assert devices.most_registered == row_bytes
    for row in range(3):
        np.testing.assert_array_equal(writer.rows[row][BASE], states[row * ROW_TOKENS : (row + 1) * ROW_TOKENS])


def test_store_that_narrows_rounds_to_nearest_even() -> None:
    writer = Writer(4)
    writer.row_arrays = lambda row: {BASE: ((ROW_TOKENS, 1), np.dtype("uint16"))}  # type: ignore[method-assign]
    values = torch.tensor([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, -torch.pi])
    with queue(writer, 1) as rows:
        target = BatchTarget((1, 4), np.arange(4), np.zeros(4, np.bool_), rows.take(0, 4))
        target.put(BASE, values[:, None])
        target.flush()
        rows.put()
        rows.drain()
    stored = torch.from_numpy((writer.rows[0][BASE].astype(np.uint32) << 16).view(np.float32))[:, 0]
    assert torch.equal(stored, values.bfloat16().float())


def test_arrays_that_a_row_does_not_hold_are_passed_over() -> None:
    writer = Writer(8)
    writer.row_arrays = lambda row: {"tokens/nll": ARRAYS["tokens/nll"]}  # type: ignore[method-assign]
    with queue(writer, 1) as rows:
        run_batch(rows, 0, torch.randn(8, 3), np.arange(8))
        rows.drain()
    assert writer.rows[0].keys() == {"tokens/nll"}


def test_nothing_is_kept_of_a_pass_to_nowhere() -> None:
    target = empty_target((5, 4), n_measured=7)
    output = torch.randn(10, 3)
    target.put(BASE, output)
    target.put(FACTOR, output, slice(0, 3))
    target.put_values("tokens/nll", torch.empty(9))
    target.put_values(JS, target.take_measured(output)[:, 0], measured=True)
    target.flush()
    assert torch.equal(target.take(output), output[:9])  # the last one is padding
    assert torch.equal(target.take_measured(output), output[:7])


def test_a_stage_within_another_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])  # as stages begin and end
    monkeypatch.setattr(target_module.time, "perf_counter", lambda: next(clock))
    meter = Meter()
    with meter.timed("forward"), meter.timed("copy"), meter.timed("reduce"):
        pass
    expected = {"reduce": 7.0 - 3.0, "copy": (15.0 - 1.0) - 4.0, "forward": 31.0 - 14.0}
    assert {stage: meter.seconds[stage] for stage in expected} == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"forward": 3.0, "encode": 3.0}, "forward"),
        ({"forward": 3.0, "copy": 2.0, "reduce": 2.0}, "copy"),
        ({"forward": 3.0, "wait": 1.0, "encode": 3.0, "write": 2.0}, "encode"),
        ({"forward": 3.0, "wait": 1.0, "encode": 1.0, "write": 2.0}, "disk"),
        ({"forward": 3.0, "wait": 0.01, "encode": 1.0, "write": 2.0}, "forward"),
    ],
)
def test_bottleneck(seconds: dict[str, float], expected: str) -> None:
    meter = Meter()
    meter.seconds |= seconds
    assert meter.bottleneck() == expected
