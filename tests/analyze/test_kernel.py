import os
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest

from lorascope.analyze.kernel import (
    effective_width_rows,
    jensen_shannon_rows,
    jensen_shannon_rows_float64,
    norm_ratio_rows,
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
    **{f"width {w}, delta {s}": normal(w, s) for w in (64, 577) for s in (3e-8, 1e-6, 1e-3, 0.1, 1, 4, 20, 1e3)},
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
    "delta near its rounding": (normal(577, 1)[0], 1000 + normal(577, 2e-4)[1]),
    "delta overflows": (np.array([0.0, 0, 0, -1]), np.array([-3e38, 3e38, 0, 0])),
    "largest floats": (np.array([3e38, 3e38, 3e38, -3e38]), np.array([-3e38, 3e38, 0, 0])),
    "base overflows": (np.array([3e38, 2.9e38, -3e38, -3e38]), np.array([0.0, 0.5, 1, 2])),
}
ROWS = {name: (np.float32(base), np.float32(delta)) for name, (base, delta) in CASES.items()}


@pytest.fixture(scope="module")
def exact() -> dict[str, float]:
    return {name: exact_jensen_shannon(*row) for name, row in ROWS.items()}


def one_row(kernel, *rows: np.ndarray, dtype=np.float32) -> float:
    out = np.empty(1, dtype)
    kernel(*(np.ascontiguousarray(row[None], dtype) for row in rows), out)
    return out[0]


@pytest.mark.parametrize("name", ROWS)
def test_jensen_shannon_rows_against_mpmath(name, exact):
    assert one_row(jensen_shannon_rows, *ROWS[name]) == pytest.approx(exact[name], rel=4e-7, abs=1e-36)


@pytest.mark.parametrize("name", ROWS)
def test_jensen_shannon_rows_float64_against_mpmath(name, exact):
    result = one_row(jensen_shannon_rows_float64, *ROWS[name], dtype=np.float64)
    assert result == pytest.approx(exact[name], rel=1e-12, abs=1e-300)


def test_the_cases_reach_from_1e_16_to_ln_2(exact):
    values = sorted(exact.values())
    assert sum(1e-17 < x < 1e-15 for x in values) >= 2
    assert values[-1] == pytest.approx(LN2, rel=1e-3)


def test_closed_form_of_two_features():
    # p = (1/2, 1/2) against q = (1/4, 3/4)
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    m = (p + q) / 2
    expected = (p @ np.log(p / m) + q @ np.log(q / m)) / 2
    base, delta = np.zeros(2), np.array([0, np.log(3)])
    assert one_row(jensen_shannon_rows, base, delta) == pytest.approx(expected, rel=4e-7)
    assert one_row(jensen_shannon_rows_float64, base, delta, dtype=np.float64) == pytest.approx(expected, rel=1e-14)


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
        norm_ratio_rows(*spoilt, out)
        np.testing.assert_array_equal(np.isnan(out), [False, True, False])
        effective_width_rows(spoilt[argument], out)
        np.testing.assert_array_equal(np.isnan(out), [False, True, False])


@pytest.mark.parametrize("width", [1, 3, 63, 577, 1025])
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


def test_norm_ratio_against_float64():
    base, delta = np.random.default_rng(3).standard_normal((2, 6, 1537)).astype(np.float32)
    base[0] *= np.float32(1e30)
    delta[1] *= np.float32(1e-30)
    out = np.empty(6, np.float32)
    norm_ratio_rows(base, delta, out)
    expected = np.linalg.norm(np.float64(delta), axis=-1) / np.linalg.norm(np.float64(base), axis=-1)
    np.testing.assert_allclose(out, expected, rtol=1e-7)


def test_norm_ratio_at_zero():
    base = np.array([[0, 0], [0, 0], [3, 4]], np.float32)
    delta = np.array([[0, 0], [0, 1], [0, 0]], np.float32)
    out = np.empty(3, np.float32)
    norm_ratio_rows(base, delta, out)
    np.testing.assert_array_equal(out, [np.nan, np.inf, 0])


def run_python(script: str, **environment: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, **environment}, timeout=300)


def test_accuracy_on_a_processor_without_fma_and_avx(tmp_path: Path, exact):
    # numba's "generic" processor has 128-bit vectors at most and no fused multiply-add
    names = [name for name in ROWS if len(ROWS[name][0]) < 4096]
    width = 577
    base, delta = np.full((2, len(names), width), -3.4e38, np.float32)  # padding that has no weight
    for i, name in enumerate(names):
        base[i, : len(ROWS[name][0])], delta[i] = ROWS[name][0], ROWS[name][1][0]
        delta[i, : len(ROWS[name][1])] = ROWS[name][1]
    np.savez(tmp_path / "rows.npz", base=base, delta=delta)
    script = f"""
import numpy as np
from lorascope.analyze.kernel import jensen_shannon_rows
rows = np.load({str(tmp_path / "rows.npz")!r})
out = np.empty(len(rows["base"]), np.float32)
jensen_shannon_rows(rows["base"], rows["delta"], out)
np.save({str(tmp_path / "out.npy")!r}, out)
"""
    run_python(script, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=str(tmp_path))
    expected = [exact[name] for name in names]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=4e-7, atol=1e-36)


def test_import_works_where_numba_finds_no_folder_for_its_cache():
    run_python("""
import numba.core.caching
numba.core.caching.CacheImpl._locator_classes = []
import numpy as np
from lorascope.analyze.kernel import norm_ratio_rows
out = np.empty(1, np.float32)
norm_ratio_rows(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), out)
assert out == 1
assert norm_ratio_rows.stats.cache_path is None
""")
