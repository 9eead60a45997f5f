"""Runs functions of `fused` in triton's interpreter, which is chosen at import and so needs a process.

Reads pickled (name, arguments, keywords) from its standard input and writes the results, named tuples as dictionaries;
three of them are defined here.
The interpreter drops bits where a card rounds to bfloat16; that is mended here. With the argument `rough`,
exponentials are off by up to 2^-22 of themselves, as those of a card may be.
"""

import os
import pickle
import sys
from pathlib import Path

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


def by_kernel(name, *args):
    """What a function of `forward` gives on a GPU."""
    from lorascope.capture.recording import forward

    forward.has_kernel = lambda device: True
    return getattr(forward, name)(*args)


def with_tf32(name, *args, **kwargs):
    """What a function of `fused` gives where TF32 is on."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return getattr(fused, name)(*args, **kwargs)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def record_by_both(dtype, adapters, *, spoil=None, is_reduced=False, **options):
    """What a recorder finds of one batch by the float64 functions, and by the kernel."""
    sys.path.insert(0, str(Path(__file__).parents[3]))
    import torch
    from peft import LoraConfig
    from tests.capture.recorded import adapt, record, stir
    from tests.tiny import llama

    from lorascope.capture.errors import CaptureError
    from lorascope.capture.recording import sink

    model = adapt(llama(64).to(dtype), **adapters["default"])
    for name in adapters.keys() - {"default"}:
        with torch.random.fork_rng():
            torch.manual_seed(2)
            model.add_adapter(name, LoraConfig(**adapters[name]))
            stir(model)
    layer = model.get_base_model().model.layers[1].self_attn.q_proj
    if spoil == "nan":
        layer.lora_A["default"].weight.data[0, 0] = torch.nan
    elif spoil is not None:
        plain = layer.forward
        layer.forward = lambda x: plain(x).add_(1e-2) if spoil == "in place" else plain(x) + 1e-2
    inputs = {"input_ids": torch.arange(3, 17).reshape(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    found = []
    for is_kernel in (False, True):
        sink.has_kernel = lambda device, is_kernel=is_kernel: is_kernel
        reduced = {}

        def take(_, index, adapter, measures, reduced=reduced):
            reduced |= {(name, adapter, index): values.clone() for name, values in measures._asdict().items()}

        given = {"reducer": take} if is_reduced else {}
        try:
            told = record(model.eval(), inputs, adapters=tuple(adapters), **given, **options)
            found.append(({**told.kept.measured, **reduced}, told.recorder.worst_excess))
        except CaptureError as error:
            found.append(({}, str(error)))
    return found


def check_kernel(widths, spoilt=None, factor=1.0):
    """What the selftest says of the kernel where one of the measures, or the divergence of logits, is spoilt."""
    import torch

    from lorascope.capture.selftest import checks

    checks.WIDTHS = widths
    name = spoilt if spoilt in ("kl_divergence", "token_nll") else "measure_factor"
    right = getattr(fused, name)

    def wrong(*args, **kwargs):
        found = right(*args, **kwargs)
        if name == "measure_factor" and spoilt is not None:
            return found._replace(**{spoilt: getattr(found, spoilt) * factor})
        return found * factor if spoilt is not None else found

    setattr(fused, name, wrong)
    try:
        return checks.check_kernel(torch.device("cpu"))
    finally:
        setattr(fused, name, right)


answers = sys.stdout.buffer
while True:
    try:
        name, args, kwargs = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    with np.errstate(all="ignore"):
        found = (globals().get(name) or getattr(fused, name))(*args, **kwargs)
        pickle.dump(found._asdict() if isinstance(found, tuple) else found, answers)
    answers.flush()
