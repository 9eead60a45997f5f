"""Escape control characters in text that a run, an adapter or a path may contain."""

import re

COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters of terminals, except newlines and tabs, and halves of surrogate pairs."""


def visible(text: str) -> str:
    r"""Return text with control characters of terminals escaped, since names in a store may contain any.

    Examples
    --------
    >>> print(visible("\x1b[2Jgone\r"))
    \x1b[2Jgone\r
    """
    return COMMANDS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    r"""Return text with control characters and line breaks escaped, so that a name stays on one line of a table.

    Examples
    --------
    >>> print(one_line("a\nverdicts"))
    a\nverdicts
    """
    return visible(text).replace("\n", r"\n")
