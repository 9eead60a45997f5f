"""The steps of a unit: train, capture, measure. Each is passed over where what it makes lies there already."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import xarray as xr

from lorascope.analyze import measure_information
from lorascope.capture import CaptureProgress, attach_adapter, capture, finetune, load_model
from lorascope.capture.planning.meta import MetaModel, load_on_meta
from lorascope.capture.settling.provenance import differences
from lorascope.stores import Run
from lorascope.stores.json_document import read_json
from lorascope.stores.places.file_lock import file_lock
from lorascope.stores.places.files import atomic_write
from lorascope.stores.progress import Progress

from ..grid import Unit, adapter_path, information_path, result_path, run_path, unit_folder
from ..results.units import read_record
from ..settings import StudySettings
from .data import PROMPTS_RUN, TEST_RUN, TaskData, write_files
from .measure import measure_runs, require_sound
from .recipe import capture_config, finetune_config, information_of, model_source, recipe_of

MADE_BY = "recipe.json"
"""File of a unit's folder: the recipe that all in it was made by."""
MOST_SHOWN = 3
"""Differences that an error names before it only counts the rest."""

Report = Callable[[str, int, int, str], None]
"""Called with (step, done, total, what is counted)."""


class Models:
    """Base models of a study, by unit: one is loaded at a time, and kept while the units that follow need it."""

    def __init__(self, settings: StudySettings) -> None:
        self._settings = settings
        self._loaded: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._outlines = cache(load_on_meta)

    def load(self, unit: Unit) -> tuple[Any, Any]:
        """The base model of a unit, with its shared weights, and its tokenizer; the one before it is let go."""
        settings, key = self._settings, (unit.model, unit.share)
        if key not in self._loaded:
            self._loaded.clear()  # before the next one takes its place
            self._loaded[key] = load_model(
                model_source(unit.model, settings),
                dtype=settings.dtype,
                device=settings.device,
                share=unit.share,
                shared_layers=settings.shared_layers,
                share_from=settings.share_from,
            )
        return self._loaded[key]

    def outline(self, unit: Unit) -> MetaModel:
        """A unit's model without its weights, and its tokenizer."""
        return self._outlines(model_source(unit.model, self._settings))


@dataclass(frozen=True, kw_only=True)
class UnitWork:
    """A unit with all that its steps need."""

    unit: Unit
    settings: StudySettings
    data: TaskData
    models: Models
    report: Report
    scheduler: str | None = None
    """Scheduler of Dask that computes of runs, as in `miub`."""

    def run(self) -> bool:
        """Do what is missing; returns whether there was anything to do.

        Raises
        ------
        FileExistsError
            If another process works on it.
        ValueError
            If what lies there was made by another recipe, or a run is damaged.
        """
        settings, unit = self.settings, self.unit
        recipe, work = recipe_of(unit, settings, self.data), unit_folder(settings, unit)
        if is_done(settings, unit, recipe):
            if settings.states == "none" and is_made_by(work, recipe):  # it was stopped on its last step
                with file_lock(work):
                    discard(work)
            return False
        # Another study may have the same folder of work.
        with file_lock(result_path(settings, unit)), file_lock(work):
            if is_done(settings, unit, recipe):  # meanwhile
                return False
            information_path(settings, unit).unlink(missing_ok=True)  # it never stands beside others' results
            result_path(settings, unit).unlink(missing_ok=True)
            claim(work, recipe)
            training = self._train()
            self._measure(recipe, {name: self._capture(name) for name in self.data.runs}, training)
            if settings.states == "none":
                discard(work)
        return True

    def _progress(self, step: str, counted: str) -> Progress:
        """A callback that reports a stage's progress."""

        def update(done: int, total: int, part: str = "") -> None:
            self.report(step, done, total, counted)

        return update

    def _train(self) -> dict[str, Any]:
        """The record of the fine-tuning, whose adapter lies there afterwards."""
        folder = adapter_path(self.settings, self.unit)
        if not folder.exists():  # it appears under its name only when it is whole
            finetune(
                *self.models.load(self.unit),
                self.data.train,
                folder,
                finetune_config(self.unit, self.settings),
                items_eval=self.data.probe,
                progress=self._progress("train", "step"),
            )
        record: dict[str, Any] = read_json(folder / "finetune.json")
        return record

    def _capture(self, name: str) -> Run:
        """One run, finished."""

        def update(progress: CaptureProgress) -> None:
            self.report(f"{name}: {progress.stage}", progress.done, progress.total, progress.unit)

        place, adapter = run_path(self.settings, self.unit, name), adapter_path(self.settings, self.unit)
        examples = write_files(self.data.examples, place.with_name("examples")) if name == PROMPTS_RUN else ()
        config = capture_config(
            self.unit,
            self.settings,
            self.data,
            run=name,
            examples=examples,
            adapter=str(adapter),
            files=write_files(self.data.runs[name].items, place.with_name("data")),
            out=str(place),
        )
        model, tokenizer = self.models.load(self.unit)
        adapted = attach_adapter(model, adapter)
        try:
            return capture(config, model=adapted, tokenizer=tokenizer, progress=update)
        finally:
            adapted.unload()

    def _measure(self, recipe: dict[str, Any], runs: dict[str, Run], training: dict[str, Any]) -> None:
        """Save results, once the runs are known to be sound; they appear last, and so say that all is done."""
        for run in runs.values():
            require_sound(run)
        information = information_of(self.unit, self.settings)
        if information is not None:
            estimates = measure_information(
                runs[TEST_RUN],
                components=information["components"],
                n_tokens=information["tokens"],
                n_shuffles=information["shuffles"],
                scheduler=self.scheduler,
                progress=self._progress("information", "component"),
            )
            fingerprint = str(runs[TEST_RUN].attributes.get("fingerprint"))
            about = {"model": self.unit.model, "run": f"{self.unit.name}/{TEST_RUN}", "fingerprint": fingerprint}
            save_whole(estimates.assign_attrs(about), information_path(self.settings, self.unit))
        results = measure_runs(
            self.unit,
            recipe,
            self.data,
            runs,
            training,
            scheduler=self.scheduler,
            progress=self._progress("measure", "task"),
        )
        save_whole(results, result_path(self.settings, self.unit))


def claim(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Make a unit's folder, and note there by what recipe; what another recipe made there is refused.

    The note is the first file of a folder: what lies in one without it is nobody's, and deleted.

    Raises
    ------
    ValueError
        If it was made by another recipe.
    """
    marker = folder / MADE_BY
    if marker.is_file():
        _require_same(read_json(marker), recipe, folder)
        return
    discard(folder)
    with atomic_write(marker) as partial:
        partial.write_text(json.dumps(recipe, indent=1))


def discard(folder: Path) -> None:
    """Delete a folder: killed meanwhile, no part of it is left under its name."""
    discarded = folder.with_name(f".{folder.name}.discarded")
    if discarded.exists():
        shutil.rmtree(discarded)
    if folder.exists():
        folder.rename(discarded)
        shutil.rmtree(discarded)


def is_made_by(folder: Path, recipe: Mapping[str, Any]) -> bool:
    """Whether a unit's folder was made by this recipe, and not for another study."""
    marker = folder / MADE_BY
    return marker.is_file() and read_json(marker) == recipe


def is_done(settings: StudySettings, unit: Unit, recipe: Mapping[str, Any]) -> bool:
    """Whether a unit's results are there, by this recipe.

    Raises
    ------
    ValueError
        If they were made by another recipe, are damaged, or a part is missing.
    """
    path, estimates = result_path(settings, unit), information_path(settings, unit)
    if not path.exists():
        return False
    _require_same(read_record(path).recipe, recipe, path)
    if recipe["measure"]["information"] is not None and not estimates.exists():
        raise ValueError(
            f"`{estimates}` is missing; put it back, or delete `{path}` too, and the study makes both again"
        )
    return True


def save_whole(result: xr.Dataset, path: Path) -> None:
    """Save, read again, compare, and only then give it its name: what it was made of may be deleted afterwards."""
    with atomic_write(path, flush=True) as partial:
        result.to_netcdf(partial, engine="netcdf4")
        with xr.open_dataset(partial, engine="netcdf4", cache=False) as stored:
            texts = {key: value for key, value in result.attrs.items() if isinstance(value, str)}
            if not (result.equals(stored.load()) and texts.items() <= stored.attrs.items()):
                raise OSError(f"`{path}` wouldn't hold what was written; is the disk sound?")


def _require_same(stored: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    if changes := list(differences(stored, expected)):
        more = f" and {len(changes) - MOST_SHOWN} more" if len(changes) > MOST_SHOWN else ""
        raise ValueError(
            f"`{path}` was made with other settings ({'; '.join(changes[:MOST_SHOWN])}{more}); put them back, name "
            "another `out`, or delete it"
        )
