"""The prompt that a multiple-choice item is asked with."""

from typing import NamedTuple

from .items import LETTERS, ChoiceItem

__all__ = ["CUE", "INSTRUCTION", "RenderedPrompt", "continuation", "render_main"]

INSTRUCTION = "Choose the correct answer for the following question: "
CUE = "\nAnswer:"


class RenderedPrompt(NamedTuple):
    """A prompt's text, and where in it the choices stand."""

    text: str
    """The prompt, up to and with the cue for the answer."""
    choice_spans: tuple[tuple[int, int], ...]
    """Start and stop (choice,) of each choice's text in `text`, in characters, without the letter before it."""


def render_main(item: ChoiceItem) -> RenderedPrompt:
    r"""Prompt of an item: instruction, question, one lettered choice a line, cue.

    Parameters
    ----------
    item
        What is asked.

    Notes
    -----
    This is the paper's "Main" prompt (arXiv 2501.03152, figure in section 3.2), whose wording ends in a line
    "Answer:". The paper doesn't say how choices are written inside the question; here each stands on a line of its
    own after its letter.

    Examples
    --------
    >>> item = ChoiceItem(id="1", dataset="d", split="", question="2 + 2?", choices=("3", "4"), answer=1)
    >>> render_main(item).text
    'Choose the correct answer for the following question: 2 + 2?\nA. 3\nB. 4\nAnswer:'
    """
    text = INSTRUCTION + item.question
    spans = []
    for letter, choice in zip(LETTERS, item.choices, strict=False):
        text += f"\n{letter}. "
        spans.append((len(text), len(text) + len(choice)))
        text += choice
    return RenderedPrompt(text + CUE, tuple(spans))


def continuation(answer: str) -> str:
    """Text that follows a prompt when `answer` is given."""
    return " " + answer
