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
from lorascope.study.demo_inputs import demo_model, facts_path

from ..screen import progress_bar, say
from ..stopped import rows_that_remain, saying_what_remains, training_that_remains

N_ITEMS = 60
"""Questions whose states are captured, all tokens of each: a store of some 1.3 GB."""
EXPLAINED: dict[str, Any] = {"unembedding": True, "ablate": "kinds", "ablate_share": 0.2}
"""Settings by which the report has all its answers: the ablation takes seven passes more over one batch."""
FINETUNE = FinetuneConfig(rank=8, learning_rate=1e-3, batch_size=8, max_steps=40)
"""A higher learning rate and smaller batches than the paper's, whose 4e-5 moves nothing within a minute."""


def demo(*, out: Path = Path("runs/demo")) -> None:
    """See it work: fine-tune, capture, analyse and report on a small real model, on this machine.

    Parameters
    ----------
    out
        Folder for the adapter, the run and the report, with links to the model and its questions.
    """
    began = time.perf_counter()
    model_file, adapter, run = demo_model(), out / "adapter", out / "run.zarr"
    _claim(out, model_file)
    links = {"model.gguf": model_file} | {f"facts.{split}.jsonl": facts_path(split) for split in ("train", "test")}
    for name, target in links.items():
        if not (out / name).exists():  # at hand for other commands; a link that leads nowhere isn't there
            (out / name).unlink(missing_ok=True)
            (out / name).symlink_to(target.resolve())

    def remains() -> str:
        return rows_that_remain(str(run)) if adapter.exists() else training_that_remains(adapter)

    with saying_what_remains(remains), progress_bar("demo") as update:
        page, was_there = _run_demo(out, model_file, update)
    if was_there:
        say("already complete: adapter and run are of this recipe (`demo.json`); the report alone was written anew")
    say(f"done in {format_duration(time.perf_counter() - began)}")
    say(f"report: {page.resolve()}")


def _run_demo(out: Path, model_file: Path, report: Callable[..., None]) -> tuple[Path, bool]:
    """Do what is missing in the demo's folder; (the report, whether adapter and run were there already).

    `report` takes (done, total, note, stage).
    """
    from lorascope.analyze.report import write_report
    from lorascope.capture import attach_adapter, capture, finetune, load_model, read_items
    from lorascope.stores import open_run, run_state

    from ..quiet import quiet_libraries

    quiet_libraries()
    loaded = cache(partial(load_model, str(model_file), dtype="float32"))  # not at all where all is there
    adapter, run, page = out / "adapter", out / "run.zarr", out / "report.html"
    if adapter.exists():  # it appears under its name only when it is whole
        report(1, 1, "reused", "finetune")
    else:
        if run.exists():  # that of an adapter which is gone
            shutil.rmtree(run)
        finetune(
            *(*loaded(), read_items(facts_path("train")), adapter, FINETUNE),
            progress=lambda n, total, part="": report(n, total, part, "finetune"),
        )
    was_there = run_state(run) == "finished"
    if was_there:
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
    return page, was_there


def _claim(out: Path, model_file: Path) -> None:
    """Make `out` the demo's: keep what this recipe made, remove what another one did, touch nothing of the user's."""
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
    marker.write_text(json.dumps(recipe, indent=1))
