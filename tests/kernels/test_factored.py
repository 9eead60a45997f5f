import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lorascope.kernels import compiled
from lorascope.kernels.factored import measure_factor_rows
from lorascope.kernels.linear import delta_rows, norm_rows, widen_bfloat16_rows
from lorascope.kernels.softmax import divergence_rows, jensen_shannon_rows


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("width", [1, 80, 577, 4096, 20_000])
def test_one_pass_gives_the_bits_of_its_parts(width: int, with_bias: bool) -> None:
    """Over several tiles, the last of them smaller."""
    rng = np.random.default_rng(width)
    n_rows = 37 if width > 80 else 3003
    base = 2 * rng.standard_normal((n_rows, width), np.float32)
    bits = (base.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    factor, lora_b = rng.standard_normal((n_rows, 5), np.float32), rng.standard_normal((5, width), np.float32)
    bias = rng.standard_normal(width, np.float32) if with_bias else np.empty(0, np.float32)
    bits[3, 0] = 0x7FC0  # NaN
    weights, order = (lora_b, bias, np.float32(0.3)), rng.permutation(width).astype(np.uint32)
    delta = np.empty_like(base)
    expected, found = np.zeros((2, 13, n_rows), np.float32)
    widen_bfloat16_rows(bits, base)
    delta_rows(factor, lora_b, weights[2], bias, delta)
    jensen_shannon_rows(base, delta, expected[0])
    jensen_shannon_rows(base, np.ascontiguousarray(delta[:, order]), expected[1])
    divergence_rows(base, delta, expected[2:10])
    norm_rows(base, delta, *expected[10:])
    measure_factor_rows(bits, factor, weights, order, found[:1], found[1:2], found[2:10], found[10:])
    np.testing.assert_array_equal(found, expected)
    assert np.flatnonzero(np.isnan(found[0])).tolist() == [3]
    measure_factor_rows(bits, factor, weights, order, None, None, None, found[10:])
    np.testing.assert_array_equal(found, expected)


INNER = "from .compiled import compiled\n\n@compiled()\ndef one(x):\n    return x + {}\n"
OUTER = """
from .compiled import KERNELS_DIGEST, compiled
from .inner import one


def kernel_of(digest):
    @compiled()
    def two(x):
        _ = digest
        return 2 * one(x)

    return two


two = kernel_of(KERNELS_DIGEST)
"""
CODE = "from pieces.outer import two; print(two(1), sum(two.stats.cache_hits.values()))"


def test_a_change_of_another_file_of_kernels_is_seen_in_spite_of_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "pieces"
    folder.mkdir()
    shutil.copy(compiled.__file__, folder / "compiled.py")
    (folder / "__init__.py").touch()
    (folder / "outer.py").write_text(OUTER, encoding="utf-8")

    def run() -> str:
        command = [sys.executable, "-c", CODE]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    (folder / "inner.py").write_text(INNER.format(1), encoding="utf-8")
    assert [run(), run()] == ["4 0\n", "4 1\n"]  # the second comes from the cache
    (folder / "inner.py").write_text(INNER.format(5), encoding="utf-8")
    assert run() == "12 0\n"
