"""Prompts of multiple-choice items: the four of arXiv 2501.03152, the user's own templates, and drawn examples."""

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
    """Wording of a prompt, with placeholders for the question and for examples."""

    name: str
    """Name of the prompt in the run."""
    text: str
    """Text for the model, up to the start of its answer. It contains once `{question}`, which lists the choices, or
    `{stem}`, which doesn't; `{example}` and `{negative}` are optional."""

    def __post_init__(self) -> None:
        """Raise ValueError unless the text has one `{question}` or `{stem}`, known placeholders and ends in words."""
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
        """Words right before the answer, such as `Answer:`: the last line after the last placeholder."""
        return _PLACEHOLDER.split(self.text)[-1].rpartition("\n")[2].strip()

    @property
    def shows_examples(self) -> bool:
        """Whether the prompt shows other questions, with their answers, as examples."""
        return any(name not in ASKED for name in _PLACEHOLDER.findall(self.text))

    @property
    def lists_choices(self) -> bool:
        """Whether the prompt lists the choices of its question and examples."""
        return "question" in _PLACEHOLDER.findall(self.text)


class DrawnExamples(NamedTuple):
    """Two questions drawn as examples for one item: one shown with its right answer, one with a wrong one."""

    example: ChoiceItem
    """Example that is shown with its right answer: the paper's s_i."""
    negative: ChoiceItem
    """Another example, shown with a wrong answer: the paper's n_i."""
    wrong: int
    """Index of the wrong answer."""


class RenderedPrompt(NamedTuple):
    """Text of a filled prompt, and the places of the choices in it."""

    text: str
    """The prompt, up to the cue for the answer, which is included."""
    choice_spans: tuple[tuple[int, int], ...]
    """(start, stop), in characters of `text`, of each choice of the item, without its letter; empty if the prompt
    doesn't list choices."""


def read_template(name: str) -> Template:
    """Return a prompt's template: one of the four of `PROMPTS` by its name, or a .txt file in UTF-8.

    A file's name without `.txt` is the prompt's name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If `name` is neither, the file has the name of another prompt, or it isn't a template.

    Notes
    -----
    White space at the end of a file isn't part of the template: an answer begins with its own space. Words of letters,
    digits and `_` in braces are placeholders; other braces are plain text, and so are braces in inserted texts.
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


def render(template: Template, item: ChoiceItem, drawn: DrawnExamples | None = None) -> RenderedPrompt:
    r"""Fill a template with an item's question and drawn examples; return the text and the places of the choices.

    Raises
    ------
    ValueError
        If the template has a placeholder for an example that isn't given.

    Notes
    -----
    The paper doesn't say how choices are written inside the question. Here each is on a separate line after its letter,
    and `{stem}` is the question without choices. An example is followed by a line with its answer.

    Examples
    --------
    >>> item = ChoiceItem(id="1", dataset="d", split="", question="2 + 2?", choices=("3", "4"), answer=1)
    >>> render(read_template("main"), item).text
    'Choose the correct answer for the following question: 2 + 2?\nA. 3\nB. 4\nAnswer:'
    """
    question, spans = _question_with_letters(item)
    contents = {"question": question, "stem": item.question}
    if drawn is not None:
        for name, other, answer in (
            ("example", drawn.example, drawn.example.answer),
            ("negative", drawn.negative, drawn.wrong),
        ):
            asked = _question_with_letters(other)[0] if template.lists_choices else other.question
            contents[name] = f"{asked}\nAnswer: {other.choices[answer]}"
    if missing := [name for name in _PLACEHOLDER.findall(template.text) if name not in contents]:
        raise ValueError(f"prompt {template.name!r} shows {{{missing[0]}}}, but none is given")

    def fill(text: str) -> str:
        """Return a text with each placeholder replaced by its content."""
        return _PLACEHOLDER.sub(lambda match: contents[match[1]], text)

    start = len(fill(template.text.partition("{question}")[0])) if template.lists_choices else 0
    listed = tuple((start + first, start + last) for first, last in spans) if template.lists_choices else ()
    return RenderedPrompt(fill(template.text), listed)


class Examples:
    """Pool of questions, by data set, from which the examples in prompts are drawn by seed.

    Notes
    -----
    The paper (arXiv 2501.03152, section 3.2) shows examples but doesn't say how they are picked or written. Here both
    come from the pool's items of the item's own data set, such as a training split. The item and its two examples have
    three different questions. The draw is uniform and depends only on the seed and the item's data set and id: an item
    gets the same examples from the same pool, whatever the prompt, the other items and their order.
    """

    def __init__(self, items: Sequence[ChoiceItem], *, seed: int) -> None:
        """Sort the items into one pool per data set, and give equal questions the same number."""
        self.items = tuple(sorted(items, key=lambda item: (item.dataset, item.split, item.id)))
        self._seed = seed
        self._questions: dict[str, int] = {}
        """Question -> its number."""
        self._pools: dict[str, tuple[list[ChoiceItem], np.ndarray, np.ndarray]] = {}
        """Data set -> its items, the numbers of their questions, and whether each has a wrong answer."""
        for dataset in dict.fromkeys(item.dataset for item in self.items):
            pool = [item for item in self.items if item.dataset == dataset]
            numbers = [self._questions.setdefault(_normalized_question(item), len(self._questions)) for item in pool]
            self._pools[dataset] = pool, np.array(numbers), np.array([bool(_wrong_answers(item)) for item in pool])

    def draw(self, item: ChoiceItem) -> DrawnExamples:
        """Draw an item's two examples from its data set's pool; the same seed, item and pool give the same two.

        Raises
        ------
        ValueError
            If the pool has no item of its data set, or fewer than two with different questions that aren't the item's.
        """
        if item.dataset not in self._pools:
            datasets = ", ".join(self._pools)
            raise ValueError(
                f"`examples` holds none of data set {item.dataset!r}, only of {datasets}; add a file of its items"
            )
        pool, questions, has_wrong = self._pools[item.dataset]
        free, drawn = questions != self._questions.get(_normalized_question(item), -1), []
        for what in ("example", "negative"):
            places = np.flatnonzero(free)
            if not len(places):
                where = f"too few of data set {item.dataset!r} for item {item.id!r}"
                raise ValueError(f"`examples` holds {where}; give at least two with other questions than its own")
            place = places[self._random_number(item, what) % len(places)]
            drawn.append(pool[place])
            free &= has_wrong & (questions != questions[place])
        wrong = _wrong_answers(drawn[1])
        return DrawnExamples(drawn[0], drawn[1], wrong[self._random_number(item, "wrong") % len(wrong)])

    def _random_number(self, item: ChoiceItem, what: str) -> int:
        """Return a random integer of 256 bits, fixed by the seed, the item's name and the purpose `what`."""
        name = "\0".join((str(self._seed), item.dataset, item.id, what))
        return int.from_bytes(hashlib.sha256(name.encode()).digest())


class Prompts(NamedTuple):
    """Templates for the multiple-choice items of a run, and the pool of examples if any template shows some."""

    templates: tuple[Template, ...]
    examples: Examples | None
    """None if no template shows examples."""

    def require_examples(self, items: Iterable[Item]) -> None:
        """Raise ValueError if prompts show examples and one of these items can't get any from the pool."""
        if self.examples is not None:
            for item in items:
                if isinstance(item, ChoiceItem):
                    self.examples.draw(item)

    def description(self) -> dict[str, Any]:
        """Return names, wordings and hashes of the templates, and a hash of the pool of examples, as JSON values."""
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
    """Read templates by name or file and, if they show examples, the items to draw them from.

    Raises
    ------
    FileNotFoundError
        If a file doesn't exist.
    ValueError
        If a name isn't known or is given twice, a file isn't a template, a template shows examples but there is no file
        of examples, or such a file doesn't contain multiple-choice items.
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


def _question_with_letters(item: ChoiceItem) -> tuple[str, Sequence[tuple[int, int]]]:
    """Return the question with one lettered line per choice, and each choice's (start, stop) in that text."""
    text, spans = item.question, []
    for letter, choice in zip(LETTERS, item.choices, strict=False):
        text += f"\n{letter}. "
        spans.append((len(text), len(text) + len(choice)))
        text += choice
    return text, spans


def _wrong_answers(item: ChoiceItem) -> list[int]:
    """Return the indices of the choices whose text isn't the right answer's."""
    return [index for index, choice in enumerate(item.choices) if choice != item.choices[item.answer]]


def _normalized_question(item: ChoiceItem) -> str:
    """Return an item's question in lower case with single spaces, so that equal questions compare equal."""
    return " ".join(item.question.split()).casefold()


def _sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes as a hexadecimal text."""
    return hashlib.sha256(content).hexdigest()
