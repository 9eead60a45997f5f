"""Runs functions of `fused` in triton's interpreter, which is chosen at import and so needs a process.

Reads pickled (name, arguments, keywords) from its standard input and writes the results, named tuples as dictionaries.
The interpreter drops bits where a card rounds to bfloat16; that is mended here. With the argument `rough`,
exponentials are off by up to 2^-22 of themselves, as those of a card may be.
"""

import os
import pickle
import sys

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from lorascope.capture.recording import fused


def rough_exp2(self, x):
    random = np.random.default_rng(0).uniform(-1, 1, x.data.shape)
    return self.unary_op(x, lambda values: (np.exp2(values) * (1 + 2.0**-22 * random)).astype(np.float32))


def round_to_type(self, x, kind):
    if kind.scalar == tl.bfloat16:
        bits = np.ascontiguousarray(x.data).view(np.uint32)
        x = TensorHandle((bits + 0x7FFF + (bits >> 16 & 1)).view(np.float32), x.dtype)
    return cut_to_type(self, x, kind)


cut_to_type = InterpreterBuilder.create_fp_trunc
InterpreterBuilder.create_fp_trunc = round_to_type
if "rough" in sys.argv:
    InterpreterBuilder.create_exp2 = rough_exp2
answers = sys.stdout.buffer
while True:
    try:
        name, args, kwargs = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    with np.errstate(all="ignore"):
        found = getattr(fused, name)(*args, **kwargs)
        pickle.dump(found._asdict() if isinstance(found, tuple) else found, answers)
    answers.flush()
