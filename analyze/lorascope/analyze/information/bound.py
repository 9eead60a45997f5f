"""Bounds of mutual information by the Jensen-Shannon divergence of joint from product, and pairs with known values."""

import math
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.polynomial.polynomial import polyval
from scipy.special import k0e, xlog1py  # type: ignore[import-untyped]

Values = TypeVar("Values", float, np.ndarray)

ROUNDING = 1e-12
"""Distance from its range up to which an argument counts as the end of the range."""
MASS_ROUNDING = 1e-9
"""Distance from 1 up to which a table of probabilities may sum."""
LN2 = math.log(2)
LN2_REST = 2.3190468138462996e-17
"""Difference between ln 2 and the float64 `LN2`."""
STEPS = 5
"""Newton steps of `js_lower_bound`: four bring every js that was tried to its last digits, near ln 2 too."""
FARTHEST = 800.0
"""Nats; exp of minus this is 0."""
LEAST_CELL = 1e-150
"""Smaller probabilities count as zero: the product of two marginals must stay within float64."""
NEAR = 0.25
"""Density ratios as near to 1 as this take a series."""
SERIES = 1 / (np.arange(1.0, 26.0) * np.arange(2.0, 27.0))
"""The mean of ln between 1 and 1 + s is s times the sum of these times (-s)^0, (-s)^1, ..."""
SPACING = 1 / 16
"""Distance of the logarithms at which `gaussian_dependence` evaluates its integrals."""


class Dependence(NamedTuple):
    """Distances in nats of a joint distribution P from the product Q of its marginals."""

    mutual_information: float
    """KL(P || Q)."""
    js: float
    """JS(P || Q), Jensen-Shannon divergence, which is mutual_information / 2 - kl_mixture."""
    kl_mixture: float
    """KL(M || Q), where M = (P + Q)/2."""


def js_lower_bound(js: Values) -> Values:
    """Lower bound of the mutual information, in nats, from the JS of joint and product distribution: Xi(js).

    Parameters
    ----------
    js
        JS(joint || product) in nats, from 0 to ln 2, of any shape. It isn't the JS of eq. 9, which compares two
        softmaxes of one token.

    Returns
    -------
    float or np.ndarray
        Float64 of the shape of `js`; infinity from the float64 nearest to ln 2 on. Relative error below 1e-14, of js as
        it is given: close to ln 2 an error of js itself grows by 2 exp(Xi)/Xi.

    Raises
    ------
    ValueError
        If a value is NaN, or outside of its range by more than 1e-12.

    Notes
    -----
    Let J(x) = ln 2 - ((1 + a) ln(1 + a) + a x)/2 with a = exp(-x), and Xi its inverse. Then KL(P || Q) >= Xi(JS(P ||
    Q)) for all P and Q. Proof: with t = dP/dQ, f(t) = t ln t - t + 1 and g(t) = (t ln(2t/(1 + t)) + ln(2/(1 + t)))/2,
    KL and JS are the means of f and g under Q. Take s > 1 and lam = 2s/ln(1 + s). Then h = f - lam g is concave up to
    lam/2 - 1, which is below s, and convex beyond, and its tangent at s goes through (0, h(0)); so h is nowhere below
    it. As t has mean 1, KL - lam JS is at least the tangent's value at 1, and this is x - lam J(x) for x = ln s,
    because t = 0 or s, s with probability a = 1/s, attains it. Such lines, one for each s, have Xi as their envelope.
    Two variables that are one symbol, uniform among n, attain it: mutual information ln n. Near 0, Xi(js) is
    js 2/ln 2, and never less.

    It is found by Newton's method on ln(ln 2 - J(x)), whose steps can't stray: this is concave, as J'(x) = a ln(1 +
    1/a)/2 is log-concave. Below ln(2)/2 js - J(x) is taken as it stands, above as a difference of distances from ln 2.

    References
    ----------
    Dorent, Golland and Wells 2025, arXiv 2510.20644; Harremoes and Vajda 2010, arXiv 1001.4432: of two f-divergences
    extremes are attained on two points.

    Examples
    --------
    >>> round(js_lower_bound(0.4414), 3)
    1.716
    """
    j = _in_range("js", js, 0.0, LN2, "0 to ln 2 = 0.693147... nats; multiply bits by it")
    rest = (LN2 - j) + LN2_REST
    x = j * (2 / LN2)
    for _ in range(STEPS):
        a = np.exp(-x)
        left = ((1 + a) * np.log1p(a) + a * x) / 2
        slope = a * (x + np.log1p(a)) / 2
        missing = np.where(j < LN2 / 2, j - _extremal_js(x), left - rest)
        x = x + np.log1p(missing / rest) * left / slope
    bound: Values = _plain(np.where(j < LN2, x, np.inf))
    return bound


def js_upper_bound(mi: Values) -> Values:
    """Largest possible JS of joint and product distribution, in nats, for a mutual information.

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
    J(mi) of `js_lower_bound`, whose notes prove it. It is never above mi ln(2)/2, let alone mi/2.
    """
    x = _in_range("mi", mi, 0.0, np.inf, "0 nats and above, infinity too")
    bound: Values = _plain(np.minimum(_extremal_js(np.minimum(x, FARTHEST)), LN2))
    return bound


def _extremal_js(x: np.ndarray) -> np.ndarray:
    """J(x): JS in nats of a distribution that is 0 or exp(x) times another, relative to which it has KL x."""
    a, rest = np.exp(-x), -np.expm1(-x)
    # ln 2 - ((1 + a) ln(1 + a) + a x)/2, rearranged so that nothing but terms of the size of x remain where it is small
    return np.asarray((rest * LN2 - (1 + a) * np.log1p(-rest / 2) - a * x) / 2)


def discrete_dependence(joint: np.ndarray) -> Dependence:
    """Mutual information, JS(joint || product of marginals) and KL(mixture of both || product) of a table, in nats.

    Parameters
    ----------
    joint
        Probabilities (symbol of one side, symbol of the other), which sum to 1; zeros are allowed. Float64 is computed.

    Raises
    ------
    ValueError
        If the table isn't two-dimensional, holds NaN, infinity or a negative number, or sums to anything but 1, give or
        take 1e-9; what it sums to is divided out.

    Notes
    -----
    With t = joint/product and L(t) the mean of ln between 1 and t, of which (t - 1) L(t) = t ln t - t + 1,
    mutual information is the sum of (joint - product) L(t), KL(M || Q) half that of (joint - product) L((1 + t)/2), and
    JS half that of (joint - product) (L(t) - L((1 + t)/2)): no term is negative. Probabilities below 1e-150 count as
    zero.

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
        raise ValueError(f"`joint` holds {float(table[wrong][0])!r}; allowed are finite probabilities, 0 and above")
    total = float(table.sum())
    if abs(total - 1) > MASS_ROUNDING:
        raise ValueError(
            f"`joint` sums to {total!r}; allowed is 1, give or take {MASS_ROUNDING:g}: divide counts by their total"
        )
    table = np.where(table < LEAST_CELL, 0.0, table) / total
    table = table[table.any(axis=1)][:, table.any(axis=0)]
    product = np.outer(table.sum(axis=1), table.sum(axis=0))
    difference = table - product
    mi, js, kl_mixture = _divergences(difference, difference / product)
    return Dependence(mi, js, kl_mixture)


def gaussian_dependence(rho: float) -> Dependence:
    """The numbers of `discrete_dependence`, in nats, of a bivariate normal distribution of correlation `rho`.

    Raises
    ------
    ValueError
        If `rho` isn't above -1 and below 1.

    Notes
    -----
    Mutual information I is -ln(1 - rho^2)/2. The other two are integrals over one variable: under the joint
    distribution the log density ratio is I + rho k, where k is the product of two independent standard normals and has
    density K0(|k|)/pi; under the product of marginals its density is exp(-I - rho k) times that. In ln |k| integrands
    are analytic and fall off at both ends, so that trapezoids converge exponentially: the relative error is below 1e-12
    up to |rho| = 1 - 1e-12.

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
            f"`rho` is {float(rho)!r}; allowed is what lies between -1 and 1: at these mutual information is infinite"
        )
    size = abs(float(rho))  # the sign is that of one variable
    mi = -math.log1p(-size * size) / 2 if size < 0.5 else -math.log((1 - size) * (1 + size)) / 2
    # Nodes: beyond 60, where the joint density falls off as exp(-|k|), and beyond 60/(1 - rho) on the other side, where
    # that of the product falls off as exp(-(1 - rho)|k|), too little is left to see; nor is it below exp(-50).
    nodes = np.exp(np.arange(-50, math.log(60 / (1 - size)), SPACING))
    k = np.concatenate([nodes[nodes < 60], -nodes])
    falls = np.where(k > 0, 1 + size, 1 - size)
    product = k0e(np.abs(k)) * np.abs(k) * np.exp(-falls * np.abs(k) - mi) * (SPACING / np.pi)
    excess = np.expm1(mi + size * k)
    _, js, kl_mixture = _divergences(product * excess, excess)
    return Dependence(mi, js, kl_mixture)


def _divergences(difference: np.ndarray, excess: np.ndarray) -> tuple[float, float, float]:
    """KL(P || Q), JS(P || Q) and KL((P + Q)/2 || Q) from P - Q and P/Q - 1; see the notes of `discrete_dependence`."""
    whole, half = _mean_log(excess), _mean_log(excess / 2)
    return (
        float((difference * whole).sum()),
        float((difference * (whole - half)).sum() / 2),
        float((difference * half).sum() / 2),
    )


def _mean_log(excess: np.ndarray) -> np.ndarray:
    """Mean of ln t over t from 1 to 1 + excess, which is (1 + 1/excess) ln(1 + excess) - 1 and at 0 is 0."""
    near = np.abs(excess) < NEAR
    small, other = np.where(near, excess, 0.0), np.where(near, 1.0, excess)
    far = xlog1py((1 + other) / other, other) - 1  # 0 ln 0 = 0
    return np.where(near, small * polyval(-small, SERIES), far)


def _in_range(name: str, values: float | np.ndarray, low: float, high: float, allowed: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    wrong = ~((array >= low - ROUNDING) & (array <= high + ROUNDING))
    if wrong.any():
        raise ValueError(f"`{name}` is {float(array[wrong][0])!r}; allowed are {allowed}")
    return np.clip(array, low, high)


def _plain(values: Any) -> Any:
    """A float of an array without axes."""
    return values if np.ndim(values) else float(values)
