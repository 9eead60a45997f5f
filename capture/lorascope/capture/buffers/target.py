"""The target of one batch's states: its captured tokens, their places in the rows, and the time by stage."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
import torch

from .copies import Chosen, Copier, DirectCopier
from .row_buffer import Segment

STAGES = ("forward", "copy", "reduce", "logits", "ablate", "wait", "encode", "write")
"""Stages of which the time is taken: the pass itself; copies of states, and reductions, in hooks; nll and KL; passes
without a part of the adapter, with their KL; waiting for a free row; and, in other threads and added up over
them, encoding and writing."""
_WAITS_ABOVE = 0.05
"""Share of the pass's time above which waiting for rows is more than jitter."""


class Meter:
    """Seconds by stage; kept by the thread of the forward pass alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of a block to a stage, less what stages within it take."""
        start, inner = time.perf_counter(), self._passed()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start - (self._passed() - inner)

    def bottleneck(self) -> str:
        """The stage that limits the capture: `forward`, `copy` (reductions included), `encode` or `disk`."""
        seconds = self.seconds
        if seconds["wait"] > _WAITS_ABOVE * self._passed():
            return "encode" if seconds["encode"] > seconds["write"] else "disk"
        return "copy" if seconds["copy"] + seconds["reduce"] > seconds["forward"] else "forward"

    def _passed(self) -> float:
        return sum(seconds for stage, seconds in self.seconds.items() if stage not in {"encode", "write"})


@dataclass(slots=True, eq=False)
class BatchTarget:
    """Takes the outputs of a batch's passes, flattened over (sequence, position), into the rows of its tokens.

    Wide arrays are copied as they come. Narrow ones, of which each component fills a few columns, are put together on
    the device, and leave it in `flush`.
    """

    shape: tuple[int, int]
    """(sequences, positions) of the padded batch."""
    flat: np.ndarray
    """Index int64 (token,) of each captured token in the flattened (sequence, position) axis."""
    measured: np.ndarray
    """Bool (token,): those whose js is measured and whose sum is checked."""
    segments: Sequence[Segment]
    """The parts of the captured tokens that are written, in order; a token of none is only computed."""
    copier: Copier = field(default_factory=DirectCopier)
    meter: Meter = field(default_factory=Meter)
    _captured: Chosen = field(init=False)
    _measured: Chosen = field(init=False)
    _among: Chosen = field(init=False)
    """The measured tokens among the captured ones."""
    _parts: list[Chosen] = field(init=False)
    _columns: dict[tuple[str, bool], list[tuple[int, torch.Tensor]]] = field(default_factory=dict)
    """(path, whether of measured tokens only) -> first column and values (token, column) so far, which stay on their
    device until the passes are over."""

    def __post_init__(self) -> None:
        self._captured = Chosen(self.flat)
        self._measured = Chosen(self.flat[self.measured])
        self._among = Chosen(np.flatnonzero(self.measured))
        self._parts = [Chosen(self.flat[segment.source]) for segment in self.segments]

    def take(self, output: torch.Tensor) -> torch.Tensor:
        """Outputs of the captured tokens (token, feature); a view of `output` where they are one run."""
        return self._captured.view(output)

    def take_measured(self, output: torch.Tensor) -> torch.Tensor:
        """Outputs of the measured tokens (measured token, feature), a copy on the device of `output`."""
        return self._measured.copy(output)

    def rows(self, device: torch.device, *, measured: bool) -> torch.Tensor | None:
        """Index of the captured or measured tokens on a device, int64; None where these are all tokens of the batch."""
        chosen = self._measured if measured else self._captured
        return None if len(chosen) == math.prod(self.shape) else chosen.index(device)

    def measured_of(self, values: torch.Tensor) -> torch.Tensor:
        """Values (measured token,) out of values (captured token,)."""
        return values if self.measured.all() else self._among.copy(values)

    def put(self, path: str, output: torch.Tensor, columns: slice | None = None) -> None:
        """Copy the captured tokens of an output (flat token, feature) into the row array at `path`, or `columns` of it.

        The cast, if the store narrows, rounds to nearest even. Rows that don't hold the array are passed over.
        """
        with self.meter.timed("copy"):
            if columns is not None:
                if self._claim(path, columns):
                    self._add(path, columns.start, self._captured.copy(output), measured=False)
                return
            for segment, chosen in zip(self.segments, self._parts, strict=True):
                if (array := segment.claim(path, slice(0, output.shape[-1]))) is not None:
                    self.copier.copy(output, chosen, array[segment.target])

    def put_values(self, path: str, values: torch.Tensor, column: int = 0, *, measured: bool = False) -> None:
        """Write values (captured token,) into a (token,) array, or one column of a (token, column) array.

        Or values (measured token,), while the other tokens stay NaN. They belong to the target from here on. Rows that
        don't hold the array are passed over.
        """
        if self._claim(path, slice(column, column + 1)):
            self._add(path, column, values[:, None], measured=measured)

    def flush(self) -> None:
        """Send gathered columns to their rows, and mark the point at which all of the batch's copies are done."""
        with self.meter.timed("copy"):
            for (path, measured), columns in self._columns.items():
                self._send(path, columns, measured=measured)
            self._columns.clear()
            wait = self.copier.mark()
            for segment in self.segments:
                segment.buffer.wait = wait

    def _claim(self, path: str, columns: slice) -> bool:
        """Whether any row holds the array."""
        return any([segment.claim(path, columns) is not None for segment in self.segments])  # noqa: C419 (claim them all)

    def _add(self, path: str, start: int, values: torch.Tensor, *, measured: bool) -> None:
        self._columns.setdefault((path, measured), []).append((start, values))

    def _send(self, path: str, columns: Sequence[tuple[int, torch.Tensor]], *, measured: bool) -> None:
        """Put columns together and copy them; missing columns and tokens are NaN."""
        places = [(s.source, s.buffer.tensors[path][s.target]) for s in self.segments if path in s.buffer.tensors]
        width = places[0][1].shape[1:].numel()
        block = _side_by_side(columns, width).to(places[0][1].dtype)
        if measured and not self.measured.all():
            index = self._among.index(block.device)
            block = block.new_full((len(self.flat), width), torch.nan).index_copy_(0, index, block)
        for source, place in places:
            self.copier.send(block[source].view(place.shape), place)


def flat_places(positions: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Index int64 (token,) of chosen positions of each sequence in the flattened (sequence, position) axis."""
    return np.concatenate([row * width + chosen for row, chosen in enumerate(positions)])


def nowhere(lengths: Sequence[int], n_measured: int) -> BatchTarget:
    """A target that keeps nothing, for sequences of these lengths; the first `n_measured` tokens are measured."""
    width = max(lengths)
    flat = flat_places([np.arange(length) for length in lengths], width)
    return BatchTarget((len(lengths), width), flat, np.arange(len(flat)) < n_measured, ())


def _side_by_side(columns: Sequence[tuple[int, torch.Tensor]], width: int) -> torch.Tensor:
    """Values (token, column) of the columns from 0 to width, on the device of the first that came; NaN in the gaps."""
    like, stop = columns[0][1], 0
    parts = []
    for start, values in [*sorted(columns, key=itemgetter(0)), (width, like[:, :0])]:
        if start > stop:
            parts.append(like.new_full((len(like), start - stop), torch.nan))
        parts.append(values.to(like.device))
        stop = start + values.shape[1]
    return torch.cat(parts, dim=1)
