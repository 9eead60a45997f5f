"""The steps of a unit: train, capture, measure. Each is passed over where what it makes lies there already."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lorascope.analyze import measure_information
from lorascope.capture import CaptureProgress, attach_adapter, capture, finetune
from lorascope.stores import Run
from lorascope.stores.places.file_lock import file_lock

from .base import base_scores
from .claim import claim, discard, is_made_by
from .data import PROMPTS_RUN, TEST_RUN, TaskData, write_files
from .done import forget, is_done, save_whole
from .grid import Unit
from .measure import measure_runs, require_sound
from .models import Models
from .places import adapter_path, information_path, result_path, run_path, unit_folder
from .recipe import capture_config, finetune_config, information_of, recipe_of
from .settings import StudySettings

__all__ = ["Report", "run_unit"]

Report = Callable[[str, int, int, str], None]
"""(step, done, total, what is counted)."""


def run_unit(
    unit: Unit,
    settings: StudySettings,
    data: TaskData,
    models: Models,
    report: Report,
    *,
    redo: bool = False,
    scheduler: str | None = None,
) -> bool:
    """Do what is missing of a unit; returns whether there was anything to do.

    What is computed of its runs goes to a scheduler of Dask, as in `miub`.

    Raises
    ------
    FileExistsError
        If another process works on it.
    ValueError
        If what lies there was made by another recipe and isn't to be made again, or a run is damaged.
    """
    recipe = recipe_of(unit, settings, data)
    work = unit_folder(settings, unit)
    if is_done(settings, unit, recipe, redo=redo):
        if settings.states == "none" and is_made_by(work, recipe):  # it was stopped on its last step
            with file_lock(work):
                discard(work)
        return False
    # Another study may have the same folder of work.
    with file_lock(result_path(settings, unit)), file_lock(work):
        if is_done(settings, unit, recipe, redo=redo):  # meanwhile
            return False
        forget(settings, unit)
        adapter = adapter_path(settings, unit)
        claim(adapter.parent, {"train": recipe["train"]}, redo=redo)
        training = _train(unit, settings, data, models, adapter, report)
        runs = {}
        for name in data.runs:
            place = run_path(settings, unit, name)
            claim(place.parent, {key: recipe[key] for key in ("train", name)}, redo=redo)
            has_base = base_scores(settings, unit, recipe, training, name, place)
            runs[name] = _capture(unit, settings, data, models, name, adapter, place, report, score_base=not has_base)
        _measure(unit, settings, recipe, data, runs, training, report, scheduler)
        if settings.states == "none":
            discard(work)
    return True


def _train(
    unit: Unit, settings: StudySettings, data: TaskData, models: Models, folder: Path, report: Report
) -> dict[str, Any]:
    """The record of a unit's fine-tuning, whose adapter lies in this folder."""
    if not folder.exists():  # it appears under its name only when it is whole
        model, tokenizer = models.load(unit)
        finetune(
            model,
            tokenizer,
            data.train,
            folder,
            finetune_config(unit, settings),
            items_eval=data.probe,
            progress=lambda done, total, part="": report("train", done, total, "step"),
        )
    record: dict[str, Any] = json.loads((folder / "finetune.json").read_text(encoding="utf-8"))
    return record


def _capture(
    unit: Unit,
    settings: StudySettings,
    data: TaskData,
    models: Models,
    name: str,
    adapter: Path,
    place: Path,
    report: Report,
    *,
    score_base: bool,
) -> Run:
    """One run of a unit, finished."""

    def tell(progress: CaptureProgress) -> None:
        report(f"{name}: {progress.stage}", progress.done, progress.total, progress.unit)

    files = write_files(data.runs[name].items, place.with_name("data"))
    examples = write_files(data.examples, place.with_name("examples")) if name == PROMPTS_RUN else ()
    config = capture_config(
        unit,
        settings,
        data,
        run=name,
        adapter=str(adapter),
        files=files,
        examples=examples,
        out=str(place),
        score_base=score_base,
    )
    model, tokenizer = models.load(unit)
    adapted = attach_adapter(model, adapter)
    try:
        return capture(config, model=adapted, tokenizer=tokenizer, progress=tell)
    finally:
        adapted.unload()


def _measure(
    unit: Unit,
    settings: StudySettings,
    recipe: Mapping[str, Any],
    data: TaskData,
    runs: Mapping[str, Run],
    training: Mapping[str, Any],
    report: Report,
    scheduler: str | None,
) -> None:
    """Save a unit's results, once its runs are known to be sound; they appear last, and so say that all is done."""
    for run in runs.values():
        require_sound(run)
    main = next(iter(runs.values()))
    asked = information_of(unit, settings)
    if asked is not None:
        estimates = measure_information(
            main,
            components=asked["components"],
            n_tokens=asked["tokens"],
            n_shuffles=asked["shuffles"],
            scheduler=scheduler,
            progress=lambda done, total, part="": report("information", done, total, "component"),
        )
        about = {
            "model": unit.model,
            "run": f"{unit.name}/{TEST_RUN}",
            "fingerprint": str(main.attributes.get("fingerprint")),
        }
        save_whole(estimates.assign_attrs(about), information_path(settings, unit))
    results = measure_runs(
        unit,
        recipe,
        data,
        runs,
        training,
        scheduler=scheduler,
        progress=lambda done, total: report("measure", done, total, "task"),
    )
    save_whole(results, result_path(settings, unit))
