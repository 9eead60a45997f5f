"""Kernels for divergences, entropies and effective widths of softmaxes of rows.

Each public kernel computes one number per row. It starts no threads and releases the interpreter lock, so that a Dask
task may call it. Arrays are C-contiguous, of the dtype in the annotation and of agreeing shapes; nothing checks that
here. `docs/js-kernel.md` derives the formulas and their accuracy.

x is a row of base; p = softmax(x) and q = softmax(x + delta) have the normalisers Zp and Zq. JS is their Jensen-Shannon
divergence, the sum of (p + q)/2 g(d) over features, with the log ratio d = log q - log p. The weight of a feature is
exp(x) in a unit that depends on the row's maximum, `top`; its change is weight (exp(delta - shift) - 1).
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from .compiled import EXACT, INFINITE, SCAN, SUM, bits_of_size, compiled, larger, prefer_512_bits, quotient, smaller

_F = np.float32
_I = np.int32
_LARGEST = _F(np.finfo(np.float32).max)

# exp(a) = 2^k (1 + r + r^2 P(r)), |r| <= ln(2)/2; P: minimax of the relative error of expm1, 1.3e-8.
_LOG2_E = _F(math.log2(math.e))
# ln(2) in three parts; the first two have five bits at most, so that k times them is exact for |k| < 2^18
_LN2_HIGH, _LN2_MIDDLE = _F(11 / 2**4), _F(23 / 2**12)
_LN2_LOW = _F(math.log(2) - 11 / 2**4 - 23 / 2**12)
_PLAIN_TOP = 2.0**10  # and what is less than 104 below it is reduced exactly
_TOP_LIMIT = 2.0**17  # a larger top is left to the careful path
_MAGIC = _F(1.5 * 2**23)  # adding it leaves round(a) in the low bits
_P0, _P1, _P2, _P3, _P4 = map(
    _F, (0.49999998143840, 0.16666543174734, 0.04166720186295, 0.00836658065141, 0.00138825043919)
)
# exp(r) alone: minimax of the relative error, 8e-8
_Q0, _Q1, _Q2, _Q3, _Q4, _Q5 = map(
    _F, (1.00000007208, 0.999999690184, 0.499988904559, 0.166675781977, 0.0419158775226, 0.00829759471204)
)
_F1 = _F(1)
# expm1(a) = a (1 + a T(a)) for |a| <= 3/4: minimax of the relative error of T; that of expm1 is 1.2e-7.
_TINY_RATIO = 0.75
_T0, _T1, _T2, _T3, _T4, _T5 = map(
    _F,
    (
        *(0.50000013549297, 0.16666652873718, 0.041662266177128),
        *(0.0083339379410367, 0.0014098673181793, 0.00019918297473699),
    ),
)
_LN2_COARSE, _LN2_REST = _F(355 / 2**9), _F(math.log(2) - 355 / 2**9)  # k times the first is exact for k < 2^15

_SCALE_BITS = 36  # the top weight is about 2^36, so that the smallest stay normal numbers
_FLUSH = _F(-104)  # a base this far below the top gets weight zero
_REACH = _F(40)  # a delta this far above the shift is left to the careful path, if it has weight
_NEGLIGIBLE = _F(-64)  # logarithm of a weight that is negligible in the second softmax
_RATIO_LOW, _RATIO_HIGH = _F(-60), _F(60)  # clamps of delta - shift: _REACH and the log of any width fit
_SHIFT_AGAIN = -0.5  # where the second normaliser is less than this much below the first: 1 + ratio cancels
_OFF_CENTRE = 2.0**20  # where log(Zq/Zp) less the shift is more than 1000 times the deltas' deviation, rounding shows
_NARROW_SPAN = 8.0  # where deltas span no more, rounding delta - shift costs 2.4e-7 at most
_SPAN_LIMIT = (
    2.0**22
)  # where they span less, rounding takes less than a quarter from delta - shift before it is clamped

# g(d)/d^2 as a polynomial in u = d^2 for |d| <= 1: minimax of the relative error, 3e-8 ...
_TINY_END = 1.0
_H0, _H1, _H2, _H3, _H4 = map(
    _F,
    (
        *(0.12499999694273563, -0.015624847422540203, 0.0017348804933492968),
        *(-0.00018093983584957843, 1.4984207514031818e-05),
    ),
)
# ... and as A(u)/B(u) for |d| <= 8, also 3e-8. All coefficients that matter are positive: nothing cancels.
_RATIONAL_END = _F(8)
_A0, _A1, _A2, _A3, _A4 = map(
    _F, (0.1250000034923854, 0.00978927944108635, 0.000226716442445125, 2.1216993234057776e-06, -1.0473193582304973e-10)
)
_B1, _B2, _B3, _B4 = map(_F, (0.20331444295606, 0.013338896995917553, 0.00033634249320420144, 3.004555172233222e-06))
# cosh(d) - 1 = u C(u) and sinh(d) - d = d u S(u), u = d^2, for |d| <= 1: minimax of the relative error, 4e-9 and 1e-9
_SERIES_END = _F(1)
_EXP_END = _F(4)
_C0, _C1, _C2, _C3 = map(_F, (0.49999999789511679, 0.041666735124420649, 0.0013885436331653682, 2.5355876298351787e-05))
_S0, _S1, _S2, _S3 = map(
    _F, (0.16666666647271275, 0.0083333395983673708, 0.00019838122712079239, 2.8061417147971808e-6)
)
_DIVERGENCE_SPAN = 2.0**10  # for a larger span, a negligible weight times d might matter
_LN2 = _F(math.log(2))
_TAIL_END = _F(-80)  # exp(-80) is negligible compared with ln(2)


@compiled(EXACT, inline=True)
def _expm1_reduced(r: Any) -> Any:
    """Return exp(r) - 1 for |r| <= ln(2)/2, by a polynomial, in float32."""
    return (r * r) * ((((_P4 * r + _P3) * r + _P2) * r + _P1) * r + _P0) + r


@compiled(EXACT, inline=True)
def _exponent(a: Any) -> Any:
    """Return a / ln 2 rounded to an integer, int32: the exponent of the power of 2 nearest to exp(a)."""
    return _I(_F(a * _LOG2_E + _MAGIC).view(np.int32) - _F(_MAGIC).view(np.int32))


@compiled(EXACT, inline=True)
def _weight_range(top: Any) -> Any:
    """Return the x up to which a softmax weight is taken as 0, and the exponent bits that scale weights, by `top`."""
    return top + _FLUSH, _I((127 + _SCALE_BITS - _exponent(top)) << 23)


@compiled(EXACT, inline=True)
def _expm1_parts(a: Any, low: Any) -> Any:
    """Return (part, scale) with exp(a + low) = scale * (1 + part); scale is a power of 2, low a small rest."""
    magic = a * _LOG2_E + _MAGIC
    k = magic - _MAGIC
    part = _expm1_reduced(((a - k * (_LN2_HIGH + _LN2_MIDDLE)) - k * _LN2_LOW) + low)
    return part, _I(_I(_F(magic).view(np.int32) + _I(127)) << _I(23)).view(np.float32)


@compiled(EXACT, inline=True)
def _weight(x: Any, floor: Any, offset: Any) -> Any:
    """Return exp(x) as an unnormalised softmax weight, about 2^36 at the row's maximum; 0 for x <= floor."""
    # 2^36 exp(x) over the power of 2 nearest to exp(top), or zero up to the floor. Not exp(x - top), whose
    # argument would be rounded: the first two of these differences are exact.
    magic = x * _LOG2_E + _MAGIC
    k = magic - _MAGIC
    part = _expm1_reduced(((x - k * _LN2_HIGH) - k * _LN2_MIDDLE) - k * _LN2_LOW)
    scale = _I(_I(_F(magic).view(np.int32) << _I(23)) + offset).view(np.float32)
    return part * scale + scale if x > floor else _F(0)


@compiled(EXACT, inline=True)
def _difference(a: Any, b: Any) -> Any:
    """Return a - b as rounded, and its rounding error (TwoSum)."""
    # a - b and what rounding takes from it (TwoSum), since exp would magnify that
    high = a - b
    back = high + b
    return high, (a - back) - (b - (back - high))


@compiled(EXACT, inline=True)
def _log_ratio(delta: Any, high: Any, low: Any) -> Any:
    """Return log(q/p) of two softmaxes at a feature: delta minus log(Zq/Zp) of their normalisers, high + low."""
    # high + low is log(Zq/Zp) to float64: where delta is close to it the first difference is exact (Sterbenz)
    return (delta - high) - low


@compiled(EXACT, inline=True)
def _plain_weight(x: Any, magic: Any) -> Any:
    """Return exp(x) as an unnormalised softmax weight, faster than `_weight`: for x above its floor, |x| < 2^13."""
    # _weight where no x lies below the floor and |x| < 2^13; `magic` holds the offset of the exponent as well
    high = x * _LOG2_E + magic
    k = high - magic
    r = (x - k * _LN2_COARSE) - k * _LN2_REST
    scale = _I(_F(high).view(np.int32) << _I(23)).view(np.float32)
    return (((((_Q5 * r + _Q4) * r + _Q3) * r + _Q2) * r + _Q1) * r + _Q0) * scale


@compiled(inline=True)
def _magic_of(top: Any) -> Any:
    """Return the constant that rounds and scales exponents in `_plain_weight`, for rows whose maximum is `top`."""
    return _F(_MAGIC + _F(127 + _SCALE_BITS - _exponent(top)))


@compiled(EXACT, inline=True)
def _narrow_parts(a: Any) -> Any:
    """Return (part, scale) with exp(a) = scale * (1 + part), scale a power of 2, for |a| <= 8."""
    magic = a * _LOG2_E + (_MAGIC + _F(127))
    part = _expm1_reduced(a - (magic - (_MAGIC + _F(127))) * _LN2)  # eight times the error of _LN2 is 2e-8
    return part, _I(_F(magic).view(np.int32) << _I(23)).view(np.float32)


@compiled(EXACT, inline=True)
def _narrow_expm1(a: Any) -> Any:
    """Return exp(a) - 1 for |a| <= 8, in float32."""
    part, scale = _narrow_parts(a)
    return part * scale + (scale - _F1)


@compiled(EXACT, inline=True)
def _tiny_expm1(a: Any) -> Any:
    """Return exp(a) - 1 for |a| <= 3/4, by a polynomial, in float32."""
    return ((((((_T5 * a + _T4) * a + _T3) * a + _T2) * a + _T1) * a + _T0) * a + _F1) * a


@compiled(EXACT, inline=True)
def _tiny_g(d: Any) -> Any:
    """Return g(d) = (d/2) tanh(d/2) - log cosh(d/2), JS per weight at log ratio d, |d| <= 1."""
    u = d * d
    return u * ((((_H4 * u + _H3) * u + _H2) * u + _H1) * u + _H0)


@compiled(EXACT, inline=True)
def _rational_g(d: Any) -> Any:
    """Return g(d) = (d/2) tanh(d/2) - log cosh(d/2), JS per weight at log ratio d, |d| <= 8."""
    u = d * d
    above = (((_A4 * u + _A3) * u + _A2) * u + _A1) * u + _A0
    below = (((_B4 * u + _B3) * u + _B2) * u + _B1) * u + _F1
    return u * quotient(above, below)


@compiled(EXACT, inline=True)
def _g(d: Any) -> Any:
    """Return g(d) = (d/2) tanh(d/2) - log cosh(d/2), JS per weight at log ratio d."""
    negative = larger(-abs(d), _TAIL_END)
    part, scale = _expm1_parts(negative, _F(0))
    t = part * scale + scale
    tail = _LN2 - t * ((_F1 - negative) - t * (_F(0.5) - negative))  # the next term is 3e-10
    return _rational_g(larger(negative, -_RATIONAL_END)) if negative > -_RATIONAL_END else tail


@compiled(SCAN)
def _scan_one(x: Any) -> Any:
    """Return the maximum of x, and whether x has NaN or infinity."""
    prefer_512_bits()
    top = -_LARGEST
    magnitude = _I(0)
    for i in range(x.size):
        top = larger(x[i], top)
        magnitude = _I(max(magnitude, bits_of_size(x[i])))
    return top, magnitude >= INFINITE


@compiled(SCAN, inline=True)
def _scan_both(x: Any, delta: Any) -> Any:
    """Return max(x), min(x), min(delta) and max(delta), which NaN needn't show in."""
    prefer_512_bits()
    top = high = x.dtype.type(-np.inf)
    bottom = low = x.dtype.type(np.inf)
    for i in range(x.size):
        top = larger(x[i], top)
        bottom = smaller(x[i], bottom)
        low = smaller(delta[i], low)
        high = larger(delta[i], high)
    return top, bottom, low, high


@compiled(SCAN)
def _delta_at(x: Any, delta: Any, top: Any) -> Any:
    """Return the largest delta among the features at which x is `top`."""
    prefer_512_bits()
    shift = lowest = x.dtype.type(-np.inf)
    for i in range(x.size):
        shift = larger(delta[i] if x[i] == top else lowest, shift)
    return shift


@compiled(SUM, inline=True)
def _sum(x: Any) -> float:
    """Return the sum of float32 values as float64."""
    # Eight at a time in float32, which costs three roundings at most, and those sums in float64. The rest, less
    # than 128, in float64; whole vectors of 16 leave none of the first loop over.
    prefer_512_bits()
    n = x.size // 128 * 16
    a, b, c, d = x[:n], x[n : 2 * n], x[2 * n : 3 * n], x[3 * n : 4 * n]
    e, f, g, h = x[4 * n : 5 * n], x[5 * n : 6 * n], x[6 * n : 7 * n], x[7 * n : 8 * n]
    total = 0.0
    for i in range(n):
        total += np.float64(((a[i] + b[i]) + (c[i] + d[i])) + ((e[i] + f[i]) + (g[i] + h[i])))
    rest = x[8 * n :]
    for i in range(rest.size):
        total += np.float64(rest[i])
    return total


def _weights_by(expm1: Any) -> Any:
    """Return a kernel of a row's weights, by a formula of exp(delta - shift) - 1 that holds for its deltas."""

    @compiled(EXACT, inline=True)
    def weights(x: Any, delta: Any, magic: Any, shift: Any, weight: Any, change: Any) -> None:
        """Fill `weight` with scaled exp(x) and `change` with weight * expm1(delta - shift)."""
        prefer_512_bits()
        for i in range(x.size):
            e = _plain_weight(x[i], magic)
            weight[i] = e
            change[i] = e * expm1(delta[i] - shift)

    return weights


_tiny_weights, _narrow_weights = _weights_by(_tiny_expm1), _weights_by(_narrow_expm1)


@compiled(EXACT)
def _wide_weights(x: Any, delta: Any, top: Any, shift: Any, weight: Any, change: Any) -> None:
    """Fill `weight` with scaled exp(x), `change` with weight * expm1(a), for a = delta - shift limited to +-60."""
    prefer_512_bits()
    floor, offset = _weight_range(top)
    for i in range(x.size):
        e = _weight(x[i], floor, offset)
        a, low = _difference(delta[i], shift)
        part, scale = _expm1_parts(larger(smaller(a, _RATIO_HIGH), _RATIO_LOW), low)
        weight[i] = e
        change[i] = e * (part * scale + (scale - _F1))


def _terms_by(g: Any, *, inline: bool) -> Any:
    """Return a kernel of the terms of JS, by a formula of g(log ratio) that holds for the log ratios of its rows."""

    @compiled(EXACT, inline=inline)
    def terms(delta: Any, high: Any, low: Any, both: Any, weight: Any, change: Any) -> None:
        """Replace `weight` by the terms of JS, (weight * both + change) * g(log ratio)."""
        prefer_512_bits()
        for i in range(delta.size):
            weight[i] = (weight[i] * both + change[i]) * g(_log_ratio(delta[i], high, low))

    return terms


_tiny_terms, _rational_terms = _terms_by(_tiny_g, inline=True), _terms_by(_rational_g, inline=True)
_terms = _terms_by(_g, inline=False)


@compiled(EXACT, inline=True)
def _tiny_excesses(d: Any) -> Any:
    """Return exp(d) - 1 - d and exp(-d) - 1 + d for |d| <= 1."""
    u = d * d
    even = ((_C3 * u + _C2) * u + _C1) * u + _C0
    odd = d * (((_S3 * u + _S2) * u + _S1) * u + _S0)
    return u * (even + odd), u * (even - odd)


@compiled(EXACT, inline=True)
def _second_weight(d: Any, factor: Any, weight: Any, change: Any) -> Any:
    """Return a feature's weight in softmax(base + delta): weight * exp(d), or factor * (weight + change) if d > 4."""
    # not weight + change where these may cancel, and not exp(d) where rounding a large d shows
    part, scale = _narrow_parts(larger(d, _RATIO_LOW))
    return weight * (part * scale + scale) if d <= _EXP_END else factor * (weight + change)


@compiled(EXACT, inline=True)
def _excesses(d: Any, p: Any, q: Any) -> Any:
    """Return p (exp(d) - 1 - d) and q (exp(-d) - 1 + d), terms of both KL divergences, given q = p exp(d)."""
    # p (exp(d) - 1 - d) and q (exp(-d) - 1 + d), where q = p exp(d): beyond |d| = 1 little cancels
    forth, back = _tiny_excesses(d)
    is_small = abs(d) <= _SERIES_END
    return p * forth if is_small else (q - p) - p * d, q * back if is_small else (p - q) + q * d


def _divergences_by(g: Any, *, is_tiny: bool = False, is_wide: bool = False) -> Any:
    """Return a kernel of the terms of divergences, for log ratios of at most 1 (`is_tiny`), 8, or any (`is_wide`)."""

    @compiled(EXACT)
    def divergences(
        x: Any, delta: Any, top: Any, centre: Any, ratio: Any, weight: Any, change: Any, depth: Any, depth_q: Any,
        js: Any,
    ) -> None:  # fmt: skip
        """Compute the terms of JS, of both KL divergences (into `weight`, `change`) and of both entropies."""
        prefer_512_bits()
        for i in range(x.size):
            d, p = _log_ratio(delta[i], centre[0], centre[1]), weight[i]
            js[i] = (p * ratio[0] + change[i]) * g(d)
            if is_tiny:
                q = ratio[1] * (p + change[i])
                forth, back = _tiny_excesses(d)
                weight[i], change[i] = p * forth, q * back
            else:
                q = _second_weight(d, ratio[1], p, change[i])
                weight[i], change[i] = _excesses(d, p, q)
            if is_wide:
                depth[i] = p * smaller(top - x[i], -_FLUSH)
                # in float64, since two large depths cancel where delta lifts a feature from far below
                log_ratio = (np.float64(delta[i]) - np.float64(centre[0])) - np.float64(centre[1])
                depth_q[i] = q * _F((np.float64(top) - np.float64(x[i])) - log_ratio)
            else:
                depth[i], depth_q[i] = p * (top - x[i]), q * ((top - x[i]) - d)

    return divergences


_tiny_divergences, _narrow_divergences = _divergences_by(_tiny_g, is_tiny=True), _divergences_by(_rational_g)
_wide_divergences = _divergences_by(_g, is_wide=True)


@compiled(SCAN)
def _reach(x: Any, delta: Any, top: Any, shift: Any) -> Any:
    """Return the largest x - top + delta - shift, a log weight in the second softmax, for delta - shift > 40."""
    # the largest log weight of the second softmax, relative to the top, that the clamped ratio would get wrong
    prefer_512_bits()
    largest = -_LARGEST
    for i in range(x.size):
        a = delta[i] - shift
        largest = larger((x[i] - top) + a if a > _REACH else -_LARGEST, largest)
    return largest


@compiled(inline=True)
def _distance(low: Any, high: Any, centre: Any) -> Any:
    """Return how far the farther end of the interval `low` to `high` is from `centre`, float64."""
    return max(np.float64(high) - centre, centre - np.float64(low))


# Inlined, as are the functions below: a call with this many arrays costs 10 ns per row.
@compiled(inline=True)
def _fill(
    x: Any, delta: Any, low: Any, high: Any, top: Any, shift: Any, plain: Any, weight: Any, change: Any
) -> tuple[float, float]:
    """Fill in `weight` and `change` of a row's features; return sum(weight), and sum(change) / sum(weight)."""
    magic = _magic_of(top)
    if not plain:
        _wide_weights(x, delta, top, shift, weight, change)
    elif _distance(low, high, np.float64(shift)) <= _TINY_RATIO:
        _tiny_weights(x, delta, magic, shift, weight, change)
    else:
        _narrow_weights(x, delta, magic, shift, weight, change)
    sum_weight, sum_change = _sum(weight), _sum(change)
    return sum_weight, sum_change / sum_weight


@compiled(inline=True)
def _fill_centred(
    x: Any, delta: Any, low: Any, high: Any, top: Any, shift: Any, plain: Any, weight: Any, change: Any
) -> tuple[float, float, float]:
    """Fill in `weight`, `change`; return sum(weight), the normalisers' Zq/(Zp exp(shift)), and log(Zq/Zp)."""
    # the sum of the weights, Zq/(Zp exp(s)) and log(Zq/Zp), with s what the changes are relative to
    sum_weight, ratio = _fill(x, delta, low, high, top, shift, plain, weight, change)
    if ratio < _SHIFT_AGAIN:  # deltas are far below the shift
        shift = _F(shift + math.log1p(ratio))
        sum_weight, ratio = _fill(x, delta, low, high, top, shift, plain, weight, change)
    return sum_weight, 1.0 + ratio, np.float64(shift) + math.log1p(ratio)


@compiled(inline=True)
def _fast_row(
    x: Any, delta: Any, low: Any, high: Any, top: Any, shift: Any, plain: Any, weight: Any, change: Any
) -> tuple[float, float]:
    """Return the JS of a row in nats, in float32 arithmetic, and the log ratio of its softmaxes' normalisers."""
    sum_weight, ratio, centre = _fill_centred(x, delta, low, high, top, shift, plain, weight, change)
    centre_high = _F(centre)
    centre_low = _F(centre - centre_high)
    both = _F(1.0 + ratio)  # p + q is (weight (1 + ratio) + change) / (ratio sum_weight)
    distance = _distance(low, high, centre)
    if distance <= _TINY_END:
        _tiny_terms(delta, centre_high, centre_low, both, weight, change)
    elif distance <= _RATIONAL_END:
        _rational_terms(delta, centre_high, centre_low, both, weight, change)
    else:
        _terms(delta, centre_high, centre_low, both, weight, change)
    return 0.5 * _sum(weight) / (ratio * sum_weight), centre


@compiled()
def _careful_g(d: float) -> float:
    """Return g(d) = (d/2) tanh(d/2) - log cosh(d/2), JS per weight at log ratio d (float64)."""
    a = abs(d)
    if a < 2.0:
        h = math.tanh(0.5 * a)
        return 0.5 * a * h + 0.5 * math.log1p(-h * h)
    if a > 800.0:  # also where a difference overflowed
        return math.log(2.0)
    t = math.exp(-a)
    return math.log(2.0) - math.log1p(t) - a * t / (1.0 + t)


@compiled(inline=True)
def _half_sum(x: Any, delta: Any) -> Any:
    """Return (x + delta)/2 as two float64 numbers whose sum is exact."""
    return _difference(0.5 * np.float64(x), -0.5 * np.float64(delta))


@compiled(inline=True)
def _above(high: float, low: float, top: tuple[float, float]) -> float:
    """Return how far x + delta is above a reference, given half of each as two parts: high + low, and `top`."""
    return 2.0 * ((high - top[0]) + (low - top[1]))


@compiled()
def _careful_normalisers(x: Any, delta: Any) -> tuple[float, float, tuple[float, float], bool, float, float, float]:
    """Return maxima and normalisers of both softmaxes of a row in float64; the first is NaN if x isn't finite."""
    # The weights are exp(x - top) / sum_p and exp((x + delta) - top_q) / sum_q; see _careful_log_ratio for the rest.
    # The two tops may lie as far apart as the deltas do, so that neither softmax can be taken relative to the other's.
    # A row that isn't finite has NaN for its top.
    top, shift, first, top_q = -np.inf, 0.0, (0.0, 0.0), (-np.inf, 0.0)
    for i in range(x.size):
        if not (math.isfinite(x[i]) and math.isfinite(delta[i])):
            return np.nan, 0.0, (0.0, 0.0), False, 0.0, 0.0, 0.0
        high, low = _half_sum(x[i], delta[i])
        if x[i] > top:
            top, shift, first = np.float64(x[i]), np.float64(delta[i]), (high, low)
        if high > top_q[0] or (high == top_q[0] and low > top_q[1]):
            top_q = high, low
    sum_p = sum_q = change = 0.0
    for i in range(x.size):
        b, a = x[i] - top, delta[i] - shift
        high, low = _half_sum(x[i], delta[i])
        sum_p += math.exp(b)
        sum_q += math.exp(_above(high, low, top_q))
        change += math.exp(b) * math.expm1(a) if a < 1.0 else math.exp(_above(high, low, first)) - math.exp(b)
    is_near = abs(change) < 0.5 * sum_p
    log_ratio = math.log1p(change / sum_p) if is_near else math.log(sum_q / sum_p)
    return top, shift, top_q, is_near, log_ratio, sum_p, sum_q


@compiled(inline=True)
def _careful_log_ratio(b: float, a: float, c: float, is_near: bool, log_ratio: float) -> float:
    """Return log(q/p) of two softmaxes at a feature in float64: a if `is_near`, else c - b, minus `log_ratio`."""
    # log q - log p, where b, a and c are how far base, delta and their sum lie above the first top, its delta and the
    # second top. From a alone where Zq/Zp is near exp(shift), and else from what the two weights are made of: where one
    # of these matters, b or c is small.
    return (a if is_near else c - b) - log_ratio


@compiled()
def _careful_row(x: Any, delta: Any) -> float:
    """Return the JS of any row in nats, by slow loops in float64; NaN if the row isn't finite."""
    # Any row, in float64: for float64 input, and where the clamped ratio isn't enough.
    top, shift, top_q, is_near, log_ratio, sum_p, sum_q = _careful_normalisers(x, delta)
    if math.isnan(top):
        return np.nan
    total = 0.0
    for i in range(x.size):
        high, low = _half_sum(x[i], delta[i])
        b, a, c = x[i] - top, delta[i] - shift, _above(high, low, top_q)
        weight = math.exp(b) / sum_p + math.exp(c) / sum_q
        if weight > 0.0:  # otherwise b and c may both be infinite, and their difference NaN
            total += weight * _careful_g(_careful_log_ratio(b, a, c, is_near, log_ratio))
    return 0.5 * total


@compiled(inline=True)
def _is_plain(top: Any, bottom: Any, low: Any, high: Any) -> bool:
    """Return whether a row may take the fast path: |top| <= 1024, base spans at most 104, and delta at most 8."""
    # A plain row holds no infinity, which would show in these bounds. NaN may not, but makes its sums NaN.
    span = np.float64(high) - np.float64(low)
    return bool(abs(top) <= _PLAIN_TOP and top - bottom <= -_FLUSH and span <= _NARROW_SPAN)


@compiled(inline=True)
def _middle(low: Any, high: Any) -> Any:
    """Return the middle of `low` and `high`, float32, without overflow."""
    return _F(low + (high - low) * _F(0.5))


@compiled(inline=True)
def _is_representable(x: Any, delta: Any, low: Any, high: Any, top: Any, span_limit: Any, negligible: Any) -> bool:
    """Return whether clamping delta - shift leaves a row's result unchanged, so that float32 is exact enough."""
    span = np.float64(high) - np.float64(low)
    return bool(span <= _REACH or (span < span_limit and _reach(x, delta, top, _delta_at(x, delta, top)) < negligible))


@compiled(inline=True)
def aligned_rows(n_rows: Any, width: Any) -> Any:
    """Return an empty float32 array (row, feature) that begins at a multiple of 64 bytes, a vector of 512 bits."""
    memory = np.empty(n_rows * width + 16, np.float32)
    start = (-memory.ctypes.data % 64) // 4
    return memory[start : start + n_rows * width].reshape(n_rows, width)


@compiled(inline=True)
def _scratch_rows(n_rows: Any, width: Any) -> Any:
    """Return an empty, aligned array of at least `width` features whose rows lie at different places of their pages."""
    return aligned_rows(n_rows, (width + 15) // 32 * 32 + 16)  # an odd number of cache lines


@compiled()
def single_rows(base: Any, delta: Any, out: Any) -> None:
    """Fill `out` with the JS of each row in nats, one row at a time; NaN for rows that aren't finite."""
    prefer_512_bits()
    parts = _scratch_rows(2, base.shape[1])
    weight, change = parts[0][: base.shape[1]], parts[1][: base.shape[1]]
    for row in range(base.shape[0]):
        x, d = base[row], delta[row]
        top, bottom, low, high = _scan_both(x, d)
        if _is_plain(top, bottom, low, high):
            middle = _middle(low, high)
            result, centre = _fast_row(x, d, low, high, top, middle, True, weight, change)
            if (centre - middle) ** 2 > _OFF_CENTRE * result:
                result, centre = _fast_row(x, d, low, high, top, _F(centre), True, weight, change)
        elif _scan_one(x)[1] or _scan_one(d)[1]:
            result = np.nan
        elif abs(top) <= _TOP_LIMIT and _is_representable(x, d, low, high, top, _SPAN_LIMIT, _NEGLIGIBLE):
            shift = _delta_at(x, d, top)
            result, centre = _fast_row(x, d, low, high, top, shift, False, weight, change)
        else:
            result = _careful_row(x, d)
        out[row] = result


# Sixteen narrow rows are computed side by side, one row per lane: one by one, such a row costs more for reductions
# across vectors and for ends of loops than for its features. Lanes do what `_fast_row` does for a plain row, with the
# formulas that hold for any of its deltas, so that no row depends on its neighbours. Other rows go to `single_rows`.
_LANES = 16
NARROW_WIDTH = 64  # at 96, lanes are no faster with vectors of 256 bits


@compiled()
def _copy(x: Any, out: Any) -> None:
    """Copy the values of x to `out`."""
    for i in range(x.size):
        out[i] = x[i]


@compiled(EXACT)
def _deal(x: Any, out: Any) -> None:
    """Fill `out` with x, its four quarters interleaved; doing it twice transposes sixteen rows."""
    # one value of each quarter in turn: twice, this transposes sixteen rows
    prefer_512_bits()
    n = x.size // 4
    a, b, c, d = x[:n], x[n : 2 * n], x[2 * n : 3 * n], x[3 * n :]
    for i in range(n):
        out[4 * i], out[4 * i + 1], out[4 * i + 2], out[4 * i + 3] = a[i], b[i], c[i], d[i]


@compiled(SCAN)
def _eighth_of_bounds(x: Any, delta: Any, tops: Any, bottoms: Any, lows: Any, highs: Any) -> None:
    """Reduce the eighths of x and delta to one: max(x), -min(x), -min(delta) and max(delta), in four arrays."""
    prefer_512_bits()
    n = tops.size
    for i in range(n):
        top = bottom = x[i]
        low = high = delta[i]
        for k in range(1, 8):
            top, bottom = larger(x[k * n + i], top), smaller(x[k * n + i], bottom)
            low, high = smaller(delta[k * n + i], low), larger(delta[k * n + i], high)
        tops[i], bottoms[i], lows[i], highs[i] = top, -bottom, -low, high


@compiled(SCAN)
def _keep_larger(a: Any, b: Any) -> None:
    """Raise the values of a to those of b that are larger, in place."""
    for i in range(a.size):
        a[i] = larger(a[i], b[i])


@compiled(SUM)
def _eighth_of_sum(x: Any, out: Any) -> None:
    """Fill `out`, an eighth as long as x, with the sum of the eight eighths of x, float64."""
    # eight at a time in float32, as in `_sum`
    prefer_512_bits()
    n = out.size
    a, b, c, d = x[:n], x[n : 2 * n], x[2 * n : 3 * n], x[3 * n : 4 * n]
    e, f, g, h = x[4 * n : 5 * n], x[5 * n : 6 * n], x[6 * n : 7 * n], x[7 * n :]
    for i in range(n):
        out[i] = np.float64(((a[i] + b[i]) + (c[i] + d[i])) + ((e[i] + f[i]) + (g[i] + h[i])))


@compiled(SUM)
def _add(a: Any, b: Any) -> None:
    """Add b to a, in place."""
    for i in range(a.size):
        a[i] += b[i]


@compiled()
def _lane_bounds(x: Any, delta: Any, bounds: Any) -> None:
    """Fill 16 columns of `bounds` with max(x), -min(x), -min(delta), max(delta) of 16 interleaved rows."""
    # top, -bottom, -low and high, in the first sixteen columns
    _eighth_of_bounds(x, delta, bounds[0], bounds[1], bounds[2], bounds[3])
    for bound in range(4):
        n = bounds.shape[1]
        while n > _LANES:
            half = n // (2 * _LANES) * _LANES
            n -= half
            _keep_larger(bounds[bound][:half], bounds[bound][n : n + half])


@compiled()
def _lane_sums(x: Any, sums: Any) -> None:
    """Fill the first 16 values of `sums` with the sums of the 16 interleaved rows in x."""
    n = sums.size
    _eighth_of_sum(x, sums)
    while n > _LANES:
        half = n // (2 * _LANES) * _LANES
        n -= half
        _add(sums[:half], sums[n : n + half])


@compiled()
def _repeat(x: Any) -> None:
    """Repeat the first 16 values of x up to its end, in place."""
    n = _LANES
    while n < x.size:
        m = min(n, x.size - n)
        _copy(x[:m], x[n : n + m])
        n += m


@compiled(EXACT)
def _lane_weights(x: Any, delta: Any, magic: Any, shift: Any, weight: Any, change: Any) -> None:
    """Fill `weight` with scaled exp(x) and `change` with weight * expm1(delta - shift), in 16 interleaved rows."""
    prefer_512_bits()
    for i in range(x.size):
        e = _plain_weight(x[i], magic[i])
        weight[i] = e
        change[i] = e * _narrow_expm1(delta[i] - shift[i])


@compiled(EXACT)
def _lane_terms(delta: Any, high: Any, low: Any, both: Any, weight: Any, change: Any) -> None:
    """Replace `weight` by the terms of JS, (weight * both + change) * g(log ratio), in 16 interleaved rows."""
    prefer_512_bits()
    for i in range(delta.size):
        weight[i] = (weight[i] * both[i] + change[i]) * _rational_g(_log_ratio(delta[i], high[i], low[i]))


@compiled()
def _fast_lanes(rows: Any, delta_rows: Any, work: Any, bounds: Any, sums: Any, out: Any) -> None:
    """Fill `out` with the JS of sixteen rows in nats, computed side by side; NaN for rows that aren't plain."""
    # `rows` are sixteen, one after the other. A row that is left to `single_rows` gets NaN.
    n = rows.size
    x, delta, weight, change = work[0][:n], work[1][:n], work[2][:n], work[3][:n]
    a, b, c = work[4][:n], work[5][:n], work[6][:n]
    _copy(rows, x)  # at once, since four streams of few lines each are not fetched ahead
    _copy(delta_rows, delta)
    _deal(x, weight)
    _deal(weight, x)
    _deal(delta, weight)
    _deal(weight, delta)
    _lane_bounds(x, delta, bounds)
    n_plain = 0
    for lane in range(_LANES):
        top, bottom, low, high = bounds[0, lane], -bounds[1, lane], -bounds[2, lane], bounds[3, lane]
        plain = _is_plain(top, bottom, low, high)
        n_plain += plain
        out[lane] = 0.0 if plain else np.nan
        a[lane], b[lane] = _magic_of(top), _middle(low, high)
    if n_plain == 0:
        return
    _repeat(a)
    _repeat(b)
    _lane_weights(x, delta, a, b, weight, change)
    _lane_sums(weight, sums[0])
    _lane_sums(change, sums[1])
    for lane in range(_LANES):
        ratio = sums[1, lane] / sums[0, lane]
        if not ratio >= _SHIFT_AGAIN:
            out[lane] = np.nan
        offset = math.log1p(ratio)
        centre = np.float64(b[lane]) + offset
        a[lane] = _F(centre)
        b[lane], c[lane] = _F(centre - a[lane]), _F(2.0 + ratio)
        sums[0, lane] *= 1.0 + ratio
        sums[1, lane] = offset * offset
    _repeat(a)
    _repeat(b)
    _repeat(c)
    _lane_terms(delta, a, b, c, weight, change)
    _lane_sums(weight, sums[2])
    for lane in range(_LANES):
        result = 0.5 * sums[2, lane] / sums[0, lane]
        out[lane] = out[lane] + result if sums[1, lane] <= _OFF_CENTRE * result else np.nan


@compiled()
def _narrow_rows(base: Any, delta: Any, out: Any) -> None:
    """Fill `out` with the JS of each row in nats, for at most 64 features, sixteen rows at a time."""
    n_rows, width = base.shape
    # longer than necessary, so that they don't all begin at the same place of a memory page
    work = np.empty((7, _LANES * width + 80), np.float32)
    bounds = np.empty((4, 2 * width), np.float32)
    sums = np.empty((3, 2 * width))
    values = np.empty(_LANES, np.float32)
    filled_up = np.zeros((2, _LANES, width), np.float32)
    for start in range(0, n_rows, _LANES):
        n = min(_LANES, n_rows - start)
        x, d = base[start : start + n], delta[start : start + n]
        if n < _LANES:
            filled_up[0, :n], filled_up[1, :n] = x, d
            x, d = filled_up[0], filled_up[1]
        _fast_lanes(x.reshape(-1), d.reshape(-1), work, bounds, sums, values)
        for row in range(start, start + n):
            out[row] = values[row - start]
            if math.isnan(out[row]):
                single_rows(base[row : row + 1], delta[row : row + 1], out[row : row + 1])


def jensen_shannon_rows(
    base: Float32[np.ndarray, "row feature"],
    delta: Float32[np.ndarray, "row feature"],
    out: Float32[np.ndarray, " row"],
) -> None:
    """Fill `out` with the Jensen-Shannon divergence of softmax(base) and softmax(base + delta) by row, in nats.

    A row with NaN or infinity gets NaN, and no other row does.
    """
    # Not compiled itself, so that the kernel for narrow rows is compiled only if there are such rows.
    is_narrow = base.shape[1] <= NARROW_WIDTH and base.shape[1] % _LANES == 0
    (_narrow_rows if is_narrow else single_rows)(base, delta, out)


@compiled()
def jensen_shannon_rows_float64(
    base: Float64[np.ndarray, "row feature"],
    delta: Float64[np.ndarray, "row feature"],
    out: Float64[np.ndarray, " row"],
) -> None:
    """Fill `out` with the Jensen-Shannon divergence of softmax(base) and softmax(base + delta) by row, float64.

    A row with NaN or infinity gets NaN, and no other row does.
    """
    for row in range(base.shape[0]):
        out[row] = _careful_row(base[row], delta[row])


@compiled()
def _careful_excess(d: float) -> float:
    """Return exp(d) - 1 - d for |d| <= 1, by its series, in float64."""
    total = 0.0
    for k in range(18, 1, -1):
        total = (total * d + 1.0) / k
    return total * d * d


@compiled()
def _careful_divergences(x: Any, delta: Any) -> tuple[float, float, float, float]:
    """Return both KL divergences and both entropies of any row's two softmaxes in nats, by slow loops in float64."""
    top, shift, top_q, is_near, log_ratio, sum_p, sum_q = _careful_normalisers(x, delta)
    if math.isnan(top):
        return np.nan, np.nan, np.nan, np.nan
    log_sum_p, log_sum_q = math.log(sum_p), math.log(sum_q)
    forth = back = entropy_p = entropy_q = 0.0
    for i in range(x.size):
        high, low = _half_sum(x[i], delta[i])
        b, a, c = x[i] - top, delta[i] - shift, _above(high, low, top_q)
        p, q = math.exp(b) / sum_p, math.exp(c) / sum_q
        d = _careful_log_ratio(b, a, c, is_near, log_ratio)
        forth += p * _careful_excess(d) if abs(d) <= 1.0 else (q - p) - p * d
        back += q * _careful_excess(-d) if abs(d) <= 1.0 else (p - q) + q * d
        entropy_p -= p * (b - log_sum_p)
        entropy_q -= q * (c - log_sum_q)
    return forth, back, entropy_p, entropy_q


@compiled(inline=True)
def _fast_divergences(
    x: Any, delta: Any, low: Any, high: Any, top: Any, shift: Any, plain: Any, parts: Any
) -> tuple[float, float, float, float, float, float]:
    """Return JS, both KL divergences and both entropies of a row's softmaxes, and the normalisers' log ratio."""
    n = x.size
    weight, change, depth, depth_q, js = parts[0][:n], parts[1][:n], parts[2][:n], parts[3][:n], parts[4][:n]
    sum_weight, ratio, centre = _fill_centred(x, delta, low, high, top, shift, plain, weight, change)
    centres = _F(centre), _F(centre - _F(centre))
    factors = _F(1.0 + ratio), _F(1.0 / ratio)
    if not plain:
        _wide_divergences(x, delta, top, centres, factors, weight, change, depth, depth_q, js)
    elif _distance(low, high, centre) <= _TINY_END:
        _tiny_divergences(x, delta, top, centres, factors, weight, change, depth, depth_q, js)
    else:
        _narrow_divergences(x, delta, top, centres, factors, weight, change, depth, depth_q, js)
    log_sum = math.log(sum_weight) + _log_unit(top)
    entropy_p, entropy_q = log_sum + _sum(depth) / sum_weight, log_sum + _sum(depth_q) / sum_weight
    if math.isnan(entropy_q):  # from delta alone
        entropy_p = np.nan
    divergence = 0.5 * _sum(js) / (ratio * sum_weight)
    return divergence, _sum(weight) / sum_weight, _sum(change) / sum_weight, entropy_p, entropy_q, centre


@compiled(EXACT, inline=True)
def _plus(a: Any, b: Any) -> Any:
    """Return a + b; as a function of its own, so that fast-math flags of its callers don't reorder the sum."""
    return a + b


@compiled(SCAN)
def _first_and_top(x: Any, delta: Any, top: Any) -> Any:
    """Return the first index at which x is `top`, and max(x + delta)."""
    prefer_512_bits()
    first, top_q = _I(x.size), -_F(np.inf)
    for i in range(x.size):
        first = _I(min(first, _I(i) if x[i] == top else _I(x.size)))
        top_q = larger(_plus(x[i], delta[i]), top_q)
    return first, top_q


@compiled(SCAN)
def _n_equal(x: Any, delta: Any, value: Any) -> Any:
    """Return the number of features at which x + delta is `value`."""
    prefer_512_bits()
    n = _I(0)
    for i in range(x.size):
        n = _I(n + _I(_plus(x[i], delta[i]) == value))
    return n


@compiled()
def _has_same_argmax(x: Any, delta: Any, top: Any) -> bool:
    """Return whether a finite x, whose maximum is `top`, and x + delta have the same argmax, the first of equals."""
    first, top_q = _first_and_top(x, delta, top)
    return bool(_plus(x[first], delta[first]) == top_q and _n_equal(x[:first], delta[:first], top_q) == 0)


@compiled()
def divergence_rows(
    base: Float32[np.ndarray, "row feature"],
    delta: Float32[np.ndarray, "row feature"],
    out: Float32[np.ndarray, "8 row"],
) -> None:
    """Fill in JS, KL(p||q), KL(q||p), H(p), H(q), exp(H(p)), exp(H(q)) of p = softmax(base), q of base + delta, by row.

    Divergences and entropies are in nats. Last comes 1 where base and base + delta have the same argmax (the first of
    equal ones), else 0. A row with NaN or infinity gets NaN, except exp(H(p)) of a finite base, and no other row does.
    A divergence beyond the largest float32 is infinite.
    """
    parts = _scratch_rows(5, base.shape[1])
    for row in range(base.shape[0]):
        x, d = base[row], delta[row]
        top, bottom, low, high = _scan_both(x, d)
        if _is_plain(top, bottom, low, high):
            middle = _middle(low, high)
            values = _fast_divergences(x, d, low, high, top, middle, True, parts)
            centre = values[5]
            if (centre - middle) ** 2 > 0.25 * _OFF_CENTRE * min(values[1], values[2]):
                values = _fast_divergences(x, d, low, high, top, _F(centre), True, parts)
        elif _scan_one(x)[1] or _scan_one(d)[1]:
            values = np.nan, np.nan, np.nan, np.nan, np.nan, np.nan
        elif abs(top) <= _TOP_LIMIT and _is_representable(x, d, low, high, top, _DIVERGENCE_SPAN, 2 * _NEGLIGIBLE):
            values = _fast_divergences(x, d, low, high, top, _delta_at(x, d, top), False, parts)
        else:
            forth, back, entropy_p, entropy_q = _careful_divergences(x, d)
            values = _careful_row(x, d), forth, back, entropy_p, entropy_q, 0.0
        for i in range(5):
            out[i, row] = values[i]
        out[5, row], out[6, row] = math.exp(values[3]), math.exp(values[4])
        out[7, row] = np.nan if math.isnan(values[0]) else 1.0 if _has_same_argmax(x, d, top) else 0.0
        if math.isnan(values[3]):  # base may be finite
            top, is_bad = _scan_one(x)
            out[5, row] = np.nan if is_bad else _careful_width(x, np.float64(top))


@compiled(EXACT)
def _entropy_terms(x: Any, top: Any, weight: Any, term: Any) -> None:
    """Fill `weight` with scaled exp(x), and `term` with weight * (top - x); both sums give softmax(x)'s entropy."""
    prefer_512_bits()
    floor, offset = _weight_range(top)
    for i in range(x.size):
        e = _weight(x[i], floor, offset)
        weight[i] = e
        term[i] = e * smaller(top - x[i], -_FLUSH)


@compiled()
def _log_unit(top: Any) -> Any:
    """Return what to add to the log of a row's summed weights to get the log of sum(exp(x - top))."""
    return _exponent(top) * math.log(2.0) - top - _SCALE_BITS * math.log(2.0)


@compiled()
def _careful_width(x: Any, top: Any) -> float:
    """Return exp(entropy of softmax(x)), the effective width of any finite row, in float64."""
    sum_weight = sum_term = 0.0
    for i in range(x.size):
        b = np.float64(x[i]) - top
        sum_weight += math.exp(b)
        sum_term -= math.exp(b) * b
    return sum_weight * math.exp(sum_term / sum_weight)


@compiled()
def effective_width_rows(base: Float32[np.ndarray, "row feature"], out: Float32[np.ndarray, " row"]) -> None:
    """Fill `out` with exp(H(softmax(base))) of each row: the number of features that share its mass, from 1 to all.

    A row with NaN or infinity gets NaN.
    """
    weight = np.empty(base.shape[1], np.float32)
    term = np.empty(base.shape[1], np.float32)
    for row in range(base.shape[0]):
        top, bad = _scan_one(base[row])
        if bad:
            out[row] = np.nan
        elif abs(top) <= _TOP_LIMIT:
            _entropy_terms(base[row], top, weight, term)
            sum_weight = _sum(weight)
            out[row] = sum_weight * math.exp(_log_unit(top) + _sum(term) / sum_weight)
        else:
            out[row] = _careful_width(base[row], np.float64(top))
