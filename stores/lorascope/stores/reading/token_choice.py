"""Choices of tokens for capture, analysis and copies: their grammar, and the tokens that they take of a sample or run.

`all`; a role, such as `answer` (`prompt` includes the choices in it); `first:N`, `last:N` or `from:N`, which count in
the whole sample, also where a run holds only some of its tokens; `every:K` and `share:P`, which are drawn from each
sample at random.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

from ..errors import StoreError
from ..format.tables import ROLES
from ..names import suggestion

if TYPE_CHECKING:
    from .run import Run

TokenChoice: TypeAlias = str | Sequence[int] | np.ndarray
"""Tokens of a run as functions take them: a choice in words, or indices on the token axis."""
ROLE_GROUPS = {role: (role,) for role in ROLES} | {"prompt": ("prompt", "choice")}
"""Choice by role -> the roles that it takes."""
POPULATION_DESCRIPTIONS = {
    "all": "all tokens",
    "prompt": "the tokens of the prompt, its choices included",
    "choice": "the tokens of the choices in the prompt",
    "answer": "the tokens of the answer",
    "generated": "the generated tokens",
    "assistant": "the assistant's tokens",
    "first": "the first {} tokens of each sequence",
    "last": "the last {} tokens of each sequence",
    "from": "the tokens of each sequence from position {} on",
    "every": "all tokens",
    "share": "all tokens",
}
"""Kind of a choice -> the tokens that its means are about, in words."""
GRAMMAR = (
    f"'all', {', '.join(map(repr, ROLES))}, 'first:N', 'last:N', 'from:N' and 'every:K' with whole numbers from 1, or "
    "'share:P' with P above 0 and at most 1"
)
"""The grammar as errors state it."""


class ParsedChoice(NamedTuple):
    """A choice in words, taken apart."""

    kind: str
    """`all`, a role, `first`, `last`, `from`, `every` or `share`."""
    number: float = 0
    """N, K or P; 0 for a kind without one."""

    @property
    def is_random(self) -> bool:
        """Whether tokens are drawn at random, so that means over them stand for all tokens."""
        return self.kind in ("every", "share")


class ChosenTokens(NamedTuple):
    """The tokens that a choice takes of one sample."""

    places: Int64[np.ndarray, " chosen"]
    """Ascending places among the sample's tokens."""
    weights: Float32[np.ndarray, " chosen"]
    """Inverse of the chance with which each token was taken, among the tokens that the choice is about."""


def parse_choice(tokens: str) -> ParsedChoice:
    """A choice taken apart; raises a ValueError that states the grammar unless it is one.

    Examples
    --------
    >>> parse_choice("last:3"), parse_choice("answer").kind
    (ParsedChoice(kind='last', number=3), 'answer')
    """
    kind, colon, number = tokens.partition(":")
    if not colon and (kind == "all" or kind in ROLE_GROUPS):
        return ParsedChoice(kind)
    if kind in ("first", "last", "from", "every") and re.fullmatch("[1-9][0-9]*", number):
        return ParsedChoice(kind, int(number))
    try:
        share = float(number) if kind == "share" else 0.0
    except ValueError:
        share = 0.0
    if 0 < share <= 1:
        return ParsedChoice(kind, share)
    raise ValueError(f"`tokens` is {tokens!r}; allowed are {GRAMMAR}{suggestion(kind, ('all', *ROLE_GROUPS))}")


def describe_population(tokens: str) -> str:
    """The tokens that means over a choice are about, in words.

    Examples
    --------
    >>> population("share:0.1"), population("answer")
    ('all tokens', 'the tokens of the answer')
    """
    choice = parse_choice(tokens)
    return POPULATION_DESCRIPTIONS.get(choice.kind, f"the tokens of role {choice.kind!r}").format(choice.number)


def describe_choice(tokens: TokenChoice) -> str:
    """The choice as an attribute of a result: its own words, or the number of indices."""
    return tokens if isinstance(tokens, str) else f"{len(tokens)} chosen"


def choose_tokens(
    tokens: str,
    *,
    positions: Int[np.ndarray, " token"],
    roles: Int[np.ndarray, " token"],
    length: int,
    generator: np.random.Generator,
) -> ChosenTokens:
    """The tokens that a choice takes of one sample, and their weights.

    Parameters
    ----------
    tokens
        The choice in words.
    positions, roles
        Place of each token in the sample's sequence and its role, as an index in `ROLES`.
    length
        Tokens of the whole sequence.
    generator
        Random numbers for `every:K` and `share:P`.

    Notes
    -----
    `share:P` draws m = round(P n) of n tokens (half to even), at least one, without replacement: a token is taken with
    the chance m / n. `every:K` draws one of the n tokens and takes it with all tokens at whole multiples of K from it:
    a start is drawn in proportion to the m tokens that follow from it, and a token taken with the chance m / n again.
    So a sample's weights are all n / m, they add up to n, and its weighted mean and weighted sum are both unbiased for
    the mean and the sum over all n tokens, whether or not K divides n. (Starts of equal chance, each token weighing K,
    would bias the mean where K doesn't.)

    The others take whole groups of tokens. Their weights are 1, and what is computed from them is about these groups
    and not about the sequence: see `describe_population`.
    """
    choice, n = parse_choice(tokens), len(positions)
    if not choice.is_random:
        places = np.flatnonzero(is_chosen(choice, positions, roles, length))
        return ChosenTokens(places, np.ones(len(places), np.float32))
    if choice.kind == "share":
        places = np.sort(generator.choice(n, max(round(choice.number * n), 1), replace=False))
    else:
        step = int(min(choice.number, n))  # a larger one takes what n does
        places = np.arange(n)[generator.integers(n) % step :: step]
    return ChosenTokens(places, np.full(len(places), n / len(places), np.float32))


def is_chosen(
    choice: ParsedChoice, positions: np.ndarray, roles: np.ndarray, length: int | np.ndarray
) -> Bool[np.ndarray, " token"]:
    """Whether tokens belong to a choice that draws nothing; of one sample, or of several with a length by token."""
    if choice.kind == "all":
        return np.ones(len(positions), np.bool_)
    if choice.kind == "first":
        return np.asarray(positions < choice.number)
    if choice.kind == "from":
        return np.asarray(positions >= choice.number)
    if choice.kind == "last":
        return np.asarray(length - positions <= choice.number)
    return np.isin(roles, [ROLES.index(role) for role in ROLE_GROUPS[choice.kind]])


def chosen_token_weights(
    run: "Run", tokens: TokenChoice, among: Bool[np.ndarray, " token"] | None = None, *, seed: int = 0
) -> Float32[np.ndarray, " token"]:
    """By how many tokens of its sample each token of a run counts in a choice; 0 where it isn't chosen.

    Chosen tokens count 1, but for `every:K` and `share:P`: see `choose_tokens`.

    Parameters
    ----------
    among
        Tokens that can be chosen; by default those that are committed and have states.
    seed
        Seed of the random draws. A sample's draw depends on the seed, its index and its own tokens alone.

    Raises
    ------
    ValueError, IndexError
        If `tokens` isn't in the grammar, or an index of no token.
    StoreError
        If no token is left.

    Examples
    --------
    >>> from lorascope.stores import open_run
    >>> mask = chosen_tokens(open_run("runs/demo/run.zarr"), "first:4") > 0  # doctest: +SKIP
    """
    what = "have states" if among is None else "can be chosen"
    among = (run.committed & run.with_states).values if among is None else among
    weights = np.zeros(run.n_tokens, np.float32)
    if not isinstance(tokens, str):
        weights[checked_token_places(tokens, run.n_tokens)] = 1
    elif not parse_choice(tokens).is_random:
        length = run.read_static("samples/length")[run.read_static("tokens/sample")]
        columns = run.read_static("tokens/position"), run.read_static("tokens/role")
        weights[is_chosen(parse_choice(tokens), *columns, length)] = 1
    elif among.any():
        candidates = np.flatnonzero(among)
        labels, position, role = (
            run.read_static(f"tokens/{key}")[candidates] for key in ("sample", "position", "role")
        )
        lengths = run.read_static("samples/length")
        starts = np.flatnonzero(np.diff(labels, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(labels)], strict=True):
            sample, part = int(labels[start]), slice(start, stop)
            generator = np.random.default_rng([seed, sample])
            chosen = choose_tokens(
                tokens, positions=position[part], roles=role[part], length=lengths[sample], generator=generator
            )
            weights[candidates[part][chosen.places]] = chosen.weights
    weights[~among] = 0
    if not weights.any():
        raise StoreError(f"`tokens` takes none of the tokens of {run.place.name!r} that {what}; choose others")
    return weights


def checked_token_places(tokens: Any, n_tokens: int) -> np.ndarray:
    """Places of tokens that are given one by one, checked."""
    places = np.asarray(tokens)
    if places.ndim != 1 or (places.size and places.dtype.kind not in "iu"):
        raise ValueError(
            f"`tokens` is {places.dtype} of shape {places.shape}; it must be a sequence of integers (of a mask, take "
            "`numpy.flatnonzero`)"
        )
    outside = places[(places < 0) | (places >= n_tokens)]
    if len(outside):
        raise IndexError(f"`tokens` holds {int(outside[0])}; this run's tokens are 0 to {n_tokens - 1}")
    return places.astype(np.intp)
