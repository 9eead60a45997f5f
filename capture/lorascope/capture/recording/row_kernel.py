# mypy: ignore-errors
# Kernels have no types to check: triton compiles them from their text.
"""A kernel over rows of two softmaxes, for triton: divergences, norms, effective widths and the proof of a sum.

A row is a token's features: base, a frozen layer's output, and delta, an adapter's addition to it. JS is the
Jensen-Shannon divergence of softmax(base) and softmax(base + delta).

A program takes some tokens through their features in blocks, three times: the largest of base; sums of the softmaxes'
weights; terms of the divergence. Delta is computed again each time and never written. Arithmetic is float32, with sums
in two floats. The formulas are those of `lorascope.kernels.softmax`, which `docs/js-kernel.md` derives.
"""

import math

import numpy as np
import triton
import triton.language as tl


def _constants(*values: float) -> tuple[tl.constexpr, ...]:
    """Return numbers, rounded to float32, as the constants that triton's kernels may read."""
    return tuple(tl.constexpr(float(np.float32(value))) for value in values)


_NONE = tl.constexpr(math.nan)
_INFINITE = tl.constexpr(0x7F800000)  # bits of infinity; NaN's are larger
_LOG2_E, _LN2, _LN2_LOW = _constants(math.log2(math.e), math.log(2), math.log(2) - float(np.float32(math.log(2))))
_FLUSH = tl.constexpr(-104.0)  # exp of it is zero in float32
_REACH = tl.constexpr(40.0)  # a delta this far from the shift may lift a weight out of the range of float32
_OVERFLOW = tl.constexpr(60.0)  # sums of exp of less fit into float32
_NEAR = tl.constexpr(0.5)  # a larger change of the normaliser is taken from the two normalisers
_SERIES_END = tl.constexpr(1.0)
_RATIONAL_END = tl.constexpr(8.0)
# expm1(a)/a - 1 over a for |a| <= 3/4: relative error 1.2e-7
_T0, _T1, _T2, _T3, _T4, _T5 = _constants(
    *(0.50000013549297, 0.16666652873718, 0.041662266177128, 0.0083339379410367, 0.0014098673181793),
    0.00019918297473699,
)
_ODD3, _ODD5, _ODD7, _ODD9, _ODD11, _ODD13 = _constants(*(1 / n for n in range(3, 15, 2)))
# g(d)/d^2 in u = d^2 for |d| <= 1, and as a quotient for |d| <= 8: relative errors 3e-8
_H0, _H1, _H2, _H3, _H4 = _constants(
    *(0.12499999694273563, -0.015624847422540203, 0.0017348804933492968, -0.00018093983584957843),
    1.4984207514031818e-05,
)
_A0, _A1, _A2, _A3, _A4 = _constants(
    *(0.1250000034923854, 0.00978927944108635, 0.000226716442445125, 2.1216993234057776e-06),
    -1.0473193582304973e-10,
)
_B1, _B2, _B3, _B4 = _constants(0.20331444295606, 0.013338896995917553, 0.00033634249320420144, 3.004555172233222e-06)
# (cosh(d) - 1)/d^2 and (sinh(d) - d)/d^3 in u for |d| <= 1: relative errors 4e-9 and 1e-9
_C0, _C1, _C2, _C3 = _constants(0.49999999789511679, 0.041666735124420649, 0.0013885436331653682, 2.5355876298351787e-5)
_S0, _S1, _S2, _S3 = _constants(
    0.16666666647271275, 0.0083333395983673708, 0.00019838122712079239, 2.8061417147971808e-6
)


@triton.jit
def _two_sum(a, b):
    """Return the rounded sum a + b and what rounding takes from it: together they are exact."""
    high = a + b
    back = high - a
    return high, (a - (high - back)) + (b - back)


@triton.jit
def _add(total, values):
    """Return a running sum, kept in two floats (token, group of 8 features), with a block's values added."""
    # Eight neighbours, which one thread holds, are added in float32, and these sums to two floats.
    eighths = tl.sum(tl.reshape(values, (total[0].shape[0], total[0].shape[1], 8)), 2)
    high, low = _two_sum(total[0], eighths)
    return high, total[1] + low


@triton.jit
def _size(values):
    """Return the bits of the values' magnitudes as int32, which sort as the magnitudes do.

    Infinity's are larger than any number's, and NaN's still larger.
    """
    return values.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _largest(largest, values):
    """Return the larger of `largest` (bits of magnitudes) and a block's magnitudes, per group of 8 features."""
    return tl.maximum(largest, tl.max(tl.reshape(_size(values), (largest.shape[0], largest.shape[1], 8)), 2))


@triton.jit
def _total(total):
    """Return each token's sum of a running sum in two floats, added in float64, as float32 (token,)."""
    return tl.sum(total[0].to(tl.float64) + total[1].to(tl.float64), 1).to(tl.float32)


@triton.jit
def _exp(high, low):
    """Return exp(high + low) in float32, for an exponent in two floats."""
    # exp(high + low) = 2^t (1 + rest) where a fused multiply-add leaves the rest exact
    t = high * _LOG2_E
    rest = tl.fma(t, tl.full(t.shape, -_LN2_LOW, tl.float32), tl.fma(t, tl.full(t.shape, -_LN2, tl.float32), high))
    power = tl.exp2(t)
    return power * (rest + low) + power


@triton.jit
def _expm1(a):
    """Return exp(a) - 1 in float32, by a series for |a| <= 3/4, where the difference would lose digits."""
    series = a * ((((((_T5 * a + _T4) * a + _T3) * a + _T2) * a + _T1) * a + _T0) * a) + a
    return tl.where(tl.abs(a) <= 0.75, series, tl.exp2(a * _LOG2_E) - 1.0)


@triton.jit
def _log1p(x):
    """Return log(1 + x) in float32, for |x| <= 1/2."""
    # 2 atanh(v) for |x| <= 1/2; the next term is 1e-8 of it
    v = x / (2.0 + x)
    u = v * v
    return 2.0 * v * (((((((_ODD13 * u + _ODD11) * u + _ODD9) * u + _ODD7) * u + _ODD5) * u + _ODD3) * u) + 1.0)


@triton.jit
def _is_finite(x):
    """Return whether each value is neither infinite nor NaN, from its bits."""
    return _size(x) < _INFINITE


@triton.jit
def _scale(largest):
    """Return the power of two that takes values up to `largest` to about 1, so that squares stay in range."""
    exponent = tl.minimum(tl.maximum(_size(largest) >> 23, 1), 253)
    return ((254 - exponent) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _series(d, IS_KL: tl.constexpr):
    """Return, for |d| <= 1, a feature's term of JS, g(d), or with IS_KL of KL, exp(d) - 1 - d, by a series."""
    u = d * d
    if IS_KL:
        even = ((_C3 * u + _C2) * u + _C1) * u + _C0
        value = u * (even + d * (((_S3 * u + _S2) * u + _S1) * u + _S0))
    else:
        value = u * ((((_H4 * u + _H3) * u + _H2) * u + _H1) * u + _H0)
    return value


@triton.jit
def _g(d):
    """Return g(d), a feature's term of JS at d = log q - log p before its weight, for d of any size."""
    a = tl.abs(d)
    near = tl.minimum(a, _RATIONAL_END)
    u = near * near
    above = (((_A4 * u + _A3) * u + _A2) * u + _A1) * u + _A0
    below = (((_B4 * u + _B3) * u + _B2) * u + _B1) * u + 1.0
    t = tl.exp2(a * -_LOG2_E)
    # ln 2 - log(1 + t) - a t/(1 + t); the next term is 3e-10. Where exp(-a) is zero, a may be infinite.
    tail = _LN2 - tl.where(t > 0.0, t * ((1.0 + a) - t * (0.5 + a)), 0.0)
    return tl.where(a <= _RATIONAL_END, u * (above / below), tail)


@triton.jit
def _rows_at(pointer, stride, row, features, inside):
    """Load these features of rows as float32 (token, feature); 0 where `inside` is false."""
    return tl.load(pointer + row * stride + features, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _block(base, stride, row, start, WIDTH: tl.constexpr, FEATURES: tl.constexpr):
    """Load a block of base: its values as float32 (token, feature), the features' indices, and which are in the row."""
    features = start + tl.arange(0, FEATURES)[None, :]
    # Where blocks fill the row this is a constant, which leaves no trace in the code.
    inside = tl.full((1, FEATURES), 1, tl.int1) if WIDTH % FEATURES == 0 else features < WIDTH
    return _rows_at(base, stride, row, features, inside), features, inside


@triton.jit
def _delta_at(source, x, row, features, inside, WIDTH: tl.constexpr, RANK: tl.constexpr, IS_SIZE: tl.constexpr = False):
    """Return delta at these features (a product of factor and weight, a stored delta, or output - base), and a rest.

    The rest is what rounding takes from output minus base in float32, else 0. With IS_SIZE, return what the magnitudes
    of delta's terms add up to in its place.
    """
    output, output_stride, addition, addition_stride, weight, bias, scaling, HAS_REST = source
    rest = tl.zeros_like(x)
    if weight is not None:
        delta = tl.zeros_like(x)
        # As many steps at fixed offsets, for which no address is computed, as registers are left for.
        STEP: tl.constexpr = 8 if RANK % 8 == 0 else 1
        for start in range(0, RANK, STEP):
            for step in tl.static_range(STEP):
                z = tl.load(addition + row * addition_stride + start + step).to(tl.float32)
                b = tl.load(weight + start * WIDTH + features + step * WIDTH, mask=inside, other=0.0)
                delta += tl.abs(z) * tl.abs(b) if IS_SIZE else z * b
        if bias is not None:
            offset = tl.load(bias + features, mask=inside, other=0.0)
            delta += tl.abs(offset) if IS_SIZE else offset
        delta = tl.abs(delta * scaling) if IS_SIZE else delta * scaling
    elif addition is not None:
        delta = _rows_at(addition, addition_stride, row, features, inside)
        delta = tl.abs(x) + 2.0 * tl.abs(delta) if IS_SIZE else delta
    elif HAS_REST:
        delta, rest = _two_sum(_rows_at(output, output_stride, row, features, inside), -x)
    else:  # exact, unless base is less than 2^-13 of the output in float16, or 2^-16 in bfloat16
        delta = _rows_at(output, output_stride, row, features, inside) - x
    return delta, rest


@triton.jit
def _plus_rest(source, value, rest):
    """Return the sum of a value and a rest, or the value alone where rests are 0: compilers can't leave that out."""
    return value + rest if source[7] else value


@triton.jit
def _minus_top(x, top, IS_ROUNDED: tl.constexpr):
    """Return x minus the row's largest value, at least -104, as two floats; the second is 0 unless IS_ROUNDED."""
    # Short types leave float32 room for the difference; where they don't, it is off by 6e-8 of itself.
    if IS_ROUNDED:
        high, low = _two_sum(x, -top)
    else:
        high, low = x - top, 0.0
    return tl.maximum(high, _FLUSH), low


@triton.jit
def _scan(base, stride, row, WIDTH: tl.constexpr, TOKENS: tl.constexpr, FEATURES: tl.constexpr):
    """Return each row's largest value (token, 1), a feature that has it, and the largest magnitude (token,)."""
    top = tl.full((TOKENS, FEATURES // 8), float("-inf"), tl.float32)
    magnitude, at = tl.zeros(top.shape, tl.int32), tl.zeros(top.shape, tl.int32)
    for start in range(0, WIDTH, FEATURES):
        x, features, inside = _block(base, stride, row, start, WIDTH, FEATURES)
        magnitude = _largest(magnitude, x)
        highest = tl.max(tl.reshape(tl.where(inside, x, float("-inf")), (TOKENS, FEATURES // 8, 8)), 2)
        at = tl.where(highest > top, start, at)
        top = tl.maximum(top, highest)
    highest = tl.max(top, 1)[:, None]
    group = tl.where(top == highest, at + tl.arange(0, FEATURES // 8)[None, :] * 8, 0)
    features = tl.max(group, 1)[:, None] + tl.arange(0, 8)[None, :]
    x = _rows_at(base, stride, row, features, features < WIDTH)
    at = tl.max(tl.where((x == highest) & (features < WIDTH), features, 0), 1)[:, None]
    return highest, at, tl.max(magnitude, 1).to(tl.float32, bitcast=True)


@triton.jit
def _second_normaliser(
    source, base, stride, row, shift,
    WIDTH: tl.constexpr, RANK: tl.constexpr, TOKENS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """Return each token's sum of exp(base + delta - shift), a shift in two floats, and the largest exponent in it."""
    high, low = shift
    nothing = tl.zeros((TOKENS, FEATURES // 8), tl.float32)
    total = nothing, nothing
    most = tl.full((TOKENS, FEATURES), float("-inf"), tl.float32)
    for start in range(0, WIDTH, FEATURES):
        x, features, inside = _block(base, stride, row, start, WIDTH, FEATURES)
        delta, rest = _delta_at(source, x, row, features, inside, WIDTH, RANK)
        both, both_low = _two_sum(x, delta)
        both_low = _plus_rest(source, both_low, rest)
        c, c_low = _two_sum(both, -high[:, None])
        most = tl.where(inside, tl.maximum(most, c), most)
        weight = _exp(tl.minimum(tl.maximum(c, _FLUSH), _OVERFLOW), c_low + (both_low - low[:, None]))
        total = _add(total, tl.where(inside, weight, 0.0))
    return _total(total), tl.max(most, 1)


@triton.jit
def _terms(
    source, base, stride, row, top, ratio, scale, IS_SMALL: tl.constexpr, IS_KL: tl.constexpr,
    WIDTH: tl.constexpr, RANK: tl.constexpr, TOKENS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """Return each token's divergence times the first normaliser, and the sum of squares of delta * scale.

    The divergence is KL or twice JS; `ratio` is log(Zq/Zp) in two floats.
    """
    high, low = ratio
    nothing = tl.zeros((TOKENS, FEATURES // 8), tl.float32)
    terms, squares = (nothing, nothing), (nothing, nothing)
    for start in range(0, WIDTH, FEATURES):
        x, features, inside = _block(base, stride, row, start, WIDTH, FEATURES)
        delta, rest = _delta_at(source, x, row, features, inside, WIDTH, RANK)
        b, b_low = _minus_top(x, top, (base.dtype.element_ty == tl.float32) | (not IS_SMALL))
        p = _exp(b, b_low)
        if IS_SMALL:
            d = _plus_rest(source, (delta - high) - low, rest)
            term = _series(d, IS_KL) * (p if IS_KL else p * tl.exp2(d * _LOG2_E) + p)
        else:
            d, d_low = _two_sum(delta, -high)
            h, h_low = _two_sum(x - top, d)
            d_low = _plus_rest(source, d_low - low, rest)
            q = _exp(tl.minimum(tl.maximum(h, _FLUSH), _OVERFLOW), h_low + b_low + d_low)
            d += d_low
            if IS_KL:
                term = tl.where(tl.abs(d) <= _SERIES_END, p * _series(d, IS_KL), (q - p) - p * d)
            else:
                term = (p + q) * _g(d)
        terms = _add(terms, tl.where(inside, term, 0.0))
        if not IS_KL:
            squares = _add(squares, (delta * scale) * (delta * scale))
    return _total(terms), _total(squares)


@triton.jit
def _excess(
    source, base, stride, output, row, rounding, eps, smallest,
    WIDTH: tl.constexpr, RANK: tl.constexpr, TOKENS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """Return each token's largest |output - (base + delta)| divided by what rounding allows (token,)."""
    worst = tl.zeros((TOKENS, FEATURES // 8), tl.int32)
    for start in range(0, WIDTH, FEATURES):
        x, features, inside = _block(base, stride, row, start, WIDTH, FEATURES)
        out = _rows_at(output, source[1], row, features, inside)
        delta, _rest = _delta_at(source, x, row, features, inside, WIDTH, RANK)
        both, low = _two_sum(x, delta)
        is_finite = _is_finite(both.to(output.dtype.element_ty).to(tl.float32)) | _is_finite(out)
        overflows = ((is_finite == 0) & _is_finite(delta)) | (_is_finite(x) == 0)
        size, _rest = _delta_at(source, x, row, features, inside, WIDTH, RANK, IS_SIZE=True)
        allowed = eps * (tl.abs(x) + tl.abs(delta)) + rounding * size + smallest
        worst = _largest(worst, tl.where(overflows, 0.0, ((out - both) - low) / allowed))
    return tl.max(worst, 1).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["n_tokens", "prove_every"])
def measure_rows(
    result, base, base_stride, output, output_stride, addition, addition_stride, weight, bias, rows,
    n_tokens, scaling, rounding, eps, smallest, prove_every,
    WIDTH: tl.constexpr, RANK: tl.constexpr, IS_KL: tl.constexpr, TOKENS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """Fill `result`, float32 (measure, token), with six measures of each row's base and delta, or with its KL.

    The six are those of `fused.Measured`; rows must be contiguous.
    """
    token = tl.minimum(tl.program_id(0) * TOKENS + tl.arange(0, TOKENS), n_tokens - 1)  # the last may come repeatedly
    row = (token.to(tl.int64) if rows is None else tl.load(rows + token))[:, None]
    HAS_REST: tl.constexpr = addition is None and output.dtype.element_ty == tl.float32
    source = (output, output_stride, addition, addition_stride, weight, bias, scaling, HAS_REST)
    nothing = tl.zeros((TOKENS, FEATURES // 8), tl.float32)

    # Changes are taken from delta at the top, from which none that matters is many standard deviations away.
    top, at, magnitude = _scan(base, base_stride, row, WIDTH, TOKENS, FEATURES)
    shift, shift_rest = _delta_at(source, _rows_at(base, base_stride, row, at, at >= 0), row, at, at >= 0, WIDTH, RANK)
    scale = _scale(magnitude)[:, None]
    weights, change, depth, squares = (nothing, nothing), (nothing, nothing), (nothing, nothing), (nothing, nothing)
    swallowed = nothing
    reach = tl.zeros((TOKENS, FEATURES // 8), tl.int32)
    for start in range(0, WIDTH, FEATURES):
        x, features, inside = _block(base, base_stride, row, start, WIDTH, FEATURES)
        delta, rest = _delta_at(source, x, row, features, inside, WIDTH, RANK)
        b, low = _minus_top(x, top, base.dtype.element_ty == tl.float32)
        e = tl.where(inside, _exp(b, low), 0.0)
        a = _plus_rest(source, delta - shift, rest - shift_rest)
        a = tl.where(inside, a, 0.0)
        weights = _add(weights, e)
        change = _add(change, e * _expm1(a))
        reach = _largest(reach, a)
        if not IS_KL:
            depth = _add(depth, e * b)
            squares = _add(squares, (x * scale) * (x * scale))
            if output is None:
                out = (x + delta).to(base.dtype.element_ty).to(tl.float32)
            else:
                out = _rows_at(output, output_stride, row, features, inside)
            is_swallowed = tl.where((out == x) & (delta != 0.0), 1.0, 0.0)
            swallowed += tl.sum(tl.reshape(is_swallowed, (TOKENS, FEATURES // 8, 8)), 2)
    normaliser, ratio = _total(weights), _total(change)
    ratio /= normaliser
    reach = tl.max(reach, 1).to(tl.float32, bitcast=True)

    # log(Zq/Zp) in two floats, from the change where it is small and else from both normalisers
    is_near = (tl.abs(ratio) <= _NEAR) & (reach <= _REACH)
    first, shift = tl.sum(top, 1), tl.sum(shift, 1)
    centre, centre_low = _two_sum(shift, _log1p(ratio))
    centre_low = centre_low + tl.sum(shift_rest, 1) if HAS_REST else centre_low
    second, second_low = _two_sum(first, shift)
    again = tl.min(is_near.to(tl.int32), 0) == 0
    while again:
        shifted = (second, second_low)
        total, most = _second_normaliser(source, base, base_stride, row, shifted, WIDTH, RANK, TOKENS, FEATURES)
        wide = (second.to(tl.float64) - first.to(tl.float64)) + second_low.to(tl.float64)
        wide += tl.log(total.to(tl.float64)) - tl.log(normaliser.to(tl.float64))
        centre = tl.where(is_near, centre, wide.to(tl.float32))
        centre_low = tl.where(is_near, centre_low, (wide - centre.to(tl.float64)).to(tl.float32))
        is_over = most > _OVERFLOW
        second, second_low = tl.where(is_over, second + most, second), tl.where(is_over, 0.0, second_low)
        again = tl.max(is_over.to(tl.int32), 0) > 0

    is_far = (reach + tl.abs(centre - shift) <= _SERIES_END) == 0
    delta_magnitude = reach + tl.abs(shift)
    delta_scale = _scale(delta_magnitude)[:, None]
    log_ratio = centre[:, None], centre_low[:, None]
    if tl.max(is_far.to(tl.int32), 0) == 0:
        terms, delta_squares = _terms(
            source, base, base_stride, row, top, log_ratio, delta_scale, True, IS_KL, WIDTH, RANK, TOKENS, FEATURES
        )
    else:
        terms, delta_squares = _terms(
            source, base, base_stride, row, top, log_ratio, delta_scale, False, IS_KL, WIDTH, RANK, TOKENS, FEATURES
        )

    base_is_finite, delta_is_finite = _is_finite(magnitude), _is_finite(delta_magnitude)
    divergence = tl.where(base_is_finite & delta_is_finite, terms / normaliser, _NONE)
    result += token
    if IS_KL:
        tl.store(result, divergence)
    else:
        norm = tl.sqrt(_total(squares)) / tl.sum(scale, 1)
        delta_norm = tl.sqrt(delta_squares) / tl.sum(delta_scale, 1)
        effective_width = normaliser * tl.exp2(_total(depth) / normaliser * -_LOG2_E)
        tl.store(result, 0.5 * divergence)
        tl.store(result + n_tokens, tl.where(base_is_finite, norm, _NONE))
        tl.store(result + 2 * n_tokens, tl.where(delta_is_finite, delta_norm, _NONE))
        tl.store(result + 3 * n_tokens, tl.where(base_is_finite, effective_width, _NONE))
        tl.store(result + 4 * n_tokens, tl.sum(swallowed, 1) / WIDTH)
        excess = tl.zeros((TOKENS,), tl.float32)
        if output is not None and addition is not None and tl.program_id(0) % prove_every == 0:
            excess = _excess(
                source, base, base_stride, output, row, rounding, eps, smallest, WIDTH, RANK, TOKENS, FEATURES
            )
        tl.store(result + 5 * n_tokens, excess)


@triton.jit(do_not_specialize=["n_tokens"])
def nll_rows(
    result, logits, stride, rows, ids, n_tokens, WIDTH: tl.constexpr, TOKENS: tl.constexpr, FEATURES: tl.constexpr
):
    """Fill `result`, float32 (token,), with the negative log softmax of each of `rows` of logits at its token id."""
    token = tl.minimum(tl.program_id(0) * TOKENS + tl.arange(0, TOKENS), n_tokens - 1)
    row, at = tl.load(rows + token)[:, None], tl.load(ids + token)[:, None]
    top, _first, magnitude = _scan(logits, stride, row, WIDTH, TOKENS, FEATURES)
    nothing = tl.zeros((TOKENS, FEATURES // 8), tl.float32)
    weights = nothing, nothing
    for start in range(0, WIDTH, FEATURES):
        x, _features, inside = _block(logits, stride, row, start, WIDTH, FEATURES)
        # Minus infinity, as of what can't come, has no difference from the top.
        high, low = _minus_top(tl.maximum(x, top + 2.0 * _FLUSH), top, logits.dtype.element_ty == tl.float32)
        weights = _add(weights, tl.where(inside, _exp(high, low), 0.0))
    own = _rows_at(logits, stride, row, at, at >= 0)
    nll = tl.log(_total(weights).to(tl.float64)) + tl.sum(top.to(tl.float64) - own.to(tl.float64), 1)
    is_known = (magnitude == magnitude) & _is_finite(tl.sum(top, 1))
    tl.store(result + token, tl.where(is_known, nll, _NONE).to(tl.float32))
