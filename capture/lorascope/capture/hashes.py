"""What identifies tensors: SHA-256 over bytes that mean one thing only."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

from lorascope.stores.format.fingerprint import canonical


def hash_tensors(tensors: Mapping[str, "torch.Tensor"], *, dtype: "torch.dtype | None" = None) -> str:
    """SHA-256, in hexadecimal, over tensors in the order of their names: name, dtype, shape and bytes of each.

    Parameters
    ----------
    tensors
        By name, on any device; one at a time is copied to the host.
    dtype
        Widen to this type first, so that the same numbers kept in different types give one hash.

    Raises
    ------
    ValueError
        If a tensor is on the meta device and has no bytes.
    """
    import torch  # not for who only hashes settings

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if tensor.is_meta:
            raise ValueError(f"tensor {name!r} is on the meta device (offloaded?), so its bytes can't be hashed")
        tensor = tensor.to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
        digest.update(canonical([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]) + b"\n")
        octets: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(octets)
    return digest.hexdigest()
