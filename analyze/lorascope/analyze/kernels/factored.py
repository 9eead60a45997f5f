"""The Jensen-Shannon divergence of a stored base and the delta that a factor makes, neither ever in memory as a whole.

Arrays are C-contiguous, of the dtype in the annotation and of agreeing shapes; nothing checks that here.
"""

import numpy as np
from jaxtyping import Float32, UInt16

from .compiled import compiled
from .linear import delta_rows, widen_bfloat16_rows
from .softmax import jensen_shannon_rows

_TILE_VALUES = 2**15  # 128 KiB each of base and delta, which stay in a core's second-level cache


@compiled()
def jensen_shannon_factor_rows(
    bits: UInt16[np.ndarray, "row feature"],
    factor: Float32[np.ndarray, "row rank"],
    lora_B_T: Float32[np.ndarray, "rank feature"],
    scaling: np.float32,
    bias: Float32[np.ndarray, " feature"],
    out: Float32[np.ndarray, " row"],
) -> None:
    """Fill `out` as `jensen_shannon_rows` does, for base as bits of bfloat16 numbers and delta as in `delta_rows`."""
    n_rows, width = bits.shape
    step = max(4, _TILE_VALUES // width // 16 * 16)
    base = np.empty((step, width), np.float32)
    delta = np.empty((step, width), np.float32)
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        n = stop - start
        widen_bfloat16_rows(bits[start:stop], base[:n])
        delta_rows(factor[start:stop], lora_B_T, scaling, bias, delta[:n])
        jensen_shannon_rows(base[:n], delta[:n], out[start:stop])
