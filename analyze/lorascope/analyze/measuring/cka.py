"""Linear centred kernel alignment of base and lora, from groups of tokens that fit into memory."""

import numpy as np

from ..kernels.linear import delta_rows

__all__ = ["GROUP_TOKENS", "cka", "hsic_terms"]

GROUP_TOKENS = 128
"""Tokens whose kernels are compared with each other; a row is dealt out to groups of about this size."""
LEAST_TOKENS = 4
"""Fewest tokens of a group, which the unbiased estimator needs."""


def hsic_terms(base: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HSIC of base with itself, of base with lora, and of lora with itself, each float32 (token,).

    Parameters
    ----------
    base, delta
        Float32 (token, feature): all tokens of a row. Token t of a row of n goes into group t mod G, with G groups of
        about `GROUP_TOKENS`, so that a group's tokens come from the whole row; all tokens of a group get its value.

    Notes
    -----
    For linear kernels K = X X^T and L = Y Y^T without their diagonals and n tokens,
    HSIC = (tr(K L) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 1'K L 1 / (n - 2)) / (n (n - 3)), which is unbiased for
    independent tokens. Tokens that aren't finite are left out and get NaN, as do groups of fewer than four.

    References
    ----------
    Song, Smola, Gretton, Bedo and Borgwardt 2012, JMLR 13, eq. 5; Nguyen, Raghu and Kornblith 2021, arXiv 2010.15327,
    eq. 3.
    """
    out = np.full((3, len(base)), np.nan, np.float32)
    known = np.isfinite(base).all(axis=1) & np.isfinite(delta).all(axis=1)
    n_groups = max(1, round(len(base) / GROUP_TOKENS))
    for group in range(n_groups):
        tokens = np.arange(group, len(base), n_groups)
        tokens = tokens[known[tokens]]
        if len(tokens) >= LEAST_TOKENS:
            out[:, tokens] = np.array(_group_terms(base[tokens], delta[tokens]))[:, None]
    return out[0], out[1], out[2]


def cka(hsic_base: np.ndarray, hsic_base_lora: np.ndarray, hsic_lora: np.ndarray) -> np.ndarray:
    """Linear CKA, (component,), of the three HSIC means (component,); NaN where base or lora hardly varies.

    References
    ----------
    Kornblith, Norouzi, Lee and Hinton 2019, arXiv 1905.00414; from minibatches as arXiv 2010.15327, eq. 2.
    """
    product = np.asarray(hsic_base, np.float64) * hsic_lora
    known = (product > 0) & (np.asarray(hsic_base) > 0)
    root = np.sqrt(product, out=np.full(product.shape, np.nan), where=known)
    return np.asarray(hsic_base_lora / root)


def _group_terms(base: np.ndarray, delta: np.ndarray) -> tuple[float, float, float]:
    x = base - base.mean(axis=0, dtype=np.float64).astype(np.float32)  # shifts change nothing but the rounding
    y = x + (delta - delta.mean(axis=0, dtype=np.float64).astype(np.float32))
    k, m = _kernel(x), _kernel(y)
    return _hsic(k, k), _hsic(k, m), _hsic(m, m)


def _kernel(x: np.ndarray) -> np.ndarray:
    kernel = np.empty((len(x), len(x)), np.float32)
    # X X^T by the loops that make delta of z and B: as fast, and unlike BLAS the same whoever runs how many threads.
    delta_rows(x, np.ascontiguousarray(x.T), np.float32(1), np.empty(0, np.float32), kernel)
    kernel = kernel.astype(np.float64)
    np.fill_diagonal(kernel, 0.0)
    return kernel


def _hsic(k: np.ndarray, m: np.ndarray) -> float:
    n = len(k)
    sums, other_sums = k.sum(axis=0), m.sum(axis=0)
    total = (k * m).sum() + sums.sum() * other_sums.sum() / ((n - 1) * (n - 2)) - 2 * (sums @ other_sums) / (n - 2)
    return float(total / (n * (n - 3)))
