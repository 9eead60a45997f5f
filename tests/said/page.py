"""Compares a page's numbers with their sources.

A page is compared with sayings: pieces of its text whose numbers come from a source. Every saying must stand on the
page, and every number of the page in a saying. What counts as a number: figures, and words such as `two`, `twice` and
`half`; not those of code, links, and references such as `eq. 8`, `section 4.5` or `arXiv 2501.03152`.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred")
PARTS = ("half", "halves", "thirds", "quarter", "quarters", "eighths", "tenth")
WORDS = (*SMALL[2:], *TENS, "dozen", "thousand", "million", "billion", "twice", *PARTS)
NUMBER = re.compile(rf"(?<![\w.])(?<!\w-)\d+(?:[.,]\d+)*(?:e[+-]?\d+)?|\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)
REFERENCE = re.compile(
    r"`[^`]*`"
    r"|\b(?i:eqs?\.|equations?|tables?|figures?|sections?|theorem|corollary|claims?|layer) "
    r"\d[\d.]*\b(?:(?:,| to| and) \d+\b)*"
    r"|\((?:table )?\d\.\d(?:, (?:figure|table) \d)?\)"
    r"|arXiv \d{4}\.\d{4,5}"
    r"|(?:al\.|[A-Z]\w+) (?:19|20)\d\d\b"
    r"|\b(?i:the|these|those|same) two\b"
)
LABEL = re.compile(r"^(\| )?\d+(?:\.\d)?(?=\. | \|)", re.MULTILINE)
"""The number of a step, or in the first cell of a row."""
PYTHON = {
    r"\bln\b": "log",
    r"\blog (\w+)": r"log(\1)",
    r"(?<=[\w)]) (?=[\w(])|(?<=\d)(?=[a-z(])": "*",
    r"\^": "**",
    "²": "**2",
}
"""What a printed formula has -> what Python has in its place."""


class Saying(NamedTuple):
    """A piece of a page's text."""

    text: str
    held: tuple[tuple[int, int], ...]
    """Where in it numbers come from a source."""


def said(words: str, *values: Any) -> Saying:
    """Words of a page with computed values in place of its `{}`."""
    text, held, given = "", [], iter(values)
    for plain, field, form, _ in Formatter().parse(words):
        text += plain
        if field is not None:
            value = format(next(given), form or "")
            held.append((len(text), len(text) + len(value)))
            text += value
    assert next(given, None) is None, f"more values than `{{}}` in {words!r}"
    return Saying(text, tuple(held))


def quoted(words: str, *, place: str) -> Saying:
    """Words of a page that say what the paper says in this place of it."""
    assert re.match(r"conclusion$|(eq\.|section|table|figure) [\d.]+$", place), place
    return Saying(words, ((0, len(words)),))


def equation(words: str, /, **names: Any) -> Saying:
    """An equation or inequality of a page, computed as it is printed, with values or arrays in place of names.

    An expression alone has to be `value`. Names such as `KL(M‖Q)` are passed by `**{...}`.
    """
    assert holds(words, names), f"not so: {words}"
    return Saying(words, ((0, len(words)),))


def holds(words: str, names: dict[str, Any]) -> bool:
    """Whether a printed equation is true, to the digits that are printed."""
    scope: dict[str, Any] = {"log": np.log, "exp": np.exp, "__builtins__": {}}
    python = words
    for place, name in enumerate(sorted(names, key=len, reverse=True)):
        scope[own := f"v{chr(ord('a') + place)}"] = names[name]
        python = re.sub(rf"(?<![A-Za-z_]){re.escape(name)}(?![A-Za-z_])", own, python)
    for pattern, other in PYTHON.items():
        python = re.sub(pattern, other, python)
    sides = [eval(side, scope) for side in python.split(" = ")]
    sides += [names["value"]] if "value" in names else []
    if len(sides) == 1:
        return bool(np.all(sides[0]))
    digits = max(map(len, re.findall(r"\d\.(\d+)", words)), default=9)
    return all(np.allclose(side, sides[-1], rtol=1e-12, atol=0.5 * 10.0**-digits) for side in sides)


def count(n: int) -> str:
    """A small number as a word."""
    return SMALL[n]


def part(share: float) -> str:
    """A part of a whole as a word."""
    return {0.5: "half", 0.25: "quarter", 0.1: "tenth"}[round(share, 9)]


def ln(value: float) -> str:
    """A value as the logarithm of a whole number."""
    return f"ln {math.exp(value):.0f}"


def exponent(value: float, digits: int) -> str:
    """A number with an exponent, as pages have it."""
    return re.sub(r"e-0", "e-", f"{value:.{digits}e}")


def plain(markdown: str) -> str:
    """What a reader sees of a page, in one line: without emphasis, links, labels and code, except its comments."""
    text = re.sub(r"^```\w*\n(.*?)^```$", _comments, markdown, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(LABEL.sub(r"\1", text).replace("*", "").split())


def _comments(block: re.Match[str]) -> str:
    return "\n".join(re.findall(r"# .*", block[1]))


def numbers(text: str) -> Iterator[tuple[int, int]]:
    """Places of the numbers of a plain page, except those in references."""
    references = [found.span() for found in REFERENCE.finditer(text)]
    for found in NUMBER.finditer(text):
        if not any(begin < found.end() and found.start() < end for begin, end in references):
            yield found.span()


def missing(text: str, sayings: Iterable[Saying]) -> list[Saying]:
    """Sayings that a plain page doesn't have."""
    return [saying for saying in sayings if saying.text not in text]


def unheld(text: str, sayings: Iterable[Saying]) -> list[tuple[int, int]]:
    """Places of the numbers of a plain page that have no source in a saying."""
    is_held = np.zeros(len(text), bool)
    for saying in sayings:
        for found in re.finditer(re.escape(saying.text), text):
            for begin, end in saying.held:
                is_held[found.start() + begin : found.start() + end] = True
    return [(begin, end) for begin, end in numbers(text) if not is_held[begin:end].all()]


def problems(text: str, sayings: Sequence[Saying]) -> list[str]:
    """Problems of a plain page, each with what to do."""
    found = [
        f"{one.text!r} is what the sources say, and isn't on the page; the likest there is {_likest(one.text, text)!r}"
        for one in missing(text, sayings)
    ]
    for begin, end in unheld(text, sayings):
        around = f"{text[max(begin - 50, 0) : begin]}>>{text[begin:end]}<<{text[end : end + 40]}"
        found.append(f"{text[begin:end]!r} has no source: give it one in tests/said, in a line like those: {around!r}")
    return found


def _likest(words: str, text: str) -> str:
    """The piece of a text that shares the longest run of letters with words."""
    longest = SequenceMatcher(None, text, words, autojunk=False).find_longest_match()
    begin = max(longest.a - longest.b, 0)
    return text[begin : begin + len(words)]


def changed(text: str) -> Iterator[tuple[str, str]]:
    """A plain page with one of its numbers changed, each in turn, and that number."""
    for begin, end in numbers(text):
        number = text[begin:end]
        lower = number.lower()
        other = WORDS[WORDS.index(lower) - 1] if lower in WORDS else f"{number[:-1]}{(int(number[-1]) + 1) % 10}"
        yield number, text[:begin] + other + text[end:]


def rows(page: str, header: str) -> list[dict[str, str]]:
    """Column -> cell of each row of the table of a page whose header begins so."""
    text = (ROOT / page).read_text()
    found = re.search(rf"^({re.escape(header)}.*)\n\|[-:| ]+\n((?:\|.*\n)*)", text, re.MULTILINE)
    assert found is not None, f"{page} has no table that begins {header!r}"
    names, *cells = (
        [cell.strip() for cell in row.strip("|").split("|")] for row in (found[1] + "\n" + found[2]).splitlines()
    )
    return [dict(zip(names, row, strict=True)) for row in cells]


def table(page: str, header: str) -> dict[str, dict[str, str]]:
    """First cell -> column -> cell of each row."""
    return {next(iter(row.values())): row for row in rows(page, header)}
