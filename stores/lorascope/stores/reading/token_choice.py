"""Choices of tokens for capture, analysis and copies: their grammar, and the chosen tokens of a sample or run.

A choice is `all`; a role, such as `answer` (`prompt` includes the choices in it); `first:N`, `last:N` or `from:N`,
which count in the whole sample even if a run has only some of its tokens; or `every:K` or `share:P`, drawn from each
sample at random.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

from ..errors import StoreError
from ..format.digests import copying_steps
from ..format.tables import ROLES
from ..names import close_names, did_you_mean

if TYPE_CHECKING:
    from .run import Run

TokenChoice: TypeAlias = str | Sequence[int] | np.ndarray
"""Tokens of a run as an argument: a choice in words, or indices on the token axis."""
ROLE_GROUPS = {role: (role,) for role in ROLES} | {"prompt": ("prompt", "choice")}
"""Choice by role -> roles of the chosen tokens."""
UNNUMBERED = ("all", *ROLE_GROUPS)
"""Kinds of choices without a number."""
NUMBERED = ("first", "last", "from", "every", "share")
"""Kinds of choices with a number."""
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
"""Kind of a choice -> description of the tokens that means over it represent."""
GRAMMAR = (
    f"'all', {', '.join(map(repr, ROLES))}, 'first:N', 'last:N', 'from:N' and 'every:K' with whole numbers from 1, or "
    "'share:P' with P above 0 and at most 1"
)
"""Grammar of choices, for errors."""
CHOICE_HELP = (
    f"Tokens of each sample: {GRAMMAR}. 'prompt' includes its choices; 'first', 'last' and 'from' count in the whole "
    "sample; 'every' and 'share' draw at random."
)
"""Help of the option `--tokens` of all commands."""


class ParsedChoice(NamedTuple):
    """Choice of tokens in words, such as `first:4`, parsed into a kind and a number."""

    kind: str
    """`all`, a role, `first`, `last`, `from`, `every` or `share`."""
    number: float = 0
    """N, K or P; 0 for a kind without one."""

    @property
    def is_random(self) -> bool:
        """Whether tokens are drawn at random, so that means over them represent all tokens."""
        return self.kind in ("every", "share")


class ChosenTokens(NamedTuple):
    """Tokens of one sample that a choice takes, and their weights in unbiased means."""

    places: Int64[np.ndarray, " chosen"]
    """Indices among the sample's tokens, ascending."""
    weights: Float32[np.ndarray, " chosen"]
    """Inverse of the probability with which each token was chosen."""


def parse_choice(tokens: str, *, has_indices: bool = False) -> ParsedChoice:
    """Return a choice of tokens, such as `first:4`, as kind and number; ValueError if it isn't in the grammar.

    Raises TypeError if it isn't text.

    `has_indices`: whether the caller accepts indices too, so that the error mentions them.

    Examples
    --------
    >>> parse_choice("last:3"), parse_choice("answer").kind
    (ParsedChoice(kind='last', number=3), 'answer')
    """
    if not isinstance(tokens, str):
        raise TypeError(f"`tokens` is of type {type(tokens).__name__}; give a choice in words: {GRAMMAR}")
    kind, colon, number = tokens.partition(":")
    if not colon and kind in UNNUMBERED:
        return ParsedChoice(kind)
    if (value := _checked_number(kind, number)) is not None:
        return ParsedChoice(kind, value)
    grammar = f"{GRAMMAR}; or a sequence of indices" if has_indices else GRAMMAR
    close = [
        name if name in UNNUMBERED else f"{name}:{number}"
        for name in close_names(kind, (*UNNUMBERED, *NUMBERED))
        if name in UNNUMBERED or _checked_number(name, number) is not None
    ]
    raise ValueError(f"`tokens` is {tokens!r:.100}; allowed are {grammar}{did_you_mean(close)}")


def _checked_number(kind: str, number: str) -> float | None:
    """Return the number of a choice such as `first:4`; None if this kind takes no number, or not this one."""
    if kind == "share":
        try:
            return share if 0 < (share := float(number)) <= 1 else None
        except ValueError:
            return None
    return int(number) if kind in NUMBERED and re.fullmatch("[1-9][0-9]{0,99}", number) else None


def describe_population(tokens: str) -> str:
    """Return a phrase, such as `the tokens of the answer`, for the tokens that means over a choice represent.

    Examples
    --------
    >>> describe_population("share:0.1"), describe_population("answer")
    ('all tokens', 'the tokens of the answer')
    """
    choice = parse_choice(tokens)
    return POPULATION_DESCRIPTIONS.get(choice.kind, f"the tokens of role {choice.kind!r}").format(choice.number)


def narrow_population(population: str, tokens: str) -> str:
    """Return a phrase for the tokens that a copied run represents, from its source's phrase and its choice.

    Examples
    --------
    >>> narrow_population("all tokens", "answer"), narrow_population("the tokens of the answer", "every:3")
    ('the tokens of the answer', 'the tokens of the answer')
    >>> narrow_population("the tokens of the answer", "first:2")
    'the first 2 tokens of each sequence that are among the tokens of the answer'
    """
    among = " that are among "
    parts = {*population.split(among), describe_population(tokens)}
    return among.join(sorted(parts - {"all tokens"})) or "all tokens"


def recorded_choices(provenance: Mapping[str, Any]) -> str:
    """Return the choices of tokens of a run's capture and of its copying, as text; empty if none is recorded."""
    chosen = [(provenance.get("settings") or {}).get("tokens")]
    chosen += [(step.get("selection") or {}).get("tokens") for step in copying_steps(provenance)]
    return ", then ".join(str(tokens) for tokens in chosen if tokens and tokens != "all") or str(chosen[0] or "")


def describe_choice(tokens: TokenChoice) -> str:
    """Return a choice of tokens as text for an attribute of a result: its words, or the number of indices."""
    return tokens if isinstance(tokens, str) else f"{len(tokens)} chosen"


def choose_tokens(
    tokens: str,
    *,
    positions: Int[np.ndarray, " token"],
    roles: Int[np.ndarray, " token"],
    length: int,
    generator: np.random.Generator,
) -> ChosenTokens:
    """Choose tokens of one sample, and return their places and weights; `generator` draws random ones.

    Parameters
    ----------
    tokens
        The choice in words.
    positions, roles
        Place of each token in the sample's sequence and its role, as an index in `ROLES`.
    length
        Tokens of the whole sequence.
    generator
        Random generator for `every:K` and `share:P`.

    Notes
    -----
    `share:P` draws m = round(P n) of n tokens (half to even), at least one, without replacement: each token has the
    probability m / n. `every:K` draws one of the n tokens and chooses all tokens at multiples of K from it: a start has
    a probability proportional to the m tokens that it selects, so each token has the probability m / n again. A
    sample's weights are all n / m and add up to n, so its weighted mean and sum are unbiased for the mean and sum over
    all n tokens, even if K doesn't divide n. (Starts of equal probability and weights K would bias the mean then.)

    The other choices take whole groups of tokens. Their weights are 1, and results are about these groups, not about
    the sequence: see `describe_population`.
    """
    choice, n = parse_choice(tokens), len(positions)
    if not choice.is_random:
        places = np.flatnonzero(is_chosen(choice, positions, roles, length))
        return ChosenTokens(places, np.ones(len(places), np.float32))
    if choice.kind == "share":
        places = np.sort(generator.choice(n, max(round(choice.number * n), 1), replace=False))
    else:
        step = int(min(choice.number, n))  # a larger step is equivalent to n
        places = np.arange(n)[generator.integers(n) % step :: step]
    return ChosenTokens(places, np.full(len(places), n / len(places), np.float32))


def empty_sample_error(
    tokens: str, name: str, *, positions: Int[np.ndarray, " token"], roles: Int[np.ndarray, " token"], length: int
) -> ValueError:
    """Return the ValueError about a choice that takes no token of a sample; `name` is the sample's, quoted."""
    if parse_choice(tokens).kind in ROLE_GROUPS:
        present = [ROLES[role] for role in np.unique(roles)]
        reason = f"whose tokens have other roles ({', '.join(present)})"
        way = " or ".join(map(repr, [*present, "all"]))
    else:
        reason = f"whose tokens are at positions {positions[0]} to {positions[-1]} of {length}, counted from 0"
        way = "another number or 'all'"
    return ValueError(f"`tokens` = {tokens!r} takes nothing of sample {name}, {reason}; give {way}")


def is_chosen(
    choice: ParsedChoice, positions: np.ndarray, roles: np.ndarray, length: int | np.ndarray
) -> Bool[np.ndarray, " token"]:
    """Return a mask, bool (token,), of the tokens that a choice takes, which must not be a random one.

    `length` is that of the sample's sequence: one for all tokens, or one per token.
    """
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
    """Return each token's weight in means over a choice of a run's tokens, float32 (token,); 0 if not chosen.

    Weights of chosen tokens are 1, except for `every:K` and `share:P`: see `choose_tokens`.

    Parameters
    ----------
    among
        Mask of tokens that can be chosen; by default committed tokens with states.
    seed
        Seed of the random draws. A sample's draw depends only on the seed, its index and its own tokens.

    Raises
    ------
    ValueError, IndexError
        If `tokens` isn't in the grammar, `seed` is below 0, or an index is out of range.
    StoreError
        If no token is chosen.

    Examples
    --------
    >>> from lorascope.stores import open_run
    >>> mask = chosen_token_weights(open_run("runs/demo/run.zarr"), "first:4") > 0  # doctest: +SKIP
    """
    if seed < 0:
        raise ValueError(f"`seed` is {seed}; give a whole number of at least 0")
    what = "have states" if among is None else "can be chosen"
    among = (run.committed & run.with_states).values if among is None else among
    weights = np.zeros(run.n_tokens, np.float32)
    if not isinstance(tokens, str):
        weights[checked_token_places(tokens, run.n_tokens)] = 1
    elif not (choice := parse_choice(tokens, has_indices=True)).is_random:
        length = run.read_static("samples/length")[run.read_static("tokens/sample")]
        columns = run.read_static("tokens/position"), run.read_static("tokens/role")
        weights[is_chosen(choice, *columns, length)] = 1
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
    """Return token indices as an integer array; raises ValueError or IndexError unless they are in the run."""
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
