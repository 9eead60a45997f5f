"""Commands that write, each with everything switched on: what `operations.py` kills, and starts twice."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tiny_run import STUDY, make_inputs

INDEX = "view's index"
SHARED = ("--js-share", "0.2", "--tokens", "share:0.9", "--limit", "12", "--window-tokens", "300")
ABLATED = (
    "--ablate",
    "kinds",
    "--ablate-share",
    "0.2",
    "--kl-share",
    "0.2",
    "--states",
    "sample",
    "--states-share",
    "0.5",
)


class Writer(NamedTuple):
    """A command that writes into a folder, which starts as a copy of `template`."""

    name: str
    words: Sequence[str]
    out: Path
    template: Path


def writers(folder: Path, n_characters: int) -> list[Writer]:
    """Every command that writes, after what they read was made in `folder`, which must be new."""
    inputs, empty = folder / "inputs", folder / "empty"
    make_inputs(inputs, n_characters)
    empty.mkdir()
    adapter, run, other, out = inputs / "adapter", folder / "run.zarr", folder / "other.zarr", folder / "out"
    data = ("--data", inputs / "questions.test.jsonl", "--data", inputs / "text.txt")
    needed, measured = inputs / "needed.zarr", ("--importance", "1", "--states", "none", "--limit", "4")
    run_command("capture", "--model", inputs / "model", *data, "--adapter", adapter, *measured, "--out", needed)
    truncate = ("adapter", adapter, "--truncate", "0.9", "--run", needed)
    run_command(*truncate, "--out", inputs / "small")
    base = ("capture", "--model", inputs / "model", *data, *SHARED)
    several = (*base, "--adapter", f"whole={adapter}", "--adapter", f"small={inputs / 'small'}", "--stream", "base")
    ablated = (*base, "--adapter", adapter, *ABLATED)
    run_command(*several, "--out", run)
    run_command(*ablated, "--out", other)
    linked, study = folder / "linked", folder / "study"
    linked.mkdir()
    (linked / "run.zarr").symlink_to(run)
    study.mkdir()
    (study / "study.yaml").write_text(STUDY.replace("inputs/", f"{inputs}/"))
    training = ("--max-steps", 6, "--batch-size", 4, "--miub-every", 3, "--miub-samples", 2)
    items = ("--data", inputs / "questions.test.jsonl", "--held-out", inputs / "held-out.jsonl")
    whole = (run, "--adapter", "whole")
    table: dict[str, tuple[Sequence[object], Path]] = {
        "capture, two adapters": ((*several, "--out", out / "run.zarr"), empty),
        "capture, ablation": ((*ablated, "--out", out / "run.zarr"), empty),
        "pull": (("pull", run, out / "run.zarr", "--tokens", "share:0.8"), empty),
        "miub --out .zarr": (("miub", *whole, "--out", out / "result.zarr"), empty),
        "miub --out .nc": (("miub", *whole, "--out", out / "result.nc"), empty),
        "miub --out .csv": (("miub", *whole, "--out", out / "table.csv"), empty),
        "report": (("report", *whole, "--out", out / "page.html"), empty),
        "view --bundle": (("view", run, other, "--bundle", out / "bundle", "--with-run"), empty),
        INDEX: ((INDEX, out / "run.zarr"), linked),
        "adapter --truncate": ((*truncate, "--out", out / "adapter"), empty),
        "finetune": (("finetune", "--model", inputs / "model", *items, *training, "--out", out / "adapter"), empty),
        "study run": (("study", "run", out / "study.yaml"), study),
    }
    return [Writer(name, [*map(str, words)], out, template) for name, (words, template) in table.items()]


def run_command(*words: object) -> None:
    """A command to its end, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "lorascope", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"`{' '.join(map(str, words))}` ended with {done.returncode}: {done.stderr[-2000:]}")


def empty_out(writer: Writer) -> None:
    """Its folder as before its first start."""
    shutil.rmtree(writer.out, ignore_errors=True)
    shutil.copytree(writer.template, writer.out, symlinks=True)
