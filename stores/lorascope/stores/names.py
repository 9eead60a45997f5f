"""Names of components: which of them a pattern fits, and suggestions for a name that fits none."""

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from .errors import StoreError

MOST_NAMED = 3
"""Names that a suggestion holds: more don't help who reads it."""


def matching(names: Sequence[str], patterns: Sequence[str] | None, *others: Sequence[str], of: str) -> list[int]:
    """Places of the names that any of the patterns is or fits, such as `*.q_proj`, ascending; all without patterns.

    Parameters
    ----------
    others
        Other names of the same things.
    of
        What names these are, as an error says: "components that the adapter touches".

    Raises
    ------
    StoreError
        If there are patterns but none in the list, or one of them fits no name.
    """
    if patterns is None:
        return list(range(len(names)))
    if isinstance(patterns, str) or not patterns:
        raise StoreError(f"{patterns!r} is no list of names or patterns of {of}; give one, or leave it out for all")
    places: set[int] = set()
    for pattern in patterns:
        fits = {
            place
            for place, same in enumerate(zip(names, *others, strict=True))
            if any(name == pattern or fnmatchcase(name, pattern) for name in same)
        }
        if not fits:
            mended = _mended(pattern, names)
            hint = f"; did you mean {mended!r}?" if mended else close_to(pattern, names)
            raise StoreError(f"{pattern!r} fits none of the {len(names)} {of}{hint}")
        places |= fits
    return sorted(places)


def _mended(pattern: str, names: Sequence[str]) -> str:
    """The pattern with a last part that names have, such as `*.q_proj` for `*.qproj`, where that fits any."""
    head, dot, last = pattern.rpartition(".")
    kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    mended = head + dot + next(iter(difflib.get_close_matches(last, kinds, 1)), last)
    return mended if any(fnmatchcase(name, mended) for name in names) else ""


def close_to(name: str, names: Sequence[str]) -> str:
    """The end of an error about a name that isn't there: `meant`, or which name is the first; empty without names."""
    return meant(name, names) or (f"; the first is {names[0]!r}" if names else "")


def meant(name: str, names: Sequence[str]) -> str:
    """The end of an error about an unknown name: `; did you mean 'tokens'?`; empty where no name is close to it."""
    close = close_names(name, names)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def close_names(name: str, names: Sequence[str], n: int = MOST_NAMED) -> list[str]:
    """Names that somebody may have meant, likeliest first: those whose last part and numbers are the same.

    Where there are none, those whose last part alone is the same, or spelt most alike; else names spelt alike.

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
