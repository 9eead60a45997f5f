"""SHA-256 of tensors."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

from lorascope.stores.format.fingerprint import canonical

Hash = Callable[[Mapping[str, "torch.Tensor"]], Callable[[], str]]
"""Begins to hash tensors; the function that it returns waits for the hash and gives it, or raises as `hash_tensors`."""


@contextmanager
def hashing_in_thread() -> Iterator[Hash]:
    """A function that hashes tensors in a thread; when the block ends, hashing stops."""
    over = Event()
    with ThreadPoolExecutor(1) as thread:
        try:
            yield lambda tensors: thread.submit(hash_tensors, tensors, over=over.is_set).result
        finally:
            over.set()


def hash_at_once(tensors: Mapping[str, "torch.Tensor"]) -> Callable[[], str]:
    """Hash tensors before anything else is done."""
    sha256 = hash_tensors(tensors)
    return lambda: sha256


def hash_tensors(
    tensors: Mapping[str, "torch.Tensor"],
    *,
    dtype: "torch.dtype | None" = None,
    over: Callable[[], bool] = lambda: False,
) -> str:
    """SHA-256, in hexadecimal, over tensors in the order of their names: name, dtype, shape and bytes of each.

    Parameters
    ----------
    tensors
        By name, on any device; one at a time is copied to the host.
    dtype
        Widen to this type first, so that the same numbers kept in different types give one hash.
    over
        Asked before each tensor whether nobody wants the hash any more.

    Raises
    ------
    ValueError
        If a tensor is on the meta device and has no bytes.
    CancelledError
        If nobody wants it any more.
    """
    import torch  # not for who only hashes settings

    digest = hashlib.sha256()
    for name in sorted(tensors):
        if over():
            raise CancelledError
        tensor = tensors[name].detach()
        if tensor.is_meta:
            raise ValueError(f"tensor {name!r} is on the meta device (offloaded?), so its bytes can't be hashed")
        tensor = tensor.to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
        digest.update(canonical([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]) + b"\n")
        octets: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(octets)
    return digest.hexdigest()
