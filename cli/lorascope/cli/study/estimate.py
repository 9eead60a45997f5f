"""What a study will take: its tokens are counted, and their price is measured on a rehearsal of one unit."""

import dataclasses
import itertools
import json
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

from .data import TaskData
from .grid import Unit
from .models import Models
from .places import result_path
from .recipe import capture_config, finetune_config
from .settings import StudySettings
from .steps import run_unit

__all__ = ["Price", "Tokens", "count_tokens", "rehearse"]

REHEARSED = 4
"""Items of each kind in a rehearsal."""
ENDLESS = 2**31


class Tokens(NamedTuple):
    """What passes the model for one unit; padding isn't counted."""

    trained: float
    """Tokens of the training samples, once for each time that they are trained on."""
    scored: float
    """Tokens of prompts and choices, once with the adapter and once without."""
    captured: float
    """Tokens of the runs' samples."""


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
    stored: float
    """Bytes a captured token, of the run that keeps most."""

    def seconds(self, tokens: Tokens) -> float:
        """Time that a unit takes."""
        prices = (self.trained, self.scored, self.captured)
        return self.fixed + sum(price * n for price, n in zip(prices, tokens, strict=True))


def count_tokens(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> Tokens:
    """Tokens that pass the model for a unit."""
    outline = models.outline(unit)
    length, tokenizer = context_length(outline.model) or ENDLESS, outline.tokenizer
    config = finetune_config(unit, settings)
    train = encode_items(
        data.train, tokenizer, max_length=config.max_length or length, window_tokens=config.window_tokens
    )
    passes = config.epochs if config.max_steps is None else config.max_steps * config.batch_size / len(train)
    samples = _run_samples(unit, settings, data, tokenizer, length)
    return Tokens(passes * _length(train), 2 * sum(map(_scored, samples)), _length(samples))


def rehearse(unit: Unit, settings: StudySettings, data: TaskData, models: Models) -> Price:
    """Do a unit with a few of its items, in a folder that is gone afterwards, and take the time."""
    few = _few(data)
    with tempfile.TemporaryDirectory() as folder:
        short = {"max_steps": 1, "batch_size": REHEARSED, "micro_batch_size": None}
        tasks = {
            name: task.model_copy(update={"training": {**settings.training, **task.training, **short}})
            for name, task in settings.tasks.items()
        }
        places = {"out": Path(folder), "work": Path(folder) / "work"}
        capture = {**settings.capture, "limit": REHEARSED}  # of a text's windows; questions are as few already
        small = settings.model_copy(update={**places, "tasks": tasks, "capture": capture, "information": None})
        models.load(unit)
        began = time.perf_counter()
        run_unit(unit, small, few, models, lambda step, done, total, counted: None)
        seconds = time.perf_counter() - began
        with open_result(result_path(small, unit)) as found:
            trained = json.loads(found.attrs["training"])["train_seconds"]
            measured = [{**run["measured"], "n": run["n_tokens"]} for run in json.loads(found.attrs["runs"]).values()]
    tokens = count_tokens(unit, small, few, models)
    price = Price(
        fixed=0.0,
        trained=trained / tokens.trained,
        scored=sum(run["bare_seconds"] for run in measured) / sum(run["bare_tokens"] for run in measured),
        captured=sum(run["seconds"] for run in measured) / sum(run["n"] for run in measured),
        stored=max(run["stored_bytes"] / run["n"] for run in measured),
    )
    return price._replace(fixed=max(seconds - price.seconds(tokens), 0.0))


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
    """A few items of each kind, of every data set's beginning."""
    runs = {name: dataclasses.replace(run, items=_first(run.items)) for name, run in data.runs.items()}
    return dataclasses.replace(data, train=_first(data.train), probe=_first(data.probe), runs=runs)


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
