"""Captures of Llama-3's three sizes and two mixtures on 8 GPUs, planned from configurations: tables of docs/scale.md.

Nothing is measured: each model is on the meta device, where weights have shapes and no numbers. `large_models.json` has
the bytes by the plans; tokens a second come from these bytes and from what the hardware's makers state.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from models import EXPERTS, byte_tokenizer, facts_text
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from transformers import LlamaConfig, MixtralConfig, Qwen3MoeConfig

from lorascope.capture import CaptureConfig, Plan, plan
from lorascope.capture.models.model import model_on_meta
from lorascope.capture.planning.processes import weight_bytes
from lorascope.capture.training.trainer import lora_targets

NUMBERS = Path(__file__).with_suffix(".json")
SHAPES = {
    "Llama-3-8B": (4096, 14336, 32, 32),
    "Llama-3.1-70B": (8192, 28672, 80, 64),
    "Llama-3.1-405B": (16384, 53248, 126, 128),
}
"""Features, those of the MLP, layers, heads; all have 8 key-value heads and a vocabulary of 128,256 tokens."""
MIXTURES: dict[str, Any] = {
    "Mixtral-8x7B": MixtralConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_local_experts=8,
        num_experts_per_tok=2,
        vocab_size=32000,
        max_position_embeddings=32768,
        dtype="bfloat16",
        architectures=["MixtralForCausalLM"],
    ),
    "Qwen3-235B-A22B": Qwen3MoeConfig(
        hidden_size=4096,
        intermediate_size=12288,
        moe_intermediate_size=1536,
        num_hidden_layers=94,
        num_attention_heads=64,
        num_key_value_heads=4,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        vocab_size=151936,
        max_position_embeddings=40960,
        dtype="bfloat16",
        architectures=["Qwen3MoeForCausalLM"],
    ),
}
"""Configurations of mixtures, as their makers publish them."""
RANK, N_GPUS, WINDOW, N_WINDOWS = 16, 8, 1024, 1024
WAYS: dict[str, dict[str, Any]] = {"tensor parallel": {"tensor_parallel": N_GPUS}, "FSDP2": {"fully_shard": True}}
STORED: dict[str, dict[str, Any]] = {
    "all states": {},
    "`--states none`": {"states": "none"},
    "`--tokens last:1`": {"tokens": "last:1"},
}
STORED_OF_MIXTURES = {**STORED, "`--stream pair`": {"stream": "pair"}}
WITH_MEMORY = ("all states", "`--stream pair`")
EXPERT_PARTS = ("merged experts", "experts one by one")
"""Parts of a device's memory that adapters on experts need."""
GPU_BYTES, CUDA_BYTES = 80e9, 0.5e9
"""Memory of a GPU, and what CUDA itself takes of it."""
FLOPS = 989e12
"""Dense bfloat16 operations a second of an H100 with NVLink, as NVIDIA states them."""
LINK = 450e9
"""Bytes a second that such an H100 receives over NVLink, as NVIDIA states them (900 GB/s in both directions)."""
ENCODERS, ENCODING = 32, 4.17e-9
"""Most threads in which a process encodes and writes, and the processor seconds of a byte of bfloat16 states, from
docs/benchmarks.md."""
DISKS = (2e9, 10e9)
"""Bytes a second that a disk writes: an SSD, and several or a parallel file system."""
RATES = ("compute", *(f"links, {way}" for way in WAYS), "encoders", *(f"disk, {disk / 1e9:.0f} GB/s" for disk in DISKS))
"""What could limit a capture."""
BY_TOKEN = {"base", "adapted", "factor", "delta", "reductions", "changes"}
"""Parts of a run that grow with its tokens."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*SHAPES, *MIXTURES]
    parser.add_argument("--models", nargs="*", default=names, choices=names)
    parser.add_argument("--json", type=Path, help=f"where the numbers go, such as {NUMBERS.name}")
    arguments = parser.parse_args()
    content = {name: plans_of(name) for name in arguments.models}
    dense, mixtures = ({name: content[name] for name in content if name in some} for some in (SHAPES, MIXTURES))
    made = [*(tables(dense) if dense else ()), *(mixture_tables(mixtures) if mixtures else ())]
    print("\n".join(line for table in made for line in ("", *table)))
    if arguments.json:
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


def plans_of(name: str) -> dict[str, Any]:
    """Bytes by rank, on the disk and over links, by the plans of captures of one model."""
    with tempfile.TemporaryDirectory() as folder:
        return (measure_mixture if name in MIXTURES else measure)(name, Path(folder))


def measure(name: str, folder: Path) -> dict[str, Any]:
    width, inner, n_layers, n_heads = SHAPES[name]
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=8192,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    model, settings = make_inputs(config, folder)
    n_multiplied = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    n_bytes = sum(weight.nbytes for path, weight in model.named_parameters() if ".lora_" not in path)
    found: dict[str, Any] = {
        "weights": n_bytes,
        "flops": 2 * n_multiplied,
        "memory": {},
        "gpus": {},
        "links": {},
        "raw": {},
        "disk": {},
    }
    for way, spread in WAYS.items():
        links = found["links"][way] = {}
        for stored, choice in STORED.items() if way == "tensor parallel" else [("all states", {})]:
            made = plan(CaptureConfig(**settings, **spread, **choice), probe=False, processes=N_GPUS)
            links[stored] = {what: size / made.n_padded for what, size in made.links.items()}
            if stored == "all states":
                parts = found["memory"][way] = dict(made.fit[1].parts)
                found["gpus"][way] = least_gpus(model, way, parts)
            if way == "tensor parallel":
                found["raw"][stored], found["disk"][stored] = bytes_by_token(made)
    return found


def measure_mixture(name: str, folder: Path) -> dict[str, Any]:
    """Bytes by the plans of one process whose mixture is spread over the GPUs by `device_map`."""
    model, settings = make_inputs(MIXTURES[name], folder)
    own = {path for path, _ in model.named_parameters() if ".lora_" in path}
    found: dict[str, Any] = {"adapter": sum(model.get_parameter(path).nbytes for path in own), "memory": {}, "disk": {}}
    for stored, choice in STORED_OF_MIXTURES.items():
        made = plan(CaptureConfig(**settings, device_map="auto", **choice), probe=False)
        assert not made.problems
        if stored in WITH_MEMORY:
            found["memory"][stored] = dict(made.fit[1].parts)
        _, found["disk"][stored] = bytes_by_token(made)
        found["components"] = found.get("components", {}) | {stored: len(made.spec.components)}
    return found


def make_inputs(config: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Write configuration, tokenizer, text and adapter; return the model on the meta device, and settings."""
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "text.txt").write_text(facts_text(WINDOW * N_WINDOWS))
    model = save_adapter(config, folder / "adapter")
    settings = {"model": str(folder), "adapter": str(folder / "adapter"), "data": str(folder / "text.txt")}
    return model, settings | {
        "out": str(folder / "run.zarr"),
        "device": "cuda",
        "window_tokens": WINDOW,
        "allow_zero": True,
    }


def bytes_by_token(made: Plan) -> tuple[float, ...]:
    """Bytes that a run stores for each token that passes, before and after compression."""
    kept = [part for part in made.estimate.parts if part.name in BY_TOKEN]
    return tuple(sum(getattr(part, size) for part in kept) / made.n_padded for size in ("raw_bytes", "stored_bytes"))


def least_gpus(model: Any, way: str, parts: dict[str, int]) -> int | None:
    """The smallest number of GPUs of 80 GB over which a model fits; None if tensor parallel can't divide it so far."""
    rest = sum(size for part, size in parts.items() if not part.startswith("weights"))
    for n in (1, 2, 4, 8) if way == "tensor parallel" else range(2, 65):
        weights = weight_bytes(model, 1 if way == "FSDP2" else n, fully_shard=way == "FSDP2", processes=n)
        assert n != N_GPUS or weights == {part: size for part, size in parts.items() if part in weights}
        if sum(weights.values()) + rest + CUDA_BYTES <= GPU_BYTES:
            return n
    return None


def save_adapter(config: Any, folder: Path) -> Any:
    """Save an adapter of zeros, of a mixture on its experts, else on all layers; return the model with it.

    The model is on the meta device. In the file the zeros are a hole, so that 5 GB of them take no room.
    """
    model = model_on_meta(config, torch.bfloat16)
    is_mixture = hasattr(config, "num_experts_per_tok")
    targets: Any = {"target_modules": [], "target_parameters": EXPERTS}
    targets = targets if is_mixture else {"target_modules": lora_targets(model)}
    adapted: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=RANK, **targets), low_cpu_mem_usage=True)
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    folder.mkdir()
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    words = json.dumps(header).encode()
    with (folder / SAFETENSORS_WEIGHTS_NAME).open("wb") as file:
        file.write(len(words).to_bytes(8, "little") + words)
        file.truncate(8 + len(words) + end)
    adapted.peft_config["default"].save_pretrained(folder)
    return adapted


def tables(content: dict[str, Any]) -> list[list[str]]:
    """Memory of a rank, bytes of a token, and tokens a second: the lines of three Markdown tables."""
    memory, sizes, rates = [], [], []
    for name, found in content.items():
        for way, parts in found["memory"].items():
            own = [parts["weights"], parts.get("weights put together", 0), parts["logits"]]
            total = sum(parts.values())
            cells = [f"{size / 1e9:.1f}" for size in (*own, total - sum(own), total)]
            memory.append([name, way, *cells, str(found["gpus"][way] or "none do")])
        for stored, size in found["disk"].items():
            links = [sum(found["links"][way].get(stored, found["links"][way]["all states"]).values()) for way in WAYS]
            sizes.append([name, stored, *map(megabytes, (size, *links))])
            compute, *disks = N_GPUS * FLOPS / found["flops"], *(disk / size for disk in DISKS)
            encoders = ENCODERS / ENCODING / found["raw"][stored]
            by_link = [LINK / received for received in links]
            cells = [f"{float(f'{rate:.2g}'):,.0f}" for rate in (compute, *by_link, encoders, *disks)]
            tensor = {"compute": compute, "links": by_link[0], "encoders": encoders, "disk": disks[-1]}
            sharded = {"compute": compute, "links": by_link[1], "disk": disks[-1]}
            rates.append([name, stored, *cells, *(min(way, key=way.__getitem__) for way in (tensor, sharded))])
    parts = ("weights", "put together", "logits", "the rest", "in all")
    return [
        table(("model", "way", *parts, "GPUs of 80 GB, at least"), memory),
        table(("model", "stored", "disk", *(f"links, {way}" for way in WAYS)), sizes),
        table(("model", "stored", *RATES, *(f"limit of {way}" for way in WAYS)), rates),
    ]


def least_gpus_of(n_bytes: int) -> int:
    """The smallest number of GPUs of 80 GB that have these bytes together."""
    return math.ceil(n_bytes / (GPU_BYTES - CUDA_BYTES))


def mixture_tables(content: dict[str, Any]) -> list[list[str]]:
    """Memory of all GPUs together, and bytes of a token: the lines of two Markdown tables."""
    memory, sizes = [], []
    for name, found in content.items():
        for stored, parts in found["memory"].items():
            own = [parts[part] for part in ("weights", *EXPERT_PARTS, "logits")]
            total = sum(parts.values())
            cells = [f"{size / 1e9:.1f}" for size in (*own, total - sum(own), total)]
            memory.append([name, stored, *cells, str(least_gpus_of(total))])
        sizes += [
            [name, stored, str(found["components"][stored]), megabytes(size)] for stored, size in found["disk"].items()
        ]
    parts = ("weights", *EXPERT_PARTS, "logits", "the rest", "in all")
    return [
        table(("model", "stored", *parts, "GPUs of 80 GB, at least"), memory),
        table(("model", "stored", "components", "disk"), sizes),
    ]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table whose first two columns are words."""
    head = [f"| {' | '.join(columns)} |", "|---|---" + "|--:" * (len(columns) - 2) + "|"]
    return [*head, *(f"| {' | '.join(row)} |" for row in rows)]


def megabytes(size: float) -> str:
    """Bytes in MB, to three digits."""
    return f"{float(f'{size / 1e6:.3g}'):g}"


if __name__ == "__main__":
    main()
