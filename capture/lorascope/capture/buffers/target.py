"""The target of one batch's states: the captured tokens, their places in the rows, and seconds by stage."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
import torch

from .copies import ChosenTokens, DirectCopier
from .row_buffer import Segment

STAGES = ("forward", "copy", "reduce", "logits", "changes", "ablate", "wait", "encode", "write")
"""Stages whose time is measured: the pass itself; copies of states and reductions in hooks; nll and KL; next-token
changes, with the passes for them; passes without a part of the adapter, with their KL; waiting for a free row; and,
summed over other threads, encoding and writing."""
_WAITS_ABOVE = 0.05
"""Share of the pass's time above which waiting for rows is more than jitter."""


class Meter:
    """Timer of a capture's stages: seconds by stage, measured in the thread of the forward pass."""

    def __init__(self) -> None:
        """Start every stage at 0 seconds."""
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage, minus the time of other stages timed inside the block."""
        start, inner = time.perf_counter(), self._forward_thread_seconds()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start - (self._forward_thread_seconds() - inner)

    def bottleneck(self) -> str:
        """Return the stage that limits the capture: `forward`, `copy` (with reductions), `encode` or `disk`."""
        seconds = self.seconds
        if seconds["wait"] > _WAITS_ABOVE * self._forward_thread_seconds():
            return "encode" if seconds["encode"] > seconds["write"] else "disk"
        return "copy" if seconds["copy"] + seconds["reduce"] > seconds["forward"] else "forward"

    def _forward_thread_seconds(self) -> float:
        """Return the seconds of all stages except encoding and writing, which other threads do."""
        return sum(seconds for stage, seconds in self.seconds.items() if stage not in {"encode", "write"})


@dataclass(slots=True, eq=False)
class BatchTarget:
    """Destination of one batch's outputs: copies those of the captured tokens into the rows they belong to.

    Outputs are flattened over (sequence, position).

    Wide arrays are copied at once. Narrow ones, where each component fills a few columns, are gathered on the device
    and copied in `flush`.
    """

    shape: tuple[int, int]
    """(sequences, positions) of the padded batch."""
    flat: np.ndarray
    """Index int64 (token,) of each captured token in the flattened (sequence, position) axis."""
    measured: np.ndarray
    """Bool (token,): tokens whose js is measured and whose sum is checked."""
    segments: Sequence[Segment]
    """Parts of the captured tokens that are written, in order; tokens outside of them are only computed."""
    copier: DirectCopier = field(default_factory=DirectCopier)
    meter: Meter = field(default_factory=Meter)
    _captured: ChosenTokens = field(init=False)
    _measured: ChosenTokens = field(init=False)
    _among: ChosenTokens = field(init=False)
    """The measured tokens among the captured ones."""
    _parts: list[ChosenTokens] = field(init=False)
    _columns: dict[tuple[str, bool], list[tuple[int, torch.Tensor]]] = field(default_factory=dict)
    """(path, whether only for measured tokens) -> first columns and values (token, column) so far, which stay on their
    device until `flush`."""

    def __post_init__(self) -> None:
        """Prepare the selections of the captured tokens, of the measured ones, and of each row's tokens."""
        self._captured = ChosenTokens(self.flat)
        self._measured = ChosenTokens(self.flat[self.measured])
        self._among = ChosenTokens(np.flatnonzero(self.measured))
        self._parts = [ChosenTokens(self.flat[segment.source]) for segment in self.segments]

    def take(self, output: torch.Tensor) -> torch.Tensor:
        """Return the captured tokens of an output (flat token, feature); a view of it if they are consecutive."""
        return self._captured.view(output)

    def take_measured(self, output: torch.Tensor) -> torch.Tensor:
        """Return a copy of an output (flat token, feature) at the measured tokens, on its device."""
        return self._measured.copy(output)

    def token_index(self, device: torch.device, *, measured: bool) -> torch.Tensor | None:
        """Return the indices int64 of the captured or measured tokens in the batch, on a device; None if all."""
        chosen = self._measured if measured else self._captured
        return None if len(chosen) == math.prod(self.shape) else chosen.index(device)

    def select_measured(self, values: torch.Tensor) -> torch.Tensor:
        """Return the measured tokens' values (measured token,) from values of all captured tokens."""
        return values if self.measured.all() else self._among.copy(values)

    def has_array(self, path: str) -> bool:
        """Return whether any row of the batch has the array at `path`."""
        return any(path in segment.buffer.tensors for segment in self.segments)

    def put(self, path: str, output: torch.Tensor, columns: slice | None = None) -> None:
        """Copy the captured tokens of an output (flat token, feature) into the rows' array at `path`.

        With `columns`, the output fills only these columns of the array.

        A cast to a narrower type rounds to nearest even. Rows without this array are skipped.
        """
        with self.meter.timed("copy"):
            if columns is not None:
                if self._claim_in_rows(path, columns):
                    self._gather_columns(path, columns.start, self._captured.copy(output), measured=False)
                return
            for segment, chosen in zip(self.segments, self._parts, strict=True):
                if (array := segment.claim(path, slice(0, output.shape[-1]))) is not None:
                    self.copier.copy(output, chosen, array[segment.target])

    def put_taken(self, path: str, values: torch.Tensor) -> None:
        """Copy values (captured token, feature), as `take` selects them, into the rows' array at `path`.

        The target owns the values from here on. Rows without this array are skipped.
        """
        with self.meter.timed("copy"):
            for segment in self.segments:
                if (array := segment.claim(path, slice(0, values.shape[-1]))) is not None:
                    place = array[segment.target]
                    self.copier.send(values[segment.source].to(place.dtype), place)

    def put_values(self, path: str, values: torch.Tensor, column: int = 0, *, measured: bool = False) -> None:
        """Write one value per captured token into the rows' array (token,) at `path`, or into one of its columns.

        Values (token, column) go into as many columns from `column` on. With `measured`, values are (measured token,),
        and other tokens become NaN. The target owns the values from here on. Rows without this array are skipped.
        """
        values = values if values.ndim == 2 else values[:, None]
        if self._claim_in_rows(path, slice(column, column + values.shape[1])):
            self._gather_columns(path, column, values, measured=measured)

    def flush(self) -> None:
        """Copy the gathered columns to their rows, and give every row a function that waits for the batch's copies."""
        with self.meter.timed("copy"):
            for (path, measured), columns in self._columns.items():
                self._send_columns(path, columns, measured=measured)
            self._columns.clear()
            wait = self.copier.mark()
            for segment in self.segments:
                segment.buffer.wait = wait

    def _claim_in_rows(self, path: str, columns: slice) -> bool:
        """Record in every row that `columns` of an array will be filled; return whether any row has the array."""
        return any([segment.claim(path, columns) is not None for segment in self.segments])  # noqa: C419 (claim them all)

    def _gather_columns(self, path: str, start: int, values: torch.Tensor, *, measured: bool) -> None:
        """Keep values (token, column) for an array's columns from `start` on, until `flush` copies them."""
        self._columns.setdefault((path, measured), []).append((start, values))

    def _send_columns(self, path: str, columns: Sequence[tuple[int, torch.Tensor]], *, measured: bool) -> None:
        """Join an array's gathered columns and copy them to their rows; missing columns and tokens are NaN."""
        places = [(s.source, s.buffer.tensors[path][s.target]) for s in self.segments if path in s.buffer.tensors]
        width = places[0][1].shape[1:].numel()
        block = _join_columns(columns, width).to(places[0][1].dtype)
        if measured and not self.measured.all():
            index = self._among.index(block.device)
            block = block.new_full((len(self.flat), width), torch.nan).index_copy_(0, index, block)
        for source, place in places:
            self.copier.send(block[source].view(place.shape), place)


def flat_index(positions: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Return int64 indices (token,) of each sequence's chosen positions on the flat (sequence, position) axis."""
    return np.concatenate([row * width + chosen for row, chosen in enumerate(positions)])


def empty_target(lengths: Sequence[int], n_measured: int) -> BatchTarget:
    """Return a target that writes to no rows, for a trial pass over sequences of these lengths.

    The first `n_measured` tokens are measured.
    """
    width = max(lengths)
    flat = flat_index([np.arange(length) for length in lengths], width)
    return BatchTarget((len(lengths), width), flat, np.arange(len(flat)) < n_measured, ())


def _join_columns(columns: Sequence[tuple[int, torch.Tensor]], width: int) -> torch.Tensor:
    """Join (first column, values) pairs into one tensor (token, `width`); columns without values are NaN."""
    like, stop = columns[0][1], 0
    parts = []
    for start, values in [*sorted(columns, key=itemgetter(0)), (width, like[:, :0])]:
        if start > stop:
            parts.append(like.new_full((len(like), start - stop), torch.nan))
        parts.append(values.to(like.device))
        stop = start + values.shape[1]
    return torch.cat(parts, dim=1)
