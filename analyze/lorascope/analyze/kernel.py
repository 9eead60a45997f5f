"""Compiled row kernels: softmax Jensen-Shannon divergence, effective width, norm ratio.

Each public kernel takes rows and fills one number a row. It starts no threads and holds no interpreter
lock, so a Dask task may call it. Arrays are C-contiguous, of the dtype in the annotation and of agreeing
shapes; nothing checks that here. `docs/js-kernel.md` derives the formulas and their accuracy.
"""

import math
from collections.abc import Callable, Set
from contextlib import suppress
from typing import Any, TypeVar, cast

import numba
import numpy as np
from jaxtyping import Float32, Float64
from numba.extending import intrinsic

_Function = TypeVar("_Function", bound=Callable[..., Any])

# No `reassoc`: TwoSum and the rounding by a magic number are sums whose order is the point. No `ninf`: a
# difference of two finite values may overflow, and is clamped afterwards. No `nnan`: NaN is handed on to the sum.
_EXACT = {"contract", "nsz"}
_SCAN = _EXACT | {"nnan", "reassoc"}  # maxima, whose order doesn't matter, and which mean nothing beside a NaN
_SUM = {"contract", "reassoc"}  # keeps NaN and infinity


def _compiled(fastmath: Set[str] = frozenset(), *, inline: bool = False) -> Callable[[_Function], _Function]:
    def compile_lazily(function: _Function) -> _Function:
        compiled = numba.njit(nogil=True, error_model="numpy", fastmath=set(fastmath), forceinline=inline)(function)
        # Safe to keep on disk: numba checks this file's time and size and the processor's name and features,
        # and every compiled function and constant stands in this one file, so it sees all that goes in.
        with suppress(RuntimeError):  # numba finds no folder to write to: compile in each process, then
            compiled.enable_caching()
        return cast(_Function, compiled)

    return compile_lazily


def _intrinsic(function: Callable[..., Any]) -> Any:  # keeps the strict checker's view of a decorated function
    return intrinsic(function)


def _select_where(comparison: str) -> Any:
    # numba's own `max` carries no fast-math flags, without which LLVM doesn't vectorise the reduction.
    @_intrinsic
    def select(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            chosen = builder.fcmp_ordered(comparison, *arguments, flags=("nnan", "nsz"))
            return builder.select(chosen, *arguments, flags=("nnan", "nsz"))

        return numba.float32(numba.float32, numba.float32), generate

    return select


_larger, _smaller = _select_where(">"), _select_where("<")


@_intrinsic
def _quotient(typing_context: Any, a: Any, b: Any) -> Any:
    # `arcp` lets LLVM refine an estimate of 1/b, to two units in the last place, where that beats a division.
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fdiv(*arguments, flags=("arcp",))

    return numba.float32(numba.float32, numba.float32), generate


@_intrinsic
def _prefer_512_bits(typing_context: Any) -> Any:
    # LLVM keeps to 256 bits on many processors with AVX-512; 512 make these loops a quarter faster. Other
    # processors ignore the attribute. `set.add`, since llvmlite's own takes no attribute with a value.
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return numba.void(), generate


_F = np.float32
_I = np.int32
_INFINITE = 0x7F800000  # the bits of infinity
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
_ONE = _F(1)
# expm1(a) = a (1 + a T(a)) for |a| <= 1: minimax of the relative error, 4e-7.
_T0, _T1, _T2, _T3, _T4, _T5 = map(
    _F,
    (
        *(0.5000021719480009, 0.166664934313351, 0.04164668513904143),
        *(0.00833741872569373, 0.0014312956369463639, 0.0001986178176305557),
    ),
)
_LN2_COARSE, _LN2_REST = _F(355 / 2**9), _F(math.log(2) - 355 / 2**9)  # k times the first is exact for k < 2^15

_SCALE_BITS = 36  # the top weight is about 2^36, so that the smallest stay normal numbers
_FLUSH = _F(-104)  # a base this far below the top gets weight zero
_REACH = _F(40)  # a delta this far above the shift is left to the careful path, if it has weight
_NEGLIGIBLE = _F(-64)  # the logarithm of a weight that can be left out of the second softmax
_RATIO_LOW, _RATIO_HIGH = _F(-60), _F(60)  # clamps of delta - shift: _REACH and the log of any width fit
_SHIFT_AGAIN = -0.7
_NARROW_SPAN = 8.0  # where deltas span no more, rounding delta - shift costs 2.4e-7 at most
_SPAN_LIMIT = 1e30  # where they span less, no difference overflows

# g(d)/d^2 as a polynomial in u = d^2 for |d| <= 1: minimax of the relative error, 3e-8 ...
_TINY_SPAN = 1.0
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
_LN2 = _F(math.log(2))
_TAIL_END = _F(-80)  # exp(-80) is nothing beside ln(2)


@_compiled(_EXACT, inline=True)
def _expm1_reduced(r: Any) -> Any:
    return (r * r) * ((((_P4 * r + _P3) * r + _P2) * r + _P1) * r + _P0) + r


@_compiled(_EXACT, inline=True)
def _exponent(a: Any) -> Any:
    # round(a / log(2))
    return _I(_F(a * _LOG2_E + _MAGIC).view(np.int32) - _F(_MAGIC).view(np.int32))


@_compiled(_EXACT, inline=True)
def _weight_range(top: Any) -> Any:
    # the value up to which a weight is zero, and what _weight adds to get the exponent bits of its result
    return top + _FLUSH, _I((127 + _SCALE_BITS - _exponent(top)) << 23)


@_compiled(_EXACT, inline=True)
def _expm1_parts(a: Any, low: Any) -> Any:
    # exp(a + low) = scale (1 + part)
    magic = a * _LOG2_E + _MAGIC
    k = magic - _MAGIC
    part = _expm1_reduced(((a - k * (_LN2_HIGH + _LN2_MIDDLE)) - k * _LN2_LOW) + low)
    return part, _I(_I(_F(magic).view(np.int32) + _I(127)) << _I(23)).view(np.float32)


@_compiled(_EXACT, inline=True)
def _weight(x: Any, floor: Any, offset: Any) -> Any:
    # 2^36 exp(x) over the power of 2 nearest to exp(top), or zero up to the floor. Not exp(x - top), whose
    # argument would be rounded: the first two of these differences are exact.
    magic = x * _LOG2_E + _MAGIC
    k = magic - _MAGIC
    part = _expm1_reduced(((x - k * _LN2_HIGH) - k * _LN2_MIDDLE) - k * _LN2_LOW)
    scale = _I(_I(_F(magic).view(np.int32) << _I(23)) + offset).view(np.float32)
    return part * scale + scale if x > floor else _F(0)


@_compiled(_EXACT, inline=True)
def _difference(a: Any, b: Any) -> Any:
    # a - b and what rounding takes from it (TwoSum), since exp would magnify that
    high = a - b
    back = high + b
    return high, (a - back) - (b - (back - high))


@_compiled(_EXACT, inline=True)
def _magnitude(x: Any) -> Any:
    # the bits without the sign: as integers they are in the order of |x|, then infinity, then NaN
    return _I(_F(x).view(np.int32) & _I(0x7FFFFFFF))


@_compiled(_EXACT, inline=True)
def _log_ratio(delta: Any, high: Any, low: Any) -> Any:
    # high + low is log(Zq/Zp) to float64: where delta is close to it the first difference is exact (Sterbenz)
    return (delta - high) - low


@_compiled(_EXACT, inline=True)
def _plain_weight(x: Any, magic: Any) -> Any:
    # _weight where no x lies below the floor and |x| < 2^13; `magic` holds the offset of the exponent as well
    high = x * _LOG2_E + magic
    k = high - magic
    r = (x - k * _LN2_COARSE) - k * _LN2_REST
    scale = _I(_F(high).view(np.int32) << _I(23)).view(np.float32)
    return _expm1_reduced(r) * scale + scale


@_compiled(_EXACT, inline=True)
def _narrow_expm1(a: Any) -> Any:
    # |a| <= 8
    magic = a * _LOG2_E + (_MAGIC + _F(127))
    part = _expm1_reduced(a - (magic - (_MAGIC + _F(127))) * _LN2)  # eight times the error of _LN2 is 2e-8
    scale = _I(_F(magic).view(np.int32) << _I(23)).view(np.float32)
    return part * scale + (scale - _ONE)


@_compiled(_EXACT, inline=True)
def _tiny_expm1(a: Any) -> Any:
    # |a| <= 1
    return ((((((_T5 * a + _T4) * a + _T3) * a + _T2) * a + _T1) * a + _T0) * a + _ONE) * a


@_compiled(_EXACT, inline=True)
def _tiny_g(d: Any) -> Any:
    u = d * d
    return u * ((((_H4 * u + _H3) * u + _H2) * u + _H1) * u + _H0)


@_compiled(_EXACT, inline=True)
def _rational_g(d: Any) -> Any:
    u = d * d
    above = (((_A4 * u + _A3) * u + _A2) * u + _A1) * u + _A0
    below = (((_B4 * u + _B3) * u + _B2) * u + _B1) * u + _ONE
    return u * _quotient(above, below)


@_compiled(_EXACT, inline=True)
def _g(d: Any) -> Any:
    negative = _larger(-abs(d), _TAIL_END)
    part, scale = _expm1_parts(negative, _F(0))
    t = part * scale + scale
    tail = _LN2 - t * ((_ONE - negative) - t * (_F(0.5) - negative))  # the next term is 3e-10
    return _rational_g(_larger(negative, -_RATIONAL_END)) if negative > -_RATIONAL_END else tail


@_compiled(_SCAN)
def _scan_one(x: Any) -> Any:
    _prefer_512_bits()
    top = -_LARGEST
    magnitude = _I(0)
    for i in range(x.size):
        top = _larger(x[i], top)
        magnitude = _I(max(magnitude, _magnitude(x[i])))
    return top, magnitude >= _INFINITE


@_compiled(_SCAN)
def _scan_both(x: Any, delta: Any) -> Any:
    _prefer_512_bits()
    top = high = -_LARGEST
    bottom = low = _LARGEST
    for i in range(x.size):
        top = _larger(x[i], top)
        bottom = _smaller(x[i], bottom)
        low = _smaller(delta[i], low)
        high = _larger(delta[i], high)
    return top, bottom, low, high


@_compiled(_SCAN)
def _delta_at(x: Any, delta: Any, top: Any) -> Any:
    _prefer_512_bits()
    shift = -_LARGEST
    for i in range(x.size):
        shift = _larger(delta[i] if x[i] == top else -_LARGEST, shift)
    return shift


@_compiled(_SUM)
def _sum(x: Any) -> float:
    # Eight at a time in float32, which costs three roundings at most, and those sums in float64. The rest, less
    # than 128, in float64; whole vectors of 16 leave none of the first loop over.
    _prefer_512_bits()
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


@_compiled(_EXACT)
def _tiny_weights(x: Any, delta: Any, magic: Any, shift: Any, weight: Any, change: Any) -> None:
    _prefer_512_bits()
    for i in range(x.size):
        e = _plain_weight(x[i], magic)
        weight[i] = e
        change[i] = e * _tiny_expm1(delta[i] - shift)


@_compiled(_EXACT)
def _narrow_weights(x: Any, delta: Any, magic: Any, shift: Any, weight: Any, change: Any) -> None:
    _prefer_512_bits()
    for i in range(x.size):
        e = _plain_weight(x[i], magic)
        weight[i] = e
        change[i] = e * _narrow_expm1(delta[i] - shift)


@_compiled(_EXACT)
def _wide_weights(x: Any, delta: Any, top: Any, shift: Any, weight: Any, change: Any) -> None:
    _prefer_512_bits()
    floor, offset = _weight_range(top)
    for i in range(x.size):
        e = _weight(x[i], floor, offset)
        a, low = _difference(delta[i], shift)
        part, scale = _expm1_parts(_larger(_smaller(a, _RATIO_HIGH), _RATIO_LOW), low)
        weight[i] = e
        change[i] = e * (part * scale + (scale - _ONE))


@_compiled(_EXACT)
def _tiny_terms(delta: Any, high: Any, low: Any, factor: Any, weight: Any, change: Any) -> None:
    _prefer_512_bits()
    for i in range(delta.size):
        mixed = (_ONE + factor) * weight[i] + factor * change[i]
        weight[i] = mixed * _tiny_g(_log_ratio(delta[i], high, low))


@_compiled(_EXACT)
def _rational_terms(delta: Any, high: Any, low: Any, factor: Any, weight: Any, change: Any) -> None:
    _prefer_512_bits()
    for i in range(delta.size):
        mixed = (_ONE + factor) * weight[i] + factor * change[i]
        weight[i] = mixed * _rational_g(_log_ratio(delta[i], high, low))


@_compiled(_EXACT)
def _terms(delta: Any, high: Any, low: Any, factor: Any, weight: Any, change: Any) -> None:
    _prefer_512_bits()
    for i in range(delta.size):
        mixed = (_ONE + factor) * weight[i] + factor * change[i]
        weight[i] = mixed * _g(_log_ratio(delta[i], high, low))


@_compiled(_SCAN)
def _reach(x: Any, delta: Any, top: Any, shift: Any) -> Any:
    # the largest log weight of the second softmax, beside 0 at the top, that the clamped ratio would get wrong
    _prefer_512_bits()
    largest = -_LARGEST
    for i in range(x.size):
        a = delta[i] - shift
        largest = _larger((x[i] - top) + a if a > _REACH else -_LARGEST, largest)
    return largest


@_compiled()
def _fill(
    x: Any, delta: Any, top: Any, shift: Any, span: Any, plain: Any, weight: Any, change: Any
) -> tuple[float, float]:
    magic = _F(_MAGIC + _F(127 + _SCALE_BITS - _exponent(top)))
    if not plain:
        _wide_weights(x, delta, top, shift, weight, change)
    elif span <= _TINY_SPAN:
        _tiny_weights(x, delta, magic, shift, weight, change)
    else:
        _narrow_weights(x, delta, magic, shift, weight, change)
    sum_weight = _sum(weight)
    return sum_weight, math.log1p(_sum(change) / sum_weight)


@_compiled()
def _fast_row(x: Any, delta: Any, top: Any, shift: Any, span: Any, plain: Any, weight: Any, change: Any) -> float:
    sum_weight, log_ratio = _fill(x, delta, top, shift, span, plain, weight, change)
    if log_ratio < _SHIFT_AGAIN:  # else 1 + change/weight would cancel where deltas are far below the shift
        shift = _F(shift + log_ratio)
        sum_weight, log_ratio = _fill(x, delta, top, shift, span, plain, weight, change)
    high = _F(shift + log_ratio)
    low = _F(shift + log_ratio - high)
    factor = _F(math.exp(-log_ratio))
    if span <= _TINY_SPAN:
        _tiny_terms(delta, high, low, factor, weight, change)
    elif span <= _RATIONAL_END:
        _rational_terms(delta, high, low, factor, weight, change)
    else:
        _terms(delta, high, low, factor, weight, change)
    return 0.5 * _sum(weight) / sum_weight


@_compiled()
def _careful_g(d: float) -> float:
    a = abs(d)
    if a < 2.0:
        h = math.tanh(0.5 * a)
        return 0.5 * a * h + 0.5 * math.log1p(-h * h)
    t = math.exp(-a)
    return math.log(2.0) - math.log1p(t) - a * t / (1.0 + t)


@_compiled()
def _careful_row(x: Any, delta: Any) -> float:
    # Any finite row, in float64: for float64 input, and where the clamped ratio isn't enough.
    top, shift = -np.inf, 0.0
    for i in range(x.size):
        if not (math.isfinite(x[i]) and math.isfinite(delta[i])):
            return np.nan
        if x[i] > top:
            top, shift = np.float64(x[i]), np.float64(delta[i])
    reach = 0.0
    for i in range(x.size):
        reach = max(reach, (x[i] - top) + (delta[i] - shift))
    sum_p = sum_q = change = 0.0
    for i in range(x.size):
        b, a = x[i] - top, delta[i] - shift
        sum_p += math.exp(b)
        sum_q += math.exp(b + a - reach)
        change += math.exp(b) * math.expm1(a) if a < 1.0 else math.exp(b + a) - math.exp(b)
    if abs(change) < 0.5 * sum_p:
        log_ratio, reach_d = math.log1p(change / sum_p), 0.0
    else:  # `reach` is subtracted apart, for it may be so large as to swallow the logarithm
        log_ratio, reach_d = math.log(sum_q / sum_p), reach
    total = 0.0
    for i in range(x.size):
        b, a = x[i] - top, delta[i] - shift
        total += (math.exp(b) / sum_p + math.exp(b + a - reach) / sum_q) * _careful_g(a - reach_d - log_ratio)
    return 0.5 * total


@_compiled()
def jensen_shannon_rows(
    base: Float32[np.ndarray, "row feature"],
    delta: Float32[np.ndarray, "row feature"],
    out: Float32[np.ndarray, " row"],
) -> None:
    """Fill `out` with JS(softmax(base), softmax(base + delta)) of each row, in nats.

    A row that holds NaN or infinity gets NaN, and no other row does.
    """
    weight = np.empty(base.shape[1], np.float32)
    change = np.empty(base.shape[1], np.float32)
    for row in range(base.shape[0]):
        x, d = base[row], delta[row]
        top, bottom, low, high = _scan_both(x, d)
        span = np.float64(high) - np.float64(low)
        shift = _delta_at(x, d, top)
        # A plain row holds no infinity, which would show in these bounds. NaN may not, but makes its sums NaN.
        plain = abs(top) <= _PLAIN_TOP and top - bottom <= -_FLUSH and span <= _NARROW_SPAN
        if plain:
            out[row] = _fast_row(x, d, top, shift, span, True, weight, change)
        elif _scan_one(x)[1] or _scan_one(d)[1]:
            out[row] = np.nan
        elif abs(top) <= _TOP_LIMIT and (
            span <= _REACH or (span < _SPAN_LIMIT and _reach(x, d, top, shift) < _NEGLIGIBLE)
        ):
            out[row] = _fast_row(x, d, top, shift, span, False, weight, change)
        else:
            out[row] = _careful_row(x, d)


@_compiled()
def jensen_shannon_rows_float64(
    base: Float64[np.ndarray, "row feature"],
    delta: Float64[np.ndarray, "row feature"],
    out: Float64[np.ndarray, " row"],
) -> None:
    """Fill `out` with JS(softmax(base), softmax(base + delta)) of each row, in nats, computed in float64.

    A row that holds NaN or infinity gets NaN. It is about thirty times slower than `jensen_shannon_rows`.
    """
    for row in range(base.shape[0]):
        out[row] = _careful_row(base[row], delta[row])


@_compiled(_EXACT)
def _entropy_terms(x: Any, top: Any, weight: Any, term: Any) -> None:
    _prefer_512_bits()
    floor, offset = _weight_range(top)
    for i in range(x.size):
        e = _weight(x[i], floor, offset)
        weight[i] = e
        term[i] = e * _smaller(top - x[i], -_FLUSH)


@_compiled()
def _fast_width(x: Any, top: Any, weight: Any, term: Any) -> float:
    _entropy_terms(x, top, weight, term)
    sum_weight = _sum(weight)
    log_unit = _exponent(top) * math.log(2.0) - top - _SCALE_BITS * math.log(2.0)
    return sum_weight * math.exp(log_unit + _sum(term) / sum_weight)


@_compiled()
def _careful_width(x: Any, top: Any) -> float:
    sum_weight = sum_term = 0.0
    for i in range(x.size):
        b = np.float64(x[i]) - top
        sum_weight += math.exp(b)
        sum_term -= math.exp(b) * b
    return sum_weight * math.exp(sum_term / sum_weight)


@_compiled()
def effective_width_rows(base: Float32[np.ndarray, "row feature"], out: Float32[np.ndarray, " row"]) -> None:
    """Fill `out` with exp(H(softmax(base))) of each row: how many features share its mass, from 1 to all.

    A row that holds NaN or infinity gets NaN.
    """
    weight = np.empty(base.shape[1], np.float32)
    term = np.empty(base.shape[1], np.float32)
    for row in range(base.shape[0]):
        top, bad = _scan_one(base[row])
        if bad:
            out[row] = np.nan
        elif abs(top) <= _TOP_LIMIT:
            out[row] = _fast_width(base[row], top, weight, term)
        else:
            out[row] = _careful_width(base[row], np.float64(top))


@_compiled(_SUM)
def _sum_squares(x: Any) -> float:
    _prefer_512_bits()
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i]) * np.float64(x[i])
    return total


@_compiled()
def norm_ratio_rows(
    base: Float32[np.ndarray, "row feature"],
    delta: Float32[np.ndarray, "row feature"],
    out: Float32[np.ndarray, " row"],
) -> None:
    """Fill `out` with the Euclidean norm of delta over that of base, of each row.

    It is infinite where only base is zero, and NaN where both are zero or the row holds NaN or infinity.
    """
    for row in range(base.shape[0]):
        squares, delta_squares = _sum_squares(base[row]), _sum_squares(delta[row])
        is_finite = math.isfinite(squares) and math.isfinite(delta_squares)
        out[row] = math.sqrt(delta_squares / squares) if is_finite else np.nan
