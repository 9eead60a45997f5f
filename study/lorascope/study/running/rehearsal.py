"""What a study will take: its tokens are counted, and their price is measured on a rehearsal of one unit."""

import dataclasses
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lorascope.analyze import open_result
from lorascope.capture.models.model import context_length
from lorascope.capture.samples.encode import EncodedSample, encode_items
from lorascope.capture.samples.examples import Examples
from lorascope.capture.samples.items import ChoiceItem, Item
from lorascope.capture.samples.prompt import read_template

from ..grid import Unit
from ..places import result_path
from ..settings import StudySettings
from .data import TEST_RUN, TaskData
from .models import Models
from .recipe import capture_config, finetune_config
from .steps import UnitWork

__all__ = ["Price", "Tokens", "count_tokens", "rehearse"]

REHEARSED = 4
"""Items of each data set in a rehearsal, and steps of its training: the first and the last aren't counted."""
ROW = 1024
"""Tokens of a row, which is kept whole."""
ENDLESS = 2**31
"""Context of a model that names none."""


class Tokens(NamedTuple):
    """What passes the model for one unit; padding isn't counted."""

    trained: float
    """Tokens of the training samples, once for each time that they are trained on."""
    scored: float
    """Tokens of prompts and choices, once with the adapter and once without."""
    captured: float
    """Tokens of the runs' samples."""
    watched: float
    """Times that MIUB is measured while the adapter is trained."""


class Price(NamedTuple):
    """What a unit takes, measured on a few of its items: seconds of each kind of `Tokens`, and bytes."""

    trained: float
    scored: float
    captured: float
    watched: float
    fixed: float
    """Seconds of what doesn't depend on the number of items: hashes, checks, probes."""
    stored: float
    """Bytes a captured token, of the run that keeps most."""
    share: float
    """Share of the rows that keep so much."""

    def seconds(self, tokens: Tokens) -> float:
        """Time that a unit takes, but for mutual information."""
        return self.fixed + sum(price * n for price, n in zip(self[:4], tokens, strict=True))

    def bytes(self, tokens: Tokens) -> float:
        """What a unit's runs take on the disk, at most."""
        return self.stored * min(self.share * tokens.captured + ROW * (self.share < 1), tokens.captured)


def count_tokens(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> Tokens:
    """Tokens that pass the model for a unit."""
    outline = models.outline(unit)
    length, config = context_length(outline.model) or ENDLESS, finetune_config(unit, settings)
    limits = {"max_length": config.max_length or length, "window_tokens": config.window_tokens}
    train = encode_items(data.train, outline.tokenizer, **limits)
    steps = config.max_steps or math.ceil(math.ceil(len(train) / config.batch_size) * config.epochs)
    passes = config.epochs if config.max_steps is None else steps * config.batch_size / len(train)
    watched = 0 if config.miub_every is None else 1 + steps // config.miub_every
    samples = list(_run_samples(unit, settings, data, models))
    scored = sum(
        sample.n_context + sum(len(choice.token_ids) for choice in sample.choices)
        if sample.choices
        else len(sample.token_ids)
        for sample in samples
    )
    return Tokens(passes * _length(train), 2 * scored, _length(samples), watched)


def rehearse(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> Price:
    """Do a unit with a few of its items, in a folder that is gone afterwards, and take the time."""
    runs = {name: dataclasses.replace(run, items=_first(run.items)) for name, run in data.runs.items()}
    few = dataclasses.replace(data, train=_first(data.train), runs=runs)
    kept = capture_config(unit, settings, data, run=TEST_RUN)
    steps: list[float] = []

    def watch(step: str, done: int, total: int, counted: str) -> None:
        if step == "train":
            steps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        small = _shortened(settings, Path(folder), "none" if kept.states == "none" else "all")
        models.load(unit)
        began = time.perf_counter()
        UnitWork(unit=unit, settings=small, data=few, models=models, report=watch).run()
        seconds = time.perf_counter() - began
        with open_result(result_path(small, unit)) as found:
            curve = json.loads(found.attrs["training"])["miub"] or {"seconds": 0.0, "steps": [None]}
            measured = [{**run["measured"], "n": run["n_tokens"]} for run in json.loads(found.attrs["runs"]).values()]
    tokens = count_tokens(unit, small, few, models)
    sums = {name: sum(run[name] for run in measured) for name in ("bare_seconds", "bare_tokens", "seconds", "n")}
    price = Price(
        # The first step sets everything up, and after the last one MIUB is measured.
        trained=(steps[-2] - steps[0]) / (len(steps) - 2) / (tokens.trained / len(steps)),
        scored=sums["bare_seconds"] / sums["bare_tokens"],
        captured=sums["seconds"] / sums["n"],
        watched=curve["seconds"] / len(curve["steps"]),
        fixed=0.0,
        stored=max(run["stored_bytes"] / run["n"] for run in measured),
        share=kept.states_share if kept.states == "sample" else 1.0,
    )
    return price._replace(fixed=max(seconds - price.seconds(tokens), 0.0))


def _shortened(settings: StudySettings, folder: Path, states: str) -> StudySettings:
    """A study as it is rehearsed: a few steps, a text's first windows, no mutual information."""
    short = {"max_steps": REHEARSED, "batch_size": REHEARSED, "micro_batch_size": None}
    tasks = {}
    for name, task in settings.tasks.items():
        training = {**settings.training, **task.training}
        watched = {"miub_every": REHEARSED} if training.get("miub_every") else {}
        tasks[name] = task.model_copy(update={"training": {**training, **short, **watched}})
    capture = {**settings.capture, "limit": REHEARSED}  # of a text's windows; questions are as few already
    changes = {"out": folder, "work": folder / "work", "capture": capture, "states": states, "information": None}
    return settings.model_copy(update={"tasks": tasks, **changes})


def _run_samples(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> Iterator[EncodedSample]:
    """What the runs of a unit capture."""
    outline = models.outline(unit)
    examples = Examples([item for item in data.examples if isinstance(item, ChoiceItem)], seed=settings.seed)
    for name, run in data.runs.items():
        config = capture_config(unit, settings, data, run=name)
        for dataset in dict.fromkeys(item.dataset for item in run.items):
            items = [item for item in run.items if item.dataset == dataset]
            for prompt in config.prompt:
                yield from encode_items(
                    items,
                    outline.tokenizer,
                    max_length=context_length(outline.model) or ENDLESS,
                    window_tokens=config.window_tokens,
                    prompt=read_template(prompt),
                    examples=examples,
                )[: config.limit]


def _first(items: Sequence[Item]) -> tuple[Item, ...]:
    """The first items of each data set."""
    seen: Counter[str] = Counter()
    chosen = []
    for item in items:
        seen[item.dataset] += 1
        if seen[item.dataset] <= REHEARSED:
            chosen.append(item)
    return tuple(chosen)


def _length(samples: Sequence[EncodedSample]) -> int:
    return sum(len(sample.token_ids) for sample in samples)
