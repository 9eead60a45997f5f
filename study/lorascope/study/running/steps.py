"""The steps of a unit: train, capture, measure; each is skipped if its result exists."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import xarray as xr

from lorascope.analyze import measure_information
from lorascope.analyze.results.digests import add_digests
from lorascope.capture import attach_adapter, capture, finetune, load_model
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
from .recipe import capture_config, finetune_config, information_settings, model_source, unit_recipe

RECIPE_FILE = "recipe.json"
"""File in a unit's folder with the recipe that made everything in it."""
N_DIFFERENCES = 3
"""Most differences that an error lists."""

StepProgress = Callable[[str, int, int, str], None]
"""Callback of (step, done, total, thing counted)."""


class Models:
    """Base models of a study: a single one is in memory, for as long as the next units need it."""

    def __init__(self, settings: StudySettings) -> None:
        """Keep the settings; a model is loaded when a unit needs it."""
        self._settings = settings
        self._loaded: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._outlines = cache(load_on_meta)

    def load(self, unit: Unit) -> tuple[Any, Any]:
        """Return (base model, tokenizer) that a unit needs, layers shared as it says; release the previous model."""
        settings, key = self._settings, (unit.model, unit.share)
        if key not in self._loaded:
            self._loaded.clear()  # before loading the next one
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
        """Return a unit's model without weights, on PyTorch's meta device, and its tokenizer."""
        return self._outlines(model_source(unit.model, self._settings))


@dataclass(frozen=True, kw_only=True)
class UnitWork:
    """A unit (adapter) with all that it takes to train, capture and measure it, which `run` does."""

    unit: Unit
    settings: StudySettings
    data: TaskData
    models: Models
    report: StepProgress
    scheduler: str | None = None
    """Dask scheduler that computes MIUB and mutual information, as in `miub`."""

    def run(self) -> bool:
        """Train, capture and measure the unit if its results are missing; return True if they were.

        Raises FileExistsError if another process works on the unit, and ValueError if a folder was made by another
        recipe or a run is damaged.
        """
        settings, unit = self.settings, self.unit
        recipe, work = unit_recipe(unit, settings, self.data), unit_folder(settings, unit)
        if is_done(settings, unit, recipe):
            if settings.states == "none" and has_recipe(work, recipe):  # stopped before its last step, the deletion
                with file_lock(work):
                    delete_folder(work)
            return False
        # Two studies may use the same folder of work.
        with file_lock(result_path(settings, unit)), file_lock(work):
            if is_done(settings, unit, recipe):  # by another process in the meantime
                return False
            information_path(settings, unit).unlink(missing_ok=True)  # it must not outlive these results
            result_path(settings, unit).unlink(missing_ok=True)
            claim_folder(work, recipe)
            training = self._train()
            self._measure(recipe, {name: self._capture(name) for name in self.data.runs}, training)
            if settings.states == "none":
                delete_folder(work)
        return True

    def _progress(self, step: str, counted: str) -> Progress:
        """Return a callback of (done, total, part) that reports the progress of `step`, counted in `counted`."""
        return lambda done, total, part="": self.report(step, done, total, counted)

    def _train(self) -> dict[str, Any]:
        """Train the unit's adapter if it doesn't exist; return the record of its training."""
        folder = adapter_path(self.settings, self.unit)
        if not folder.exists():  # it gets its name only once it is complete
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
        """Capture the unit's run `name`, or continue it; return the finished run."""
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
            return capture(
                config,
                model=adapted,
                tokenizer=tokenizer,
                progress=lambda now: self.report(f"{name}: {now.stage}", now.done, now.total, now.units),
            )
        finally:
            adapted.unload()

    def _measure(self, recipe: dict[str, Any], runs: dict[str, Run], training: dict[str, Any]) -> None:
        """Check the unit's runs, then save their estimates of mutual information, and last the results.

        Results mark the unit as done.
        """
        for run in runs.values():
            require_sound(run)
        information = information_settings(self.unit, self.settings)
        if information is not None:
            estimates = measure_information(
                runs[TEST_RUN],
                component=information["components"],
                n_tokens=information["tokens"],
                n_shuffles=information["shuffles"],
                scheduler=self.scheduler,
                progress=self._progress("information", "component"),
            )
            fingerprint = str(runs[TEST_RUN].attributes.get("fingerprint"))
            about = {"model": self.unit.model, "run": f"{self.unit.name}/{TEST_RUN}", "fingerprint": fingerprint}
            save_checked(estimates.assign_attrs(about), information_path(self.settings, self.unit))
        results = measure_runs(
            self.unit,
            recipe,
            self.data,
            runs,
            training,
            scheduler=self.scheduler,
            progress=self._progress("measure", "task"),
        )
        save_checked(results, result_path(self.settings, self.unit))


def claim_folder(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Make a unit's folder with its recipe in it; raise ValueError if the existing one has another recipe.

    The recipe is the first file of a folder: a folder without it is unfinished, and deleted.
    """
    marker = folder / RECIPE_FILE
    if marker.is_file():
        _require_same_recipe(read_json(marker), recipe, folder)
        return
    delete_folder(folder)
    with atomic_write(marker) as partial:
        partial.write_text(json.dumps(recipe, indent=1))


def delete_folder(folder: Path) -> None:
    """Delete a folder, renamed first, so that a kill leaves no half-deleted folder under its name."""
    discarded = folder.with_name(f".{folder.name}.discarded")
    if discarded.exists():
        shutil.rmtree(discarded)
    if folder.exists():
        folder.rename(discarded)
        shutil.rmtree(discarded)


def has_recipe(folder: Path, recipe: Mapping[str, Any]) -> bool:
    """Return whether a unit's folder was made by this recipe (all that its results depend on)."""
    marker = folder / RECIPE_FILE
    return marker.is_file() and read_json(marker) == recipe


def is_done(settings: StudySettings, unit: Unit, recipe: Mapping[str, Any]) -> bool:
    """Return whether a unit's results exist; raise ValueError if another recipe made them, or a file is missing."""
    path, estimates = result_path(settings, unit), information_path(settings, unit)
    if not path.exists():
        return False
    _require_same_recipe(read_record(path).recipe, recipe, path)
    if recipe["measure"]["information"] is not None and not estimates.exists():
        raise ValueError(
            f"`{estimates}` is missing; put it back, or delete `{path}` too, and the study makes both again"
        )
    return True


def save_checked(result: xr.Dataset, path: Path) -> None:
    """Save a dataset as NetCDF under its name only if it reads back equal; else raise OSError.

    The runs that it was computed from may be deleted afterwards.
    """
    with atomic_write(path, flush=True) as partial:
        result.to_netcdf(partial, engine="netcdf4")
        with xr.open_dataset(partial, engine="netcdf4", cache=False) as stored:
            texts = {key: value for key, value in result.attrs.items() if isinstance(value, str)}
            if not (result.equals(stored.load()) and texts.items() <= stored.attrs.items()):
                raise OSError(f"`{path}` wouldn't hold what was written; is the disk sound?")
        add_digests(partial)


def _require_same_recipe(stored: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError, with the first differences, if a stored recipe isn't the expected one."""
    if changes := list(differences(stored, expected)):
        more = f" and {len(changes) - N_DIFFERENCES} more" if len(changes) > N_DIFFERENCES else ""
        raise ValueError(
            f"`{path}` was made with other settings ({'; '.join(changes[:N_DIFFERENCES])}{more}); put them back, name "
            "another `out`, or delete it"
        )
