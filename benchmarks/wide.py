"""Captures at the widths of real models: `python benchmarks/wide.py` prints a Markdown table.

Two layers of Llama-3-8B's shape and two of Phi-3-mini's (its fused `qkv_proj` and `gate_up_proj`), random weights in
bfloat16, an adapter of rank 16 with random B on every linear layer: captured, verified and analysed, each stage in a
process of its own, with its peak of resident memory. The vocabulary is smaller than theirs, which no wrapped layer
sees.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from memory import status_bytes
from rounds import print_table, stored_bytes, write_json

RANK = 16
N_LAYERS = 2
VOCABULARY = 8192
SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3-8B": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
    },
    "Phi-3-mini": {
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-5,
    },
}
STAGES = ("capture", "verify", "miub")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4, help="rows of 1024 tokens")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--folder", type=Path, help="where stores are written; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stage", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        stage, shape, folder = arguments.stage
        seconds, found = globals()[f"run_{stage}"](shape, Path(folder), arguments.rows)
        print(json.dumps({"seconds": seconds, "peak_bytes": status_bytes("self", "VmHWM"), **found}))
        return
    content = {shape: measure(shape, arguments) for shape in arguments.shapes}
    print_table(
        f"{N_LAYERS} layers at true widths, vocabulary {VOCABULARY}, random weights in bfloat16, rank {RANK},"
        f" {arguments.rows} rows of 1024 tokens",
        ("shape", "stage", "s", "rate", "peak GB", "found"),
        [row for shape, stages in content.items() for row in describe(shape, stages)],
    )
    write_json(arguments.json, content)


def measure(shape: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every stage in a process of its own, one after the other."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        return {stage: run_stage(stage, shape, folder, arguments.rows) for stage in STAGES}


def run_stage(stage: str, shape: str, folder: str, n_rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--rows", str(n_rows), "--stage", stage, shape, folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"stage {stage!r} of {shape} ended with {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def describe(shape: str, stages: dict[str, Any]) -> list[list[str]]:
    capture, verify, miub = (stages[stage] for stage in STAGES)
    n_tokens, n_values = capture["n_tokens"], capture["n_tokens"] * capture["features"]
    plain = 2 * 2 * n_values
    size = f"{capture['stored_bytes'] / 1e6:.0f} MB, {capture['stored_bytes'] / plain:.3f} of two plain bfloat16 arrays"
    rates = {
        "capture": f"{n_tokens / capture['seconds']:.0f} token/s",
        "verify": f"{capture['stored_bytes'] / 1e6 / verify['seconds']:.0f} MB/s",
        "miub": f"{n_values / 1e6 / miub['seconds']:.0f} M value/s",
    }
    found = {
        "capture": f"{capture['n_components']} components, {capture['features']} features a token; {size}",
        "verify": "no problem" if verify["ok"] else f"{verify['problems']} problems",
        "miub": f"MIUB {miub['miub']:.4g} nats, fidelity {miub['fidelity']:.1e}, {miub['not_finite']} not finite",
    }
    seconds = {stage: f"{stages[stage]['seconds']:.1f}" for stage in STAGES}
    peaks = {stage: f"{stages[stage]['peak_bytes'] / 1e9:.2f}" for stage in STAGES}
    return [[shape, stage, seconds[stage], rates[stage], peaks[stage], found[stage]] for stage in STAGES]


def run_capture(shape: str, folder: Path, n_rows: int) -> tuple[float, dict[str, Any]]:
    import torch
    from models import adapt, byte_tokenizer, facts_text, random_model
    from transformers import AutoConfig

    from lorascope.capture import CaptureConfig, capture

    options = dict(SHAPES[shape])
    config = AutoConfig.for_model(
        options.pop("model_type"),
        num_hidden_layers=N_LAYERS,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        **options,
    )
    model = adapt(random_model(config, dtype=torch.bfloat16), folder / "adapter", rank=RANK)
    (folder / "facts.txt").write_text(facts_text(n_rows * 1024))
    settings = CaptureConfig(
        model=f"{shape}, random weights",
        adapter=(str(folder / "adapter"),),
        data=(str(folder / "facts.txt"),),
        out=str(folder / "run.zarr"),
        changes="none",
    )
    start = time.perf_counter()
    run = capture(settings, model=model, tokenizer=byte_tokenizer())
    seconds = time.perf_counter() - start
    return seconds, {
        "n_tokens": run.n_tokens,
        "n_components": len(run.component_paths),
        "features": int(run.components["d_out"].sum()),
        "stored_bytes": stored_bytes(folder / "run.zarr"),
    }


def run_verify(shape: str, folder: Path, n_rows: int) -> tuple[float, dict[str, Any]]:
    from lorascope.stores import verify

    start = time.perf_counter()
    verdict = verify(folder / "run.zarr")
    return time.perf_counter() - start, {"ok": verdict.ok, "problems": len(verdict.problems)}


def run_miub(shape: str, folder: Path, n_rows: int) -> tuple[float, dict[str, Any]]:
    from lorascope.analyze import miub
    from lorascope.stores import open_run

    run = open_run(folder / "run.zarr")
    start = time.perf_counter()
    result = miub(run)
    seconds = time.perf_counter() - start
    return seconds, {
        "miub": float(result["miub"]),
        "fidelity": float(result.attrs["fidelity_max"]),
        "not_finite": int(result.attrs["n_not_finite"]),
    }


if __name__ == "__main__":
    main()
