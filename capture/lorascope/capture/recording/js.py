"""The Jensen-Shannon divergence in torch: the reference that capture writes from the states in memory."""

import math

import torch

__all__ = ["jensen_shannon"]

_PART_VALUES = 2**22
"""Values worked on at a time: 32 MB for each of a dozen float64 temporaries, whatever the batch."""
_SERIES_BELOW = 0.1
"""|d| under which g is its even series: there the closed form loses digits to cancellation."""


def jensen_shannon(base: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """JS of softmax(base) and softmax(base + delta) over the last axis, in nats, float64.

    Parameters
    ----------
    base, delta
        Shape (..., feature), any floating type; all arithmetic is float64.

    Returns
    -------
    torch.Tensor
        Shape (...,), float64; NaN where base or delta isn't finite.

    Notes
    -----
    With d = log q - log p and m = (p + q) / 2, JS = sum_i m_i g(d_i), g(d) = (d/2) tanh(d/2) - log cosh(d/2) >= 0,
    so no terms cancel. d is delta less the log-ratio of the normalisers, which is log1p(sum_i p_i expm1(delta_i))
    where delta is small: the difference of two logarithms would lose it.

    References
    ----------
    Zhang et al., arXiv 2501.03152, eqs. 3 and 9.
    """
    n_tokens = max(1, _PART_VALUES // max(1, base.shape[-1]))
    if base.ndim == 2 and len(base) > n_tokens:
        parts = zip(torch.split(base, n_tokens), torch.split(delta, n_tokens), strict=True)
        return torch.cat([_jensen_shannon(*part) for part in parts])
    return _jensen_shannon(base, delta)


def _jensen_shannon(base: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    base, delta = base.double(), delta.double()
    log_p = torch.log_softmax(base - base.amax(-1, keepdim=True), -1)
    # A constant changes no softmax; without the mean under p, small differences of large deltas keep their digits.
    delta = delta - (log_p.exp() * delta).sum(-1, keepdim=True)
    shift = delta.amax(-1, keepdim=True)
    direct = shift + torch.logsumexp(log_p + (delta - shift), -1, keepdim=True)
    moved = (log_p.exp() * torch.expm1(delta.clamp(max=1.0))).sum(-1, keepdim=True)
    small = delta.abs().amax(-1, keepdim=True) < 0.5
    d = delta - torch.where(small, torch.log1p(moved.clamp(min=-0.5)), direct)
    mean = (log_p.exp() + (log_p + d).exp()) / 2
    terms = torch.where(mean > 0, mean * _excess(d), torch.zeros_like(mean))
    finite = torch.isfinite(base).all(-1) & torch.isfinite(delta).all(-1)
    return torch.where(finite, terms.sum(-1), torch.nan)


def _excess(d: torch.Tensor) -> torch.Tensor:
    """g(d) = ln 2 - H_b(sigmoid(d)): what one index with log-ratio d tells on which of two softmaxes it came from."""
    t = torch.exp(-d.abs())
    closed = math.log(2) - torch.log1p(t) - d.abs() * t / (1 + t)
    x = (d / 2) ** 2
    series = x * (1 / 2 - x * (1 / 4 - x * (1 / 9 - x * (17 / 360))))
    return torch.where(d.abs() < _SERIES_BELOW, series, closed)
