"""How states leave the device: what is chosen of a layer's output, and the copies of it into host memory."""

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

IN_FLIGHT_BYTES = 2**30
"""Most device memory that waits for its copy; beyond it the forward pass waits."""
Wait = Callable[[], None]
_RUN_TOKENS = 8
"""Mean length of runs above which copying run by run beats a gather."""


class Chosen:
    """Some tokens of a flattened batch, by index and as runs of neighbours."""

    def __init__(self, flat: np.ndarray) -> None:
        self.flat = flat
        self.runs: tuple[tuple[slice, slice], ...] = _runs(flat)
        """(place in the batch, place among the chosen) of every run of neighbours."""
        self._index: dict[torch.device, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.flat)

    def index(self, device: torch.device) -> torch.Tensor:
        """The index (chosen token,) on a device; sent there once."""
        if device not in self._index:
            self._index[device] = torch.from_numpy(self.flat).to(device, non_blocking=True)
        return self._index[device]

    def view(self, output: torch.Tensor) -> torch.Tensor:
        """The chosen tokens of an output (flat token, feature): a view of it where they are one run, else a copy."""
        return output[self.runs[0][0]] if len(self.runs) == 1 else self.copy(output)

    def copy(self, output: torch.Tensor) -> torch.Tensor:
        """The chosen tokens of an output, always a copy, on its device."""
        return output.index_select(0, self.index(output.device))


class Copier(Protocol):
    """Brings tensors into host memory, perhaps later; what it was given may change or go as soon as it returns."""

    def copy(self, output: torch.Tensor, chosen: Chosen, place: torch.Tensor) -> None:
        """Copy the chosen tokens of an output (flat token, feature) into host memory, cast to its type."""
        ...

    def fetch(self, values: torch.Tensor) -> torch.Tensor:
        """Host memory that holds `values` once a later mark is reached; nobody else may write to `values`."""
        ...

    def mark(self) -> Wait:
        """The point after every copy so far: a wait until it is reached, from any thread."""
        ...


class DirectCopier:
    """Copies at once: for outputs in host memory, and for devices without streams."""

    def copy(self, output: torch.Tensor, chosen: Chosen, place: torch.Tensor) -> None:
        """One pass over the data, cast included, where the tokens lie in runs or the row has the output's type."""
        if len(chosen.runs) * _RUN_TOKENS <= len(chosen):
            for source, target in chosen.runs:
                place[target].copy_(output[source])
        elif output.device == place.device and output.dtype == place.dtype and place.is_contiguous():
            torch.index_select(output, 0, chosen.index(output.device), out=place)
        else:
            place.copy_(chosen.copy(output))

    def fetch(self, values: torch.Tensor) -> torch.Tensor:
        """`values` itself if it is in host memory."""
        return values.cpu()

    def mark(self) -> Wait:
        """Nothing is ever left to wait for."""
        return lambda: None


class StreamCopier:
    """Copies from CUDA devices on a stream of their own, beside the forward pass, into pinned memory.

    What is chosen is gathered and cast on the pass's own stream, so that whatever later changes the output comes too
    late. The gathered tensor is held until its copy is done: before that the allocator could give its memory away.
    """

    def __init__(self, *, in_flight_bytes: int = IN_FLIGHT_BYTES) -> None:
        self._limit = in_flight_bytes
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._held: deque[tuple[torch.cuda.Event, torch.Tensor]] = deque()
        self._held_bytes = 0
        self._direct = DirectCopier()

    def copy(self, output: torch.Tensor, chosen: Chosen, place: torch.Tensor) -> None:
        """Gather now, copy beside the pass; layers that a device map left on the host are copied at once."""
        if output.device.type == "cuda":
            self._send(chosen.copy(output).to(place.dtype), place)
        else:
            self._direct.copy(output, chosen, place)

    def fetch(self, values: torch.Tensor) -> torch.Tensor:
        """Pinned memory that is being filled."""
        if values.device.type != "cuda":
            return values
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._send(values, host)
        return host

    def mark(self) -> Wait:
        """An event on every device's stream."""
        events = [stream.record_event() for stream in self._streams.values()]

        def wait() -> None:
            for event in events:
                event.synchronize()

        return wait

    def _send(self, source: torch.Tensor, host: torch.Tensor) -> None:
        device = source.device
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own
        stream = self._streams[device]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            host.copy_(source, non_blocking=True)
            self._held.append((stream.record_event(), source))
        self._held_bytes += source.nbytes
        self._release()

    def _release(self) -> None:
        """Let go of what is copied; wait for the oldest copies while too much is held."""
        while self._held and (self._held_bytes > self._limit or _is_over(self._held[0][0])):
            event, source = self._held.popleft()
            event.synchronize()
            self._held_bytes -= source.nbytes


def copier_for(device: torch.device) -> Copier:
    """The copier for a model on this device."""
    return StreamCopier() if device.type == "cuda" else DirectCopier()


def _is_over(event: torch.cuda.Event) -> bool:
    return bool(event.query())  # type: ignore[no-untyped-call]  # torch's own


def _runs(flat: np.ndarray) -> tuple[tuple[slice, slice], ...]:
    if not len(flat):
        return ()
    cuts = np.flatnonzero(np.diff(flat) != 1) + 1
    bounds = [0, *cuts.tolist(), len(flat)]
    return tuple(
        (slice(int(flat[start]), int(flat[start]) + stop - start), slice(start, stop))
        for start, stop in pairwise(bounds)
    )
