"""The Jensen-Shannon divergence in torch: the reference that capture writes from the states in memory."""

import math

import torch

__all__ = ["jensen_shannon", "part_values"]

_PART_VALUES = {"cpu": 2**17}
"""Values worked on at a time: on a CPU a dozen float64 temporaries of 1 MB, which its cache holds."""
_PART_VALUES_ELSEWHERE = 2**21
"""16 MB for each temporary, whatever the batch."""
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
    n_features = max(1, base.shape[-1])
    n_tokens = max(1, part_values(base.device) // n_features)
    if base.numel() <= n_tokens * n_features:
        return _jensen_shannon(base, delta)
    parts = zip(*(torch.split(values.flatten(0, -2), n_tokens) for values in (base, delta)), strict=True)
    return torch.cat([_jensen_shannon(*part) for part in parts]).reshape(base.shape[:-1])


def part_values(device: torch.device) -> int:
    """Values that are best worked on at a time on a device, where each takes a dozen float64 temporaries."""
    return _PART_VALUES.get(device.type, _PART_VALUES_ELSEWHERE)


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
