"""The processes that share one capture: torchrun's ranks, or this one alone."""

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist

from lorascope.stores.signals import answering

from ..models.device import require_device

_PATIENCE = timedelta(days=30)
"""How long a rank that is done waits for the others; one that died is noticed at once."""

S = TypeVar("S")
T = TypeVar("T")


class Ranks(NamedTuple):
    """One process among those that share a capture."""

    rank: int
    size: int
    local_rank: int
    """Rank on this machine: the number of its GPU."""

    @property
    def leads(self) -> bool:
        """Whether this is the one process that sets up and finishes the run."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """The rank's part of n things in a row."""
        return split_evenly(n, self.size)[self.rank]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        # No handler of Python's would be called while a rank waits for others.
        with answering(signal.SIG_DFL, signal.SIGTERM):
            dist.all_gather_object(values, value)
        return values

    def of_leader(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        return self.gather(value)[0]

    def shared(self, items: Sequence[S], batches: Sequence[slice], work: Callable[[Sequence[S]], T]) -> list[T]:
        """Results of `work` on each rank's part of the items, in order, on every rank; parts end where batches do."""
        own = batches[self.share(len(batches))]
        part = work(items[own[0].start : own[-1].stop]) if own else None
        return [result for result in self.gather(part) if result is not None]

    def wait(self) -> None:
        """Return once every rank is here."""
        self.gather(None)


ALONE = Ranks(0, 1, 0)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks of torchrun's environment, joined for as long as this lasts; `ALONE` outside of torchrun.

    Only small Python objects go between ranks: the states of each go from its memory to the store. Raises a ValueError
    if models run on GPUs and a rank has none of its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or dist.is_initialized():  # a caller's own group stays the caller's
        yield Ranks(dist.get_rank(), dist.get_world_size(), local_rank()) if dist.is_initialized() else ALONE
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(require_device(torch.device("cuda", local_rank())))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield Ranks(dist.get_rank(), size, local_rank())
    finally:
        dist.destroy_process_group()


def split_evenly(n: int, parts: int) -> list[slice]:
    """Consecutive slices that cover range(n), their lengths at most one apart."""
    bounds = [-(-n * part // parts) for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def local_rank() -> int:
    """The number of this process on its machine; 0 outside of torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))
