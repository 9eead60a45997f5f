"""What items are asked with: prompts, and the examples in them, other items of the same data set drawn for each."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..hashes import canonical
from .items import ChoiceItem, Item, read_item_files
from .prompt import Template, laid_out, read_template

__all__ = ["Drawn", "Examples", "Prompts", "read_prompts"]


class Drawn(NamedTuple):
    """The examples of one item, and how a prompt shows them."""

    example: ChoiceItem
    """Shown with its right answer: the paper's s_i."""
    negative: ChoiceItem
    """Another one, shown with a wrong answer: the paper's n_i."""
    wrong: int
    """Index of that answer."""

    def texts(self, template: Template) -> tuple[str, str]:
        """What stands for `{example}` and for `{negative}`: with their choices where the prompt lists the item's."""
        listed = template.lists_choices
        return (
            laid_out(self.example, self.example.answer, with_choices=listed),
            laid_out(self.negative, self.wrong, with_choices=listed),
        )


class Examples:
    """Items that examples are drawn from, by data set.

    Notes
    -----
    The paper (arXiv 2501.03152, section 3.2) shows examples but doesn't say how they are picked or written. Here both
    come from items that are given for it, such as a training split, of the item's own data set; never one with the
    item's question, and the two have different questions. The draw is uniform over these and follows from the seed and
    the item's data set and id alone: whatever else is asked, in whichever order, and with whichever prompt, an item
    gets the same examples from the same items.
    """

    def __init__(self, items: Sequence[ChoiceItem], *, seed: int) -> None:
        self.items = tuple(sorted(items, key=lambda item: (item.dataset, item.split, item.id)))
        self._seed = seed
        self._pools: dict[str, list[ChoiceItem]] = {}
        self._places: dict[tuple[str, str], set[int]] = {}
        self._without_wrong: dict[str, set[int]] = {}
        for item in self.items:
            pool = self._pools.setdefault(item.dataset, [])
            self._places.setdefault(_question(item), set()).add(len(pool))
            if not _wrong_answers(item):
                self._without_wrong.setdefault(item.dataset, set()).add(len(pool))
            pool.append(item)

    def draw(self, item: ChoiceItem) -> Drawn:
        """The examples of an item.

        Raises
        ------
        ValueError
            If there is none of its data set, or there are fewer than two whose questions are others than the item's
            and each other's.
        """
        if item.dataset not in self._pools:
            held = ", ".join(self._pools)
            raise ValueError(
                f"`examples` holds none of data set {item.dataset!r}, only of {held}; add a file of its items"
            )
        taken = self._places.get(_question(item), set())
        example = self._pick(item, "example", taken)
        if example is not None:
            taken = taken | self._places[_question(example)] | self._without_wrong.get(item.dataset, set())
        negative = self._pick(item, "negative", taken)
        if example is None or negative is None:
            where = f"too few of data set {item.dataset!r} for item {item.id!r}"
            raise ValueError(f"`examples` holds {where}; give at least two with other questions than its own")
        wrong = _wrong_answers(negative)
        return Drawn(example, negative, wrong[self._number(item, "wrong") % len(wrong)])

    def _pick(self, item: ChoiceItem, what: str, taken: set[int]) -> ChoiceItem | None:
        """One of the data set's items but for the places taken, each with one chance; None where none is left."""
        pool = self._pools[item.dataset]
        if len(taken) == len(pool):
            return None
        place = self._number(item, what) % (len(pool) - len(taken))
        for one in sorted(taken):
            place += place >= one
        return pool[place]

    def _number(self, item: ChoiceItem, what: str) -> int:
        """A random number of 256 bits, by nothing but the seed, the item's name and what it is for."""
        name = "\0".join((str(self._seed), item.dataset, item.id, what))
        return int.from_bytes(hashlib.sha256(name.encode()).digest())


class Prompts(NamedTuple):
    """What the multiple-choice items of a run are asked with, one prompt after the other."""

    templates: tuple[Template, ...]
    examples: Examples | None
    """None where no template shows any."""

    def check(self, items: Iterable[Item]) -> None:
        """Raise a `ValueError` unless there are examples for each of these items, where a prompt shows them."""
        if self.examples is not None:
            for item in items:
                if isinstance(item, ChoiceItem):
                    self.examples.draw(item)

    def description(self) -> dict[str, Any]:
        """Names, wordings and hashes of what a run's prompts are made of, as JSON values."""
        wordings = {one.name: {"text": one.text, "sha256": _sha256(one.text.encode())} for one in self.templates}
        found: dict[str, Any] = {"names": list(wordings), "templates": wordings}
        if self.examples is not None:
            items = [dataclasses.astuple(item) for item in self.examples.items]
            found["examples"] = {"n_items": len(items), "sha256": _sha256(canonical(items))}
        return found


def read_prompts(names: Sequence[str], example_files: Sequence[str], *, seed: int) -> Prompts:
    """Templates by name or file, and the items that their examples are drawn from, if they show any.

    Raises
    ------
    FileNotFoundError
        If a file doesn't exist.
    ValueError
        If a name isn't known or stands twice, a template isn't one, it shows examples and no file of them is given, or
        such a file isn't one of multiple-choice items.
    """
    templates = tuple(read_template(name) for name in names)
    found = [template.name for template in templates]
    if twice := [name for name in found if found.count(name) > 1]:
        raise ValueError(f"`prompt` names {twice[0]!r} twice; give each prompt once")
    shown = [template.name for template in templates if template.shows_examples]
    if shown and not example_files:
        raise ValueError(
            f"prompt {shown[0]!r} shows examples, but `examples` is empty; name a file of items to draw from"
        )
    if not shown:
        return Prompts(templates, None)
    pool: list[ChoiceItem] = []
    for path, items in read_item_files("examples", example_files).items():
        for item in items:
            if not isinstance(item, ChoiceItem):
                raise ValueError(f"`examples` names {path!r}, a plain text; name files of multiple-choice items")
            pool.append(item)
    return Prompts(templates, Examples(pool, seed=seed))


def _wrong_answers(item: ChoiceItem) -> list[int]:
    return [index for index, choice in enumerate(item.choices) if choice != item.choices[item.answer]]


def _question(item: ChoiceItem) -> tuple[str, str]:
    """Data set and question, without what doesn't make it another one: case and white space."""
    return item.dataset, " ".join(item.question.split()).casefold()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
