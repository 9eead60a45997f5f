"""`lorascope demo`: a small real model, fine-tuned, captured, analysed and reported, on any machine."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lorascope.analyze.report import write_report
from lorascope.capture import CaptureConfig, FinetuneConfig, attach_adapter, capture, finetune, load_model, read_items
from lorascope.capture.training.checkpoints import training_folder
from lorascope.stores import open_run, run_state
from lorascope.stores.json_document import read_json
from lorascope.study.demo_inputs import demo_model, facts_path

from ..quiet import quiet_libraries
from ..screen import progress_bar, say

N_ITEMS = 100
"""Questions whose states are captured."""
FINETUNE = FinetuneConfig(rank=8, learning_rate=1e-3, batch_size=8, max_steps=40)
"""A higher learning rate and smaller batches than the paper's, whose 4e-5 moves nothing within a minute."""
TOKENS = "last:16"
"""The end of each prompt and its whole answer: a store under 1 GB."""


def demo(*, out: Path = Path("runs/demo")) -> None:
    """See it work: fine-tune, capture, analyse and report on a small real model, on this machine.

    SmolLM2-135M-Instruct gets an adapter on every linear layer, trained on a few hundred questions of fact made for
    lorascope. Nothing is downloaded. Run again, it reuses what is there.

    Parameters
    ----------
    out
        Folder for the adapter, the run and the report.
    """
    quiet_libraries()
    began = time.perf_counter()
    with progress_bar("demo") as update:
        page = _run_demo(out, update)
    say(f"done in {time.perf_counter() - began:.0f} s")
    say(f"report: {page.resolve()}")


def _run_demo(out: Path, report: Callable[..., None]) -> Path:
    """Do what is missing in `out`, which must be new or the demo's; `report` takes (done, total, note, stage)."""
    model_file = demo_model()
    _claim(out, model_file)
    loaded = cache(partial(load_model, str(model_file), dtype="float32"))  # not at all where all is there
    adapter, run, page = out / "adapter", out / "run.zarr", out / "report.html"
    if adapter.exists():  # it appears under its name only when it is whole
        report(1, 1, "reused", "finetune")
    else:
        if run.exists():  # that of an adapter which is gone
            shutil.rmtree(run)
        finetune(
            *(*loaded(), read_items(facts_path("train")), adapter, FINETUNE),
            progress=lambda n, total, part="": report(n, total, "steps", "finetune"),
        )
    if run_state(run) == "finished":
        report(1, 1, "reused", "capture")
    else:
        config = CaptureConfig(
            model=str(model_file),
            adapter=(str(adapter),),
            data=(str(facts_path("test")),),
            out=str(run),
            tokens=TOKENS,
            limit=N_ITEMS,
            dtype="float32",
        )
        model, tokenizer = loaded()
        capture(
            config,
            model=attach_adapter(model, adapter),
            tokenizer=tokenizer,
            progress=lambda now: report(now.done, now.total, f"{now.unit}s", now.stage),
        )
    write_report(open_run(run), page, progress=lambda n, total, part="": report(n, total, part, "report"))
    return page


def _claim(out: Path, model_file: Path) -> None:
    """Make `out` the demo's: keep what this recipe made, remove what another one did, touch nothing of the user's."""
    recipe: dict[str, Any] = {
        "lorascope": version("lorascope"),
        "model": {"name": model_file.name, "bytes": model_file.stat().st_size},
        "finetune": asdict(FINETUNE),
        "tokens": TOKENS,
        "items": N_ITEMS,
        "data": {split: hashlib.sha256(facts_path(split).read_bytes()).hexdigest() for split in ("train", "test")},
    }
    marker = out / "demo.json"
    if not marker.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileExistsError(f"`{out}` is there already and isn't the demo's; name a new folder with --out")
        out.mkdir(parents=True, exist_ok=True)
    elif read_json(marker) == recipe:
        return
    for made in (out / "adapter", training_folder(out / "adapter"), out / "run.zarr"):
        shutil.rmtree(made, ignore_errors=True)
    marker.write_text(json.dumps(recipe, indent=1))
