"""What a study will take: its tokens are counted, and their price is measured on a rehearsal of one unit."""

import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lorascope.analyze import open_result
from lorascope.capture.models.model import context_length
from lorascope.capture.samples.encode import EncodedSample, encode_items
from lorascope.capture.samples.items import ChoiceItem, Item
from lorascope.capture.samples.prompt import Examples, read_template

from ..grid import Unit
from ..places import result_path
from ..settings import StudySettings
from .data import TEST_RUN, TaskData
from .models import Models
from .recipe import capture_config, finetune_config
from .steps import UnitWork

__all__ = ["Cost", "count_tokens", "rehearse"]

REHEARSED = 4
"""Items of each data set in a rehearsal, and steps of its training: the first and the last aren't counted."""
ENDLESS = 2**31
"""Context of a model that names none."""


class Cost(NamedTuple):
    """What a unit takes: tokens that pass the model, padding not counted; or seconds for each of these."""

    trained: float
    """Training samples, once for each time that they are trained on."""
    scored: float
    """Prompts and choices, once with the adapter and once without."""
    captured: float
    """The runs' samples."""

    def times(self, prices: "Cost") -> float:
        """Seconds that these tokens take at so many seconds each."""
        return sum(n * price for n, price in zip(self, prices, strict=True))


def count_tokens(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> Cost:
    """Tokens that pass the model for a unit."""
    outline, config = models.outline(unit), finetune_config(unit, settings)
    limit = config.max_length or context_length(outline.model) or ENDLESS
    train = encode_items(data.train, outline.tokenizer, max_length=limit, window_tokens=config.window_tokens)
    steps = config.max_steps or math.ceil(math.ceil(len(train) / config.batch_size) * config.epochs)
    passes = config.epochs if config.max_steps is None else steps * config.batch_size / len(train)
    samples = list(_run_samples(unit, settings, data, models))
    scored = [
        sample.n_context + sum(len(choice.token_ids) for choice in sample.choices)
        if sample.choices
        else len(sample.token_ids)
        for sample in samples
    ]
    return Cost(passes * _length(train), 2 * sum(scored), _length(samples))


def rehearse(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> tuple[Cost, float]:
    """Seconds of each token, and most bytes that a captured one takes, measured on a few items of a unit.

    It is done in a folder that is gone afterwards.
    """
    runs = {name: dataclasses.replace(run, items=_first(run.items)) for name, run in data.runs.items()}
    few = dataclasses.replace(data, train=_first(data.train), runs=runs)
    kept = capture_config(unit, settings, data, run=TEST_RUN)
    steps: list[float] = []

    def watch(step: str, done: int, total: int, counted: str) -> None:
        if step == "train":
            steps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        small = _shorten(settings, Path(folder), "none" if kept.states == "none" else "all")
        models.load(unit)
        UnitWork(unit=unit, settings=small, data=few, models=models, report=watch).run()
        with open_result(result_path(small, unit)) as found:
            measured = [{**run["measured"], "n": run["n_tokens"]} for run in json.loads(found.attrs["runs"]).values()]
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
    capture = {**settings.capture, "limit": REHEARSED}  # of a text's windows; questions are as few already
    changes = {"out": folder, "work": folder / "work", "capture": capture, "states": states, "information": None}
    return settings.model_copy(update={"tasks": tasks, **changes})


def _run_samples(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> Iterator[EncodedSample]:
    """What the runs of a unit capture."""
    outline = models.outline(unit)
    length = context_length(outline.model) or ENDLESS
    examples = Examples([item for item in data.examples if isinstance(item, ChoiceItem)], seed=settings.seed)
    for name, run in data.runs.items():
        config = capture_config(unit, settings, data, run=name)
        limits = {"max_length": length, "window_tokens": config.window_tokens}
        for dataset in dict.fromkeys(item.dataset for item in run.items):
            items = [item for item in run.items if item.dataset == dataset]
            for prompt in map(read_template, config.prompt):
                found = encode_items(items, outline.tokenizer, prompt=prompt, examples=examples, **limits)
                yield from found[: config.limit]


def _first(items: Sequence[Item]) -> tuple[Item, ...]:
    """The first items of each data set."""
    sets = {name: [item for item in items if item.dataset == name] for name in dict.fromkeys(x.dataset for x in items)}
    return tuple(item for own in sets.values() for item in own[:REHEARSED])


def _length(samples: Sequence[EncodedSample]) -> int:
    return sum(len(sample.token_ids) for sample in samples)
