"""Bounds between mutual information and the Jensen-Shannon divergence (JS) of joint and product."""

import math
from typing import Any, TypeVar

import numpy as np

Values = TypeVar("Values", float, np.ndarray)

ROUNDING = 1e-12
"""Distance outside its range up to which an argument is treated as the end of the range."""
LN2 = math.log(2)
LN2_ERROR = 2.3190468138462996e-17
"""The exact ln 2 minus the float64 `LN2`."""
NEWTON_STEPS = 5
"""Newton steps of `js_lower_bound`: four were enough for full precision at every js tried, also near ln 2."""
FARTHEST = 800.0
"""Mutual information in nats above which exp(-mi) is 0."""


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
