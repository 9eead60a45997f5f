"""The demo: a small real model, fine-tuned, captured, analysed and reported, on any machine."""

import hashlib
import json
import shutil
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
from lorascope.study.demo_inputs import demo_model, facts_path

__all__ = ["FINETUNE", "run_demo"]

N_ITEMS = 100
"""Questions whose states are captured."""
FINETUNE = FinetuneConfig(rank=8, learning_rate=1e-3, batch_size=8, max_steps=40)
"""A higher learning rate and smaller batches than the paper's, whose 4e-5 moves nothing within a minute."""
TOKENS = "last:16"
"""The end of each prompt and its whole answer: a store under 1 GB."""

Report = Callable[..., None]
"""(done, total, note, stage)."""


def run_demo(out: Path, report: Report) -> Path:
    """Fine-tune, capture, analyse and report into `out`, reusing what is there; returns the path of the page.

    Raises
    ------
    FileExistsError
        If `out` holds something that the demo didn't make.
    """
    model_file = demo_model()
    _claim(out, _recipe(model_file))
    loaded = cache(partial(load_model, str(model_file), dtype="float32"))  # not at all where all is there
    adapter, run, page = out / "adapter", out / "run.zarr", out / "report.html"
    if adapter.exists():  # it appears under its name only when it is whole
        report(1, 1, "reused", "finetune")
    else:
        shutil.rmtree(run, ignore_errors=True)  # of another adapter
        items = read_items(facts_path("train"))
        finetune(*loaded(), items, adapter, FINETUNE, progress=lambda n, total: report(n, total, "steps", "finetune"))
    if run_state(run) == "finished":
        report(1, 1, "reused", "capture")
    else:
        _capture(run, adapter, model_file, loaded, report)
    write_report(open_run(run), page, progress=lambda n, total, part="": report(n, total, part, "report"))
    return page


def _recipe(model_file: Path) -> dict[str, Any]:
    """Everything that the adapter and the run depend on."""
    return {
        "lorascope": version("lorascope"),
        "model": {"name": model_file.name, "bytes": model_file.stat().st_size},
        "finetune": asdict(FINETUNE),
        "tokens": TOKENS,
        "items": N_ITEMS,
        "data": {split: hashlib.sha256(facts_path(split).read_bytes()).hexdigest() for split in ("train", "test")},
    }


def _claim(out: Path, recipe: dict[str, Any]) -> None:
    """Make `out` the demo's: keep what this recipe made, remove what another one did, touch nothing of the user's."""
    marker = out / "demo.json"
    if not marker.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileExistsError(f"`{out}` is there already and isn't the demo's; name a new folder with --out")
        out.mkdir(parents=True, exist_ok=True)
    elif json.loads(marker.read_text()) == recipe:
        return
    for made in (out / "adapter", training_folder(out / "adapter"), out / "run.zarr"):
        shutil.rmtree(made, ignore_errors=True)
    marker.write_text(json.dumps(recipe, indent=1))


def _capture(
    folder: Path, adapter: Path, model_file: Path, loaded: Callable[[], tuple[Any, Any]], report: Report
) -> None:
    config = CaptureConfig(
        model=str(model_file),
        adapter=(str(adapter),),
        data=(str(facts_path("test")),),
        out=str(folder),
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
