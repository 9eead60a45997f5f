"""Text of a run, an adapter or a path, with whatever a terminal would obey spelt out."""

import re

COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal obeys instead of showing them, but for newlines and tabs; and halves of characters."""


def visible(text: str) -> str:
    r"""Text in which everything that a terminal would obey is spelt out: names in a store may hold anything.

    Examples
    --------
    >>> print(visible("\x1b[2Jgone\r"))
    \x1b[2Jgone\r
    """
    return COMMANDS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    r"""Text as `visible` makes it, line breaks spelt out too: no name in a table can pass for a line of its own.

    Examples
    --------
    >>> print(one_line("a\nverdicts"))
    a\nverdicts
    """
    return visible(text).replace("\n", r"\n")
