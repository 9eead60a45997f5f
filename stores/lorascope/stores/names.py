"""Names that match a pattern, and suggestions for unknown names in errors."""

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from .errors import StoreError

MAX_SUGGESTIONS = 3
"""Most names in a suggestion."""
Patterns: TypeAlias = str | Sequence[str] | None
"""Names or patterns such as `*.q_proj`, one or several, as an argument; None for all."""


def pattern_list(patterns: Patterns) -> list[str] | None:
    """Return one or several patterns as a list of one or several; None as it is."""
    return [patterns] if isinstance(patterns, str) else None if patterns is None else list(patterns)


def matching_indices(
    names: Sequence[str], patterns: Patterns, *others: Sequence[str], of: str, option: str = "component"
) -> list[int]:
    """Return the indices, ascending, of names that match any pattern, such as `*.q_proj`; all if `patterns` is None.

    Parameters
    ----------
    others
        Further names of the same things, which patterns may match too.
    of
        Description of the names in errors, such as "components that the adapter changes".
    option
        Name of the argument that has the patterns, for errors.

    Raises
    ------
    StoreError
        If `patterns` isn't a text or several, is empty, or has a pattern that matches no name.
    """
    if patterns is None:
        return list(range(len(names)))
    listed = pattern_list(patterns) if isinstance(patterns, Iterable) else None
    if not listed or not all(isinstance(pattern, str) and pattern for pattern in listed):
        raise StoreError(f"`{option}` is {patterns!r}; give a name or pattern of {of}, several, or nothing for all")
    places: set[int] = set()
    for pattern in listed:
        fits = {
            place
            for place, same in enumerate(zip(names, *others, strict=True))
            if any(name == pattern or fnmatchcase(name, pattern) for name in same)
        }
        if not fits:
            mended = _corrected_pattern(pattern, names)
            hint = f"; did you mean {mended!r}?" if mended else suggestion_or_first_name(pattern, names)
            raise StoreError(f"{pattern!r} fits none of the {len(names)} {of}{hint}")
        places |= fits
    return sorted(places)


def _corrected_pattern(pattern: str, names: Sequence[str]) -> str:
    """Return the pattern with its last part corrected, `*.q_proj` for `*.qproj` or `q_proj`; empty without a match."""
    head, dot, last = pattern.rpartition(".")
    kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    mended = (head + dot or "*.") + next(iter(difflib.get_close_matches(last, kinds, 1)), last)
    return mended if any(fnmatchcase(name, mended) for name in names) else ""


def suggestion_or_first_name(name: str, names: Sequence[str]) -> str:
    """Return the end of an error about an unknown name: similar names, else the first of `names`; may be empty."""
    return suggestion(name, names) or (f"; the first is {names[0]!r}" if names else "")


def suggestion(name: str, names: Sequence[str]) -> str:
    """Return the end of an error about an unknown name, `; did you mean 'tokens'?`; empty if no name is similar."""
    return did_you_mean(close_names(name, names))


def require_choice(option: str, value: object, allowed: Iterable[str]) -> None:
    """Raise ValueError, with a suggestion, unless the value of an option is one of these texts."""
    names = tuple(allowed)
    if value not in names:
        choices = ", ".join(map(repr, names))
        raise ValueError(f"`{option}` is {value!r}; allowed are {choices}{suggestion(str(value), names)}")


def did_you_mean(close: Sequence[str]) -> str:
    """Return the end of an error that suggests similar names; empty without one."""
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def close_names(name: str, names: Sequence[str], n: int = MAX_SUGGESTIONS) -> list[str]:
    """Return up to `n` of `names` that are similar to an unknown `name`, likeliest first.

    First come names with the same last part and numbers; without such, names with the same last part, or the most
    similar one; else names that are spelt alike.

    Examples
    --------
    >>> names = ["model.layers.3.mlp.up_proj", "model.layers.3.self_attn.q_proj", "model.layers.4.self_attn.q_proj"]
    >>> close_names("model.layers.3.q_proj", names), close_names("q_proj", names)
    (['model.layers.3.self_attn.q_proj'], ['model.layers.3.self_attn.q_proj', 'model.layers.4.self_attn.q_proj'])
    """
    kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    last = name.rpartition(".")[2]
    kind = last if last in kinds else next(iter(difflib.get_close_matches(last, kinds, 1)), None)
    same = [other for other in names if other.rpartition(".")[2] == kind]
    exact = [other for other in same if re.findall(r"\d+", other) == re.findall(r"\d+", name)]
    return (exact or same)[:n] or difflib.get_close_matches(name, names, n)
