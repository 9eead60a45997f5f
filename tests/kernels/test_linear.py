import numpy as np
import pytest

from lorascope.kernels.linear import (
    delta_rows,
    norm_rows,
    widen_bfloat16_rows,
)


def test_norms_and_dot_product_against_float64():
    base, delta = np.random.default_rng(3).standard_normal((2, 6, 1537)).astype(np.float32)
    base[0] *= np.float32(1e30)
    delta[1] *= np.float32(1e-30)
    delta[2] = 0
    delta[3] = base[3]
    out = np.empty((3, 6), np.float32)
    norm_rows(base, delta, *out)
    norms = [np.linalg.norm(np.float64(x), axis=-1) for x in (base, delta)]
    np.testing.assert_allclose(out[:2], norms, rtol=1e-7)
    dot = (np.float64(base) * np.float64(delta)).sum(-1)
    np.testing.assert_allclose(out[2], dot, rtol=1e-7, atol=0)
    assert (np.abs(out[2]) <= out[0] * out[1] * (1 + 1e-6)).all()  # Cauchy and Schwarz
    assert out[1, 2] == out[2, 2] == 0


def test_norms_in_closed_form_and_beyond_the_largest_float32():
    base = np.array([[3, 4, 0], [3e38, 3e38, 3e38], [3e38, -3e38, 0]], np.float32)
    delta = np.array([[0, 1, 2], [1, 0, 0], [3e38, 3e38, 0]], np.float32)
    out = np.empty((3, 3), np.float32)
    norm_rows(base, delta, *out)
    np.testing.assert_array_equal(out[0], [5, np.inf, np.inf])
    np.testing.assert_array_equal(out[2], [4, np.float32(3e38), 0])


def test_widening_keeps_every_bfloat16():
    bits = np.arange(2**16, dtype=np.uint16).reshape(64, 1024)
    out = np.empty((64, 1024), np.float32)
    widen_bfloat16_rows(bits, out)
    np.testing.assert_array_equal(out.view(np.uint32), bits.astype(np.uint32) << 16)
    assert out[0x3FC0 // 1024, 0x3FC0 % 1024] == 1.5


RANKS = (1, 2, 3, 4, 5, 8, 9, 12, 13, 16, 31, 64)


def factored(n_rows: int, rank: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([n_rows, rank, width])
    return tuple(rng.standard_normal(s).astype(np.float32) for s in ((n_rows, rank), (rank, width), (width,)))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(("n_rows", "width"), [(1, 1), (3, 63), (4, 576), (9, 1025), (6, 2100)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_delta_rows_against_float64(n_rows, rank, width, with_bias):
    factor, lora_B_T, bias = factored(n_rows, rank, width)
    bias = bias if with_bias else np.empty(0, np.float32)
    out = np.full((n_rows, width), np.nan, np.float32)
    delta_rows(factor, lora_B_T, np.float32(0.7), bias, out)
    scaling = np.float64(np.float32(0.7))
    expected = scaling * (np.float64(factor) @ np.float64(lora_B_T) + (bias if with_bias else 0))
    sizes = scaling * (np.abs(factor, dtype=np.float64) @ np.abs(lora_B_T) + (np.abs(bias) if with_bias else 0))
    assert (np.abs(out - expected) <= (rank + 2) * 2.0**-24 * sizes).all()  # the bound for any order of summation
    assert np.sqrt(np.mean(((out - expected) / sizes) ** 2)) < 2.0**-23


@pytest.mark.parametrize("rank", RANKS)
def test_delta_rows_of_whole_numbers_are_exact(rank):
    rng = np.random.default_rng(rank)
    factor, lora_B_T = rng.integers(-9, 10, (7, rank)), rng.integers(-9, 10, (rank, 577))
    out = np.empty((7, 577), np.float32)
    delta_rows(np.float32(factor), np.float32(lora_B_T), np.float32(2), np.ones(577, np.float32), out)
    np.testing.assert_array_equal(out, 2 * (factor @ lora_B_T + 1))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("width", [17, 1500])
def test_delta_rows_depend_on_their_own_row_alone(rank, width):
    factor, lora_B_T, bias = factored(11, rank, width)
    whole = np.empty((11, width), np.float32)
    delta_rows(factor, lora_B_T, np.float32(1.7), bias, whole)
    for start, stop in [(0, 1), (1, 3), (2, 7), (3, 11), (4, 4)]:
        part = np.empty((stop - start, width), np.float32)
        delta_rows(factor[start:stop], lora_B_T, np.float32(1.7), bias, part)
        np.testing.assert_array_equal(part, whole[start:stop])
    factor[5] = np.nan
    spoilt = np.empty_like(whole)
    delta_rows(factor, lora_B_T, np.float32(1.7), bias, spoilt)
    np.testing.assert_array_equal(np.delete(spoilt, 5, 0), np.delete(whole, 5, 0))
    assert np.isnan(spoilt[5]).all()
