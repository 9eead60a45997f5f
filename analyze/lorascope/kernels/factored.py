"""Measures of a stored base and the delta that a factor gives, in one compiled pass over tiles of rows."""

from typing import Any

from .compiled import KERNELS_DIGEST, compiled
from .linear import delta_rows, norm_rows, widen_bfloat16_rows
from .softmax import aligned_rows, divergence_rows, single_rows

_TILE_VALUES = 2**16
"""Number of values in a tile: 256 KiB each of base and delta fit into the second-level cache of one core."""


def _kernel_of(digest: str) -> Any:
    """Return the kernel; what numba cached of it is used only with files of kernels that have this digest."""

    # numba's cache compares the variables that a function takes from around it, but not the files that it calls.
    @compiled()
    def measure_factor_rows(
        bits: Any, factor: Any, weights: Any, order: Any, js: Any, js_permuted: Any, divergences: Any, norms: Any
    ) -> None:
        """Fill arrays (value, row) that aren't None as the kernels of these names do; rows mustn't be narrow.

        Base are the bfloat16 numbers in `bits`; `weights` are delta's (lora_B_T, bias, scaling) for `delta_rows`.
        `js_permuted` is the JS of a delta whose features are taken in this `order`.
        """
        _ = digest
        n_rows, width = bits.shape
        step = min(n_rows, max(4, _TILE_VALUES // width // 4 * 4))
        base, delta, lora_B_T = aligned_rows(step, width), aligned_rows(step, width), aligned_rows(*weights[0].shape)
        lora_B_T[:] = weights[0]
        permuted = aligned_rows(0 if js_permuted is None else step, width)
        for start in range(0, n_rows, step):
            stop = min(start + step, n_rows)
            x, d = base[: stop - start], delta[: stop - start]
            widen_bfloat16_rows(bits[start:stop], x)
            delta_rows(factor[start:stop], lora_B_T, weights[2], weights[1], d)
            if js is not None:
                single_rows(x, d, js[0, start:stop])
            if js_permuted is not None:
                for row in range(stop - start):
                    for i in range(width):
                        permuted[row, i] = d[row, order[i]]
                single_rows(x, permuted[: stop - start], js_permuted[0, start:stop])
            if divergences is not None:
                divergence_rows(x, d, divergences[:, start:stop])
            if norms is not None:
                norm_rows(x, d, norms[0, start:stop], norms[1, start:stop], norms[2, start:stop])

    return measure_factor_rows


measure_factor_rows = _kernel_of(KERNELS_DIGEST)
