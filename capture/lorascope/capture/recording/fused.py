"""What is measured of a token on a GPU, in one kernel from the tensors that the layer made; delta is never written.

A program takes some tokens through their features in blocks, three times: the largest of base; sums of the softmaxes'
weights; terms of the divergence. Arithmetic is float32, with sums in two floats and a few float64 numbers a token. The
formulas are those of `analyze.kernels.softmax` (`docs/js-kernel.md`); `reduce` has the float64 reference. Needs triton,
which comes with torch's CUDA builds; imported by whoever has found it.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

_BLOCK_VALUES = 4096
"""Values that a program holds at a time: 32 for each of its threads."""
_WARPS = 4
_OPTIONS = {"num_warps": _WARPS, "enable_fp_fusion": True}
"""Fusion is asked for by name, as triton's default changes. Two-float sums only add, so that it can't reach them."""
_N_FOUND = 6


def _constants(*values: float) -> tuple[tl.constexpr, ...]:
    return tuple(tl.constexpr(float(np.float32(value))) for value in values)


_NONE = tl.constexpr(float("nan"))
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
# g(d)/d^2 in u = d^2 for |d| <= 1, and as a quotient for |d| <= 8: relative errors 3e-8
_H0, _H1, _H2, _H3, _H4 = _constants(
    *(0.12499999694273563, -0.015624847422540203, 0.0017348804933492968, -0.00018093983584957843),
    1.4984207514031818e-05,
)
_A0, _A1, _A2, _A3, _A4 = _constants(
    *(0.1250000034923854, 0.00978927944108635, 0.000226716442445125, 2.1216993234057776e-06),
    -1.0473193582304973e-10,
)
_B1, _B2, _B3, _B4 = _constants(
    0.20331444295606, 0.013338896995917553, 0.00033634249320420144, 3.004555172233222e-06
)
# (cosh(d) - 1)/d^2 and (sinh(d) - d)/d^3 in u for |d| <= 1: relative errors 4e-9 and 1e-9
_C0, _C1, _C2, _C3 = _constants(0.49999999789511679, 0.041666735124420649, 0.0013885436331653682, 2.5355876298351787e-5)
_S0, _S1, _S2, _S3 = _constants(0.16666666647271275, 0.0083333395983673708, 0.00019838122712079239, 2.8061417147971808e-6)


class Measured(NamedTuple):
    """Measures of tokens at one component, float32 (token,) each; NaN where what they are of isn't finite."""

    js: torch.Tensor
    """JS(softmax(base), softmax(base + delta)), nats."""
    base_norm: torch.Tensor
    """Euclidean norm of base."""
    delta_norm: torch.Tensor
    """Euclidean norm of delta."""
    effective_width: torch.Tensor
    """exp of the entropy of softmax(base)."""
    swallowed: torch.Tensor
    """Share of features whose output is the base although delta isn't zero."""
    excess: torch.Tensor
    """Largest |output - (base + delta)| over what rounding allows, as in `sink.excess`; 0 where it isn't proved."""


class Compared(NamedTuple):
    """What two rows of logits say, float32 (token,) each, in nats."""

    kl: torch.Tensor
    """KL(softmax(base) || softmax(adapted))."""
    base_nll: torch.Tensor
    """Negative log-likelihood of the token's id by base."""
    adapted_nll: torch.Tensor
    """The same by adapted."""


@triton.jit
def _two_sum(a, b):
    # a + b, and what rounding takes from it
    high = a + b
    back = high - a
    return high, (a - (high - back)) + (b - back)


@triton.jit
def _add(high, low, values):
    # Eight neighbours, which one thread holds, are added in float32; these sums to two floats.
    eighths = tl.sum(tl.reshape(values, (high.shape[0], high.shape[1], 8)), 2)
    high, rest = _two_sum(high, eighths)
    return high, low + rest


@triton.jit
def _size(values):
    # bits of the magnitudes, which sort as these do: infinity's are larger than any number's, and NaN's still larger
    return values.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _largest(found, values):
    return tl.maximum(found, tl.max(tl.reshape(_size(values), (found.shape[0], found.shape[1], 8)), 2))


@triton.jit
def _total(high, low):
    return tl.sum(high.to(tl.float64) + low.to(tl.float64), 1)


@triton.jit
def _exp(high, low):
    # exp(high + low) = 2^t (1 + rest) where a fused multiply-add leaves the rest exact
    t = high * _LOG2_E
    rest = tl.fma(t, tl.full(t.shape, -_LN2_LOW, tl.float32), tl.fma(t, tl.full(t.shape, -_LN2, tl.float32), high))
    power = tl.exp2(t)
    return power * (rest + low) + power


@triton.jit
def _expm1(a):
    series = a * ((((((_T5 * a + _T4) * a + _T3) * a + _T2) * a + _T1) * a + _T0) * a) + a
    return tl.where(tl.abs(a) <= 0.75, series, tl.exp2(a * _LOG2_E) - 1.0)


@triton.jit
def _log1p(x):
    # float64; what rounding takes from 1 + x is put back
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / (u - 1.0)))


@triton.jit
def _is_finite(x):
    return _size(x) < _INFINITE


@triton.jit
def _scale(largest):
    # the power of two that takes values up to `largest` to about 1, so that no square leaves the range
    exponent = tl.minimum(tl.maximum(_size(largest) >> 23, 1), 253)
    return ((254 - exponent) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _series(d, KL: tl.constexpr):
    # |d| <= 1: g(d), or exp(d) - 1 - d
    u = d * d
    if KL:
        even = ((_C3 * u + _C2) * u + _C1) * u + _C0
        found = u * (even + d * (((_S3 * u + _S2) * u + _S1) * u + _S0))
    else:
        found = u * ((((_H4 * u + _H3) * u + _H2) * u + _H1) * u + _H0)
    return found


@triton.jit
def _g(d):
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
def _inside(features, WIDTH: tl.constexpr, FEATURES: tl.constexpr):
    # a constant where blocks fill the row, which leaves no trace in the code
    return tl.full(features.shape, 1, tl.int1) if WIDTH % FEATURES == 0 else features < WIDTH


@triton.jit
def _rows_at(pointer, stride, row, features, inside):
    return tl.load(pointer + row * stride + features, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _delta_at(source, x, row, features, inside, SIZE: tl.constexpr):
    # Delta, or with SIZE the magnitudes of its terms added up: of a factor, given, or what the output differs by.
    base_stride, output, output_stride, given, given_stride, weight, feature_stride, rank_stride, bias, scaling, RANK = source
    if weight is not None:
        delta = tl.zeros_like(x)
        for r in range(RANK):
            z = tl.load(given + row * given_stride + r).to(tl.float32)
            b = tl.load(weight + r * rank_stride + features * feature_stride, mask=inside, other=0.0)
            delta = tl.fma(tl.broadcast_to(tl.abs(z) if SIZE else z, x.shape), tl.broadcast_to(tl.abs(b) if SIZE else b, x.shape), delta)
        if bias is not None:
            offset = tl.load(bias + features, mask=inside, other=0.0)
            delta += tl.abs(offset) if SIZE else offset
        delta *= scaling
        delta = tl.abs(delta) if SIZE else delta
    elif given is not None:
        delta = _rows_at(given, given_stride, row, features, inside)
        delta = tl.abs(x) + 2.0 * tl.abs(delta) if SIZE else delta
    else:
        delta = _rows_at(output, output_stride, row, features, inside) - x
    return delta


@triton.jit
def _excess(source, base, row, rounding, eps, smallest, WIDTH: tl.constexpr, TOKENS: tl.constexpr, FEATURES: tl.constexpr):
    worst = tl.zeros((TOKENS, FEATURES // 8), tl.int32)
    output, kind = source[1], source[1].dtype.element_ty
    for start in range(0, WIDTH, FEATURES):
        features = start + tl.arange(0, FEATURES)[None, :]
        inside = _inside(features, WIDTH, FEATURES)
        x = _rows_at(base, source[0], row, features, inside)
        out = _rows_at(output, source[2], row, features, inside)
        delta = _delta_at(source, x, row, features, inside, False)
        size = _delta_at(source, x, row, features, inside, True)
        both, low = _two_sum(x, delta)
        overflows = (_is_finite(both.to(kind).to(tl.float32)) | _is_finite(out)) == 0
        overflows = (overflows & _is_finite(delta)) | (_is_finite(x) == 0)
        allowed = eps * (tl.abs(x) + tl.abs(delta)) + rounding * size + smallest
        worst = _largest(worst, tl.where(overflows, 0.0, tl.abs((out - both) - low) / allowed))
    return tl.max(worst, 1).to(tl.float32, bitcast=True)


@triton.jit
def _kernel(
    found, base, base_stride, output, output_stride, given, given_stride, weight, feature_stride, rank_stride, bias,
    rows, ids, n_tokens, scaling, rounding, eps, smallest, prove_every,
    WIDTH: tl.constexpr, RANK: tl.constexpr, KL: tl.constexpr, TOKENS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    row = tl.minimum(token, n_tokens - 1).to(tl.int64)  # the last ones are measured again, and not stored
    if rows is not None:
        row = tl.load(rows + row)
    row = row[:, None]
    source = (base_stride, output, output_stride, given, given_stride, weight, feature_stride, rank_stride, bias, scaling, RANK)
    nothing, no_size = tl.zeros((TOKENS, FEATURES // 8), tl.float32), tl.zeros((TOKENS, FEATURES // 8), tl.int32)

    # the largest of base, where it is, and what delta is there: no delta that matters is many deviations from that
    top, at, magnitude = tl.full((TOKENS, FEATURES), float("-inf"), tl.float32), tl.zeros((TOKENS, FEATURES), tl.int32), no_size
    for start in range(0, WIDTH, FEATURES):
        features = start + tl.arange(0, FEATURES)[None, :]
        inside = _inside(features, WIDTH, FEATURES)
        x = _rows_at(base, base_stride, row, features, inside)
        magnitude = _largest(magnitude, x)
        is_higher = (x > top) & inside
        top, at = tl.where(is_higher, x, top), tl.where(is_higher, features, at)
    highest = tl.max(top, 1)[:, None]
    place = tl.max(tl.where(top == highest, at, 0), 1)[:, None]
    top, magnitude = highest, tl.max(magnitude, 1).to(tl.float32, bitcast=True)
    shift = _delta_at(source, _rows_at(base, base_stride, row, place, place >= 0), row, place, place >= 0, False)

    # sums of base's weights exp(b), of what delta changes them by, and for the entropy
    weights, weights_low, change, change_low, depth, depth_low = nothing, nothing, nothing, nothing, nothing, nothing
    squares, squares_low, swallowed, reach = nothing, nothing, nothing, no_size
    base_scale = _scale(magnitude)[:, None]
    for start in range(0, WIDTH, FEATURES):
        features = start + tl.arange(0, FEATURES)[None, :]
        inside = _inside(features, WIDTH, FEATURES)
        x = _rows_at(base, base_stride, row, features, inside)
        delta = _delta_at(source, x, row, features, inside, False)
        b, low = _two_sum(x, -top)
        b = tl.maximum(b, _FLUSH)
        e = tl.where(inside, _exp(b, low), 0.0)
        a = tl.where(inside, delta - shift, 0.0)
        weights, weights_low = _add(weights, weights_low, e)
        change, change_low = _add(change, change_low, e * _expm1(a))
        reach = _largest(reach, a)
        if not KL:
            depth, depth_low = _add(depth, depth_low, e * b)
            scaled = x * base_scale
            squares, squares_low = _add(squares, squares_low, scaled * scaled)
            if output is not None:
                out = _rows_at(output, output_stride, row, features, inside)
            else:
                out = (x + delta).to(base.dtype.element_ty).to(tl.float32)
            is_swallowed = ((out == x) & (delta != 0.0)).to(tl.float32)
            swallowed += tl.sum(tl.reshape(is_swallowed, (TOKENS, FEATURES // 8, 8)), 2)
    normaliser = _total(weights, weights_low)
    ratio = _total(change, change_low) / normaliser
    reach = tl.max(reach, 1).to(tl.float32, bitcast=True)

    # log(Zq/Zp), from the change where it is small and else from both normalisers
    first, delta_there = tl.sum(top, 1).to(tl.float64), tl.sum(shift, 1).to(tl.float64)
    is_near = (tl.abs(ratio) <= _NEAR) & (reach <= _REACH)
    centre = delta_there + _log1p(ratio)
    if tl.min(is_near.to(tl.int32), 0) == 0:
        second, again = first + delta_there, True
        while again:
            second_high = second.to(tl.float32)
            second_low = (second - second_high).to(tl.float32)[:, None]
            total, total_low, most = nothing, nothing, tl.full((TOKENS, FEATURES), float("-inf"), tl.float32)
            for start in range(0, WIDTH, FEATURES):
                features = start + tl.arange(0, FEATURES)[None, :]
                inside = _inside(features, WIDTH, FEATURES)
                x = _rows_at(base, base_stride, row, features, inside)
                both, both_low = _two_sum(x, _delta_at(source, x, row, features, inside, False))
                c, low = _two_sum(both, -second_high[:, None])
                most = tl.where(inside, tl.maximum(most, c), most)
                e = _exp(tl.minimum(tl.maximum(c, _FLUSH), _OVERFLOW), low + (both_low - second_low))
                total, total_low = _add(total, total_low, tl.where(inside, e, 0.0))
            above = tl.max(most, 1)
            again = tl.max((above > _OVERFLOW).to(tl.int32), 0) > 0
            wide = second - first + tl.log(_total(total, total_low) / normaliser)
            second = tl.where(above > _OVERFLOW, second + above.to(tl.float64), second)
        centre = tl.where(is_near, centre, wide)

    # terms of the divergence, times the first normaliser
    centre_high = centre.to(tl.float32)
    centre_low = (centre - centre_high).to(tl.float32)[:, None]
    furthest = reach + tl.abs(centre - delta_there).to(tl.float32)
    delta_magnitude = reach + tl.abs(tl.sum(shift, 1))
    delta_scale = _scale(delta_magnitude)[:, None]
    delta_squares, delta_squares_low, terms, terms_low = nothing, nothing, nothing, nothing
    is_small = tl.max((furthest <= _SERIES_END).to(tl.int32) ^ 1, 0) == 0
    for start in range(0, WIDTH, FEATURES):
        features = start + tl.arange(0, FEATURES)[None, :]
        inside = _inside(features, WIDTH, FEATURES)
        x = _rows_at(base, base_stride, row, features, inside)
        delta = _delta_at(source, x, row, features, inside, False)
        b, low = _two_sum(x, -top)
        if is_small:
            d = (delta - centre_high[:, None]) - centre_low
            p = _exp(tl.maximum(b, _FLUSH), low)
            term = _series(d, KL) * (p if KL else p * tl.exp2(d * _LOG2_E) + p)
        else:
            d, d_low = _two_sum(delta, -centre_high[:, None])
            h, h_low = _two_sum(b, d)
            p = _exp(tl.maximum(b, _FLUSH), low)
            q = _exp(tl.minimum(tl.maximum(h, _FLUSH), _OVERFLOW), h_low + low + (d_low - centre_low))
            if KL:
                term = tl.where(tl.abs(d) <= _SERIES_END, p * _series(d, KL), (q - p) - p * d)
            else:
                term = (p + q) * _g(d)
        terms, terms_low = _add(terms, terms_low, tl.where(inside, term, 0.0))
        if not KL:
            scaled = delta * delta_scale
            delta_squares, delta_squares_low = _add(delta_squares, delta_squares_low, scaled * scaled)
    divergence = _total(terms, terms_low) / normaliser

    is_stored = token < n_tokens
    base_is_finite = _is_finite(magnitude)
    are_finite = base_is_finite & _is_finite(delta_magnitude)
    found += token
    if KL:
        tl.store(found, tl.where(are_finite, divergence, _NONE).to(tl.float32), mask=is_stored)
        if ids is not None:
            place = tl.load(ids + tl.minimum(token, n_tokens - 1))[:, None]
            x = _rows_at(base, base_stride, row, place, place >= 0)
            delta = tl.sum(_delta_at(source, x, row, place, place >= 0, False), 1).to(tl.float64)
            nll = tl.log(normaliser) - (tl.sum(x, 1).to(tl.float64) - first)
            tl.store(found + n_tokens, tl.where(base_is_finite, nll, _NONE).to(tl.float32), mask=is_stored)
            nll -= delta - centre
            tl.store(found + 2 * n_tokens, tl.where(are_finite, nll, _NONE).to(tl.float32), mask=is_stored)
    else:
        norm = tl.sqrt(_total(squares, squares_low)) / tl.sum(base_scale, 1)
        delta_norm = tl.sqrt(_total(delta_squares, delta_squares_low)) / tl.sum(delta_scale, 1)
        effective_width = normaliser * tl.exp(-_total(depth, depth_low) / normaliser)
        tl.store(found, tl.where(are_finite, 0.5 * divergence, _NONE).to(tl.float32), mask=is_stored)
        tl.store(found + n_tokens, tl.where(base_is_finite, norm, _NONE).to(tl.float32), mask=is_stored)
        delta_is_finite = _is_finite(delta_magnitude)
        tl.store(found + 2 * n_tokens, tl.where(delta_is_finite, delta_norm, _NONE).to(tl.float32), mask=is_stored)
        tl.store(found + 3 * n_tokens, tl.where(base_is_finite, effective_width, _NONE).to(tl.float32), mask=is_stored)
        tl.store(found + 4 * n_tokens, tl.sum(swallowed, 1) / WIDTH, mask=is_stored)
        if output is not None and (weight is not None or given is not None):
            excess = tl.zeros((TOKENS,), tl.float32)
            if tl.program_id(0) % prove_every == 0:
                excess = _excess(source, base, row, rounding, eps, smallest, WIDTH, TOKENS, FEATURES)
            tl.store(found + 5 * n_tokens, excess, mask=is_stored)


def measure_factor(
    base: torch.Tensor,
    factor: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scaling: float,
    output: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
    prove_every: int = 1,
) -> Measured:
    """Measures of base and delta = scaling (z B^T + bias), formed in float32 as `sites.Addition.delta` does.

    Parameters
    ----------
    base, output
        (row, feature), in the layer's own types; without output, `swallowed` is that of the sum in base's type.
    factor, weight, bias
        z (row, rank) in its own type, B (feature, rank) and its bias (feature,) in float32. B is read fastest as the
        transpose of a contiguous tensor.
    rows
        Indices of the rows that are measured, int64; all of them by default.
    prove_every
        One program in so many compares the output with base + delta, with what the layer's rounding allows.
    """
    rounding = torch.finfo(factor.dtype).eps * (factor.shape[-1] + 4)
    return _measure(base, output, factor, weight, bias, rows, scaling=scaling, rounding=rounding, prove_every=prove_every)


def measure_delta(
    base: torch.Tensor,
    delta: torch.Tensor,
    *,
    output: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    rows: torch.Tensor | None = None,
    prove_every: int = 1,
) -> Measured:
    """Measures of base and a delta (row, feature) that a branch of the layer computed in `dtype`; see `measure_factor`."""
    return _measure(base, output, delta, None, None, rows, rounding=torch.finfo(dtype).eps * 4, prove_every=prove_every)


def measure_difference(base: torch.Tensor, output: torch.Tensor, *, rows: torch.Tensor | None = None) -> Measured:
    """Measures of base and delta = output - base; nothing is proved."""
    return _measure(base, output, None, None, None, rows)


def compare_logits(
    base: torch.Tensor, adapted: torch.Tensor, *, rows: torch.Tensor | None = None, ids: torch.Tensor | None = None
) -> Compared:
    """KL of two tensors of logits (row, token id), and what either says of the ids (token,), NaN without them."""
    found = _run(base, adapted, None, None, None, rows, ids, is_kl=True)
    return Compared(*found[:3])


def _measure(*tensors: torch.Tensor | None, **settings: float) -> Measured:
    return Measured(*_run(*tensors, None, is_kl=False, **settings))


def _run(
    base: torch.Tensor,
    output: torch.Tensor | None,
    given: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    rows: torch.Tensor | None,
    ids: torch.Tensor | None,
    *,
    is_kl: bool,
    scaling: float = 1.0,
    rounding: float = 0.0,
    prove_every: int = 1,
) -> torch.Tensor:
    n_tokens, width = len(base) if rows is None else len(rows), base.shape[1]
    found = torch.full((_N_FOUND, n_tokens), math.nan if is_kl else 0.0, dtype=torch.float32, device=base.device)
    tokens, features = block_shape(width)
    kind = torch.finfo(base.dtype if output is None else output.dtype)
    # Differences below float32's normal numbers are left to the device.
    smallest = max(kind.smallest_normal * kind.eps, torch.finfo(torch.float32).smallest_normal)
    strides = [0 if tensor is None else tensor.stride(0) for tensor in (base, output, given)]
    for tensor in (base, output, given):
        assert tensor is None or tensor.stride(1) == 1 or tensor.shape[1] == 1
    if n_tokens:
        _kernel[(triton.cdiv(n_tokens, tokens),)](
            *(found, base, strides[0], output, strides[1], given, strides[2]),
            *(weight, *((0, 0) if weight is None else weight.stride()), bias),
            *(rows, ids, n_tokens, scaling, rounding, kind.eps, smallest, prove_every),
            WIDTH=width,
            RANK=0 if weight is None else weight.shape[1],
            KL=is_kl,
            TOKENS=tokens,
            FEATURES=features,
            **_OPTIONS,
        )
    return found


def block_shape(width: int) -> tuple[int, int]:
    """Tokens and features of a block: the widest of those that waste least beyond a row's end."""
    features = min((512, 256, 128, 64), key=lambda size: -(-width // size) * size)
    return _BLOCK_VALUES // features, features
