"""Plan of a study: its tokens are counted, and their price is measured on a rehearsal of one unit."""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lorascope.capture.models.model import context_length
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.items import ChoiceItem
from lorascope.capture.samples.prompt import Examples, read_template

from ..grid import Unit, chosen_units, result_path, units_of
from ..results.units import read_record
from ..settings import StudySettings
from .data import TEST_RUN, Item, TaskData
from .inputs import require_inputs
from .recipe import capture_config, finetune_config, information_of
from .run import draw_all
from .steps import Models, UnitWork

REHEARSED = 4
"""Items of each data set in a rehearsal, and steps of its training: the first and the last aren't counted."""
ENDLESS = 2**31
"""Context of a model that names none."""


class Cost(NamedTuple):
    """Cost of a unit: tokens that pass the model, padding not counted; or seconds for each of these."""

    trained: float
    """Training samples, once for each time that they are trained on."""
    scored: float
    """Prompts and choices, once with the adapter and once without."""
    captured: float
    """The runs' samples."""

    def times(self, prices: "Cost") -> float:
        """Seconds that these tokens take at so many seconds each."""
        return sum(n * price for n, price in zip(self, prices, strict=True))


class Planned(NamedTuple):
    """Planned cost of a unit."""

    unit: Unit
    tokens: Cost
    seconds: float | None
    """By a rehearsal, without mutual information and MIUB in training; None without one."""
    stored_bytes: float
    """Most that its runs take on the disk; 0 without a rehearsal."""
    notes: tuple[str, ...]
    """Sentences on what there isn't enough of."""


def plan_study(settings: StudySettings, *, only: str | None = None, probe: bool = True) -> list[Planned]:
    """Plan the units of a study, or a part of them; with `probe` one of each model and task is rehearsed."""
    units, models = chosen_units(units_of(settings), only), Models(settings)
    require_inputs(settings, units, weights=probe)
    data = draw_all(settings, units, models)
    prices: dict[tuple[str, str], tuple[Cost, float]] = {}
    planned = []
    for unit in units:
        tokens, key = count_tokens(unit, settings, data[unit], models), (unit.model, unit.task)
        if probe and key not in prices:
            alike = [other for other in units if (other.model, other.task) == key]
            largest = max(alike, key=lambda other: (information_of(other, settings) is not None, other.rank))
            prices[key] = rehearse(largest, settings, data[largest], models)
        price, bytes_each = prices.get(key, (None, 0.0))
        seconds = None if price is None else tokens.times(price)
        planned.append(Planned(unit, tokens, seconds, tokens.captured * bytes_each, data[unit].notes))
    return planned


def count_tokens(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> Cost:
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
        for items, prompt in itertools.product(_sets(run.items), map(read_template, config.prompt)):
            how: dict[str, Any] = {"max_length": context, "window_tokens": config.window_tokens, "prompt": prompt}
            samples = encode_items(items, outline.tokenizer, examples=examples, **how)
            for sample in samples[: config.limit]:
                choices = sum(len(choice.token_ids) for choice in sample.choices)
                captured += len(sample.token_ids)
                scored += sample.n_context + choices if choices else len(sample.token_ids)
    return Cost(trained, 2 * scored, captured)


def rehearse(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> tuple[Cost, float]:
    """Seconds of each token, and most bytes that a captured one takes, measured on a few items of a unit.

    It is done in a folder that is gone afterwards.
    """
    runs = {name: dataclasses.replace(run, items=_first(run.items)) for name, run in data.runs.items()}
    few = dataclasses.replace(data, train=_first(data.train), runs=runs)
    keeps_states = capture_config(unit, settings, data, run=TEST_RUN).states != "none"
    steps: list[float] = []

    def watch(step: str, done: int, total: int, counted: str) -> None:
        if step == "train":
            steps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        small = _shorten(settings, Path(folder), "all" if keeps_states else "none")
        models.load(unit)
        UnitWork(unit=unit, settings=small, data=few, models=models, report=watch).run()
        measured = [
            {**run["measured"], "n": run["n_tokens"]} for run in read_record(result_path(small, unit)).runs.values()
        ]
    tokens = count_tokens(unit, small, few, models)
    sums = {name: sum(run[name] for run in measured) for name in ("bare_seconds", "bare_tokens", "seconds", "n")}
    # The first step sets everything up, and after the last one MIUB is measured.
    a_step = (steps[-2] - steps[0]) / (len(steps) - 2)
    prices = Cost(
        a_step / (tokens.trained / len(steps)), sums["bare_seconds"] / sums["bare_tokens"], sums["seconds"] / sums["n"]
    )
    return prices, max(run["stored_bytes"] / run["n"] for run in measured)


def _shorten(settings: StudySettings, folder: Path, states: str) -> StudySettings:
    """A study as it is rehearsed: a few steps, a text's first windows, no mutual information."""
    short = {"max_steps": REHEARSED, "batch_size": REHEARSED, "micro_batch_size": None, "miub_every": None}
    tasks = {
        name: task.model_copy(update={"training": {**settings.training, **task.training, **short}})
        for name, task in settings.tasks.items()
    }
    capture = {
        **settings.capture,
        "limit": REHEARSED,
        "measure_overhead": True,
    }  # of a text's windows; questions are as few already
    changes = {"out": folder, "work": folder / "work", "capture": capture, "states": states, "information": None}
    return settings.model_copy(update={"tasks": tasks, **changes})


def _sets(items: Sequence[Item]) -> list[list[Item]]:
    """Items by data set."""
    return [[item for item in items if item.dataset == name] for name in dict.fromkeys(item.dataset for item in items)]


def _first(items: Sequence[Item]) -> tuple[Item, ...]:
    return tuple(item for own in _sets(items) for item in own[:REHEARSED])
