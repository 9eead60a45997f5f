"""Which of a run's tokens are looked at."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool

from lorascope.stores import Run, StoreError
from lorascope.stores.format.tables import ROLES
from lorascope.stores.reading.labels import token_places

TokenChoice: TypeAlias = str | Sequence[int] | np.ndarray


def chosen_tokens(run: Run, tokens: TokenChoice) -> Bool[np.ndarray, " token"]:
    """A mask of the tokens that are chosen, committed and have states.

    Chosen are `all`; `first:N`, `last:N` or `from:N`, by position in each sample; those of a role such as `answer`; or
    indices on the token axis.

    Raises
    ------
    ValueError, IndexError
        If `tokens` is none of these, or an index of no token.
    StoreError
        If none is left.
    """
    kind, _, n = tokens.partition(":") if isinstance(tokens, str) else ("", "", "")
    chosen: np.ndarray | np.bool_
    if not isinstance(tokens, str):
        chosen = np.isin(np.arange(run.n_tokens), token_places(tokens, run.n_tokens))
    elif tokens == "all":
        chosen = np.True_
    elif kind in ("first", "last", "from") and n.isdecimal() and int(n):
        position = run.read_once("tokens/position")
        if kind == "last":
            chosen = run.read_once("samples/length")[run.read_once("tokens/sample")] - position <= int(n)
        else:
            chosen = (position < int(n)) == (kind == "first")
    elif tokens in ROLES:
        chosen = run.read_once("tokens/role") == ROLES.index(tokens)
    else:
        allowed = f"'all', 'first:N', 'last:N' and 'from:N' with N from 1, indices, and the roles {', '.join(ROLES)}"
        raise ValueError(f"`tokens` is {tokens!r}; allowed are {allowed}")
    found: np.ndarray = chosen & (run.committed & run.with_states).values
    if not found.any():
        raise StoreError(f"`tokens` takes none of the tokens of {run.place.name!r} that have states; choose others")
    return found


def told_choice(tokens: TokenChoice) -> str:
    """The choice as an attribute of what comes of it."""
    return tokens if isinstance(tokens, str) else f"{len(tokens)} chosen"
