"""Likelihoods by logits, in parts: a softmax over a vocabulary takes several times the memory of the logits."""

from collections.abc import Iterator

import torch

__all__ = ["logit_parts", "part_logits", "token_nll"]

_PART_LOGITS = {"cpu": 2**18, "cuda": 2**24}
"""On a CPU what its cache holds, which is three times as fast; and never all of a batch's."""


def token_nll(logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each of these tokens, in nats, float32 (token,), whatever the logits' type.

    Parameters
    ----------
    logits
        Shape (row, token id).
    rows, ids
        The row that foresees each token, and its id, int64 on the device of the logits.
    """
    nll = torch.empty(len(rows), dtype=torch.float32, device=logits.device)
    for part in logit_parts(len(rows), logits):
        nll[part] = torch.nn.functional.cross_entropy(logits[rows[part]].float(), ids[part], reduction="none")
    return nll


def part_logits(device: torch.device) -> int:
    """Logits worked on at once on a device."""
    return _PART_LOGITS.get(device.type, 2**22)


def logit_parts(n_tokens: int, logits: torch.Tensor) -> Iterator[slice]:
    """Parts of the tokens whose logits (..., token id) are best worked on together."""
    step = max(1, part_logits(logits.device) // logits.shape[-1])
    return (slice(start, min(start + step, n_tokens)) for start in range(0, n_tokens, step))
