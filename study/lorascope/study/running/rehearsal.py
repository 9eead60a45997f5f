"""Plan of a study: counts tokens, and measures the time per token by rehearsing one unit on a few items."""

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
from lorascope.capture.settling.trial import scored_tokens

from ..grid import Unit, grid_units, result_path, select_units
from ..results.units import read_record
from ..settings import StudySettings
from .data import TEST_RUN, Item, TaskData
from .recipe import capture_config, finetune_config, information_settings, require_inputs
from .run import draw_all_items
from .steps import Models, UnitWork

REHEARSED = 4
"""Items per data set in a rehearsal, and steps of its training."""
UNSTATED_CONTEXT = 2**31
"""Context length of a model that doesn't state one."""


class Cost(NamedTuple):
    """Tokens that pass the model in a unit's training, scoring and capture; or the seconds per token of each."""

    trained: float
    """Tokens of training samples, times their passes."""
    scored: float
    """Tokens of prompts and choices, with the adapter and without."""
    captured: float
    """Tokens of the runs' samples."""

    def seconds(self, prices: "Cost") -> float:
        """Return the seconds that these tokens take, given `prices`, the seconds per token."""
        return sum(n * price for n, price in zip(self, prices, strict=True))


class UnitPlan(NamedTuple):
    """Expected tokens, time and disk space of one unit (adapter) of a study."""

    unit: Unit
    tokens: Cost
    seconds: float | None
    """Seconds estimated by a rehearsal, without mutual information and MIUB in training; None without a rehearsal."""
    stored_bytes: float
    """Largest size of its runs on disk; 0 without a rehearsal."""
    notes: tuple[str, ...]
    """Sentences on items that are missing."""


def plan_study(settings: StudySettings, *, only: str | None = None, probe: bool = True) -> list[UnitPlan]:
    """Return tokens, time and disk space that each unit (adapter) needs; `probe` measures times on a few items."""
    units, models = select_units(grid_units(settings), only), Models(settings)
    require_inputs(settings, units, weights=probe)
    data = draw_all_items(settings, units, models)
    prices: dict[tuple[str, str], tuple[Cost, float]] = {}
    planned = []
    for unit in units:
        tokens, key = count_tokens(unit, settings, data[unit], models), (unit.model, unit.task)
        if probe and key not in prices:
            alike = [other for other in units if (other.model, other.task) == key]
            largest = max(alike, key=lambda other: (information_settings(other, settings) is not None, other.rank))
            prices[key] = rehearse(largest, settings, data[largest], models)
        price, bytes_each = prices.get(key, (None, 0.0))
        seconds = None if price is None else tokens.seconds(price)
        planned.append(UnitPlan(unit, tokens, seconds, tokens.captured * bytes_each, data[unit].notes))
    return planned


def count_tokens(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> Cost:
    """Return the tokens that pass the model for a unit's training, scoring and capture, without padding."""
    outline, training = models.outline(unit), finetune_config(unit, settings)
    context = context_length(outline.model) or UNSTATED_CONTEXT
    longest = training.max_length or context
    train = encode_items(data.train, outline.tokenizer, max_length=longest, window_tokens=training.window_tokens)
    steps = training.max_steps
    passes = training.epochs if steps is None else steps * training.batch_size / len(train)
    trained = passes * sum(len(sample.token_ids) for sample in train)
    examples = Examples([item for item in data.examples if isinstance(item, ChoiceItem)], seed=settings.seed)
    scored = captured = 0
    for name, run in data.runs.items():
        config = capture_config(unit, settings, data, run=name)
        for items, prompt in itertools.product(_group_by_set(run.items), map(read_template, config.prompt)):
            how: dict[str, Any] = {"max_length": context, "window_tokens": config.window_tokens, "prompt": prompt}
            samples = encode_items(items, outline.tokenizer, examples=examples, **how)
            for sample in samples[: config.limit]:
                captured += len(sample.token_ids)
                scored += scored_tokens(sample)
    return Cost(trained, 2 * scored, captured)


def rehearse(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> tuple[Cost, float]:
    """Run a unit on a few items in a temporary folder; return seconds per token, and bytes per captured token."""
    runs = {name: dataclasses.replace(run, items=_first_items(run.items)) for name, run in data.runs.items()}
    few = dataclasses.replace(data, train=_first_items(data.train), runs=runs)
    keeps_states = capture_config(unit, settings, data, run=TEST_RUN).states != "none"
    steps: list[float] = []

    def watch(step: str, done: int, total: int, counted: str) -> None:
        """Append the time to `steps` after each step of the training."""
        if step == "train":
            steps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        small = _rehearsal_settings(settings, Path(folder), "all" if keeps_states else "none")
        models.load(unit)
        UnitWork(unit=unit, settings=small, data=few, models=models, report=watch).run()
        measured = [
            {**run["measured"], "n": run["n_tokens"]} for run in read_record(result_path(small, unit)).runs.values()
        ]
    tokens = count_tokens(unit, small, few, models)
    sums = {name: sum(run[name] for run in measured) for name in ("bare_seconds", "bare_tokens", "seconds", "n")}
    # The first step includes the setup, and MIUB is measured after the last one.
    step_seconds = (steps[-2] - steps[0]) / (len(steps) - 2)
    prices = Cost(
        step_seconds / (tokens.trained / len(steps)),
        sums["bare_seconds"] / sums["bare_tokens"],
        sums["seconds"] / sums["n"],
    )
    return prices, max(run["stored_bytes"] / run["n"] for run in measured)


def _rehearsal_settings(settings: StudySettings, folder: Path, states: str) -> StudySettings:
    """Return a study's settings cut down for a rehearsal: few steps and windows, no mutual information."""
    short = {"max_steps": REHEARSED, "batch_size": REHEARSED, "micro_batch_size": None, "miub_every": None}
    tasks = {
        name: task.model_copy(update={"training": {**settings.training, **task.training, **short}})
        for name, task in settings.tasks.items()
    }
    capture = {**settings.capture, "limit": REHEARSED, "measure_overhead": True}  # the limit is of a text's windows
    changes = {"out": folder, "work": folder / "work", "capture": capture, "states": states, "information": None}
    return settings.model_copy(update={"tasks": tasks, **changes})


def _group_by_set(items: Sequence[Item]) -> list[list[Item]]:
    """Return one list of items per data set, in order of first appearance."""
    return [[item for item in items if item.dataset == name] for name in dict.fromkeys(item.dataset for item in items)]


def _first_items(items: Sequence[Item]) -> tuple[Item, ...]:
    """Return the first `REHEARSED` items of each data set, for a rehearsal."""
    return tuple(item for own in _group_by_set(items) for item in own[:REHEARSED])
