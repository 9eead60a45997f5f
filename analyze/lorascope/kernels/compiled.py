"""Compilation of kernels: fast-math flags, a cache on disk, and what numba has no name for."""

from collections.abc import Callable, Set
from contextlib import suppress
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import intrinsic

_Function = TypeVar("_Function", bound=Callable[..., Any])

# No `reassoc`: TwoSum and the rounding by a magic number are sums whose order is the point. No `ninf`: a
# difference of two finite values may overflow, and is clamped afterwards. No `nnan`: NaN is handed on to the sum.
EXACT = {"contract", "nsz"}
SCAN = EXACT | {"nnan", "reassoc"}  # maxima, whose order doesn't matter, and which mean nothing beside a NaN
SUM = {"contract", "reassoc"}  # keeps NaN and infinity


def compiled(fastmath: Set[str] = frozenset(), *, inline: bool = False) -> Callable[[_Function], _Function]:
    """A decorator: compiled at the first call, without the interpreter lock, with these fast-math flags."""

    def compile_lazily(function: _Function) -> _Function:
        kernel = numba.njit(nogil=True, error_model="numpy", fastmath=set(fastmath), forceinline=inline)(function)
        # Kept on disk: numba checks the time and size of the function's own file and the processor's name and features.
        # Therefore a file of kernels holds all that goes into them, but for what stands here: after a change of this
        # one, clear their cache.
        with suppress(RuntimeError):  # numba finds no folder to write to: compile in each process, then
            kernel.enable_caching()
        return cast(_Function, kernel)

    return compile_lazily


def _intrinsic(function: Callable[..., Any]) -> Any:  # keeps the strict checker's view of a decorated function
    return intrinsic(function)


def _select_where(comparison: str) -> Any:
    # numba's own `max` carries no fast-math flags, without which LLVM doesn't vectorise the reduction.
    @_intrinsic
    def select(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            chosen = builder.fcmp_ordered(comparison, *arguments, flags=("nnan", "nsz"))
            return builder.select(chosen, *arguments, flags=("nnan", "nsz"))

        return a(a, a), generate

    return select


larger, smaller = _select_where(">"), _select_where("<")
"""The larger, and the smaller, of two values, neither of them NaN."""


@_intrinsic
def quotient(typing_context: Any, a: Any, b: Any) -> Any:
    """a / b."""

    # `arcp` lets LLVM refine an estimate of 1/b, to two units in the last place, where that beats a division.
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fdiv(*arguments, flags=("arcp",))

    return numba.float32(numba.float32, numba.float32), generate


@_intrinsic
def prefer_512_bits(typing_context: Any) -> Any:
    """Ask for vectors of 512 bits in the function that calls this."""

    # LLVM keeps to 256 bits on many processors with AVX-512; 512 make these loops a quarter faster. Other
    # processors ignore the attribute. `set.add`, since llvmlite's own takes no attribute with a value.
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return numba.void(), generate


INFINITE = 0x7F800000
"""The bits of infinity."""


@compiled(EXACT, inline=True)
def bits_of_size(x: Any) -> Any:
    """The bits without the sign: as integers they are in the order of |x|, then infinity, then NaN."""
    return np.int32(np.float32(x).view(np.int32) & np.int32(0x7FFFFFFF))
