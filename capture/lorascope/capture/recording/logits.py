"""What is kept of a batch's logits: how well each captured token was foreseen, and how far an adapter moved them."""

from collections.abc import Iterator

import torch

__all__ = ["kl_divergence", "negative_log_likelihood"]

_CHUNK_LOGITS = {"cpu": 2**18, "cuda": 2**26}
"""Logits worked on at once: on a CPU what its cache holds, which is three times as fast; and never all of a batch's."""


def negative_log_likelihood(
    logits: torch.Tensor, flat: torch.Tensor, ids: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Negative log-likelihood of each captured token given those before it, in nats, float32 (captured token,).

    Parameters
    ----------
    logits
        Shape (sequence, position, token id).
    flat
        Index of each captured token in the flattened (sequence, position) axis, int64.
    ids, positions
        Its token id, and its position in its sequence; NaN comes back for position 0.
    """
    flat_logits = logits.flatten(0, 1)
    nll = torch.empty(len(flat), dtype=torch.float32, device=logits.device)
    for part in _parts(len(flat), logits):
        before = flat_logits.index_select(0, (flat[part] - 1).clamp_(min=0)).float()
        nll[part] = torch.nn.functional.cross_entropy(before, ids[part], reduction="none")
    return nll.masked_fill_(positions == 0, torch.nan)


def kl_divergence(base: torch.Tensor, adapted: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """KL(base || adapted) of what either foresees after each captured token, in nats, float32 (captured token,).

    Parameters
    ----------
    base, adapted
        Logits (sequence, position, token id) of the same batch without and with the adapter.
    flat
        Index of each captured token in the flattened (sequence, position) axis, int64.

    Notes
    -----
    sum_i p_i (log p_i - log q_i) in float64: what is left of differences that nearly cancel is good to about 1e-13.
    """
    base, adapted = base.flatten(0, 1), adapted.flatten(0, 1)
    kl = torch.empty(len(flat), dtype=torch.float32, device=base.device)
    for part in _parts(len(flat), base):
        log_p = base.index_select(0, flat[part]).double().log_softmax(-1)
        log_q = adapted.index_select(0, flat[part]).double().log_softmax(-1)
        kl[part] = (log_p.exp() * (log_p - log_q)).sum(-1).clamp_(min=0).float()
    return kl


def _parts(n_tokens: int, logits: torch.Tensor) -> Iterator[slice]:
    step = max(1, _CHUNK_LOGITS.get(logits.device.type, 2**22) // logits.shape[-1])
    return (slice(start, min(start + step, n_tokens)) for start in range(0, n_tokens, step))
