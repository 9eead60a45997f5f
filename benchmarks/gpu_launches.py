"""What capture adds to a pass on a GPU, counted without one: `python benchmarks/gpu_launches.py` prints a table.

A tiny bfloat16 Llama with LoRA passes a batch on the CPU, bare and recorded as on a GPU: the kernel of `fused` counts
as one launch that reads every tensor once, a copy to the host as one copy. All else that the recorder adds are
operations of torch, each at least one launch. Bytes are those that they read and write in the device's memory, by value
(token and feature) of a component's output: they are the same at other widths, except for z and B, r/width as many.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from lorascope.capture.buffers.copies import DirectCopier
from lorascope.capture.buffers.row_buffer import RowBuffer, Segment
from lorascope.capture.buffers.target import BatchTarget
from lorascope.capture.models.components import find_components
from lorascope.capture.recording import fused, sink
from lorascope.capture.recording.hooks import Recorder
from lorascope.capture.recording.reduce import Reducer

SHAPE = (4, 256)
RANK = 8
KINDS = {"kernel": "kernel", "index_select": "gathers", "to the host": "copies to the host"}
NO_LAUNCH = ("empty", "detach", "lift_fresh")


class Count(TorchDispatchMode):
    """Operations of torch within it, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given, made = ([leaf for leaf in tree_leaves(one) if isinstance(leaf, torch.Tensor)] for one in (args, found))
        name = func.overloadpacket.__name__
        memory = {tensor.untyped_storage().data_ptr() for tensor in given}
        is_view = func.is_view and all(tensor.untyped_storage().data_ptr() in memory for tensor in made)
        is_index = any(tensor.dtype == torch.int64 for tensor in made)  # which the host computes
        if not (is_view or is_index or name.startswith(NO_LAUNCH)):
            written = sum(tensor.nbytes for tensor in made)
            self.add(name, written + (written if name == "index_select" else sum(tensor.nbytes for tensor in given)))
        return found

    def add(self, name: str, n_bytes: float) -> None:
        """One launch."""
        self.launches[name] += 1
        self.bytes[name] += round(n_bytes)


class CountingCopier(DirectCopier):
    """What `StreamCopier` does, with the copy to the host counted apart."""

    def __init__(self, count: Count) -> None:
        self.count = count

    def copy(self, output: torch.Tensor, chosen: Any, place: torch.Tensor) -> None:
        """Gather and cast, as on the device, and go no further."""
        self.count.add("to the host", chosen.copy(output).to(place.dtype).nbytes)  # which are counted themselves

    def send(self, values: torch.Tensor, place: torch.Tensor) -> None:
        """Nothing but the count."""
        self.count.add("to the host", values.nbytes)


def model() -> Any:
    """A Llama of two layers, every linear one with LoRA in float32."""
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 4}
    plain = LlamaForCausalLM(LlamaConfig(vocab_size=512, num_hidden_layers=2, **shape)).bfloat16()
    lora = LoraConfig(r=RANK, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(plain, lora).eval()


def target(components: Any, states: str, n_captured: int, count: Count) -> BatchTarget:
    """Rows for a batch with `n_captured` captured tokens, all of them measured."""
    n, f4 = len(components), np.dtype("f4")
    names = [f"adapters/default/{name}" for name in ("js", "swallowed")]
    if states == "none":
        names += ["adapters/default/delta_norm", "reductions/base_norm", "reductions/effective_width"]
    arrays: dict[str, Any] = dict.fromkeys(names, ((n_captured, n), f4))
    if states != "none":
        arrays |= {f"states/{c.path}/base": ((n_captured, c.d_out), np.dtype("u2")) for c in components}
        arrays["adapters/default/factor"] = ((n_captured, n * RANK), f4)
    row = RowBuffer(arrays)
    row.reset()
    flat = np.arange(math.prod(SHAPE))[-n_captured:]
    segment = Segment(row, slice(0, n_captured), slice(0, n_captured))
    return BatchTarget(SHAPE, flat, np.ones(n_captured, np.bool_), (segment,), CountingCopier(count))


@contextmanager
def counted_kernel(count: Count) -> Iterator[None]:
    """The kernel's launches, which read every tensor of theirs once and find nothing."""

    def run(
        base: Any, output: Any, given: Any = None, weight: Any = None, bias: Any = None, *, rows: Any, **_: Any
    ) -> Any:
        n_tokens = len(base) if rows is None else len(rows)
        wide = sum(t.nbytes / len(t) * n_tokens for t in (base, output, given) if t is not None)
        found = np.zeros((6, n_tokens), np.float32)
        count.add("kernel", wide + sum(t.nbytes for t in (weight, bias) if t is not None) + found.nbytes)
        return torch.from_numpy(found)

    with ExitStack() as stack:
        for module, name, value in ((fused, "_launch", run), (sink, "has_kernel", lambda device: True)):
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def count(states: str, n_captured: int) -> tuple[Count, Any]:
    """What the recorder adds to a pass over a batch, and the components."""
    adapted = model()
    components = find_components(adapted, "default")
    inputs = {"input_ids": torch.randint(0, 512, SHAPE)}
    recorder = Recorder(
        {"default": components},
        factor_start={"default": [RANK * place for place in range(len(components))]},
        keep_states=states != "none",
        reducer=Reducer() if states == "none" else None,
    )
    for site in recorder._sites:  # as `Addition.on` lays it out on a GPU
        for addition in site.additions:
            addition.weight = addition.weight.T.contiguous().T
    (pass_,) = recorder.passes
    added, bare = Count(), Count()
    batch = target(components, states, n_captured, added)
    with torch.inference_mode():
        with counted_kernel(added), recorder.attached(), added:
            with recorder.recording(batch, pass_):
                adapted(**inputs)
            batch.flush()
        with bare:
            adapted(**inputs)
    added.launches.subtract(bare.launches)
    added.bytes.subtract(bare.bytes)
    return added, components


def main() -> None:
    columns = [f"{kind}, {unit}" for kind in KINDS.values() for unit in ("a component", "bytes a value")]
    print("| states | tokens captured |", " | ".join(columns), "| others, a batch | bytes a value |")
    print("|---|---|" + "--:|" * (len(columns) + 2))
    n_tokens = math.prod(SHAPE)
    for states in ("default, raw", "none"):
        for n_captured in (n_tokens, n_tokens * 7 // 8):
            found, components = count(states, n_captured)
            n_values = n_captured * sum(component.d_out for component in components)
            cells = [f"{states} | {n_captured} of {n_tokens}"]
            for name in KINDS:
                cells += [f"{found.launches[name] / len(components):.2f}", f"{found.bytes[name] / n_values:.2f}"]
            others = found.launches.keys() - KINDS
            cells += [str(sum(map(found.launches.get, others))), f"{sum(map(found.bytes.get, others)) / n_values:.2f}"]
            print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
