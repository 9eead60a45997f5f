"""Where one batch's states go: which of its padded tokens are captured, their places in the rows, and the time."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from .copies import Chosen, Copier, DirectCopier
from .row_buffer import Segment

STAGES = ("forward", "copy", "reduce", "logits", "wait", "encode", "write")
"""Where time goes: the pass itself; what hooks add, copies of states and their reductions; nll and KL; waiting for a
free row; and, in threads beside the pass and added up over them, encoding and writing."""
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
        """What a faster one of would help most: `forward`, `copy` (reductions included), `encode` or `disk`."""
        seconds = self.seconds
        if seconds["wait"] > _WAITS_ABOVE * self._passed():
            return "encode" if seconds["encode"] > seconds["write"] else "disk"
        return "copy" if seconds["copy"] + seconds["reduce"] > seconds["forward"] else "forward"

    def _passed(self) -> float:
        return sum(seconds for stage, seconds in self.seconds.items() if stage not in {"encode", "write"})


@dataclass(slots=True, eq=False)
class BatchTarget:
    """Takes the outputs of a batch's passes, flattened over (sequence, position), into the rows of its tokens.

    Wide arrays are copied as they come. Narrow ones, of which each component fills a few columns, are gathered on the
    device, and leave it together in `flush`.
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
    _parts: list[Chosen] = field(init=False)
    _columns: dict[tuple[str, bool, torch.device], list[tuple[int, torch.Tensor]]] = field(default_factory=dict)
    """(path, whether of measured tokens only, device) -> first column and values (token, column) so far, which stay on
    their device until the pass is over."""

    def __post_init__(self) -> None:
        self._captured = Chosen(self.flat)
        self._measured = Chosen(self.flat[self.measured])
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
        """Send what was gathered to its rows, and mark the point at which all of the batch's copies are done."""
        with self.meter.timed("copy"):
            for (path, measured, _), columns in self._columns.items():
                self._send(path, columns, measured=measured)
            self._columns.clear()
            wait = self.copier.mark()
            for segment in self.segments:
                segment.buffer.wait = wait

    def _claim(self, path: str, columns: slice) -> bool:
        """Whether any row holds the array."""
        return any([segment.claim(path, columns) is not None for segment in self.segments])  # noqa: C419 (claim them all)

    def _add(self, path: str, start: int, values: torch.Tensor, *, measured: bool) -> None:
        self._columns.setdefault((path, measured, values.device), []).append((start, values))

    def _send(self, path: str, columns: Sequence[tuple[int, torch.Tensor]], *, measured: bool) -> None:
        places = torch.cat([torch.arange(start, start + values.shape[1]) for start, values in columns])
        dtype = next(s.buffer.tensors[path].dtype for s in self.segments if path in s.buffer.tensors)
        host = self.copier.fetch(torch.cat([values for _, values in columns], dim=1).to(dtype))
        for segment in self.segments:
            if path not in segment.buffer.tensors:
                continue
            array = segment.buffer.tensors[path][segment.target]
            source = segment.source
            tokens: slice | torch.Tensor = slice(None)
            if measured:
                tokens = torch.from_numpy(np.flatnonzero(self.measured[source]))
                first = int(self.measured[: source.start].sum())
                source = slice(first, first + len(tokens))
            segment.buffer.later(partial(_scatter, array, tokens, places, host[source]))


def flat_places(positions: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Index int64 (token,) of chosen positions of each sequence in the flattened (sequence, position) axis."""
    return np.concatenate([row * width + chosen for row, chosen in enumerate(positions)])


def nowhere(lengths: Sequence[int], n_measured: int) -> BatchTarget:
    """The target of a pass over sequences of these lengths: nothing is kept, the first so many tokens are measured."""
    width = max(lengths)
    flat = flat_places([np.arange(length) for length in lengths], width)
    return BatchTarget((len(lengths), width), flat, np.arange(len(flat)) < n_measured, ())


def _scatter(array: torch.Tensor, tokens: slice | torch.Tensor, columns: torch.Tensor, values: torch.Tensor) -> None:
    """Put values (token, column) into an array (token, column), or (token,) if there is one column."""
    array = array.reshape(len(array), -1) if array.ndim == 1 else array
    first = int(columns[0])
    neighbours = slice(first, first + len(columns))
    if torch.equal(columns, torch.arange(neighbours.start, neighbours.stop)):  # as most often; much faster
        array[tokens, neighbours] = values
    elif isinstance(tokens, slice):
        array[tokens, columns] = values
    else:
        array[tokens[:, None], columns] = values
