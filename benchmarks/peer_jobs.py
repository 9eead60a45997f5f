"""One way of getting base and LoRA-branch output of every wrapped layer to disk, as a process that `peers.py` talks to.

    python benchmarks/peer_jobs.py {bare|lorascope|hooks|nnsight} WORK

WORK holds `model/`, `adapter/`, `batches.npy` (batch, sequence, position) and, for lorascope, `text.txt`. A line of
JSON on standard input asks for one job: {"out": folder, "batches": number of batches, "dtype": "float32"}; a line of
JSON answers. Nothing but torch, transformers, PEFT and the peer itself is imported, so that the environment may be
the peer's own.
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

Loaded = tuple[Any, torch.Tensor]
ROW_TOKENS = 1024


def main() -> None:
    kind, work = sys.argv[1], Path(sys.argv[2])
    talk = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to standard error; answers have this line to themselves
    warnings.filterwarnings("ignore")
    model, dtype = None, ""
    batches = torch.from_numpy(np.load(work / "batches.npy"))
    for line in sys.stdin:
        order = json.loads(line)
        if order["dtype"] != dtype:
            model, dtype = load(work, order["dtype"]), order["dtype"]
        out = Path(order["out"])
        wall, processor = time.perf_counter(), time.process_time()
        JOBS[kind](model, batches[: order["batches"]], out, work)
        took = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        print(json.dumps(took), file=talk, flush=True)


def load(work: Path, dtype: str) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(work / "model"), dtype=getattr(torch, dtype))
    return PeftModel.from_pretrained(model, str(work / "adapter")).eval()


def wrapped(model: Any) -> Iterator[tuple[str, Any]]:
    """Every LoRA layer, by its path in the model that PEFT wrapped."""
    from peft.tuners.lora import LoraLayer

    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield path, module


@torch.inference_mode()
def run_bare(model: Any, batches: torch.Tensor, out: Path, work: Path) -> None:
    for ids in batches:
        model(input_ids=ids, use_cache=False)


def run_lorascope(model: Any, batches: torch.Tensor, out: Path, work: Path) -> None:
    from transformers import AutoTokenizer

    from lorascope.capture import CaptureConfig, capture

    config = CaptureConfig(
        model=str(work / "model"),
        adapter=(str(work / "adapter"),),
        data=(str(work / "text.txt"),),
        out=str(out),
        limit=batches.shape[0] * batches.shape[1],
        window_tokens=batches.shape[2],
        batch_tokens=batches.shape[1] * batches.shape[2],
        score=False,  # passes of their own, which are no part of the job, as are those for changes
        changes="none",
        codec=os.environ["CODEC"],
    )
    capture(config, model=model, tokenizer=AutoTokenizer.from_pretrained(str(work / "model")))


@torch.inference_mode()
def run_hooks(model: Any, batches: torch.Tensor, out: Path, work: Path) -> None:
    """The script that one writes: two hooks per layer, one dictionary per batch, `torch.save`."""
    seen: dict[str, torch.Tensor] = {}
    handles = []

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: torch.Tensor) -> None:
            seen[name] = output.detach().clone()

        return hook

    for path, module in wrapped(model):
        handles.append(module.base_layer.register_forward_hook(keep(f"{path}/base")))
        handles.append(module.lora_B["default"].register_forward_hook(keep(f"{path}/lora")))
    out.mkdir()
    try:
        for index, ids in enumerate(batches):
            model(input_ids=ids, use_cache=False)
            torch.save(dict(seen), out / f"{index:05}.pt")
            seen.clear()
    finally:
        for handle in handles:
            handle.remove()


def run_nnsight(model: Any, batches: torch.Tensor, out: Path, work: Path) -> None:
    """One trace per batch, which saves both outputs of each layer; then Zarr arrays of 1024 tokens a chunk."""
    import zarr
    from nnsight import NNsight

    paths = [path for path, _ in wrapped(model)]
    traced = NNsight(model)
    layers = [traced.get(path) for path in paths]
    root = zarr.create_group(out)
    arrays: dict[str, Any] = {}
    n_tokens = batches.numel()
    done = 0
    for ids in batches:
        bases, loras = trace(traced, layers, ids)
        stop = done + ids.numel()
        for path, base, lora in zip(paths, bases, loras, strict=True):
            for name, output in ((f"{path}/base", base), (f"{path}/lora", lora)):
                values = output.flatten(0, 1).float().numpy()  # NumPy has no bfloat16
                if name not in arrays:
                    shape, chunks = (n_tokens, values.shape[1]), (ROW_TOKENS, values.shape[1])
                    arrays[name] = root.create_array(
                        name.replace(".", "/"), shape=shape, chunks=chunks, dtype=values.dtype
                    )
                arrays[name][done:stop] = values
        done = stop


def trace(traced: Any, layers: list[Any], ids: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    with torch.no_grad(), traced.trace(input_ids=ids, use_cache=False):
        bases = list().save()  # noqa: C408 (nnsight's own way: it keeps what `save` was called on)
        loras = list().save()  # noqa: C408
        for layer in layers:
            bases.append(layer.base_layer.output)
            loras.append(layer.lora_B.default.output)
    return bases, loras


JOBS = {"bare": run_bare, "lorascope": run_lorascope, "hooks": run_hooks, "nnsight": run_nnsight}

if __name__ == "__main__":
    main()
