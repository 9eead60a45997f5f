"""The tokens of a run that a choice takes."""

import numpy as np
from jaxtyping import Bool, Float32

from ..errors import StoreError
from .labels import token_places
from .run import Run
from .token_choice import TokenChoice, choose, is_in, parse_choice


def chosen_tokens(
    run: Run, tokens: TokenChoice, among: Bool[np.ndarray, " token"] | None = None, *, seed: int = 0
) -> Float32[np.ndarray, " token"]:
    """By how many tokens of its sample each token of a run counts in a choice; 0 where it isn't chosen.

    Chosen tokens count 1, but for `every:K` and `share:P`: see `choose`.

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
        weights[token_places(tokens, run.n_tokens)] = 1
    elif not parse_choice(tokens).is_drawn:
        length = run.read_once("samples/length")[run.read_once("tokens/sample")]
        columns = run.read_once("tokens/position"), run.read_once("tokens/role")
        weights[is_in(parse_choice(tokens), *columns, length)] = 1
    elif among.any():
        candidates = np.flatnonzero(among)
        labels, position, role = (run.read_once(f"tokens/{key}")[candidates] for key in ("sample", "position", "role"))
        lengths = run.read_once("samples/length")
        starts = np.flatnonzero(np.diff(labels, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(labels)], strict=True):
            sample, part = int(labels[start]), slice(start, stop)
            generator = np.random.default_rng([seed, sample])
            chosen = choose(
                tokens, positions=position[part], roles=role[part], length=lengths[sample], generator=generator
            )
            weights[candidates[part][chosen.places]] = chosen.weights
    weights[~among] = 0
    if not weights.any():
        raise StoreError(f"`tokens` takes none of the tokens of {run.place.name!r} that {what}; choose others")
    return weights
