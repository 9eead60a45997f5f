"""Cost of capture on a CPU, and size of its store: `python benchmarks/capture.py` prints two Markdown tables.

SmolLM2-135M-Instruct with a random adapter of rank 16 on its 210 linear layers, over text made from the demo's
questions. Time: float32, bare forward passes over the same batches and captures of them, in turns in one
process. Size: bfloat16, the finished store against two plain bfloat16 arrays of base and LoRA output.

"whole call" is all of `capture()` with a loaded model: hashing the weights, probing, setting up, passes, the last
flush. "per row" excludes the fixed part: the call minus a call over a single batch, compared with the bare passes of
the other batches; the ratio of a long run approaches it. Scores take two more passes over a text (with and without the
adapter), so only the last line includes them.

With `--experts` instead: a random Mixtral of 4 layers of 8 experts, hidden 512, with an adapter of rank 16 on its
experts.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from models import Adapted, adapt, byte_tokenizer, facts_text, random_model, smollm2
from rounds import Took, disk_rate, print_table, ratios, spread, stored_bytes, take_turns, timed, write_json
from transformers import MixtralConfig

from lorascope.capture import CaptureConfig, capture
from lorascope.stores import Run

RANK = 16
WINDOW = 512
BATCH = 1024
MODES: dict[str, dict[str, Any]] = {
    "default": {"score": False},
    "codec raw": {"score": False, "codec": "raw"},
    "states none": {"score": False, "states": "none"},
    "default and scores": {},
}
"""Settings by line of the table; next-token changes, which take a pass more, have a table of their own on the page."""
EXPERT_MODES: dict[str, dict[str, Any]] = {
    f"stream {stream}, states {states}": {"score": False, "stream": stream, "states": states}
    for stream in ("adapted", "pair")
    for states in ("all", "none")
}
BARS = {"default": (1.50, 1.25), "codec raw": (1.30, 1.15), "states none": (1.20, 1.05)}
"""(bar, aim) of `docs/benchmarks.md`: printed next to the measurement."""
SIZE_BAR = (0.40, 0.36)


class Captured(NamedTuple):
    """One capture: what it took and left."""

    took: Took
    stored_bytes: int
    measured: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6, help="rows of 1024 tokens, at least 2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size-rows", type=int, default=2, help="rows of the bfloat16 store; 0 leaves it out")
    parser.add_argument("--experts", action="store_true", help="captures of an adapter on experts; no sizes")
    parser.add_argument("--folder", type=Path, help="where stores are written; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        adapted = mixture(folder) if arguments.experts else smollm2(folder / "adapter", dtype="float32", rank=RANK)
        modes = EXPERT_MODES if arguments.experts else MODES
        times = measure_time(folder, adapted, modes, arguments.rows, arguments.rounds) if arguments.rounds else {}
        content: dict[str, Any] = {"time": times}
        if arguments.size_rows and not arguments.experts:
            content["size"] = measure_size(folder, arguments.size_rows)
    write_json(arguments.json, content)


def mixture(folder: Path) -> Adapted:
    """A Mixtral with random weights and a random adapter on its experts, saved as well."""
    tokenizer = byte_tokenizer()
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=2 * WINDOW,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = random_model(config, dtype=torch.float32)
    model.save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))
    adapted = adapt(model, folder / "adapter", rank=RANK, experts=True)
    return Adapted(adapted, tokenizer, str(folder / "model"), folder / "adapter")


def measure_time(
    folder: Path, adapted: Adapted, modes: Mapping[str, dict[str, Any]], n_rows: int, n_rounds: int
) -> dict[str, Any]:
    data = write_text(folder, n_rows)
    batches = same_batches(folder, adapted, data, n_rows)
    jobs: dict[str, Callable[[], Any]] = {"bare": lambda: bare_seconds(adapted.model, batches)}
    for mode, options in modes.items():
        for what, rows in (("one", 1), ("all", n_rows)):
            jobs[f"{mode}/{what}"] = lambda options=options, rows=rows: captured(folder, adapted, data, rows, options)
    take_turns({name: job for name, job in jobs.items() if not name.endswith("/all")}, 1)  # warm
    results = take_turns(jobs, n_rounds)
    rate = disk_rate(folder, max(found[0].stored_bytes for name, found in results.items() if name != "bare") // 4)
    print_time(results, modes, n_rows, rate)
    return {"rows": n_rows, "disk_bytes_per_second": rate, **{name: list(found) for name, found in results.items()}}


def print_time(results: dict[str, list[Any]], modes: Iterable[str], n_rows: int, rate: float) -> None:
    bare = results["bare"]
    whole = [sum(took.wall for took in passes) for passes in bare]
    others = [sum(took.wall for took in passes[1:]) for passes in bare]
    processor = [sum(took.processor for took in passes) for passes in bare]
    rows = [["bare forward", spread(whole), "1", "1", "", "", "1", "", ""]]
    for mode in modes:
        bar, aim = BARS.get(mode, (0, 0))
        one, found = results[f"{mode}/one"], results[f"{mode}/all"]
        walls = [capture.took.wall for capture in found]
        further = [wall - capture.took.wall for wall, capture in zip(walls, one, strict=True)]
        rows.append(
            [
                f"capture, {mode}",
                spread(walls),
                spread(ratios(walls, whole)),
                spread(ratios(further, others)),
                f"{bar:.2f}" if bar else "",
                f"{aim:.2f}" if aim else "",
                spread(ratios([capture.took.processor for capture in found], processor)),
                f"{found[0].stored_bytes / 1e9:.2f}",
                f"{found[0].stored_bytes / rate:.1f}",
            ]
        )
    print_table(
        f"{n_rows} rows of {BATCH} tokens, float32, {torch.get_num_threads()} threads, {len(bare)} rounds; median"
        f" (smallest to largest). The disk alone takes {rate / 1e6:.0f} MB/s, each file flushed.",
        (
            "",
            "s",
            "whole call / bare",
            "per row / bare",
            "bar",
            "aim",
            "processor / bare",
            "GB stored",
            "disk alone, s",
        ),
        rows,
    )


def measure_size(folder: Path, n_rows: int) -> dict[str, Any]:
    adapted = smollm2(folder / "adapter16", dtype="bfloat16", rank=RANK)
    data = write_text(folder, n_rows)
    out = folder / "size.zarr"
    run = run_capture(adapted, data, out, n_rows, {"dtype": "bfloat16"})
    plain = 2 * 2 * run.n_tokens * int(run.components["d_out"].sum())
    parts = {
        "all": out,
        "base": out / "states",
        "factor": out / "adapters" / "default" / "factor",
        "tokens": out / "tokens",
    }
    sizes = {name: stored_bytes(path) for name, path in parts.items()}
    shutil.rmtree(out)
    print_table(
        f"Store of {run.n_tokens} tokens, bfloat16, rank {RANK}, against two plain bfloat16 arrays"
        f" ({plain / 1e9:.2f} GB); bar {SIZE_BAR[0]:.2f}, aim {SIZE_BAR[1]:.2f}",
        ("part", "MB", "of two plain arrays"),
        [[name, f"{size / 1e6:.1f}", f"{size / plain:.3f}"] for name, size in sizes.items()],
    )
    return {"plain_bytes": plain, **sizes}


def write_text(folder: Path, n_rows: int) -> Path:
    """A text with more than enough tokens for the rows."""
    data = folder / "facts.txt"
    data.write_text(facts_text(n_rows * BATCH * 6))
    return data


def captured(folder: Path, adapted: Adapted, data: Path, n_rows: int, options: dict[str, Any]) -> Captured:
    out = folder / "run.zarr"
    run, took = timed(lambda: run_capture(adapted, data, out, n_rows, options))
    if run.n_tokens != n_rows * BATCH:
        raise RuntimeError(f"{run.n_tokens} tokens were captured, not {n_rows * BATCH}")
    result = Captured(took, stored_bytes(out), dict(run.attributes["measured"]))
    result.measured.pop("swallowed_share", None)
    shutil.rmtree(out)
    return result


def run_capture(adapted: Adapted, data: Path, out: Path, n_rows: int, options: dict[str, Any]) -> Run:
    config = CaptureConfig(
        model=adapted.source,
        adapter=(str(adapted.adapter),),
        data=(str(data),),
        out=str(out),
        limit=n_rows * BATCH // WINDOW,
        window_tokens=WINDOW,
        batch_tokens=BATCH,
        **{"changes": "none", **options},
    )
    return capture(config, model=adapted.model, tokenizer=adapted.tokenizer)


def same_batches(folder: Path, adapted: Adapted, data: Path, n_rows: int) -> list[torch.Tensor]:
    """Token ids (sequence, position) of every batch, taken from a run that stores no states."""
    out = folder / "tokens.zarr"
    run = run_capture(adapted, data, out, n_rows, MODES["states none"])
    ids = torch.from_numpy(run.tokens["token_id"].values.astype("int64"))
    shutil.rmtree(out)
    return list(ids.reshape(-1, BATCH // WINDOW, WINDOW))


@torch.inference_mode()
def bare_seconds(model: Any, batches: list[torch.Tensor]) -> list[Took]:
    """What the forward pass of each batch takes, adapter on, no hooks."""
    return [
        timed(lambda ids=ids: model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False))[1]
        for ids in batches
    ]


if __name__ == "__main__":
    main()
