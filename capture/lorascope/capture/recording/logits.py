"""What is kept of a batch's logits: how well each captured token was foreseen, and how far an adapter moved them."""

import torch

from ..samples.scoring import logit_parts, token_nll

__all__ = ["kl_divergence", "negative_log_likelihood"]


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
    nll = token_nll(logits.flatten(0, 1), (flat - 1).clamp_(min=0), ids)
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
    for part in logit_parts(len(flat), base):
        log_p = base.index_select(0, flat[part]).double().log_softmax(-1)
        log_q = adapted.index_select(0, flat[part]).double().log_softmax(-1)
        kl[part] = (log_p.exp() * (log_p - log_q)).sum(-1).clamp_(min=0).float()
    return kl
