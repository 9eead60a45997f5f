"""Compilation of kernels: fast-math flags, a cache on disk, and LLVM instructions that numba doesn't offer."""

import hashlib
from collections.abc import Callable, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import intrinsic

_Function = TypeVar("_Function", bound=Callable[..., Any])
KERNELS_DIGEST = hashlib.sha256(b"".join(map(Path.read_bytes, sorted(Path(__file__).parent.glob("*.py"))))).hexdigest()
"""Digest of all files of kernels, for a kernel that calls kernels of other files."""

# No `reassoc`: TwoSum and the rounding by a magic number are sums whose order is the point. No `ninf`: a
# difference of two finite values may overflow, and is clamped afterwards. No `nnan`: NaN must reach the sum.
EXACT = {"contract", "nsz"}
SCAN = EXACT | {"nnan", "reassoc"}  # maxima: their order doesn't matter, and their value doesn't if there is a NaN
SUM = {"contract", "reassoc"}  # keeps NaN and infinity


def compiled(fastmath: Set[str] = frozenset(), *, inline: bool = False) -> Callable[[_Function], _Function]:
    """Return a decorator that compiles a function with numba at its first call, without the GIL, with these flags."""

    def compile_lazily(function: _Function) -> _Function:
        """Return the numba kernel of `function`, cached on disk if numba finds a folder for it."""
        kernel: Any = numba.njit(nogil=True, error_model="numpy", fastmath=set(fastmath), forceinline=inline)(function)
        # The cache is on disk. numba checks the time and size of the function's own file, and the processor's name and
        # features. Therefore each file of kernels contains everything that they call, except this file: clear their
        # cache after a change here.
        with suppress(RuntimeError):  # numba finds no folder to write to, and compiles in each process
            kernel.enable_caching()
            # A kernel that can't be saved, as on a full disk, is compiled again by the next process.
            kernel._cache._guard_against_spurious_io_errors = lambda: suppress(OSError)
        return cast(_Function, kernel)

    return compile_lazily


def _intrinsic(function: Callable[..., Any]) -> Any:
    """Return `function` as a numba intrinsic, typed for the type checker, as numba's own decorator isn't."""
    return intrinsic(function)


def _select_where(comparison: str) -> Any:
    """Return a numba intrinsic (a, b) that gives a if `a comparison b` is true, else b; LLVM can vectorise it."""

    # numba's own `max` carries no fast-math flags, without which LLVM doesn't vectorise the reduction.
    @_intrinsic
    def select(typing_context: Any, a: Any, b: Any) -> Any:
        """Return the signature (a, a) -> a and the function that generates code, as numba wants of an intrinsic."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            """Return the LLVM value of the selection; its flags assume that neither value is NaN."""
            chosen = builder.fcmp_ordered(comparison, *arguments, flags=("nnan", "nsz"))
            return builder.select(chosen, *arguments, flags=("nnan", "nsz"))

        return a(a, a), generate

    return select


larger, smaller = _select_where(">"), _select_where("<")
"""Functions that return the larger and the smaller of two values, neither of them NaN."""


@_intrinsic
def quotient(typing_context: Any, a: Any, b: Any) -> Any:
    """Return a / b of two float32 values, possibly by a refined estimate of 1 / b, to two units in the last place."""

    # `arcp` lets LLVM refine an estimate of 1/b, to two units in the last place, where that beats a division.
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        """Return the LLVM value of a / b, with the flag that allows a product with an estimate of 1 / b."""
        return builder.fdiv(*arguments, flags=("arcp",))

    return numba.float32(numba.float32, numba.float32), generate


@_intrinsic
def prefer_512_bits(typing_context: Any) -> Any:
    """Ask LLVM for vectors of 512 bits in the kernel that calls this; other processors ignore it."""

    # LLVM keeps to 256 bits on many processors with AVX-512; 512 make these loops a quarter faster. Other
    # processors ignore the attribute. `set.add`, since llvmlite's own takes no attribute with a value.
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        """Set the attribute of the calling LLVM function, and return a value that stands for nothing."""
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return numba.void(), generate


INFINITE = 0x7F800000
"""Bits of infinity as float32."""


@compiled(EXACT, inline=True)
def bits_of_size(x: Any) -> Any:
    """Return |x| of a float32 x as its bits, int32: they ascend with |x|, and infinity and then NaN come last."""
    return np.int32(np.float32(x).view(np.int32) & np.int32(0x7FFFFFFF))
