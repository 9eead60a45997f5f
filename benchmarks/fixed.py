"""What a capture takes besides its rows: `python benchmarks/fixed.py` prints two Markdown tables.

The fixed part is the value at 0 rows of a line through captures of 1 and 3 rows, with the model loaded and no scores:
checks, the probe, hashes of the weights, setting up, the last flush. It is measured on SmolLM2-135M-Instruct, and on
models of tiny layers with as many components and with about 2,000, where it should grow in proportion.

The cold start is the command itself, on a terminal, from its start until the bar of tokens moves for the first time:
SmolLM2 from its safetensors, one row, no scores.
"""

import argparse
import os
import pty
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from models import Adapted, adapt, byte_tokenizer, random_model, smollm2
from rounds import Took, print_table, spread, take_turns, timed, write_json
from transformers import LlamaConfig

from capture import BATCH, RANK, WINDOW, run_capture, write_text

ROWS = (1, 3)
"""Rows of the captures through which the line goes."""
LAYERS = {"210 tiny layers": 30, "2,002 tiny layers": 286}
"""Model -> its blocks, each with 7 linear layers."""
FIRST_TOKENS = b"tokens"
"""What the bar says once the first batch has passed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", type=int, default=2, help="cold starts; 0 leaves them out")
    parser.add_argument("--models", nargs="*", default=["SmolLM2", *LAYERS], choices=["SmolLM2", *LAYERS])
    parser.add_argument("--folder", type=Path, help="where stores are written; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    content: dict[str, Any] = {}
    for name in arguments.models:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            content[name] = measure_fixed(Path(folder), name, arguments.rounds)
    rows = [
        [name, found["components"], *(spread(column) for column in zip(*found["fixed"], strict=True))]
        for name, found in content.items()
    ]
    print_table(
        f"The fixed part of a capture with the model loaded, {torch.get_num_threads()} threads, {arguments.rounds} "
        "rounds; median (smallest to largest)",
        ("model", "components", "s", "processor s"),
        rows,
    )
    if arguments.cold:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            content["cold"] = measure_cold(Path(folder), arguments.cold)
        print_table(
            "From the command to its first tokens, SmolLM2 from its safetensors",
            ("", "s", "processor s"),
            [["cold start", *(spread(column) for column in zip(*content["cold"], strict=True))]],
        )
    write_json(arguments.json, content)


def measure_fixed(folder: Path, name: str, n_rounds: int) -> dict[str, Any]:
    """What captures of no rows would take, a round each."""
    if name == "SmolLM2":
        adapted = smollm2(folder / "adapter", dtype="float32", rank=RANK)
    else:
        adapted = tiny_layers(folder, LAYERS[name])
    data = write_text(folder, max(ROWS))
    found = {}

    def capture_rows(n_rows: int) -> Took:
        out = folder / f"{time.monotonic_ns()}.zarr"  # what was left isn't this one's to delete
        run, took = timed(lambda: run_capture(adapted, data, out, n_rows, {"score": False}))
        found["components"] = len(run.component_paths)
        return took

    capture_rows(1)  # warm
    few, more = take_turns({n: lambda n=n: capture_rows(n) for n in ROWS}, n_rounds).values()  # type: ignore[misc]
    return {**found, "fixed": [Took(*map(at_none, one, other)) for one, other in zip(few, more, strict=True)]}


def at_none(one: float, other: float) -> float:
    """Where the line through what both numbers of rows took meets none."""
    few, more = ROWS
    return one - few * (other - one) / (more - few)


def tiny_layers(folder: Path, n_blocks: int) -> Adapted:
    """A model of `n_blocks` blocks of width 16, and a random adapter of rank 1 on all of its linear layers."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=n_blocks,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    model = random_model(config, dtype=torch.float32)
    return Adapted(adapt(model, folder / "adapter", rank=1), tokenizer, "tiny layers", folder / "adapter")


def measure_cold(folder: Path, n_times: int) -> list[Took]:
    adapted = smollm2(folder / "adapter", dtype="float32", rank=RANK)
    adapted.model.unload().save_pretrained(str(folder / "model"))
    adapted.tokenizer.save_pretrained(str(folder / "model"))
    data = write_text(folder, 1)
    return [start_cold(folder, data) for _ in range(n_times)]


def start_cold(folder: Path, data: Path) -> Took:
    """Start the command, wait until its bar counts tokens, and stop it."""
    words = (
        f"--window-tokens {WINDOW} --batch-tokens {BATCH} --limit {BATCH // WINDOW} --no-score --changes none".split()
    )
    paths = ["--model", "model", "--adapter", "adapter", "--data", str(data), "--out", f"{time.monotonic_ns()}.zarr"]
    ours, theirs = pty.openpty()
    start = time.perf_counter()
    command = [sys.executable, "-m", "lorascope", "capture", *paths, *words]
    with subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        try:
            while FIRST_TOKENS not in said:
                said += os.read(ours, 65536)
            took = Took(time.perf_counter() - start, processor_seconds(process.pid))
        except OSError as error:  # the terminal of a process that has ended
            raise RuntimeError(f"the command ended before its first tokens:\n{said.decode()[-2000:]}") from error
        finally:
            process.kill()
            os.close(ours)
    return took


def processor_seconds(pid: int) -> float:
    """What a process has used so far, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
