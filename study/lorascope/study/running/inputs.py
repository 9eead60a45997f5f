"""Whether what a study reads is there, looked at before anything heavy is imported."""

from collections.abc import Sequence

from lorascope.capture.models.source import locate_model
from lorascope.capture.samples.prompt import read_template
from lorascope.capture.samples.sources import require_data

from ..grid import Unit
from ..settings import StudySettings
from .data import data_source
from .recipe import model_source, prompt_sources


def require_inputs(settings: StudySettings, units: Sequence[Unit], *, weights: bool = True) -> None:
    """Raise unless models, with or without their weights, data and prompts of these units are there.

    Raises
    ------
    FileNotFoundError, ValueError
        If one isn't there, as far as this machine tells, or isn't what it should be by its name.
    """
    for model in dict.fromkeys(unit.model for unit in units):
        locate_model(model_source(model, settings), weights=weights)
    for name in dict.fromkeys(unit.task for unit in units):
        task = settings.tasks[name]
        for source in (*task.train, *task.test):
            require_data(data_source(source, settings))
        for prompt in prompt_sources(task.prompts, settings):
            read_template(prompt)
