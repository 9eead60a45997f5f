"""The rows of a capture filled: the model's passes, the hooks, and the queue to whatever takes the rows."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .buffers.rows import RowQueue, RowWriter, row_spans
from .load import Loaded
from .prepare import Prepared
from .recording.hooks import Recorder
from .recording.reduce import Reducer
from .recording.stream import CaptureProgress, Streamed, stream_states

__all__ = ["Filled", "fill_rows"]


class Filled(NamedTuple):
    """What filling rows took, and what filled them."""

    streamed: Streamed
    rows: RowQueue
    recorder: Recorder


def fill_rows(
    prepared: Prepared,
    loaded: Loaded,
    writer: RowWriter,
    wanted: np.ndarray,
    *,
    queue_bytes: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[CaptureProgress], None] | None = None,
) -> Filled:
    """Pass every batch with tokens of the wanted rows (row,) and hand these rows to the writer.

    The other parameters are those of `RowQueue` and `stream_states`, which say what is raised.
    """
    plan = prepared.plan
    reducer = Reducer() if prepared.spec.states != "all" else None
    recorder = prepared.recorder(loaded.model, keep_states=prepared.spec.states != "none", reducer=reducer)
    queue = RowQueue(
        writer,
        n_tokens=plan.n_tokens,
        spans=row_spans(plan.starts, prepared.batches),
        queue_bytes=queue_bytes,
        wanted=wanted,
        pinned=loaded.device.type == "cuda",
    )
    with queue as rows:
        streamed = stream_states(
            loaded.model,
            recorder,
            prepared.samples,
            plan,
            prepared.batches,
            rows,
            device=loaded.device,
            reducer=reducer,
            kl_batches=plan.kl_batches if prepared.spec.kl else None,
            stop=stop,
            progress=progress,
        )
    return Filled(streamed, rows, recorder)
