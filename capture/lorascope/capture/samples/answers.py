"""A model's own answers: what it writes after each prompt, and the choice that is read in it."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .encode import CHOICE, GENERATED, EncodedSample
from .generate import generate
from .items import LETTERS

__all__ = ["Answer", "is_cut_short", "parse_choice", "write_answers"]

_OUTER = ",;:!?…\"'“”‘’„«»()[]{}*_` "  # noqa: RUF001  # quotes as they are typeset
"""What may stand around an answer without being part of it, as signs and units are (-3, .5, 5 %, C++)."""
_BEFORE = r"(?<![\w+/'’-])(?!(?<=[.,])\d)"  # noqa: RUF001
_AFTER = r"(?!\w)(?![+*/^'’-]\w)(?![.,]\d)"  # noqa: RUF001
"""Where a text begins and ends with whole words: not in ironic, iron-free, can't, -3, 3/4 or 3.5."""


class Answer(NamedTuple):
    """What a model answers a multiple-choice sample."""

    written: str
    """Its own words, without special tokens."""
    prediction: int
    """Index of the choice that is read in them; -1 where none is. See `write_answers`."""


def write_answers(
    model: Any,
    tokenizer: Any,
    samples: Sequence[EncodedSample],
    *,
    n: int,
    batch_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """What the model writes after the prompt of each multiple-choice sample, and the choice that is read in it.

    Parameters, errors and progress are those of `generate`, whose texts these are; `tokenizer` is the model's.

    Notes
    -----
    `parse_choice` reads them. An answer of n tokens that doesn't end itself was cut off: where it is a choice, and the
    beginning of another ("iron", of iron and iron oxide), none is read.
    """
    extended = generate(model, samples, n=n, batch_tokens=batch_tokens, progress=progress)
    new = [sample.token_ids[sample.roles == GENERATED].tolist() for sample in extended]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    may_go_on = [len(ids) == n and ids[-1] not in tokenizer.all_special_ids for ids in new]
    answers = []
    for text, cut, sample in zip(texts, may_go_on, samples, strict=True):
        choices = [choice.text for choice in sample.choices]
        lettered = bool((sample.roles == CHOICE).any())  # the prompt lists them
        found = -1 if cut and is_cut_short(text, choices) else parse_choice(text, choices, lettered=lettered)
        answers.append(Answer(text, found))
    return answers


def parse_choice(text: str, choices: Sequence[str], *, lettered: bool = True) -> int:
    """Index of the choice that a written answer names; -1 where none can be read in it.

    Parameters
    ----------
    text
        What a model wrote after its prompt.
    choices
        The texts of the choices (choice,), 2 to 26 of them, lettered from A by their place.
    lettered
        Whether the prompt showed the letters; a letter names nothing else.

    Notes
    -----
    The paper (arXiv 2501.03152) doesn't say how an answer is read off. Here the first line that isn't blank counts, and
    of these rules the first that finds something:

    1. the line begins with the text of a choice; of several, the longest;
    2. the line begins with the letter of a choice and ".", ")" or ":" after it, or is nothing but that letter, where
       choices were shown with letters;
    3. the text of exactly one choice stands in the line. Within the text of a longer choice it doesn't count.

    Before, line and choices lose case, runs of white space, and quotes, brackets and punctuation around them. A text
    counts where it begins and ends with whole words: "iron" isn't in "ironic" or "iron-free", "3" isn't in "-3" or
    "3.5", and "can" isn't in "can't". An article is no letter: "A cat" names choice A only if that is its text. "B.
    iron" names B, whatever its text. Choices that are alike but for case and punctuation are told apart by letter only.

    Examples
    --------
    >>> choices = ("iron", "iron oxide", "wood")
    >>> [parse_choice(text, choices) for text in (" Iron oxide, of course.", "(C)", "A metal", "I think wood.")]
    [1, 2, -1, 2]
    """
    line = _plain(next((line for line in text.splitlines() if line.strip()), ""))
    texts = [_plain(choice) for choice in choices]
    places = {one: index for index, one in enumerate(texts) if one and texts.count(one) == 1}
    longest_first = sorted(places, key=len, reverse=True)  # so that none is read within a longer one
    named = re.compile(f"{_BEFORE}(?:{'|'.join(map(re.escape, longest_first))}){_AFTER}" if places else "(?!)")
    if first := named.match(line):
        return places[first[0]]
    alone = re.match(r"([a-z])(?:[.):](?!\w)|$)", line) if lettered else None
    if alone and (letter := LETTERS.lower().index(alone[1])) < len(choices):
        return letter
    found = {places[one] for one in named.findall(line)}
    return found.pop() if len(found) == 1 else -1


def is_cut_short(text: str, choices: Sequence[str]) -> bool:
    """Whether a text that was cut off may be another choice than the one that it is: one begins with the other."""
    line, texts = _plain(text), [_plain(choice) for choice in choices]
    return line in texts and sum(one.startswith(line) for one in texts) > 1


def _plain(text: str) -> str:
    """A text without case, runs of white space and what punctuation stands around it."""
    return " ".join(text.casefold().split()).lstrip(_OUTER).rstrip(_OUTER + ".")
