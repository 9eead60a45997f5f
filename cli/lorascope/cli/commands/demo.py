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

from lorascope.analyze.results.format import format_duration
from lorascope.capture.config import CaptureConfig, FinetuneConfig
from lorascope.capture.training.folder import training_folder
from lorascope.stores.json_document import read_json
from lorascope.stores.places.files import atomic_write
from lorascope.study.demo_inputs import demo_model, facts_path

from ..screen import describe_rows, describe_training, progress_bar, quiet_libraries, report_when_stopped, say

N_ITEMS = 60
"""Number of questions whose states are captured, all tokens of each: a store of some 1.3 GB."""
EXPLAINED: dict[str, Any] = {"ablate": "kinds", "ablate_share": 0.2, "importance": 4, "replies": True}
"""Settings of the capture that the report needs for all its answers."""
FINETUNE = FinetuneConfig(rank=8, learning_rate=1e-3, batch_size=8, max_steps=40)
"""A higher learning rate and smaller batches than the paper's, whose 4e-5 changes nothing within a minute."""


def demo(*, out: Path = Path("runs/demo")) -> None:
    """Try lorascope: fine-tune, capture, analyse and report on a small real model, on this machine.

    Parameters
    ----------
    out
        Folder for the adapter, the run and the report, with links to the model and its questions.
    """
    began = time.perf_counter()
    model_file, adapter, run = demo_model(), out / "adapter", out / "run.zarr"
    _prepare_folder(out, model_file)
    links = {"model.gguf": model_file} | {f"facts.{split}.jsonl": facts_path(split) for split in ("train", "test")}
    for name, target in links.items():
        if not (out / name).exists():  # for other commands; a broken link doesn't exist
            (out / name).unlink(missing_ok=True)
            (out / name).symlink_to(target.resolve())

    def describe() -> str:
        """Return a sentence on what is stored after the demo was stopped: rows of the run, or a checkpoint."""
        return describe_rows(str(run)) if adapter.exists() else describe_training(adapter)

    with report_when_stopped(describe), progress_bar("demo") as update:
        page, was_complete = _run_demo(out, model_file, update)
    if was_complete:
        say("already complete: adapter and run are of this recipe (`demo.json`); the report alone was written again")
    say(f"done in {format_duration(time.perf_counter() - began)}")
    say(f"report: {page.resolve()}")


def _run_demo(out: Path, model_file: Path, report: Callable[..., None]) -> tuple[Path, bool]:
    """Make the demo's adapter and run if missing, and its report; return the page and whether both existed.

    `report` takes (done, total, note, stage).
    """
    from lorascope.analyze.report import write_report
    from lorascope.capture import attach_adapter, capture, finetune, load_model, read_items
    from lorascope.stores import open_run, run_state

    quiet_libraries()
    loaded = cache(partial(load_model, str(model_file), dtype="float32"))  # loaded only if needed
    adapter, run, page = out / "adapter", out / "run.zarr", out / "report.html"
    if adapter.exists():  # it gets its name only once it is complete
        report(1, 1, "reused", "finetune")
    else:
        if run.exists():  # made with an adapter that was deleted
            shutil.rmtree(run)
        finetune(
            *(*loaded(), read_items(facts_path("train")), adapter, FINETUNE),
            progress=lambda n, total, part="": report(n, total, part, "finetune"),
        )
    was_complete = run_state(run) == "finished"
    if was_complete:
        report(1, 1, "reused", "capture")
    else:
        config = CaptureConfig(
            model=str(model_file),
            adapter=(str(adapter),),
            data=(str(facts_path("test")),),
            out=str(run),
            limit=N_ITEMS,
            dtype="float32",
            **EXPLAINED,
        )
        model, tokenizer = loaded()
        capture(
            config,
            model=attach_adapter(model, adapter),
            tokenizer=tokenizer,
            progress=lambda now: report(now.done, now.total, now.units, now.stage),
        )
    write_report(open_run(run), page, progress=lambda n, total, part="": report(n, total, part, "report"))
    return page, was_complete


def _prepare_folder(out: Path, model_file: Path) -> None:
    """Make the demo's folder and delete what other settings made; raise FileExistsError if it isn't the demo's."""
    recipe: dict[str, Any] = {
        "lorascope": version("lorascope"),
        "model": {"name": model_file.name, "bytes": model_file.stat().st_size},
        "finetune": asdict(FINETUNE),
        "items": N_ITEMS,
        "explained": EXPLAINED,
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
    with atomic_write(marker) as file:
        file.write_text(json.dumps(recipe, indent=1))
