"""The steps of a unit: train, capture, measure. Each is passed over where what it makes lies there already."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lorascope.analyze import measure_information
from lorascope.capture import CaptureProgress, attach_adapter, capture, finetune
from lorascope.stores import Run
from lorascope.stores.places.file_lock import file_lock
from lorascope.stores.progress import Progress

from ..grid import Unit
from ..places import adapter_path, information_path, result_path, run_path, unit_folder
from ..settings import StudySettings
from .data import PROMPTS_RUN, TEST_RUN, TaskData, write_files
from .made_by import claim, discard, is_done, is_made_by, save_whole
from .measure import measure_runs, require_sound
from .models import Models
from .recipe import capture_config, finetune_config, information_of, recipe_of

__all__ = ["Report", "UnitWork"]

Report = Callable[[str, int, int, str], None]
"""Called with (step, done, total, what is counted)."""


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

    def _teller(self, step: str, counted: str) -> Progress:
        """What a stage calls with how far it is."""

        def tell(done: int, total: int, part: str = "") -> None:
            self.report(step, done, total, counted)

        return tell

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
                progress=self._teller("train", "step"),
            )
        record: dict[str, Any] = json.loads((folder / "finetune.json").read_text(encoding="utf-8"))
        return record

    def _capture(self, name: str) -> Run:
        """One run, finished."""

        def tell(progress: CaptureProgress) -> None:
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
            return capture(config, model=adapted, tokenizer=tokenizer, progress=tell)
        finally:
            adapted.unload()

    def _measure(self, recipe: dict[str, Any], runs: dict[str, Run], training: dict[str, Any]) -> None:
        """Save results, once the runs are known to be sound; they appear last, and so say that all is done."""
        for run in runs.values():
            require_sound(run)
        asked = information_of(self.unit, self.settings)
        if asked is not None:
            estimates = measure_information(
                runs[TEST_RUN],
                components=asked["components"],
                n_tokens=asked["tokens"],
                n_shuffles=asked["shuffles"],
                scheduler=self.scheduler,
                progress=self._teller("information", "component"),
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
            progress=self._teller("measure", "task"),
        )
        save_whole(results, result_path(self.settings, self.unit))
