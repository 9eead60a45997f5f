import numpy as np
import pytest

from lorascope.analyze.kernels.factored import jensen_shannon_factor_rows
from lorascope.analyze.kernels.linear import delta_rows, widen_bfloat16_rows
from lorascope.analyze.kernels.softmax import jensen_shannon_rows


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("width", [1, 64, 577, 4096, 40_000])
def test_one_pass_gives_the_bits_of_its_parts(width: int, with_bias: bool) -> None:
    """Over several tiles, the last of them smaller."""
    rng = np.random.default_rng(width)
    n_rows = 37 if width > 64 else 5000
    bits = (2 * rng.standard_normal((n_rows, width), np.float32)).view(np.uint32) >> np.uint32(16)
    bits = bits.astype(np.uint16)
    factor = rng.standard_normal((n_rows, 5), np.float32)
    lora_b = rng.standard_normal((5, width), np.float32)
    bias = rng.standard_normal(width, np.float32) if with_bias else np.empty(0, np.float32)
    bits[3, 0] = 0x7FC0  # NaN
    scaling = np.float32(0.3)
    base, delta = np.empty((2, n_rows, width), np.float32)
    expected, found = np.zeros((2, n_rows), np.float32)
    widen_bfloat16_rows(bits, base)
    delta_rows(factor, lora_b, scaling, bias, delta)
    jensen_shannon_rows(base, delta, expected)
    jensen_shannon_factor_rows(bits, factor, lora_b, scaling, bias, found)
    np.testing.assert_array_equal(found, expected)
    assert np.flatnonzero(np.isnan(found)).tolist() == [3]
