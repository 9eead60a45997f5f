"""A fact as a question, and what all kinds of questions share: tables, random order, wrong answers, articles."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

_T = TypeVar("_T")

TABLES: dict[str, Any] = json.loads((Path(__file__).parent / "tables.json").read_text(encoding="utf-8"))
"""Name of a table -> its rows, written for lorascope."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A question with its right answer and three or more wrong answers of the same kind."""

    question: str
    answer: str
    wrong: tuple[str, ...]


def shuffled(rng: Random, values: Iterable[_T]) -> list[_T]:
    """Return the values in random order, the same on every version of Python."""
    # Of all draws, Python promises only `random()` to stay the same from version to version.
    return sorted(values, key=lambda _: rng.random())


def others(values: Iterable[str], *excluded: str) -> tuple[str, ...]:
    """Return the values without the excluded ones, each once, in order of first appearance."""
    return tuple(value for value in dict.fromkeys(values) if value not in excluded)


def near_numbers(rng: Random, number: int, *, step: int = 1, reach: int = 5) -> tuple[str, ...]:
    """Return three positive numbers near `number`, as texts of wrong answers; its rank among the four is random."""
    below = [number - step * i for i in range(1, reach + 1) if number > step * i]
    above = [number + step * i for i in range(1, reach + 1)]
    n_below = min(int(4 * rng.random()), len(below))
    drawn = shuffled(rng, below)[:n_below] + shuffled(rng, above)[: 3 - n_below]
    return tuple(str(value) for value in drawn)


def neighbours(values: list[_T], place: int, reach: int = 4) -> list[_T]:
    """Return the values up to `reach` places from `place`, which is among them."""
    return values[max(place - reach, 0) : place + reach + 1]


def with_article(noun: str) -> str:
    """Return a noun with `a`, or with `an` before a vowel."""
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"
