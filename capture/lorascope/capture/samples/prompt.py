"""Prompts of multiple-choice items: the paper's four, templates of one's own, and examples that are drawn."""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lorascope.stores.format.digests import canonical_json

from .items import LETTERS, ChoiceItem, Item
from .sources import read_item_files, read_text

PROMPTS = ("main", "prompt1", "prompt2", "prompt3")
"""Names of the prompts of arXiv 2501.03152 (figure in section 3.2), each a file in `prompts`."""
PLACEHOLDERS = ("question", "stem", "example", "negative")
ASKED = ("question", "stem")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A prompt's wording, with places for what is asked and for examples."""

    name: str
    """Name of the prompt in the run."""
    text: str
    """Text for the model, up to where its answer begins: `{question}`, which lists the choices, or `{stem}`, which
    doesn't, once; `{example}` and `{negative}` at will."""

    def __post_init__(self) -> None:
        names = _PLACEHOLDER.findall(self.text)
        if unknown := [name for name in names if name not in PLACEHOLDERS]:
            allowed = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"prompt {self.name!r} has the placeholder {{{unknown[0]}}}; allowed are {allowed}")
        asked = [name for name in names if name in ASKED]
        if len(asked) != 1:
            raise ValueError(f"prompt {self.name!r} has {{question}} or {{stem}} {len(asked)} times; give one once")
        if not self.cue:
            raise ValueError(f"prompt {self.name!r} ends in a placeholder; end it with words such as 'Answer:'")

    @property
    def cue(self) -> str:
        """The words that the answer follows: the last line after the last placeholder."""
        return _PLACEHOLDER.split(self.text)[-1].rpartition("\n")[2].strip()

    @property
    def shows_examples(self) -> bool:
        """Whether other items stand in the prompt."""
        return any(name not in ASKED for name in _PLACEHOLDER.findall(self.text))

    @property
    def lists_choices(self) -> bool:
        """Whether the choices stand in the prompt, its examples' own in these too."""
        return "question" in _PLACEHOLDER.findall(self.text)


class Drawn(NamedTuple):
    """The examples of one item."""

    example: ChoiceItem
    """Shown with its right answer: the paper's s_i."""
    negative: ChoiceItem
    """Another one, shown with a wrong answer: the paper's n_i."""
    wrong: int
    """Index of that answer."""


class RenderedPrompt(NamedTuple):
    """A prompt's text, and where in it the choices stand."""

    text: str
    """The prompt, up to and with the cue for the answer."""
    choice_spans: tuple[tuple[int, int], ...]
    """Start and stop (choice,) of each of the item's own choices in `text`, in characters, without the letter; none
    where the prompt doesn't list them."""


def read_template(name: str) -> Template:
    """The template of one of `PROMPTS`, or of a file `<name of the prompt>.txt` in UTF-8, by its path.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is neither, its name is that of another prompt, or the file isn't a template.

    Notes
    -----
    White space at the end of a file isn't part of the template: an answer brings the space before it. Words of letters,
    digits and `_` in braces are placeholders; braces around anything else stand for themselves, and so does whatever is
    put in, braces included.
    """
    if name in PROMPTS:
        text = (files(__package__) / "prompts" / f"{name}.txt").read_text(encoding="utf-8")
        return Template(name=name, text=text.rstrip())
    path = Path(name)
    if path.suffix != ".txt":
        raise ValueError(f"`prompt` is {name!r}; allowed are {', '.join(PROMPTS)}, or the path of a template in .txt")
    if path.stem in (*PROMPTS, "text", "chat", "completion", "tokens"):
        raise ValueError(f"prompt file {name!r} would be named {path.stem!r} like another prompt; rename it")
    return Template(name=path.stem, text=read_text(path, "prompt file", "a template in .txt").rstrip())


def render(template: Template, item: ChoiceItem, drawn: Drawn | None = None) -> RenderedPrompt:
    r"""Prompt of an item: the template with what is asked in it, and examples as it asks, with choices or without.

    Raises
    ------
    ValueError
        If the template has a place for an example that isn't given.

    Notes
    -----
    The paper doesn't say how choices are written inside the question; here each stands on a line of its own after its
    letter, and `{stem}` leaves them out. An example's answer follows it on a line of its own.

    Examples
    --------
    >>> item = ChoiceItem(id="1", dataset="d", split="", question="2 + 2?", choices=("3", "4"), answer=1)
    >>> render(read_template("main"), item).text
    'Choose the correct answer for the following question: 2 + 2?\nA. 3\nB. 4\nAnswer:'
    """
    question, spans = _lettered(item)
    contents = {"question": question, "stem": item.question}
    if drawn is not None:
        for name, other, answer in (
            ("example", drawn.example, drawn.example.answer),
            ("negative", drawn.negative, drawn.wrong),
        ):
            asked = _lettered(other)[0] if template.lists_choices else other.question
            contents[name] = f"{asked}\nAnswer: {other.choices[answer]}"
    if missing := [name for name in _PLACEHOLDER.findall(template.text) if name not in contents]:
        raise ValueError(f"prompt {template.name!r} shows {{{missing[0]}}}, but none is given")

    def fill(text: str) -> str:
        return _PLACEHOLDER.sub(lambda match: contents[match[1]], text)

    start = len(fill(template.text.partition("{question}")[0])) if template.lists_choices else 0
    listed = tuple((start + first, start + last) for first, last in spans) if template.lists_choices else ()
    return RenderedPrompt(fill(template.text), listed)


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
        self._questions: dict[str, int] = {}
        """Number of each question."""
        self._pools: dict[str, tuple[list[ChoiceItem], np.ndarray, np.ndarray]] = {}
        """Data set -> its items, the numbers of their questions, and which have a wrong answer."""
        for dataset in dict.fromkeys(item.dataset for item in self.items):
            pool = [item for item in self.items if item.dataset == dataset]
            numbers = [self._questions.setdefault(_question(item), len(self._questions)) for item in pool]
            self._pools[dataset] = pool, np.array(numbers), np.array([bool(_wrong_answers(item)) for item in pool])

    def draw(self, item: ChoiceItem) -> Drawn:
        """The examples of an item.

        Raises
        ------
        ValueError
            If there is none of its data set, or there are fewer than two whose questions are others than the item's
            and each other's.
        """
        if item.dataset not in self._pools:
            datasets = ", ".join(self._pools)
            raise ValueError(
                f"`examples` holds none of data set {item.dataset!r}, only of {datasets}; add a file of its items"
            )
        pool, questions, has_wrong = self._pools[item.dataset]
        free, drawn = questions != self._questions.get(_question(item), -1), []
        for what in ("example", "negative"):
            places = np.flatnonzero(free)
            if not len(places):
                where = f"too few of data set {item.dataset!r} for item {item.id!r}"
                raise ValueError(f"`examples` holds {where}; give at least two with other questions than its own")
            place = places[self._number(item, what) % len(places)]
            drawn.append(pool[place])
            free &= has_wrong & (questions != questions[place])
        wrong = _wrong_answers(drawn[1])
        return Drawn(drawn[0], drawn[1], wrong[self._number(item, "wrong") % len(wrong)])

    def _number(self, item: ChoiceItem, what: str) -> int:
        """A random number of 256 bits, by nothing but the seed, the item's name and what it is for."""
        name = "\0".join((str(self._seed), item.dataset, item.id, what))
        return int.from_bytes(hashlib.sha256(name.encode()).digest())


class Prompts(NamedTuple):
    """Prompts of the multiple-choice items of a run."""

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
        wordings = {
            template.name: {"text": template.text, "sha256": _sha256(template.text.encode())}
            for template in self.templates
        }
        description: dict[str, Any] = {"names": list(wordings), "templates": wordings}
        if self.examples is not None:
            items = [dataclasses.astuple(item) for item in self.examples.items]
            description["examples"] = {"n_items": len(items), "sha256": _sha256(canonical_json(items))}
        return description


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
    prompt_names = [template.name for template in templates]
    if twice := [name for name in prompt_names if prompt_names.count(name) > 1]:
        raise ValueError(f"`prompt` names {twice[0]!r} twice; give each prompt once")
    shown = [template.name for template in templates if template.shows_examples]
    if not shown:
        return Prompts(templates, None)
    if not example_files:
        raise ValueError(
            f"prompt {shown[0]!r} shows examples, but `examples` is empty; name a file of items to draw from"
        )
    pool: list[ChoiceItem] = []
    for path, items in read_item_files("examples", example_files).items():
        pool += [item for item in items if isinstance(item, ChoiceItem)]
        if not isinstance(items[0], ChoiceItem):
            raise ValueError(f"`examples` names {path!r}, without questions; name files of multiple-choice items")
    return Prompts(templates, Examples(pool, seed=seed))


def _lettered(item: ChoiceItem) -> tuple[str, Sequence[tuple[int, int]]]:
    """Question and choices, a lettered one a line, and where in it the choices' texts stand."""
    text, spans = item.question, []
    for letter, choice in zip(LETTERS, item.choices, strict=False):
        text += f"\n{letter}. "
        spans.append((len(text), len(text) + len(choice)))
        text += choice
    return text, spans


def _wrong_answers(item: ChoiceItem) -> list[int]:
    return [index for index, choice in enumerate(item.choices) if choice != item.choices[item.answer]]


def _question(item: ChoiceItem) -> str:
    """A question without case and runs of white space, by which questions are compared."""
    return " ".join(item.question.split()).casefold()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
