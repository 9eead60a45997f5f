"""Copies of chosen tokens of a layer's output from the device into host memory."""

import logging
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from lorascope.stores.size import format_size

IN_FLIGHT_BYTES = 2**30
"""Maximum bytes of device memory that wait for their copy; with more, the forward pass waits."""
Wait = Callable[[], None]
_LOG = logging.getLogger(__name__)
_PORTABLE = 1
"""`cudaHostRegisterPortable`: page-locked for every device, as a model may be spread over several."""
_RUN_TOKENS = 8
"""Mean length of runs from which on copying run by run is faster than a gather."""


class ChosenTokens:
    """Selection of tokens of a flattened batch, as indices and as runs of consecutive tokens."""

    def __init__(self, flat: np.ndarray) -> None:
        """Keep the ascending indices `flat` (chosen token,), and find their runs of consecutive tokens."""
        self.flat = flat
        self.runs: tuple[tuple[slice, slice], ...] = _consecutive_runs(flat)
        """(slice of the batch, slice of the chosen tokens) of every run of consecutive tokens."""
        self._index: dict[torch.device, torch.Tensor] = {}

    def __len__(self) -> int:
        """Return the number of chosen tokens."""
        return len(self.flat)

    def index(self, device: torch.device) -> torch.Tensor:
        """Return the indices int64 (chosen token,) as a tensor on `device`; each device gets them only once."""
        if device not in self._index:
            self._index[device] = torch.from_numpy(self.flat).to(device, non_blocking=True)
        return self._index[device]

    def view(self, output: torch.Tensor) -> torch.Tensor:
        """Return the chosen tokens of an output (flat token, feature): a view if they are consecutive, else a copy."""
        return output[self.runs[0][0]] if len(self.runs) == 1 else self.copy(output)

    def copy(self, output: torch.Tensor) -> torch.Tensor:
        """Return a copy of the chosen tokens of an output (flat token, feature), on its device."""
        return output.index_select(0, self.index(output.device))


class DirectCopier:
    """Copier into host memory whose calls return once the copy is done: for the host and devices without streams.

    A subclass may copy later. Even then the caller may change or free an output at once after `copy`; values that were
    sent must not change any more.
    """

    def copy(self, output: torch.Tensor, chosen: ChosenTokens, place: torch.Tensor) -> None:
        """Copy the chosen tokens of an output (flat token, feature) into `place` in host memory, cast to its type.

        This is one pass over the data if tokens are mostly consecutive or the types agree, else two.
        """
        if len(chosen.runs) * _RUN_TOKENS <= len(chosen):
            for source, target in chosen.runs:
                place[target].copy_(output[source])
        elif output.device == place.device and output.dtype == place.dtype and place.is_contiguous():
            torch.index_select(output, 0, chosen.index(output.device), out=place)
        else:
            place.copy_(chosen.copy(output))

    def send(self, values: torch.Tensor, place: torch.Tensor) -> None:
        """Copy values into `place`, host memory of the same shape and type."""
        place.copy_(values)

    def mark(self) -> Wait:
        """Return a function that waits, in any thread, until every copy asked for so far is done: here they are."""
        return lambda: None

    def pin(self, memory: torch.Tensor) -> None:
        """Prepare host memory for copies until `unpin`, such as by page-locking it; direct copies need nothing."""

    def unpin(self, memory: torch.Tensor) -> None:
        """Undo `pin` on host memory before it is freed; all copies into it must be done."""

    def close(self) -> None:
        """Wait for every copy, and unpin all host memory."""


class StreamCopier(DirectCopier):
    """Copier from CUDA devices into page-locked host memory, on a separate stream while the model runs on.

    The chosen tokens are gathered and cast on the pass's own stream, so that a later change of the output doesn't
    affect them. The gathered tensor is kept until its copy is done, so that the allocator can't reuse its memory.

    Notes
    -----
    Host memory is registered with CUDA rather than allocated by torch, which rounds what it page-locks up to a power
    of two. `copy_(non_blocking=True)` is one `cudaMemcpyAsync` where types agree and both sides are contiguous, and
    whether the host waits is CUDA's to say: not for registered memory. Torch's caching allocator records events for its
    own blocks only and lets other memory pass (`CachingHostAllocatorImpl.record_event`), so nobody but the copier
    knows when a copy into it is done.
    """

    def __init__(self, device: torch.device, *, in_flight_bytes: int = IN_FLIGHT_BYTES) -> None:
        """Copy for a model on `device`; with more than `in_flight_bytes` waiting, `send` waits for old copies."""
        self._device = device
        self._limit = in_flight_bytes
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._sources: deque[tuple[torch.cuda.Event, torch.Tensor]] = deque()
        self._held_bytes = 0
        self._pinned: dict[int, torch.Tensor] = {}
        self._may_pin = True

    def copy(self, output: torch.Tensor, chosen: ChosenTokens, place: torch.Tensor) -> None:
        """Gather the chosen tokens now and copy them to `place` while the model runs on.

        Outputs of layers on the host are copied at once.
        """
        if output.device.type == "cuda":
            self.send(chosen.copy(output).to(place.dtype), place)
        else:
            super().copy(output, chosen, place)

    def send(self, values: torch.Tensor, place: torch.Tensor) -> None:
        """Copy values to `place` on a separate stream, after all work launched so far.

        The call returns before the copy is done; it waits only while too many bytes are in flight.
        """
        device = values.device
        if device.type != "cuda":
            super().send(values, place)
            return
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own
        stream = self._streams[device]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            place.copy_(values, non_blocking=True)
            self._sources.append((stream.record_event(), values))
        self._held_bytes += values.nbytes
        # Device tensors whose copy is done are freed; above the limit of bytes, the oldest copies are waited for.
        while self._sources and (self._held_bytes > self._limit or self._sources[0][0].query()):  # type: ignore[no-untyped-call]
            event, values = self._sources.popleft()
            event.synchronize()
            self._held_bytes -= values.nbytes

    def mark(self) -> Wait:
        """Return a function that waits for an event recorded now on every device's copying stream."""
        events = [stream.record_event() for stream in self._streams.values()]

        def wait() -> None:
            """Wait until the device has reached every recorded event, so that the copies before it are done."""
            for event in events:
                event.synchronize()

        return wait

    def pin(self, memory: torch.Tensor) -> None:
        """Page-lock host memory with CUDA; if CUDA refuses, log a warning once, and later copies are waited for."""
        if not self._may_pin:
            return
        with torch.cuda.device(self._device):  # else a context would be made on the first one
            code = int(_cuda_runtime().cudaHostRegister(memory.data_ptr(), memory.nbytes, _PORTABLE))
            if code == 0:
                self._pinned[memory.data_ptr()] = memory
                return
            self._may_pin = False
            _clear_cuda_error(self._device)
        _LOG.warning(
            "CUDA can't page-lock %s of host memory for rows (error %d), so that the forward pass waits for every "
            "copy; a smaller `queue` may help, or a higher limit of the container",
            format_size(memory.nbytes),
            code,
        )

    def unpin(self, memory: torch.Tensor) -> None:
        """Unregister host memory that `pin` registered with CUDA; do nothing for other memory."""
        if self._pinned.pop(memory.data_ptr(), None) is not None:
            with torch.cuda.device(self._device):
                # Its code reports errors of earlier work only; those are raised where that work is waited for.
                _cuda_runtime().cudaHostUnregister(memory.data_ptr())

    def close(self) -> None:
        """Wait for every copy, even into rows that will never be written, and unregister all memory."""
        try:
            self.mark()()
        finally:
            self._sources.clear()
            for memory in list(self._pinned.values()):
                self.unpin(memory)


def copier_for(device: torch.device) -> DirectCopier:
    """Return a `StreamCopier` for a CUDA device, and a `DirectCopier` for any other device."""
    return StreamCopier(device) if device.type == "cuda" else DirectCopier()


def _cuda_runtime() -> Any:
    """Return torch's binding of the CUDA runtime, `torch.cuda.cudart()`."""
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's own


def _clear_cuda_error(device: torch.device) -> None:
    """Make CUDA report and clear the error of a failed call, which the next kernel would otherwise report."""
    try:
        torch.zeros(1, device=device)
    except RuntimeError as error:
        _LOG.debug("CUDA said: %s", error)


def _consecutive_runs(flat: np.ndarray) -> tuple[tuple[slice, slice], ...]:
    """Return (slice of the batch, slice of the chosen tokens) for every run of consecutive indices in `flat`."""
    if not len(flat):
        return ()
    cuts = np.flatnonzero(np.diff(flat) != 1) + 1
    bounds = [0, *cuts.tolist(), len(flat)]
    return tuple(
        (slice(int(flat[start]), int(flat[start]) + stop - start), slice(start, stop))
        for start, stop in pairwise(bounds)
    )
