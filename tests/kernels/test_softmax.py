import errno
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy.special import logsumexp

from lorascope.kernels.linear import norm_rows
from lorascope.kernels.softmax import (
    divergence_rows,
    effective_width_rows,
    jensen_shannon_rows,
    jensen_shannon_rows_float64,
)

LN2 = np.log(2)


def exact_jensen_shannon(base: np.ndarray, delta: np.ndarray) -> float:
    """JS in 50 digits: with r = q/p, the sum of p ((1 + r) log(2/(1 + r)) + r log r)/2."""
    with mpmath.workdps(50):
        base, delta = [mpmath.mpf(float(x)) for x in base], [mpmath.mpf(float(x)) for x in delta]
        top = max(base)
        p = [mpmath.exp(x - top) for x in base]
        ratio = [mpmath.exp(x) for x in delta]
        z = mpmath.fsum(p)
        factor = z / mpmath.fsum(x * r for x, r in zip(p, ratio, strict=True))
        log_factor = mpmath.log(factor)
        terms = []
        for x, r, d in zip(p, ratio, delta, strict=True):
            r *= factor
            terms.append(x * (r * (d + log_factor) - (1 + r) * mpmath.log((1 + r) / 2)))
        return float(mpmath.fsum(terms) / (2 * z))


def exact_divergences(base: np.ndarray, delta: np.ndarray) -> tuple[float, float, float, float]:
    """KL(p||q), KL(q||p), H(p) and H(q) in 60 digits, from their definitions."""
    with mpmath.workdps(60):
        base, delta = [mpmath.mpf(float(x)) for x in base], [mpmath.mpf(float(x)) for x in delta]
        log_p, log_q = exact_log_softmax(base), exact_log_softmax([x + y for x, y in zip(base, delta, strict=True)])
        p, q = [mpmath.exp(x) for x in log_p], [mpmath.exp(x) for x in log_q]
        log_ratio = [y - x for x, y in zip(log_p, log_q, strict=True)]
        sums = mpmath.fdot(p, log_ratio), mpmath.fdot(q, log_ratio), mpmath.fdot(p, log_p), mpmath.fdot(q, log_q)
        return float(-sums[0]), float(sums[1]), float(-sums[2]), float(-sums[3])


def exact_log_softmax(x: list[mpmath.mpf]) -> list[mpmath.mpf]:
    top = max(x)
    log_sum = top + mpmath.log(mpmath.fsum(mpmath.exp(value - top) for value in x))
    return [value - log_sum for value in x]


def normal(width: int, spread: float, *, seed: int = 0, base_spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, width])
    return base_spread * rng.standard_normal(width), spread * rng.standard_normal(width)


def dominated(top: float, spread: float, *, top_delta: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    base, delta = normal(577, spread, base_spread=3.0)
    base[17], delta[17] = top, top_delta
    return base, delta


def two_levels(low: float, delta: float, *, width: int = 577, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Ten features at 20.5 and all others at `low`, where alone delta isn't `shift`: rounding errors add up."""
    base = np.where(np.arange(width) < 10, 20.5, low)
    return base, np.where(np.arange(width) < 10, shift, shift + delta)


def sinking(fall: float, *, width: int = 577) -> tuple[np.ndarray, np.ndarray]:
    """All deltas alike but the top's, which is higher: next to the top, all other ratios are small."""
    return np.where(np.arange(width) == 3, 0.001, 0), np.where(np.arange(width) == 3, 0.25, 0.25 - fall)


def one_hot(top: float, delta: float, *, place: int = 5) -> tuple[np.ndarray, np.ndarray]:
    base, change = np.zeros(101), np.zeros(101)
    base[5], change[place] = top, delta
    return base, change


# Rows by name. They fall on each path of the kernel: deltas that span up to 4, up to 40, and more.
CASES = {
    **{
        f"width {w}, delta {s}": normal(w, s) for w in (16, 64, 96, 577) for s in (3e-8, 1e-6, 1e-3, 0.1, 1, 4, 20, 1e3)
    },
    **{f"width {w}, delta {s}": normal(w, s) for w in (4096, 14336) for s in (1e-6, 0.1, 10)},
    "values near 1e5": normal(577, 300, base_spread=3e4),
    "values near -1e5": (normal(577, 0.3)[0] - 1e5, normal(577, 0.3)[1]),
    "one feature": (np.array([3.0]), np.array([-7.0])),
    **{f"one feature {t} above, delta {s}": dominated(t, s) for t in (15, 25, 60) for s in (1e-2, 1, 10)},
    "a dominating feature falls by 30": dominated(25, 1, top_delta=-30.0),
    "a dominating feature falls by 24000": dominated(24410, 0.1, top_delta=-24400.0),
    "a dominating feature falls below all": dominated(24410, 1, top_delta=-25000.0),
    "a dominating feature falls, and nobody takes over": dominated(24410, 0.5, top_delta=-200.0),
    "constant base, tiny delta": (np.full(577, 3.7), normal(577, 1e-7)[1]),
    "constant base, delta": (np.full(577, 3.7), normal(577, 1.0)[1]),
    "constant base, huge delta": (np.full(577, 3.7), normal(577, 50)[1]),
    "two levels": two_levels(0.1234567, 1.77),
    "two levels, wide": two_levels(0.1234567, 7.77),
    "two levels, shifted delta": two_levels(0.1234567, 0.001953125, shift=1000.0),
    **{f"one hot, {t} above, {d}": one_hot(t, d) for t in (1, 10, 30) for d in (-3.5, -1, 1e-3, 20)},
    **{f"another hot, {t} below, {d}": one_hot(t, d, place=9) for t in (1, 10, 28) for d in (-2.5, 1, 35, 60)},
    **{f"all but the top sink by {fall}": sinking(fall) for fall in (0.6, 0.8, 3.9, 7.9, 39, 60)},
    "all but the top of 14336 sink": sinking(7.7, width=14336),
    "values near 1e7": (normal(577, 0.3)[0] * 20 + 1e7, normal(577, 0.3)[1]),
    # a float32 difference of these two deltas is off by 1.8e-6, and only this feature matters
    "a feature far below rises": (np.array([45.0, 0, 0]), np.array([-6.66, 28.9, 0])),
    "half of all falls by 10": (np.array([4999.9946, 5000.0093]), np.array([-16.996975, -6.9953613])),
    "delta near its rounding": (normal(577, 1)[0], 1000 + normal(577, 2e-4)[1]),
    "delta overflows": (np.array([0.0, 0, 0, -1]), np.array([-3e38, 3e38, 0, 0])),
    "largest floats": (np.array([3e38, 3e38, 3e38, -3e38]), np.array([-3e38, 3e38, 0, 0])),
    # what rounding takes from a difference of these deltas is larger than the others
    "all but the top sink, one without end": (np.array([-1e5, -99999.98, -99999.99]), np.array([-1.1e16, 519515.5, 0])),
    "one of a few sinks without end": (np.array([0, 0.1, 0.05]), np.array([-3e9, 100, 0])),
    "the top sinks without end": (np.array([50.0, 0, 0, 0.5]), np.array([-1e17, 0, 0, 0])),
    "the top sinks further": (np.array([50.0, 0, 0, 0.5]), np.array([-1e20, 0, 0, 0])),
    "the top of many sinks": (np.arange(600.0), np.where(np.arange(600) > 590, -1e25, 0)),
    "the last of three sinks": (np.array([0.0, 1, 2]), np.array([0, 0, -1e30])),
    "delta takes a huge base back": (np.array([3e38, 1]), np.array([-3e38, 0.5])),
    "delta takes a huge base back, and more": (np.array([1e20, 0]), np.array([-1e20, -1])),
    "base overflows": (np.array([3e38, 2.9e38, -3e38, -3e38]), np.array([0.0, 0.5, 1, 2])),
}
ROWS = {name: (np.float32(base), np.float32(delta)) for name, (base, delta) in CASES.items()}


@cache
def exact(name: str) -> float:
    return exact_jensen_shannon(*ROWS[name])


@cache
def exact_kl(name: str) -> tuple[float, float, float, float]:
    return exact_divergences(*ROWS[name])


def together(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """JS, both KL divergences, both entropies, both effective widths and the argmax's agreement, by row."""
    out = np.empty((8, len(base)), np.float32)
    divergence_rows(np.float32(base), np.float32(delta), out)
    return out


def divergences(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    return together(base, delta)[1:5]


def one_row(kernel, *rows: np.ndarray, dtype=np.float32) -> float:
    out = np.empty(1, dtype)
    kernel(*(np.ascontiguousarray(row[None], dtype) for row in rows), out)
    return out[0]


@pytest.mark.parametrize("name", ROWS)
def test_jensen_shannon_rows_against_mpmath(name):
    assert one_row(jensen_shannon_rows, *ROWS[name]) == pytest.approx(exact(name), rel=4e-7, abs=1e-36)


@pytest.mark.parametrize("name", ROWS)
def test_jensen_shannon_rows_float64_against_mpmath(name):
    result = one_row(jensen_shannon_rows_float64, *ROWS[name], dtype=np.float64)
    assert result == pytest.approx(exact(name), rel=1e-12, abs=1e-300)


def test_the_cases_reach_from_1e_16_to_ln_2():
    values = sorted(map(exact, ROWS))
    assert sum(1e-17 < x < 1e-15 for x in values) >= 2
    assert values[-1] == pytest.approx(LN2, rel=1e-3)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("width", [2, 3, 64, 577])
def test_float32_and_float64_agree_on_odd_rows(width, seed):
    rng = np.random.default_rng([seed, width])
    base = 10 ** rng.uniform(-2, 1, (50, 1)) * rng.standard_normal((50, width)) + rng.choice([0, 100, -900, 9e4])
    base[:25, rng.integers(width)] += rng.uniform(0, 60, 25)
    delta = 10 ** rng.uniform(-7, 1.2, (50, 1)) * rng.standard_normal((50, width)) + rng.choice([0, 1, -30, 1000])
    delta[10:40, rng.integers(width)] += rng.uniform(-40, 40, 30)
    base, delta = np.float32(base), np.float32(delta)
    out, out64 = np.empty(50, np.float32), np.empty(50)
    jensen_shannon_rows(base, delta, out)
    jensen_shannon_rows_float64(np.float64(base), np.float64(delta), out64)
    np.testing.assert_allclose(out, out64, rtol=6e-7, atol=1e-22)
    np.testing.assert_allclose(divergences(base, delta), plain_divergences(base, delta), rtol=1e-6, atol=1e-6)


def plain_divergences(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """As `divergences`, in float64 by the textbook: good to 1e-14 or so of absolute error."""
    base, delta = np.float64(base), np.float64(delta)
    log_p, log_q = base - logsumexp(base, -1, keepdims=True), base + delta - logsumexp(base + delta, -1, keepdims=True)
    p, q, log_ratio = np.exp(log_p), np.exp(log_q), log_q - log_p
    return np.stack([-p * log_ratio, q * log_ratio, -p * log_p, -q * log_q]).sum(-1)


def test_closed_form_of_two_features():
    # p = (1/2, 1/2) against q = (1/4, 3/4)
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    m = (p + q) / 2
    expected = (p @ np.log(p / m) + q @ np.log(q / m)) / 2
    base, delta = np.zeros(2), np.array([0, np.log(3)])
    assert one_row(jensen_shannon_rows, base, delta) == pytest.approx(expected, rel=4e-7)
    assert one_row(jensen_shannon_rows_float64, base, delta, dtype=np.float64) == pytest.approx(expected, rel=1e-14)
    forth, back, entropy_lora = np.log(4 / 3) / 2, np.log(27 / 16) / 4, np.log(4) - 0.75 * np.log(3)
    np.testing.assert_allclose(divergences(base[None], delta[None])[:, 0], [forth, back, LN2, entropy_lora], rtol=4e-7)


@pytest.mark.parametrize("delta", [300.0, 658306.0135, 1e12, 1e300])
def test_one_large_delta_in_float64(delta):
    base, change = np.array([0.0148536, -0.0038587]), np.array([0, delta])
    # q is all on the second feature, to the last bit
    p = 1 / (1 + np.exp(base[1] - base[0]))
    expected = (p * np.log(2) + (1 - p) * np.log(2 * (1 - p) / (2 - p)) + np.log(2 / (2 - p))) / 2
    assert one_row(jensen_shannon_rows_float64, base, change, dtype=np.float64) == pytest.approx(expected, rel=1e-14)


def test_differences_beyond_float64():
    row = np.array([-1.7e308, 1.7e308])
    half = one_row(jensen_shannon_rows_float64, np.zeros(2), row, dtype=np.float64)
    assert half == one_row(jensen_shannon_rows_float64, np.zeros(2), row / 1e3, dtype=np.float64)
    assert one_row(jensen_shannon_rows_float64, row, np.zeros(2), dtype=np.float64) == 0
    assert one_row(jensen_shannon_rows_float64, row, -row, dtype=np.float64) == pytest.approx(half, rel=1e-15)
    assert one_row(jensen_shannon_rows_float64, np.zeros(2), np.full(2, 1.7e308), dtype=np.float64) == 0


@pytest.mark.parametrize("shift", [0.0, -0.0, 1e-30, 1.0, -1000.0, 1e5, 3e38])
@pytest.mark.parametrize("kernel", [jensen_shannon_rows, jensen_shannon_rows_float64])
def test_a_constant_delta_gives_exactly_zero(kernel, shift):
    dtype = np.float64 if kernel is jensen_shannon_rows_float64 else np.float32
    base, _ = normal(577, 1.0)
    assert one_row(kernel, base, np.full(577, shift), dtype=dtype) == 0


NOT_FINITE = {name: np.uint32(bits).view(np.float32) for name, bits in (
    ("NaN", 0x7FC00000), ("-NaN", 0xFFFFFFFF), ("smallest NaN", 0x7F800001), ("inf", 0x7F800000), ("-inf", 0xFF800000)
)}  # fmt: skip


@pytest.mark.parametrize("value", NOT_FINITE.values(), ids=NOT_FINITE.keys())
@pytest.mark.parametrize("width", [1, 7, 64, 1000])
@pytest.mark.parametrize("argument", [0, 1])
def test_a_row_with_a_value_that_is_not_finite_gives_nan_and_no_other_row(value, width, argument):
    arrays = np.random.default_rng(0).standard_normal((2, 3, width)).astype(np.float32)
    clean = np.empty(3, np.float32)
    jensen_shannon_rows(*arrays, clean)
    for place in {0, width // 2, width - 1}:
        spoilt = arrays.copy()
        spoilt[argument, 1, place] = value
        out = np.zeros(3, np.float32)
        jensen_shannon_rows(*spoilt, out)
        np.testing.assert_array_equal(out, [clean[0], np.nan, clean[2]])
        out64 = np.zeros(3)
        with np.errstate(invalid="ignore"):  # the smallest NaN is a signalling one
            spoilt64 = spoilt.astype(np.float64)
        jensen_shannon_rows_float64(*spoilt64, out64)
        np.testing.assert_array_equal(np.isnan(out64), [False, True, False])
        missing = np.isnan(together(*spoilt))
        np.testing.assert_array_equal(missing[5], [False, argument == 0, False])  # the width of base alone
        np.testing.assert_array_equal(np.delete(missing, 5, axis=0), 7 * [[False, True, False]])
        norms = np.empty((3, 3), np.float32)
        norm_rows(*spoilt, *norms)
        np.testing.assert_array_equal(np.isnan(norms[:, 1]), [argument == 0, argument == 1, True])
        assert np.isfinite(norms[:, [0, 2]]).all()
        effective_width_rows(spoilt[argument], out)
        np.testing.assert_array_equal(np.isnan(out), [False, True, False])


@pytest.mark.parametrize("width", [1, 3, 63, 64, 577, 1025])
def test_results_depend_on_neither_the_split_of_rows_nor_their_alignment(width):
    rng = np.random.default_rng(1)
    delta_spread = np.array([1e-6, 0.1, 1, 10, 1000])[:, None]
    base = rng.standard_normal((5, width)).astype(np.float32)
    delta = (delta_spread * rng.standard_normal((5, width))).astype(np.float32)
    whole = np.empty(5, np.float32)
    jensen_shannon_rows(base, delta, whole)
    for start, stop in [(0, 1), (1, 3), (3, 5), (2, 2)]:
        part = np.empty(stop - start, np.float32)
        memory = np.empty(base[start:stop].size + 1, np.float32)
        shifted = memory[1:].reshape(-1, width)
        shifted[...] = base[start:stop]
        jensen_shannon_rows(shifted, delta[start:stop], part)
        np.testing.assert_array_equal(part, whole[start:stop])
        np.testing.assert_array_equal(divergences(shifted, delta[start:stop]), divergences(base, delta)[:, start:stop])


@pytest.mark.parametrize("width", [16, 32, 48, 64, 80])
def test_narrow_rows_of_all_kinds_side_by_side_are_what_they_are_alone(width):
    """Also where deltas lie so far to one side, or together, that a row is left to the loop over single rows."""
    rng = np.random.default_rng(width)
    n_rows = 3 * 16 + 5
    base = rng.choice([0.1, 2, 60], (n_rows, 1)) * rng.standard_normal((n_rows, width)) + rng.choice([0, 300, 1e5])
    delta = 10 ** rng.uniform(-6, 1.5, (n_rows, 1)) * rng.standard_normal((n_rows, width))
    base[::7, 3] += 30
    delta[::7, 3] = -3
    delta[::5] = delta[::5] * 1e-5 + 500
    base, delta = np.float32(base), np.float32(delta)
    base[20, width // 2], delta[30, 0] = np.inf, np.nan
    together, out64 = np.empty(n_rows, np.float32), np.empty(n_rows)
    jensen_shannon_rows(base, delta, together)
    alone = [one_row(jensen_shannon_rows, *rows) for rows in zip(base, delta, strict=True)]
    np.testing.assert_array_equal(together, alone)
    jensen_shannon_rows_float64(np.float64(base), np.float64(delta), out64)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(together)), [20, 30])
    np.testing.assert_allclose(together, out64, rtol=6e-7, atol=1e-22)


@pytest.mark.parametrize("name", ROWS)
def test_divergence_rows_against_mpmath(name):
    base, delta = ROWS[name]
    forth, back, entropy, entropy_lora = exact_kl(name)
    js, *kl, result, result_lora, width, width_lora, _ = together(base[None], delta[None])[:, 0]
    assert js == pytest.approx(exact(name), rel=4e-7, abs=1e-36)
    assert kl == pytest.approx([forth, back], rel=5e-7, abs=1e-36)
    assert result == pytest.approx(entropy, rel=1e-6, abs=1e-6)
    assert result_lora == pytest.approx(entropy_lora, rel=1e-6, abs=1e-6)
    assert width == pytest.approx(np.exp(entropy), rel=1e-6 * max(1, entropy))
    assert width_lora == pytest.approx(np.exp(entropy_lora), rel=1e-6 * max(1, entropy_lora))


def test_the_divergences_of_the_cases_reach_from_1e_16_to_many_nats():
    for values in list(zip(*map(exact_kl, ROWS), strict=True))[:2]:
        assert sum(1e-16 < x < 1e-14 for x in values) >= 2
        assert max(x for x in values) > 10


@pytest.mark.parametrize("shift", [0.0, -0.0, 1e-30, 1.0, -1000.0, 1e5, 3e38])
def test_a_constant_delta_has_divergences_of_exactly_zero_and_one_entropy(shift):
    base, _ = normal(577, 1.0)
    forth, back, entropy, entropy_lora = divergences(base[None], np.full((1, 577), shift))
    assert forth == back == 0
    assert entropy == entropy_lora


@pytest.mark.parametrize("spread", [1e-3, 0.1, 1, 10, 100])
def test_exchanging_the_softmaxes_exchanges_their_divergences(spread):
    rng = np.random.default_rng(4)  # multiples of 1/4096, so that base + delta is exact
    base = np.round(4096 * 2 * rng.standard_normal((5, 577))) / 4096
    delta = np.round(4096 * spread * rng.standard_normal((5, 577))) / 4096
    forth, back, entropy, entropy_lora = divergences(base, delta)
    exchanged = divergences(base + delta, -delta)
    np.testing.assert_allclose(exchanged, [back, forth, entropy_lora, entropy], rtol=1e-6, atol=1e-6 * np.log(577))
    np.testing.assert_allclose(exchanged[:2], [back, forth], rtol=1e-6)


@pytest.mark.parametrize("spread", [1e-6, 1e-3, 0.1, 1, 10, 1000])
def test_a_quarter_of_both_divergences_bounds_jensen_shannon(spread):
    # Lin 1991; and to leading order it is a quarter of one of them: d^2/8 against d^2/2
    base, delta = np.float32(np.random.default_rng(5).standard_normal((2, 6, 577)) * [[[2]], [[spread]]])
    js = np.empty(6, np.float32)
    jensen_shannon_rows(base, delta, js)
    quarter = divergences(base, delta)[:2].sum(0) / 4
    assert (js <= quarter * (1 + 1e-6)).all()
    if spread <= 1e-3:
        np.testing.assert_allclose(js, quarter / 2, rtol=2e-6)


def test_a_divergence_beyond_the_largest_float32_is_infinite():
    forth, back, *entropies = divergences(np.zeros((1, 2)), np.array([[-3e38, 3e38]]))
    assert forth == 3e38 or np.isinf(forth)
    assert back == pytest.approx(LN2)
    np.testing.assert_allclose(np.ravel(entropies), [LN2, 0], atol=1e-6)


def test_entropy_is_the_logarithm_of_the_effective_width():
    base = (np.array([[0.01], [1], [5], [1e4]]) * np.random.default_rng(6).standard_normal((4, 577))).astype(np.float32)
    width = np.empty(4, np.float32)
    effective_width_rows(base, width)
    np.testing.assert_allclose(divergences(base, np.zeros_like(base))[2], np.log(width), rtol=1e-6, atol=1e-6)


def test_effective_width_of_rows_whose_width_is_known():
    base = np.full((5, 1000), -12.25, np.float32)
    base[1:, 3] = 24410
    base[2, 7] = 24410
    base[3, :] = -np.arange(1000) * np.log(2)  # a geometric distribution of ratio 1/2: entropy 2 ln 2
    base[4, :5] = 3e38
    out = np.empty(5, np.float32)
    effective_width_rows(base, out)
    np.testing.assert_allclose(out, [1000, 1, 2, 4, 5], rtol=1e-6)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("shift", [0, -7.5, 1e5, -1e5, 1e6])
def test_effective_width_against_float64(spread, shift):
    base = (shift + spread * np.random.default_rng(2).standard_normal((6, 1537))).astype(np.float32)
    out = np.empty(6, np.float32)
    effective_width_rows(base, out)
    b = np.float64(base) - base.max(-1, keepdims=True)
    p = np.exp(b) / np.exp(b).sum(-1, keepdims=True)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
    np.testing.assert_allclose(out, np.exp(entropy), rtol=1e-6)


@pytest.mark.parametrize("width", [1, 2, 17, 576, 1025])
@pytest.mark.parametrize("spread", [0, 0.3, 3, 3e38])
def test_argmax_agreement_against_numpy(width, spread):
    rng = np.random.default_rng(7)
    base = rng.integers(-3, 4, (40, width)).astype(np.float32)  # many equal values
    delta = (spread * rng.integers(-1, 2, (40, width))).astype(np.float32)
    if spread == 3e38:
        base *= np.float32(1e38)
    out = together(base, delta)[7]
    with np.errstate(over="ignore"):
        expected = base.argmax(-1) == (base + delta).argmax(-1)
    np.testing.assert_array_equal(out, expected)
    assert spread or out.all()


def test_argmax_agreement_takes_the_first_of_equal_values():
    base = np.array([[1, 1, 0], [1, 1, 0], [0, 2, 2], [0, 2, 2]], np.float32)
    delta = np.array([[0, 0, 1], [-1, 0, 0], [2, 0, 0], [0, 0, 0]], np.float32)
    out = together(base, delta)[7]
    np.testing.assert_array_equal(out, [1, 0, 0, 1])


def run_python(script: str, **environment: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, **environment}, timeout=300)


@pytest.mark.slow
def test_accuracy_on_a_processor_without_fma_and_avx(tmp_path: Path):
    # numba's "generic" processor has 128-bit vectors at most and no fused multiply-add
    names = [name for name in ROWS if len(ROWS[name][0]) < 4096]
    np.savez(tmp_path / "rows.npz", **{f"{i}": ROWS[name] for i, name in enumerate(names)})
    script = f"""
import numpy as np
from lorascope.kernels.softmax import divergence_rows, jensen_shannon_rows, jensen_shannon_rows_float64
rows = np.load({str(tmp_path / "rows.npz")!r})
out = np.empty((9, len(rows)), np.float32)
out64 = np.empty(len(rows))
for i in range(len(rows)):
    base, delta = rows[str(i)][:, None]
    jensen_shannon_rows(base, delta, out[0, i : i + 1])
    divergence_rows(base, delta, out[1:, i : i + 1])
    jensen_shannon_rows_float64(np.float64(base), np.float64(delta), out64[i : i + 1])
np.savez({str(tmp_path / "out.npz")!r}, out=out, out64=out64)
"""
    run_python(script, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=str(tmp_path))
    out, out64 = np.load(tmp_path / "out.npz").values()
    expected = np.array([exact(name) for name in names])
    np.testing.assert_allclose(out[:2], [expected, expected], rtol=4e-7, atol=1e-36)
    np.testing.assert_allclose(out64, expected, rtol=1e-12, atol=1e-300)
    expected_kl = np.transpose([exact_kl(name) for name in names])
    np.testing.assert_allclose(out[2:4], expected_kl[:2], rtol=5e-7, atol=1e-36)
    np.testing.assert_allclose(out[4:6], expected_kl[2:], rtol=1e-6, atol=1e-6)


def test_import_works_where_numba_finds_no_folder_for_its_cache():
    run_python("""
import numba.core.caching
numba.core.caching.CacheImpl._locator_classes = []
import numpy as np
from lorascope.kernels.softmax import effective_width_rows
out = np.empty(1, np.float32)
effective_width_rows(np.ones((1, 2), np.float32), out)
assert abs(out[0] - 2) < 1e-6
assert effective_width_rows.stats.cache_path is None
""")


def test_kernels_run_where_the_disk_of_their_cache_is_full(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", full)
    code = "from lorascope.kernels.compiled import compiled\n\n\n@compiled()\ndef double(x):\n    return 2 * x\n"
    (tmp_path / "doubled.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    from doubled import double

    assert double(21) == 42
    assert double.stats.cache_path.startswith(str(tmp_path))
