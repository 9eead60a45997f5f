"""Bounds of mutual information by the Jensen-Shannon divergence (JS), and exact values of tables and normals."""

import math
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.polynomial.polynomial import polyval
from scipy.special import k0e, xlog1py  # type: ignore[import-untyped]

Values = TypeVar("Values", float, np.ndarray)

ROUNDING = 1e-12
"""Distance outside its range up to which an argument is treated as the end of the range."""
MASS_ROUNDING = 1e-9
"""Largest distance from 1 of the sum of a table of probabilities."""
LN2 = math.log(2)
LN2_ERROR = 2.3190468138462996e-17
"""The exact ln 2 minus the float64 `LN2`."""
NEWTON_STEPS = 5
"""Newton steps of `js_lower_bound`: four were enough for full precision at every js tried, also near ln 2."""
FARTHEST = 800.0
"""Mutual information in nats above which exp(-mi) is 0."""
LEAST_CELL = 1e-150
"""Smaller probabilities count as 0, so that products of two marginals stay within float64."""
NEAR = 0.25
"""Largest distance of a density ratio from 1 for which a series is used."""
SERIES = 1 / (np.arange(1.0, 26.0) * np.arange(2.0, 27.0))
"""Coefficients c: the mean of ln between 1 and 1 + s is s (c_0 - c_1 s + c_2 s^2 - ...)."""
SPACING = 1 / 16
"""Distance between the nodes of the integrals in `gaussian_dependence`, on a logarithmic axis."""


class Dependence(NamedTuple):
    """Divergences in nats between a joint distribution P and the product Q of its marginals."""

    mutual_information: float
    """KL(P || Q)."""
    js: float
    """JS(P || Q), the Jensen-Shannon divergence; it equals mutual_information / 2 - kl_mixture."""
    kl_mixture: float
    """KL(M || Q), where M = (P + Q)/2."""


def js_lower_bound(js: Values) -> Values:
    """Return the least mutual information Xi (nats) for a Jensen-Shannon divergence `js` of joint and product.

    Parameters
    ----------
    js
        JS(joint || product) in nats, from 0 to ln 2, of any shape. It isn't the JS of eq. 9, which compares two
        softmaxes of one token.

    Returns
    -------
    float or np.ndarray
        Float64 of the shape of `js`; infinity if js is the float64 nearest to ln 2. The relative error is below 1e-14
        for the given js; close to ln 2 an error of js is amplified by 2 exp(Xi)/Xi.

    Raises
    ------
    ValueError
        If a value is NaN, or outside of its range by more than 1e-12.

    Notes
    -----
    Xi is the inverse of J(x) = ln 2 - ((1 + a) ln(1 + a) + a x)/2 with a = exp(-x), and KL(P || Q) >= Xi(JS(P || Q)).
    Proof: with t = dP/dQ, KL and JS are the means under Q of f(t) = t ln t - t + 1 and g(t) = (t ln(2t/(1 + t)) +
    ln(2/(1 + t)))/2. Take s > 1 and lam = 2s/ln(1 + s). Then h = f - lam g is concave up to lam/2 - 1, which is below
    s, and convex beyond. Its tangent at s goes through (0, h(0)), so that h is nowhere below this tangent. As t has
    mean 1, KL - lam JS is at least the tangent's value at 1. That is x - lam J(x) for x = ln s, because a variable t
    that is s with probability 1/s and otherwise 0 attains it. These lines, one for each s, have Xi as their envelope.
    Two copies of a symbol, uniform among n, attain it. Near 0, Xi(js) is js 2/ln 2, and it is never less.

    Newton's method solves ln(ln 2 - J(x)) = ln(ln 2 - js). It can't diverge, since the left side is concave:
    J'(x) = a ln(1 + 1/a)/2 is log-concave.

    References
    ----------
    Dorent, Golland and Wells 2025, arXiv 2510.20644; Harremoes and Vajda 2010, arXiv 1001.4432: extremes of pairs of
    f-divergences are attained on two points.

    Examples
    --------
    >>> round(js_lower_bound(0.4414), 3)
    1.716
    """
    j = _check_range("js", js, 0.0, LN2, "0 to ln 2 = 0.693147... nats; multiply bits by it")
    rest = (LN2 - j) + LN2_ERROR
    x = j * (2 / LN2)
    for _ in range(NEWTON_STEPS):
        a = np.exp(-x)
        left = ((1 + a) * np.log1p(a) + a * x) / 2
        slope = a * (x + np.log1p(a)) / 2
        missing = np.where(j < LN2 / 2, j - _extremal_js(x), left - rest)
        x = x + np.log1p(missing / rest) * left / slope
    bound: Values = _float_if_scalar(np.where(j < LN2, x, np.inf))
    return bound


def js_upper_bound(mi: Values) -> Values:
    """Return the largest Jensen-Shannon divergence (nats) of joint and product for a mutual information `mi` (nats).

    Parameters
    ----------
    mi
        Mutual information in nats, 0 to infinity, of any shape.

    Returns
    -------
    float or np.ndarray
        Float64 of the shape of `mi`, at most ln 2. Relative error below 1e-15.

    Raises
    ------
    ValueError
        If a value is NaN, or below 0 by more than 1e-12.

    Notes
    -----
    It is J(mi), the inverse of `js_lower_bound`, and never above mi ln(2)/2.
    """
    x = _check_range("mi", mi, 0.0, np.inf, "0 nats and above, infinity too")
    bound: Values = _float_if_scalar(np.minimum(_extremal_js(np.minimum(x, FARTHEST)), LN2))
    return bound


def _extremal_js(x: np.ndarray) -> np.ndarray:
    """Return the largest JS (nats) of two distributions with KL x: their density ratio is exp(x) or 0.

    It is J(x) in the notes of `js_lower_bound`.
    """
    a, rest = np.exp(-x), -np.expm1(-x)
    # ln 2 - ((1 + a) ln(1 + a) + a x)/2, rearranged so that no larger terms cancel for small x
    return np.asarray((rest * LN2 - (1 + a) * np.log1p(-rest / 2) - a * x) / 2)


def discrete_dependence(joint: np.ndarray) -> Dependence:
    """Return the mutual information (nats), and two related divergences, of a table `joint` of probabilities.

    Parameters
    ----------
    joint
        Probabilities (symbol of one side, symbol of the other), which sum to 1; zeros are allowed. Float64 is computed.

    Raises
    ------
    ValueError
        If the table isn't two-dimensional, contains NaN, infinity or a negative number, or its sum differs from 1 by
        more than 1e-9. The table is divided by its sum.

    Notes
    -----
    Let t = joint/product and L(t) the mean of ln between 1 and t, so that (t - 1) L(t) = t ln t - t + 1. Then mutual
    information is the sum of (joint - product) L(t), KL(M || Q) half the sum of (joint - product) L((1 + t)/2), and JS
    half the sum of (joint - product) (L(t) - L((1 + t)/2)): no term is negative. Probabilities below 1e-150 count as 0.

    Examples
    --------
    >>> import numpy as np
    >>> [round(value, 4) for value in discrete_dependence(np.array([[0.4, 0.1], [0.1, 0.4]]))]
    [0.1927, 0.0507, 0.0457]
    """
    table = np.asarray(joint, np.float64)
    if table.ndim != 2:
        raise ValueError(f"`joint` has shape {table.shape}; it must have two axes, one for each variable")
    wrong = ~((table >= 0) & np.isfinite(table))
    if wrong.any():
        raise ValueError(f"`joint` contains {float(table[wrong][0])!r}; allowed are finite probabilities, 0 and above")
    total = float(table.sum())
    if abs(total - 1) > MASS_ROUNDING:
        raise ValueError(
            f"`joint` sums to {total!r}; allowed is 1, give or take {MASS_ROUNDING:g}: divide counts by their total"
        )
    table = np.where(table < LEAST_CELL, 0.0, table) / total
    table = table[table.any(axis=1)][:, table.any(axis=0)]
    product = np.outer(table.sum(axis=1), table.sum(axis=0))
    difference = table - product
    mi, js, kl_mixture = _integrate_divergences(difference, difference / product)
    return Dependence(mi, js, kl_mixture)


def gaussian_dependence(rho: float) -> Dependence:
    """Return the mutual information (nats), and two related divergences, of a bivariate normal of correlation `rho`.

    Raises
    ------
    ValueError
        If `rho` isn't above -1 and below 1.

    Notes
    -----
    Mutual information I is -ln(1 - rho^2)/2. The others are integrals over one variable k: under the joint distribution
    the log density ratio is I + rho k, where k is the product of two independent standard normals, with density
    K0(|k|)/pi; under the product of marginals that density is multiplied by exp(-I - rho k). As functions of ln |k|
    integrands are analytic and decay at both ends, so that the trapezoidal rule converges exponentially: the relative
    error is below 1e-12 up to |rho| = 1 - 1e-12.

    References
    ----------
    Craig 1936, Annals of Mathematical Statistics 7: the product of two normals. Takahasi and Mori 1974,
    Publications of RIMS 9: trapezoids after a change of variable.

    Examples
    --------
    >>> round(gaussian_dependence(0.9).js, 4)
    0.2146
    """
    if not -1 < rho < 1:
        raise ValueError(
            f"`rho` is {float(rho)!r}; allowed is a number above -1 and below 1, where mutual information is infinite"
        )
    size = abs(float(rho))  # the sign of one variable has no effect
    mi = -math.log1p(-size * size) / 2 if size < 0.5 else -math.log((1 - size) * (1 + size)) / 2
    # Integrands are negligible for |k| below exp(-50) and above 60 (where they decay as exp(-|k|)), or above
    # 60/(1 - rho) on the negative side, where the product's density decays as exp(-(1 - rho)|k|).
    nodes = np.exp(np.arange(-50, math.log(60 / (1 - size)), SPACING))
    k = np.concatenate([nodes[nodes < 60], -nodes])
    falls = np.where(k > 0, 1 + size, 1 - size)
    product = k0e(np.abs(k)) * np.abs(k) * np.exp(-falls * np.abs(k) - mi) * (SPACING / np.pi)
    excess = np.expm1(mi + size * k)
    _, js, kl_mixture = _integrate_divergences(product * excess, excess)
    return Dependence(mi, js, kl_mixture)


def _integrate_divergences(difference: np.ndarray, excess: np.ndarray) -> tuple[float, float, float]:
    """Return KL(P || Q), JS(P || Q) and KL((P + Q)/2 || Q) for arrays `difference` P - Q and `excess` P/Q - 1.

    See `discrete_dependence`.
    """
    whole, half = _mean_log(excess), _mean_log(excess / 2)
    return (
        float((difference * whole).sum()),
        float((difference * (whole - half)).sum() / 2),
        float((difference * half).sum() / 2),
    )


def _mean_log(excess: np.ndarray) -> np.ndarray:
    """Return the mean of ln t over t from 1 to 1 + excess: (1 + 1/excess) ln(1 + excess) - 1, and 0 at 0."""
    near = np.abs(excess) < NEAR
    small, other = np.where(near, excess, 0.0), np.where(near, 1.0, excess)
    far = xlog1py((1 + other) / other, other) - 1  # 0 ln 0 = 0
    return np.where(near, small * polyval(-small, SERIES), far)


def _check_range(name: str, values: float | np.ndarray, low: float, high: float, allowed: str) -> np.ndarray:
    """Return values as float64 within [low, high]; raise ValueError if one is outside by more than rounding."""
    array = np.asarray(values, np.float64)
    wrong = ~((array >= low - ROUNDING) & (array <= high + ROUNDING))
    if wrong.any():
        raise ValueError(f"`{name}` is {float(array[wrong][0])!r}; allowed are {allowed}")
    return np.clip(array, low, high)


def _float_if_scalar(values: Any) -> Any:
    """Return an array without axes as a float, and other arrays unchanged."""
    return values if np.ndim(values) else float(values)
