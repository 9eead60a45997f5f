"""Bytes that processes exchange while a capture under tensor parallel records, counted against `plan`'s arithmetic.

    torchrun --nproc-per-node 2 benchmarks/links.py MODEL ADAPTER TEXT [--states none] [--tokens last:5] ...

Further options are settings of `capture`. Every collective operation of torch inside of the recorded passes is counted
by the first process: what a gather brings it, and what a ring brings it of a sum.
"""

import argparse
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from lorascope.capture import CaptureConfig
from lorascope.capture.buffers.target import BatchTarget, flat_index
from lorascope.capture.planning.processes import link_bytes
from lorascope.capture.recording.forward import forward
from lorascope.capture.recording.hooks import Recorder
from lorascope.capture.recording.reduce import Reducer
from lorascope.capture.settling.settle import settle

EXCHANGES = {
    ("sum", torch.float64): "sums that measure",
    ("gather", torch.float64): "sums that measure",
    ("gather", torch.uint8): "base gathered to be stored",
    ("sum", torch.float32): "sums of the model",
    ("gather", torch.float32): "outputs gathered by the model",
}
"""(kind of operation, type of its values) -> what `link_bytes` calls the exchange."""


class Counting(TorchDispatchMode):
    """Counts calls of collective operations, and the bytes that each brings to this process."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes: Counter[str] = Counter()
        self.n_calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name()
        if name.startswith(("c10d::", "_c10d_functional::")) and not {"wait", "wrap"} & {
            *name.replace("::", "_").split("_")
        }:
            tensor = largest_tensor(args[1] if "gather" in name and name.startswith("c10d::") else args[0])
            kind = "sum" if "reduce" in name else "gather"
            what = EXCHANGES[kind, tensor.dtype]
            n = dist.get_world_size()
            self.n_calls[what] += 1
            self.n_bytes[what] += tensor.nbytes * (n - 1) * (2 if kind == "sum" else n) // n
        return function(*args, **(kwargs or {}))


def largest_tensor(values: Any) -> torch.Tensor:
    """The tensor that a process gives to an operation, in lists of any depth."""
    while isinstance(values, list | tuple):
        values = values[0]
    tensor: torch.Tensor = values
    return tensor


def count(words: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Run every batch once with hooks; return what was counted, and what `plan` would say."""
    settings = {"states": words.states, "tokens": words.tokens, "stream": words.stream, "batch_tokens": 400}
    config = CaptureConfig(
        model=words.model,
        adapter=(words.adapter,),
        data=(words.text,),
        out=str(Path(folder, "run.zarr")),
        window_tokens=100,
        score=False,
        changes="none",
        device="cpu",
        tensor_parallel=int(os.environ["WORLD_SIZE"]),
        **settings,
    )
    counting = Counting()
    with settle(config, None, None, None, None) as settled:
        layout, loaded, ranks = settled.layout, settled.loaded, settled.ranks
        recorder = Recorder(
            layout.components,
            stream=config.stream,
            factor_start={adapter.name: adapter.factor_start for adapter in layout.spec.adapters},
            keep_states=layout.spec.states != "none",
            reducer=Reducer() if layout.spec.states != "all" else None,
        )
        n_passed = 0
        with recorder.attached():
            for batch in layout.batches:
                samples = layout.samples[batch]
                shape = (len(samples), max(len(sample.token_ids) for sample in samples))
                n_passed += shape[0] * shape[1]
                chosen = layout.plan.measured[layout.plan.starts[batch.start] : layout.plan.starts[batch.stop]]
                target = BatchTarget(shape, flat_index(layout.plan.positions[batch], shape[1]), chosen, ())
                for pass_ in recorder.passes:
                    with pass_.enabled(loaded.model), counting, recorder.recording(target, pass_):
                        forward(loaded.model, samples, loaded.device)
        planned = link_bytes(loaded.model, layout, config, processes=ranks.size, n_passed=n_passed)
        return {
            "components": len(layout.spec.components),
            "batches": len(layout.batches),
            "tokens": layout.plan.n_tokens,
            "measured_tokens": int(layout.plan.measured.sum()),
            "calls": dict(counting.n_calls),
            "counted": dict(counting.n_bytes),
            "planned": planned,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("adapter")
    parser.add_argument("text")
    parser.add_argument("--states", default="all")
    parser.add_argument("--tokens", default="all")
    parser.add_argument("--stream", default="adapted")
    words = parser.parse_args()
    dist.init_process_group("gloo")
    with tempfile.TemporaryDirectory() as folder:
        counts = count(words, folder)
    if dist.get_rank() == 0:
        print(json.dumps(counts, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
