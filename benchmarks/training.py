"""Cost of MIUB during training, on a CPU: `python benchmarks/training.py` prints two Markdown tables.

SmolLM2-135M-Instruct in float32 with an adapter of rank 16 on its 210 linear layers, on the demo's questions. The first
table has a measurement by itself: `MiubCallback` at one step, in turns with bare forward passes of the same batches.
The second has a short training without the callback and one with it: their times, the share that the callback
reports, and from both its cost at other distances.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from models import smollm2
from rounds import print_table, spread, take_turns, timed, write_json

from lorascope.capture import FinetuneConfig, finetune, load_model, read_items
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import EncodedSample, pad, plan_batches
from lorascope.capture.training.callback import measure_miub
from lorascope.study.demo_inputs import demo_model, facts_path

RANK = 16
BATCH_TOKENS = 1024


class Trained(NamedTuple):
    """One short training."""

    seconds: float
    """All of it, MIUB included."""
    miub_seconds: float
    share: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[8, 32], help="held-out samples to measure on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="of each training")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        content = {
            "threads": torch.get_num_threads(),
            "measurements": measure_alone(Path(name), arguments.samples, arguments.rounds),
            "trainings": measure_trainings(Path(name), arguments),
        }
    write_json(arguments.json, content)


def measure_alone(folder: Path, sizes: Sequence[int], n_rounds: int) -> list[dict[str, Any]]:
    """Seconds of a measurement and of bare passes, for each number of samples."""
    adapted = smollm2(folder / "adapter", dtype="float32", rank=RANK)
    items = list(read_items(facts_path("test")))
    random.Random(0).shuffle(items)
    rows = []
    for n in sizes:
        samples = encode_items(items[:n], adapted.tokenizer, max_length=2048, window_tokens=512)
        samples.sort(key=lambda sample: len(sample.token_ids))
        jobs = {
            "bare": lambda samples=samples: timed(lambda: pass_bare(adapted.model, samples))[1],
            "MIUB": lambda samples=samples: timed(lambda: measure_miub(adapted.model, samples))[1],
        }
        for job in jobs.values():
            job()  # first calls load kernels and libraries
        took = take_turns(jobs, n_rounds)
        rows.append(
            {
                "samples": n,
                "tokens": sum(len(sample.token_ids) for sample in samples),
                **{name: [one.wall for one in found] for name, found in took.items()},
                "processor": [m.processor / b.processor for m, b in zip(took["MIUB"], took["bare"], strict=True)],
            }
        )
    print_table(
        f"A measurement, rank {RANK}, {torch.get_num_threads()} threads",
        ("held-out samples", "tokens", "bare passes, s", "MIUB, s", "MIUB over bare, processor time"),
        [(r["samples"], r["tokens"], spread(r["bare"]), spread(r["MIUB"]), spread(r["processor"])) for r in rows],
    )
    return rows


@torch.inference_mode()
def pass_bare(model: Any, samples: Sequence[EncodedSample]) -> None:
    """The batches that a measurement makes of these samples, without hooks."""
    lengths = [len(sample.token_ids) for sample in samples]
    for batch in plan_batches(lengths, batch_tokens=BATCH_TOKENS):
        input_ids, attention_mask = pad(samples[batch])
        model(input_ids=input_ids, attention_mask=attention_mask)


def measure_trainings(folder: Path, arguments: argparse.Namespace) -> dict[str, list[Trained]]:
    """Short trainings without MIUB, and with it at every step and at the start."""
    model, tokenizer = load_model(str(demo_model()), dtype="float32")
    train, held_out = (list(read_items(facts_path(split))) for split in ("train", "test"))
    random.Random(0).shuffle(held_out)
    n_samples = min(arguments.samples)
    numbers = iter(range(10**6))

    def run(every: int | None) -> Trained:
        config = FinetuneConfig(
            rank=RANK,
            batch_size=arguments.batch_size,
            max_steps=arguments.steps,
            miub_every=every,
            miub_samples=n_samples,
        )
        out = folder / f"trained-{next(numbers)}"
        # Held-out items are scored as well, outside of the time that counts.
        result = finetune(model, tokenizer, train, out, config, items_eval=held_out[:n_samples])
        curve = result.miub
        return Trained(result.train_seconds, curve.seconds if curve else 0.0, curve.share if curve else 0.0)

    jobs = {"without": lambda: run(None), "every step": lambda: run(1)}
    found = take_turns(jobs, 1)
    (without,), (each,) = found["without"], found["every step"]
    n_measured = arguments.steps + 1
    step, one = without.seconds / arguments.steps, each.miub_seconds / n_measured
    print_table(
        f"Trainings of {arguments.steps} steps of {arguments.batch_size} samples, MIUB on {n_samples} held-out samples",
        ("", "training, s", "of that MIUB, s", "share"),
        [
            ("without", f"{without.seconds:.1f}", "", ""),
            ("every step, and at the start", f"{each.seconds:.1f}", f"{each.miub_seconds:.1f}", f"{each.share:.0%}"),
            *(
                (f"every {n} steps (from the two above)", "", f"{one:.2f} each", f"{one / (n * step + one):.1%}")
                for n in (10, 50)
            ),
        ],
    )
    return found


if __name__ == "__main__":
    main()
