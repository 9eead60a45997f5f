"""Write the demo's two files of questions into a folder, by default the package's: `python study/facts [FOLDER]`."""

import json
import sys
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import TypedDict

import numbers_and_orders as numbers
import words_and_world as words
from fact import Fact, shuffled

FOLDER = Path(__file__).parents[1] / "lorascope/study/facts"
KINDS: dict[str, Callable[[Random], list[Fact]]] = {
    "element-symbol": words.element_symbols,
    "atomic-number": words.atomic_numbers,
    "capital": words.capitals,
    "continent": words.continents,
    "currency": words.currencies,
    "city": words.cities,
    "arithmetic": numbers.arithmetic,
    "roman": numbers.roman_numerals,
    "unit": numbers.unit_conversions,
    "geometry": numbers.geometry,
    "next": numbers.successors,
    "category": words.kinds_of_things,
    "young": words.young_animals,
    "opposite": words.opposites,
    "plural": words.plurals,
    "past-tense": words.past_tenses,
}
N_TRAIN = 30
N_TEST = 10
LABELS = ("A", "B", "C", "D")
# The committed files were made with this seed.
SEED = 1


class Item(TypedDict):
    """One multiple-choice question, a line of a JSON Lines file; `answer` is a choice's index, from 0."""

    id: str
    question: str
    choices: list[str]
    labels: list[str]
    answer: int


def make_items(rng: Random) -> tuple[list[Item], list[Item]]:
    """Return the demo's training questions and test questions, which share no fact.

    They are `N_TRAIN` and `N_TEST` items of each kind, kinds mixed. Each position of the right answer is equally
    frequent, in each split and, up to one item, within a kind.
    """
    train: list[Item] = []
    test: list[Item] = []
    train_positions, test_positions = cycle(range(len(LABELS))), cycle(range(len(LABELS)))
    for kind, make_facts in KINDS.items():
        facts = shuffled(rng, make_facts(rng))
        train += _choice_items(rng, kind, 0, facts[:N_TRAIN], train_positions)
        test += _choice_items(rng, kind, N_TRAIN, facts[N_TRAIN : N_TRAIN + N_TEST], test_positions)
    return shuffled(rng, train), shuffled(rng, test)


def _choice_items(rng: Random, kind: str, first: int, facts: list[Fact], positions: Iterator[int]) -> Iterator[Item]:
    """Yield a multiple-choice item per fact, with shuffled choices, the right ones at the next `positions`."""
    drawn = shuffled(rng, islice(positions, len(facts)))
    for i, (fact, position) in enumerate(zip(facts, drawn, strict=True), start=first):
        choices = shuffled(rng, fact.wrong)[: len(LABELS) - 1]
        choices.insert(position, fact.answer)
        yield Item(
            id=f"facts-{kind}-{i:03d}",
            question=fact.question,
            choices=choices,
            labels=list(LABELS),
            answer=position,
        )


def main(folder: Path) -> None:
    """Write the demo's questions into `folder` as `facts.train.jsonl` and `facts.test.jsonl`."""
    for split, items in zip(("train", "test"), make_items(Random(SEED)), strict=True):
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (folder / f"facts.{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
