"""Where one batch's states go: which of its padded tokens are captured, and their places in the rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from .rows import Segment

__all__ = ["BatchTarget", "nowhere"]


class BatchTarget(NamedTuple):
    """Takes the outputs of one forward pass, flattened over (sequence, position), into the rows of its tokens."""

    shape: tuple[int, int]
    """(sequences, positions) of the padded batch."""
    flat: np.ndarray
    """Index int64 (token,) of each captured token in the flattened (sequence, position) axis."""
    measured: np.ndarray
    """Bool (token,): those whose js is measured and whose sum is checked."""
    segments: Sequence[Segment]
    """The parts of the captured tokens that are written, in order; a token of none is only computed."""

    def take_measured(self, output: torch.Tensor) -> torch.Tensor:
        """Outputs of the measured tokens (measured token, feature), a copy on the device of `output`."""
        return output.index_select(0, torch.from_numpy(self.flat[self.measured]).to(output.device))

    def put(self, path: str, output: torch.Tensor, columns: slice = slice(None)) -> None:
        """Copy the captured tokens of an output (flat token, feature) into `columns` of the row array at `path`.

        The cast, if the store narrows, rounds to nearest even.
        """
        for segment in self.segments:
            place = segment.buffer.tensors[path][segment.target, columns]
            place.copy_(output.index_select(0, torch.from_numpy(self.flat[segment.source]).to(output.device)))

    def put_measured(self, path: str, column: int, values: torch.Tensor) -> None:
        """Write values (measured token,) into one column of a (token, column) array; the other tokens stay NaN."""
        values = values.cpu()
        for segment in self.segments:
            chosen = torch.from_numpy(self.measured[segment.source])
            rows = torch.arange(segment.target.start, segment.target.stop)[chosen]
            first = int(self.measured[: segment.source.start].sum())
            segment.buffer.tensors[path][rows, column] = values[first : first + len(rows)].to(torch.float32)


def nowhere(shape: tuple[int, int]) -> BatchTarget:
    """The target of a pass of which nothing is kept."""
    return BatchTarget(shape, np.empty(0, np.int64), np.empty(0, np.bool_), ())
