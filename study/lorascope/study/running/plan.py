"""Plan of a study: the tokens that pass the model for each unit, counted without the model's weights."""

from typing import Any, NamedTuple

from lorascope.capture.models.model import context_length
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.items import ChoiceItem
from lorascope.capture.samples.prompt import Examples, read_template

from ..grid import Unit, units_of
from ..settings import StudySettings
from .data import TaskData
from .inputs import require_inputs
from .recipe import capture_config, finetune_config
from .run import draw_all
from .steps import Models

ENDLESS = 2**31
"""Context length of a model whose configuration names none, in tokens."""


class TokenCounts(NamedTuple):
    """Tokens of a unit that pass the model, without padding."""

    trained: float
    """Tokens of training samples, once for each time that they are trained on."""
    scored: float
    """Tokens of prompts and choices, once with the adapter and once without."""
    captured: float
    """Tokens of the runs' samples."""


class PlannedUnit(NamedTuple):
    """A unit with its tokens."""

    unit: Unit
    tokens: TokenCounts
    notes: tuple[str, ...]
    """Sentences on data sets that have too few items."""


def plan_study(settings: StudySettings) -> list[PlannedUnit]:
    """Count the tokens of every unit of a study, in the order in which they run."""
    units, models = units_of(settings), Models(settings)
    require_inputs(settings, units, weights=False)
    data = draw_all(settings, units, models)
    return [PlannedUnit(unit, count_tokens(unit, settings, data[unit], models), data[unit].notes) for unit in units]


def count_tokens(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> TokenCounts:
    """Tokens that pass the model for a unit."""
    outline, training = models.outline(unit), finetune_config(unit, settings)
    context = context_length(outline.model) or ENDLESS
    longest = training.max_length or context
    train = encode_items(data.train, outline.tokenizer, max_length=longest, window_tokens=training.window_tokens)
    steps = training.max_steps
    passes = training.epochs if steps is None else steps * training.batch_size / len(train)
    trained = passes * sum(len(sample.token_ids) for sample in train)
    examples = Examples([item for item in data.examples if isinstance(item, ChoiceItem)], seed=settings.seed)
    scored = captured = 0
    for name, run in data.runs.items():
        config = capture_config(unit, settings, data, run=name)
        how: dict[str, Any] = {"max_length": context, "window_tokens": config.window_tokens, "examples": examples}
        for prompt in config.prompt:
            for sample in encode_items(run.items, outline.tokenizer, prompt=read_template(prompt), **how):
                choices = sum(len(choice.token_ids) for choice in sample.choices)
                captured += len(sample.token_ids)
                scored += sample.n_context + choices if choices else len(sample.token_ids)
    return TokenCounts(trained, 2 * scored, captured)
