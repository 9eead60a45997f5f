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
    """Those of the chosen tokens that are committed and have states.

    Chosen are `all`; `first:N`, `last:N` or `from:N`, by their positions in each sample; those of a role such as
    `answer`; or indices on the token axis. Position 0 often is an attention sink, whose states are far larger than all
    others: `from:1` leaves it out.

    Raises
    ------
    ValueError
        If `tokens` is none of these.
    StoreError
        If none is left.
    """
    position, role = run.tokens["position"].values, run.tokens["role"].values
    kind, _, n = tokens.partition(":") if isinstance(tokens, str) else ("", "", "")
    if not isinstance(tokens, str):
        chosen = np.isin(np.arange(run.n_tokens), token_places(tokens, run.n_tokens))
    elif tokens == "all":
        chosen = np.ones(run.n_tokens, np.bool_)
    elif kind in ("first", "last", "from") and n.isdecimal() and int(n):
        length = run.samples["length"].values[run.tokens["sample"].values]
        chosen = {"first": position < int(n), "last": position >= length - int(n), "from": position >= int(n)}[kind]
    elif tokens in ROLES:
        chosen = role == ROLES.index(tokens)
    else:
        allowed = f"'all', 'first:N', 'last:N' and 'from:N' with N from 1, indices, and the roles {', '.join(ROLES)}"
        raise ValueError(f"`tokens` is {tokens!r}; allowed are {allowed}")
    found: np.ndarray = chosen & run.committed.values & run.with_states.values
    if not found.any():
        raise StoreError(f"`tokens` takes none of the tokens of {run.place.name!r} that have states; choose others")
    return found
