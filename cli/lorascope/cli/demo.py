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
from lorascope.capture import (
    CaptureConfig,
    CaptureProgress,
    FinetuneConfig,
    attach_adapter,
    capture,
    finetune,
    load_model,
    read_items,
)
from lorascope.capture.adapters.adapter import adapter_identity
from lorascope.capture.training.checkpoints import training_folder
from lorascope.stores import Run, StoreError, open_run
from lorascope.study.demo_inputs import demo_model, facts_path

__all__ = ["FINETUNE", "run_demo"]

N_ITEMS = 100

FINETUNE = FinetuneConfig(rank=8, learning_rate=1e-3, batch_size=8, max_steps=40)
"""A higher learning rate and smaller batches than the paper's, whose 4e-5 moves nothing within a minute."""

TOKENS = "last:16"
"""The end of each prompt and its whole answer: a store under 1 GB."""

Report = Callable[[str, int, int, str], None]
"""(stage, done, total, note)."""
Loader = Callable[[], tuple[Any, Any]]
"""Model and tokenizer, loaded when first asked for."""


def run_demo(out: Path, report: Report) -> Path:
    """Fine-tune, capture, analyse and report into `out`, reusing what is there; returns the path of the page.

    Raises
    ------
    FileExistsError
        If `out` holds something that the demo didn't make.
    """
    model_file = demo_model()
    _claim(out, _recipe(model_file))
    loaded = cache(partial(load_model, str(model_file), dtype="float32"))
    adapter = _adapter(out / "adapter", loaded, report)
    run = _run(out / "run.zarr", adapter, model_file, loaded, report)
    page = out / "report.html"
    write_report(run, page, progress=lambda done, total: report("report", done, total, ""))
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


def _adapter(folder: Path, loaded: Loader, report: Report) -> Path:
    if folder.exists():  # it appears under its name only when it is whole
        report("finetune", 1, 1, "reused")
        return folder
    model, tokenizer = loaded()
    finetune(
        model,
        tokenizer,
        read_items(facts_path("train")),
        folder,
        FINETUNE,
        progress=lambda done, total, part="": report("finetune", done, total, "steps"),
    )
    return folder


def _run(folder: Path, adapter: Path, model_file: Path, loaded: Loader, report: Report) -> Run:
    found = _finished(folder)
    if found is not None and adapter_identity(adapter).items() <= _captured_adapter(found).items():
        report("capture", found.n_tokens, found.n_tokens, "reused")
        return found
    if found is not None:
        shutil.rmtree(folder)
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

    def tell(progress: CaptureProgress) -> None:
        report(progress.stage, progress.done, progress.total, progress.unit)

    return capture(config, model=attach_adapter(model, adapter), tokenizer=tokenizer, progress=tell)


def _captured_adapter(run: Run) -> dict[str, Any]:
    """What the run says of its adapter: its identity, and what attaching it made of it."""
    captured: dict[str, Any] = run.attributes["provenance"]["adapters"]["default"]
    return captured


def _finished(folder: Path) -> Run | None:
    try:
        run = open_run(folder)
    except StoreError:
        return None
    return run if run.finished else None
