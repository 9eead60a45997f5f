"""Processes that compute one capture together under torchrun, and exchanges of values between them."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from .device import local_rank, require_device
from .shards import Shards
from .steps import Steps
from .watch import watching

_PATIENCE = timedelta(days=30)
"""How long a finished rank waits for the others; `watching` notices one that died or stalls."""

S = TypeVar("S")
T = TypeVar("T")


class Ranks(NamedTuple):
    """Place of this process among the ranks (processes) of a capture, and exchanges of values between them."""

    rank: int
    size: int
    shards: Shards | None = None
    """Place of this process among the consecutive ranks over which each layer is split (tensor parallel), if any is.

    They run the same batches."""
    steps: Steps | None = None
    """Passes that all ranks make together, if FSDP2 shards the model over them."""

    @property
    def n_tensor(self) -> int:
        """Number of ranks over which each layer is split; 1 if every rank has whole layers."""
        return 1 if self.shards is None else self.shards.size

    @property
    def leads(self) -> bool:
        """Whether this process is rank 0, which sets up and finishes the run."""
        return self.rank == 0

    @property
    def writes(self) -> bool:
        """Whether this process writes the rows of its batches: the first of those over which layers are split."""
        return self.rank % self.n_tensor == 0

    def own_slice(self, n: int) -> slice:
        """Return this rank's part of range(n), a slice whose length differs from other ranks' by at most one.

        Ranks over which layers are split have the same part.
        """
        part, n_parts = self.rank // self.n_tensor, self.size // self.n_tensor
        return slice(-(-n * part // n_parts), -(-n * (part + 1) // n_parts))

    def gather(self, value: T) -> list[T]:
        """Return the `value` of every rank, in the order of ranks; waits until all ranks have called this."""
        if self.size == 1:
            return [value]
        if self.steps is not None:
            self.steps.finish()
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_leader(self, value: T) -> T:
        """Return rank 0's `value` on every rank; waits until all ranks have called this."""
        return self.gather(value)[0]

    def map_batches(self, items: Sequence[S], batches: Sequence[slice], work: Callable[[Sequence[S]], T]) -> list[T]:
        """Run `work` on this rank's part of the batches of `items`; return the results of all parts on every rank."""
        own = batches[self.own_slice(len(batches))]
        part = work(items[own[0].start : own[-1].stop]) if own else None
        return [result for result in self.gather(part)[:: self.n_tensor] if result is not None]

    def agree_to_stop(self, value: bool) -> bool:
        """Return whether this rank stops: if `value` is True here or on a rank that makes the same passes.

        Ranks over which layers are split wait for each other here; others learn of it at their next pass.
        """
        if self.shards is not None:
            values = [False] * self.n_tensor
            dist.all_gather_object(values, value, group=self.shards.group)
            value = any(values)
        if self.steps is not None:
            value = self.steps.stops = self.steps.stops or value
        return value

    def finish_passes(self, stop: Callable[[], bool]) -> bool:
        """Take part in the passes of other ranks over sharded weights, and return whether a rank stops.

        This one does once `stop` returns True.
        """
        if self.steps is None:
            return False
        self.steps.finish(stop)
        return self.steps.stops

    def wait(self) -> None:
        """Wait until every rank has called this."""
        self.gather(None)


ALONE = Ranks(0, 1)


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Yield this process's `Ranks` under torchrun, connected within the context; `ALONE` outside of torchrun.

    Only small Python objects go between ranks: the states of each go from its memory to the store. Raises a ValueError
    if models run on GPUs and a rank has no GPU to itself, or the environment isn't torchrun's; and as `watching` does.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or dist.is_initialized():  # a caller's own group stays the caller's
        yield Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise ValueError(
            f"`WORLD_SIZE` is {size} in the environment, but `{missing[0]}` isn't set; start processes by `torchrun`"
        )
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(require_device(torch.device("cuda", local_rank())))
    try:
        with watching(int(os.environ["RANK"]), size) as prefix:
            store, rank, _ = next(rendezvous("env://", timeout=_PATIENCE))
            # Under torch's own prefix are still the keys of an earlier capture by these processes.
            own_store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
            backend = "nccl" if on_gpu else "gloo"
            dist.init_process_group(backend, store=own_store, rank=rank, world_size=size, timeout=_PATIENCE)
            yield Ranks(rank, size)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
