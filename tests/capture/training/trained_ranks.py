"""Trainings in which MIUB is measured: in one process, or run by torchrun under FSDP2 and under tensor parallel.

accelerate has no FSDP2 and no tensor parallel on CPUs, so they are loops of one's own.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from lorascope.capture import CaptureConfig, capture, load_model
from lorascope.capture.models.preflight import require_adapter
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.items import TextItem
from lorascope.capture.training.callback import measure_miub
from lorascope.capture.training.trainer import collate

N_STEPS, N_PARTS, PART, N_MEASURED = 3, 2, 2, 5
"""Steps; parts of a batch, of which each process takes one under FSDP2; samples of a part; measured samples."""
LENGTH = 40
"""Largest number of tokens in a sample."""


def train(
    folder: Path, *, out: str = "", tensor_parallel: int = 1, is_sharded: bool = False, is_measured: bool = True
) -> list[dict[str, float]]:
    """Train the folder's adapter, save it as `out` if that is given, and return each step's loss and MIUB."""
    model, tokenizer = load_model(str(folder / "model"), tensor_parallel=tensor_parallel)
    texts = (folder / "text.txt").read_text().split(";")
    items = [TextItem(id=str(i), dataset="t", split="train", text=text) for i, text in enumerate(texts[:20])]
    samples = encode_items(items, tokenizer, max_length=LENGTH, window_tokens=LENGTH)
    model = PeftModel.from_pretrained(model, str(folder / "tiny_adapter"), is_trainable=True)
    if is_sharded:
        for layer in model.get_base_model().model.layers:
            fully_shard(layer)
        fully_shard(model)
    for name, module in model.named_modules():
        if name.endswith("lora_A.default"):  # PEFT 0.21 states a part's features where transformers 5.24 takes all
            module.in_features = module.weight.shape[1]
    require_adapter(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    logs = []
    for step in range(N_STEPS):
        model.train()
        first = step * N_PARTS * PART
        parts = [samples[start : start + PART] for start in range(first, first + N_PARTS * PART, PART)]
        own = [parts[dist.get_rank()]] if is_sharded else parts
        losses = [model(**collate(part)).loss / len(own) for part in own]
        sum(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
        logs.append({"loss": float(sum(losses).detach())})
        if is_measured:
            logs[-1] |= measure_miub(model, samples[:N_MEASURED])
            assert model.training
    if out:
        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if dist.get_rank() == 0:
            model.save_pretrained(folder / out, state_dict=weights, save_embedding_layers=False)
        dist.barrier()
    return logs


def main(folder: Path) -> None:
    """Train in the ways that need several processes, capture what was trained, and write the logs of the first."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    logs = {"tensor": train(folder, tensor_parallel=N_PARTS)}
    for out in ("bare", "measured"):
        logs[out] = train(folder, out=out, is_sharded=True, is_measured=out == "measured")
    trained: dict[str, Any] = {"model": str(folder / "model"), "adapter": (str(folder / "measured"),)}
    settings: dict[str, Any] = {"data": (str(folder / "text.txt"),), "window_tokens": 200, "device": "cpu"}
    capture(CaptureConfig(**trained, **settings, out=str(folder / "tensor.zarr"), tensor_parallel=N_PARTS))
    if dist.get_rank() == 0:
        (folder / "logs.json").write_text(json.dumps(logs))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
