"""Kernels for norms and dot products of rows, conversion of bfloat16, and delta from its factor.

Arrays are C-contiguous, of the dtype in the annotation and of agreeing shapes; nothing checks that here.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt16

from .compiled import EXACT, SUM, compiled, prefer_512_bits


@compiled(SUM)
def _products(x: Any, y: Any) -> tuple[float, float, float]:
    """Return the sums of squares of x and of y, and their dot product, in float64."""
    prefer_512_bits()
    squares = squares_y = dot = 0.0
    for i in range(x.size):
        a, b = np.float64(x[i]), np.float64(y[i])
        squares += a * a
        squares_y += b * b
        dot += a * b
    return squares, squares_y, dot


@compiled()
def norm_rows(
    base: Float32[np.ndarray, "row feature"],
    delta: Float32[np.ndarray, "row feature"],
    base_norm: Float32[np.ndarray, " row"],
    delta_norm: Float32[np.ndarray, " row"],
    dot: Float32[np.ndarray, " row"],
) -> None:
    """Fill `base_norm`, `delta_norm` and `dot` with each row's Euclidean norms and dot product of base and delta.

    A value is NaN if an input of it is NaN or infinite, and infinite beyond the largest float32.
    """
    for row in range(base.shape[0]):
        squares, delta_squares, product = _products(base[row], delta[row])
        base_norm[row] = math.sqrt(squares) if math.isfinite(squares) else np.nan
        delta_norm[row] = math.sqrt(delta_squares) if math.isfinite(delta_squares) else np.nan
        dot[row] = product if math.isfinite(squares) and math.isfinite(delta_squares) else np.nan


@compiled()
def widen_bfloat16_rows(
    bits: UInt16[np.ndarray, "row feature"],
    out: Float32[np.ndarray, "row feature"],
) -> None:
    """Fill `out` with bfloat16 numbers, given as uint16 bits, converted to float32 exactly."""
    prefer_512_bits()
    narrow, wide = bits.reshape(-1), out.reshape(-1).view(np.uint32)
    for i in range(narrow.size):
        wide[i] = np.uint32(np.uint32(narrow[i]) << np.uint32(16))


_TILE = 1024  # columns: eight rows of lora_B_T, this wide, take 32 KiB and stay in the first-level cache


@compiled(inline=True)
def _rows_of_tile(B: Any, k: Any, j: Any, start: Any, width: Any) -> Any:
    """Return `width` values from column `start` of row k + j of the matrix B, or of its last row beyond its end."""
    # Past the last row of B this is the last row again, with weight 0. Infinity or NaN in it makes its column NaN, and
    # that isn't finite anyway, except if its factor is 0. Rows are contiguous; LLVM wouldn't know that of a 2D slice.
    return B[min(k + j, B.shape[0] - 1)][start : start + width]


@compiled(EXACT, inline=True)
def _plus_eight(total: Any, z: Any, b: Any) -> Any:
    """Return `total` plus the dot product of the eight numbers z with the eight numbers b, in a fixed order."""
    # The order of the sum is fixed, so that rows don't depend on how they are grouped.
    total = total + z[0] * b[0] + z[1] * b[1] + z[2] * b[2] + z[3] * b[3]
    return total + z[4] * b[4] + z[5] * b[5] + z[6] * b[6] + z[7] * b[7]


@compiled(inline=True)
def _eight_weights(z: Any, k: Any) -> Any:
    """Return z[k] to z[k + 7] as a tuple."""
    return z[k], z[k + 1], z[k + 2], z[k + 3], z[k + 4], z[k + 5], z[k + 6], z[k + 7]


@compiled(EXACT)
def _add_eight(z: Any, k: Any, B: Any, start: Any, begin: Any, out0: Any, out1: Any, out2: Any, out3: Any) -> None:
    """Add the products of z[:, k:k+8] with rows k to k + 7 of B, from column `start`, to four rows of output."""
    # Four rows share the values read from B. They start from `begin`, or from `out` if it is None.
    prefer_512_bits()
    z0, z1, z2, z3 = _eight_weights(z[0], k), _eight_weights(z[1], k), _eight_weights(z[2], k), _eight_weights(z[3], k)
    n = out0.size
    B0, B1 = _rows_of_tile(B, k, 0, start, n), _rows_of_tile(B, k, 1, start, n)
    B2, B3 = _rows_of_tile(B, k, 2, start, n), _rows_of_tile(B, k, 3, start, n)
    B4, B5 = _rows_of_tile(B, k, 4, start, n), _rows_of_tile(B, k, 5, start, n)
    B6, B7 = _rows_of_tile(B, k, 6, start, n), _rows_of_tile(B, k, 7, start, n)
    for i in range(n):
        b = B0[i], B1[i], B2[i], B3[i], B4[i], B5[i], B6[i], B7[i]
        out0[i] = _plus_eight(out0[i] if begin is None else begin[i], z0, b)
        out1[i] = _plus_eight(out1[i] if begin is None else begin[i], z1, b)
        out2[i] = _plus_eight(out2[i] if begin is None else begin[i], z2, b)
        out3[i] = _plus_eight(out3[i] if begin is None else begin[i], z3, b)


@compiled()
def _four_rows(z: Any, B: Any, start: Any, begin: Any, out0: Any, out1: Any, out2: Any, out3: Any) -> None:
    """Fill four rows of output, `out0` to `out3`, with begin + z @ B for the columns from `start` on."""
    _add_eight(z, 0, B, start, begin, out0, out1, out2, out3)
    for k in range(8, B.shape[0], 8):
        _add_eight(z, k, B, start, None, out0, out1, out2, out3)


@compiled()
def delta_rows(
    factor: Float32[np.ndarray, "row rank"],
    lora_B_T: Float32[np.ndarray, "rank feature"],
    scaling: Any,
    bias: Float32[np.ndarray, " feature"],
    out: Float32[np.ndarray, "row feature"],
) -> None:
    """Fill `out` with delta, scaling * (factor @ lora_B_T + bias), for small ranks; an empty bias counts as 0.

    A row's result depends on that row alone, to the last bit. `scaling` is a float32, and a rank is at least 1.
    """
    n_rows, width = out.shape
    z = np.zeros((4, factor.shape[1] + 7), np.float32)
    begin = np.zeros(_TILE, np.float32)
    spare = np.empty((4, _TILE), np.float32)  # output for rows missing to four
    for start in range(0, width, _TILE):
        stop = min(start + _TILE, width)
        n = stop - start
        if bias.size:
            for i in range(n):
                begin[i] = scaling * bias[start + i]
        for row in range(0, n_rows, 4):
            for r in range(4):
                for k in range(factor.shape[1]):
                    z[r, k] = scaling * factor[min(row + r, n_rows - 1), k]
            out1 = out[row + 1, start:stop] if row + 1 < n_rows else spare[1, :n]
            out2 = out[row + 2, start:stop] if row + 2 < n_rows else spare[2, :n]
            out3 = out[row + 3, start:stop] if row + 3 < n_rows else spare[3, :n]
            _four_rows(z, lora_B_T, start, begin[:n], out[row, start:stop], out1, out2, out3)
