"""Where one batch's states go: which of its padded tokens are captured, and their places in the rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from .copies import Chosen, Copier, DirectCopier
from .meter import Meter
from .row_buffer import Segment

__all__ = ["BatchTarget", "nowhere"]


class _Column(NamedTuple):
    """Values of some columns of an array, kept on the device until the pass is over."""

    start: int
    values: torch.Tensor
    """(token, column)"""


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
    _columns: dict[tuple[str, bool], list[_Column]] = field(default_factory=dict)
    """(path, whether of measured tokens only) -> columns so far."""

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

    def put_measured(self, path: str, column: int, values: torch.Tensor) -> None:
        """Write values (measured token,) into one column of a (token, column) array; the other tokens stay NaN.

        They belong to the target from here on. Rows that don't hold the array are passed over.
        """
        if any(path in segment.buffer.tensors for segment in self.segments):
            self._add(path, column, values[:, None], measured=True)

    def put_values(self, path: str, values: torch.Tensor, column: int = 0) -> None:
        """Write values (captured token,) into a (token,) array, or one column of a (token, column) array.

        They belong to the target from here on. Rows that don't hold the array are passed over.
        """
        if self._claim(path, slice(column, column + 1)):
            self._add(path, column, values[:, None], measured=False)

    def flush(self) -> None:
        """Send what was gathered to its rows, and mark the point at which all of the batch's copies are done."""
        with self.meter.timed("copy"):
            for (path, measured), columns in self._columns.items():
                for part in _by_device(columns):
                    self._send(path, part, measured=measured)
            self._columns.clear()
            mark = self.copier.mark()
            for segment in self.segments:
                segment.buffer.mark = mark

    def _claim(self, path: str, columns: slice) -> bool:
        """Whether any row holds the array."""
        return any([segment.claim(path, columns) is not None for segment in self.segments])  # noqa: C419 (claim them all)

    def _add(self, path: str, start: int, values: torch.Tensor, *, measured: bool) -> None:
        self._columns.setdefault((path, measured), []).append(_Column(start, values))

    def _send(self, path: str, columns: Sequence[_Column], *, measured: bool) -> None:
        places = torch.cat([torch.arange(c.start, c.start + c.values.shape[1]) for c in columns])
        dtype = next(s.buffer.tensors[path].dtype for s in self.segments if path in s.buffer.tensors)
        host = self.copier.fetch(torch.cat([c.values for c in columns], dim=1).to(dtype))
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


def nowhere(shape: tuple[int, int]) -> BatchTarget:
    """The target of a pass of which nothing is kept, though every token is measured and proved."""
    n_tokens = shape[0] * shape[1]
    return BatchTarget(shape, np.arange(n_tokens), np.ones(n_tokens, np.bool_), ())


def _by_device(columns: Sequence[_Column]) -> list[list[_Column]]:
    """Columns of each device, for a model that is spread over several."""
    devices = dict.fromkeys(column.values.device for column in columns)
    return [[column for column in columns if column.values.device == device] for device in devices]


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
