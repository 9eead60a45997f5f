"""Checks of regular expressions that somebody else wrote, on the names that they are meant for.

Python's matcher tries one way after the other, and some expressions have more ways to read a name than there is time.
So another process tries them first, and the system ends it after a while.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from .confined import ConfinedProcess

MAX_LENGTH = 2**17
"""Most characters of all expressions together."""
MAX_SECONDS, MAX_BYTES = 2.0, 2**30
"""CPU time and memory for all expressions on all names; usual ones take a few ms even on a mixture of experts."""


class Pattern(NamedTuple):
    """Regular expression of an adapter's settings, and whether it must match a whole name or its beginning."""

    what: str
    """Beginning of an error message about it, such as "`target_modules` is '.*'"."""
    text: str
    """The expression for `re`."""
    whole: bool = False
    """Whether it must match a whole name (`re.fullmatch`) instead of its beginning (`re.match`)."""


def check_patterns(patterns: Iterable[Pattern], names: Collection[str]) -> None:
    """Raise ValueError if matching these regular expressions against these layer names might never end.

    Raises
    ------
    ValueError
        If one isn't a regular expression, all together are longer than `MAX_LENGTH`, or take more than `MAX_SECONDS`.
    """
    tried, n_characters = [], 0
    for pattern in patterns:
        tried.append(pattern)
        n_characters += len(pattern.text)
        if n_characters > MAX_LENGTH:
            raise ValueError(f"{pattern.what}, the last of {n_characters} characters; allowed are {MAX_LENGTH} in all")
    if not tried:
        return
    task = [[(pattern.text, pattern.whole) for pattern in tried], list(names)]
    n_matched = 0
    with ConfinedProcess(match_names, seconds=MAX_SECONDS, max_bytes=MAX_BYTES) as process:
        try:
            for n_matched, reason in enumerate(process.run(task), 1):
                if reason:
                    message = f"{tried[n_matched - 1].what}, no regular expression ({reason}); correct it"
                    raise ValueError(message)
        except (TimeoutError, MemoryError, ChildProcessError) as error:
            raise ValueError(
                f"{tried[min(n_matched, len(tried) - 1)].what}, which may take for ever to match: it and those before "
                f"it {error} on {len(names)} names; name the layers more simply"
            ) from error


def match_names(task: Any) -> Iterator[str]:
    """Match each expression of [[(text, whole), ...], names] with all names; yield why it is none, or "".

    It runs in a `ConfinedProcess`.
    """
    patterns, names = task
    for text, whole in patterns:
        try:
            compiled = re.compile(text)
        except (re.error, OverflowError, RecursionError) as error:
            yield "nested too deep" if isinstance(error, RecursionError) else str(error)
            return
        for name in names:
            (compiled.fullmatch if whole else compiled.match)(name)
        yield ""
