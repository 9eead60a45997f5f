"""What a study will take: its tokens are counted, and their price is measured on a rehearsal of one unit."""

import dataclasses
import itertools
import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lorascope.analyze import open_result
from lorascope.capture.models.model import context_length
from lorascope.capture.samples.encode import EncodedSample, encode_items
from lorascope.capture.samples.examples import Examples
from lorascope.capture.samples.items import ChoiceItem, Item
from lorascope.capture.samples.prompt import read_template

from .data import TEST_RUN, TaskData
from .grid import Unit
from .models import Models
from .places import result_path
from .recipe import capture_config, finetune_config
from .settings import StudySettings
from .steps import run_unit

__all__ = ["Price", "Tokens", "count_tokens", "rehearse"]

REHEARSED = 4
"""Items of each kind in a rehearsal, and steps of its training: the first and the last aren't counted."""
ROW = 1024
"""Tokens of a row, which is kept whole."""
ENDLESS = 2**31


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
    """What a unit takes, measured on a few of its items."""

    fixed: float
    """Seconds of what doesn't depend on the number of items: hashes, checks, probes."""
    trained: float
    """Seconds a token."""
    scored: float
    """Seconds a token."""
    captured: float
    """Seconds a token."""
    watched: float
    """Seconds each time."""
    stored: float
    """Bytes a captured token, of the run that keeps most."""
    share: float
    """Share of the rows that keep so much."""

    def seconds(self, tokens: Tokens) -> float:
        """Time that a unit takes, but for mutual information."""
        prices = (self.trained, self.scored, self.captured, self.watched)
        return self.fixed + sum(price * n for price, n in zip(prices, tokens, strict=True))

    def bytes(self, tokens: Tokens) -> float:
        """What a unit's runs take on the disk, at most."""
        kept = self.share * tokens.captured + (ROW if self.share < 1 else 0)
        return self.stored * min(kept, tokens.captured)


def count_tokens(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> Tokens:
    """Tokens that pass the model for a unit."""
    outline = models.outline(unit)
    length, tokenizer = context_length(outline.model) or ENDLESS, outline.tokenizer
    config = finetune_config(unit, settings)
    train = encode_items(
        data.train, tokenizer, max_length=config.max_length or length, window_tokens=config.window_tokens
    )
    steps = config.max_steps or math.ceil(math.ceil(len(train) / config.batch_size) * config.epochs)
    passes = config.epochs if config.max_steps is None else steps * config.batch_size / len(train)
    watched = 0 if config.miub_every is None else 1 + steps // config.miub_every
    samples = _run_samples(unit, settings, data, tokenizer, length)
    return Tokens(passes * _length(train), 2 * sum(map(_scored, samples)), _length(samples), watched)


def rehearse(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> Price:
    """Do a unit with a few of its items, in a folder that is gone afterwards, and take the time."""
    few = _few(data)
    kept = capture_config(unit, settings, data, run=TEST_RUN)
    seen: list[float] = []

    def watch(step: str, done: int, total: int, counted: str) -> None:
        if step == "train":
            seen.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        small = _short(settings, Path(folder), "none" if kept.states == "none" else "all")
        models.load(unit)
        began = time.perf_counter()
        run_unit(unit, small, few, models, watch)
        seconds = time.perf_counter() - began
        with open_result(result_path(small, unit)) as found:
            curve = json.loads(found.attrs["training"])["miub"] or {"seconds": 0.0, "steps": [None]}
            measured = [{**run["measured"], "n": run["n_tokens"]} for run in json.loads(found.attrs["runs"]).values()]
    tokens = count_tokens(unit, small, few, models)
    price = Price(
        fixed=0.0,
        # The first step sets everything up, and after the last one MIUB is measured.
        trained=(seen[-2] - seen[0]) / (len(seen) - 2) / (tokens.trained / len(seen)),
        scored=sum(run["bare_seconds"] for run in measured) / sum(run["bare_tokens"] for run in measured),
        captured=sum(run["seconds"] for run in measured) / sum(run["n"] for run in measured),
        watched=curve["seconds"] / len(curve["steps"]),
        stored=max(run["stored_bytes"] / run["n"] for run in measured),
        share=kept.states_share if kept.states == "sample" else 1.0,
    )
    return price._replace(fixed=max(seconds - price.seconds(tokens), 0.0))


def _short(settings: StudySettings, folder: Path, states: str) -> StudySettings:
    """A study as it is rehearsed: a few steps, a text's first windows, no mutual information."""
    tasks = {}
    for name, task in settings.tasks.items():
        training = {**settings.training, **task.training}
        short = {"max_steps": REHEARSED, "batch_size": REHEARSED, "micro_batch_size": None}
        short |= {"miub_every": REHEARSED} if training.get("miub_every") else {}
        tasks[name] = task.model_copy(update={"training": {**training, **short}})
    capture = {**settings.capture, "limit": REHEARSED}  # of a text's windows; questions are as few already
    places = {"out": folder, "work": folder / "work"}
    return settings.model_copy(
        update={**places, "tasks": tasks, "capture": capture, "information": None, "states": states}
    )


def _run_samples(
    unit: Unit, settings: StudySettings, data: TaskData, tokenizer: Any, length: int
) -> list[EncodedSample]:
    """What the runs of a unit capture."""
    samples: list[EncodedSample] = []
    examples = Examples([item for item in data.examples if isinstance(item, ChoiceItem)], seed=settings.seed)
    for name, run in data.runs.items():
        config = capture_config(unit, settings, data, run=name)
        sets = {item.dataset: [other for other in run.items if other.dataset == item.dataset] for item in run.items}
        for prompt, items in itertools.product(config.prompt, sets.values()):
            found = encode_items(
                items,
                tokenizer,
                max_length=length,
                window_tokens=config.window_tokens,
                prompt=read_template(prompt),
                examples=examples,
            )
            samples += found[: config.limit]
    return samples


def _few(data: TaskData) -> TaskData:
    """A few items of each kind, of every data set's beginning; what a training is watched on stays whole."""
    runs = {name: dataclasses.replace(run, items=_first(run.items)) for name, run in data.runs.items()}
    return dataclasses.replace(data, train=_first(data.train), runs=runs)


def _first(items: Sequence[Item]) -> tuple[Item, ...]:
    seen: dict[str, int] = {}
    chosen = []
    for item in items:
        seen[item.dataset] = seen.get(item.dataset, 0) + 1
        if seen[item.dataset] <= REHEARSED:
            chosen.append(item)
    return tuple(chosen)


def _length(samples: Sequence[EncodedSample]) -> int:
    return sum(len(sample.token_ids) for sample in samples)


def _scored(sample: EncodedSample) -> int:
    if not sample.choices:
        return len(sample.token_ids)
    return sample.n_context + sum(len(choice.token_ids) for choice in sample.choices)
