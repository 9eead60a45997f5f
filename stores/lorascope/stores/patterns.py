"""Regular expressions that somebody else wrote: how long Python's matcher would try them on the names at hand.

That matcher tries one way after the other, and some expressions have more ways to read a name than there is time. So
another process tries them first, which the system ends after a while.
"""

import json
import subprocess
import sys
from collections.abc import Collection, Iterable
from typing import NamedTuple

MAX_LENGTH = 2**17
"""Characters of all expressions together."""
MAX_SECONDS = 2.0
"""A processor's time for all expressions on all names; those in use take some ms on a mixture of experts."""
_TRY = """
import json, re, signal, sys, warnings
seconds, patterns, names = json.load(sys.stdin)
signal.setitimer(signal.ITIMER_PROF, seconds)
warnings.simplefilter("ignore")  # of expressions that a later Python may read otherwise
for place, (text, whole) in enumerate(patterns):
    print(place, flush=True)
    try:
        compiled = re.compile(text)
        for name in names:
            (compiled.fullmatch if whole else compiled.match)(name)
    except (re.error, OverflowError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        sys.exit(f"no regular expression ({reason}); correct it")
"""


class Pattern(NamedTuple):
    """An expression, and how it is used."""

    what: str
    """Beginning of an error about it: "`target_modules` is '.*'"."""
    text: str
    """The expression as `re` gets it."""
    whole: bool = False
    """Whether it has to fit a whole name (`re.fullmatch`), or its beginning (`re.match`)."""


def check_patterns(patterns: Iterable[Pattern], names: Collection[str]) -> None:
    """Raise a ValueError where Python's matcher may take for ever over an expression on one of these names.

    Raises
    ------
    ValueError
        If an expression is none, all are longer than `MAX_LENGTH`, or trying them takes more than `MAX_SECONDS`.
    """
    tried, n_characters = [], 0
    for pattern in patterns:
        tried.append(pattern)
        n_characters += len(pattern.text)
        if n_characters > MAX_LENGTH:
            raise ValueError(f"{pattern.what}, the last of {n_characters} characters; allowed are {MAX_LENGTH} in all")
    if not tried:
        return
    command = [sys.executable, "-I", "-S", "-c", _TRY]
    task = json.dumps([MAX_SECONDS, [(pattern.text, pattern.whole) for pattern in tried], list(names)])
    done = subprocess.run(command, input=task, capture_output=True, text=True, check=False)  # noqa: S603  # our own
    if done.returncode:
        last = tried[int(done.stdout.split()[-1]) if done.stdout else -1].what
        if done.returncode > 0:
            raise ValueError(f"{last}, {done.stderr.strip().splitlines()[-1]}")
        raise ValueError(
            f"{last}, which may take for ever to match: it and those before it take more than {MAX_SECONDS:g} s on "
            f"{len(names)} names; name the layers more simply"
        )
