"""The prompts that multiple-choice items are asked with: the paper's four, and templates of one's own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from .items import LETTERS, ChoiceItem, read_text

__all__ = ["PROMPTS", "RenderedPrompt", "Template", "laid_out", "read_template", "render"]

PROMPTS = ("main", "prompt1", "prompt2", "prompt3")
"""Names of the prompts of arXiv 2501.03152 (figure in section 3.2), each a file beside this one."""
PLACEHOLDERS = ("question", "stem", "example", "negative")
ASKED = ("question", "stem")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A prompt's wording, with places for what is asked and for examples."""

    name: str
    """Name of the prompt in the run."""
    text: str
    """What the model reads, up to where its answer begins: `{question}`, which lists the choices, or `{stem}`, which
    doesn't, once; `{example}` and `{negative}` at will."""

    def __post_init__(self) -> None:
        found = _PLACEHOLDER.findall(self.text)
        if unknown := [name for name in found if name not in PLACEHOLDERS]:
            allowed = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"prompt {self.name!r} has the placeholder {{{unknown[0]}}}; allowed are {allowed}")
        asked = [name for name in found if name in ASKED]
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
    if path.stem in (*PROMPTS, "text"):
        raise ValueError(f"prompt file {name!r} would be named {path.stem!r} like another prompt; rename it")
    return Template(name=path.stem, text=read_text(path, "prompt file", "a template in .txt").rstrip())


def render(
    template: Template, item: ChoiceItem, example: str | None = None, negative: str | None = None
) -> RenderedPrompt:
    r"""Prompt of an item: the template with what is asked in it, and examples as `laid_out` makes them.

    Raises
    ------
    ValueError
        If the template has a place for an example that isn't given.

    Notes
    -----
    The paper doesn't say how choices are written inside the question; here each stands on a line of its own after its
    letter, and `{stem}` leaves them out.

    Examples
    --------
    >>> item = ChoiceItem(id="1", dataset="d", split="", question="2 + 2?", choices=("3", "4"), answer=1)
    >>> render(read_template("main"), item).text
    'Choose the correct answer for the following question: 2 + 2?\nA. 3\nB. 4\nAnswer:'
    """
    question, spans = _lettered(item)
    given = {"question": question, "stem": item.question, "example": example, "negative": negative}
    text, listed = "", tuple[tuple[int, int], ...]()
    for index, part in enumerate(_PLACEHOLDER.split(template.text)):  # words, placeholder, words, ...
        if index % 2 == 0:
            text += part
            continue
        value = given[part]
        if value is None:
            raise ValueError(f"prompt {template.name!r} shows {{{part}}}, but none is given")
        if part == "question":
            listed = tuple((len(text) + first, len(text) + last) for first, last in spans)
        text += value
    return RenderedPrompt(text, listed)


def laid_out(item: ChoiceItem, answer: int, *, with_choices: bool) -> str:
    r"""An item with an answer, as it stands in a prompt that shows it as an example.

    Examples
    --------
    >>> item = ChoiceItem(id="1", dataset="d", split="", question="2 + 2?", choices=("3", "4"), answer=1)
    >>> laid_out(item, 1, with_choices=True)
    '2 + 2?\nA. 3\nB. 4\nAnswer: 4'
    """
    question = _lettered(item)[0] if with_choices else item.question
    return f"{question}\nAnswer: {item.choices[answer]}"


def _lettered(item: ChoiceItem) -> tuple[str, Sequence[tuple[int, int]]]:
    """Question and choices, a lettered one a line, and where in it the choices' texts stand."""
    text, spans = item.question, []
    for letter, choice in zip(LETTERS, item.choices, strict=False):
        text += f"\n{letter}. "
        spans.append((len(text), len(text) + len(choice)))
        text += choice
    return text, spans
