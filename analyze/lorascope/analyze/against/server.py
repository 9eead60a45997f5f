"""Log-probabilities of token sequences from a server that speaks OpenAI's completions, such as vLLM."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from lorascope.stores.visible import one_line

from .connection import Server, ServerError, item

QUESTIONS: tuple[Mapping[str, Any], ...] = ({"prompt_logprobs": 0}, {"echo": True, "logprobs": 0})
"""Arguments that make servers return log-probabilities of a prompt's tokens: vLLM's, then OpenAI's own."""
PARALLEL = (4, 2)
"""Largest number of requests at once, first and when all sequences are repeated."""
LOWEST, HIGHEST = -9999.0, 1e-4
"""Limits of log-probabilities: vLLM sends -9999 for -inf; a float32 logit of 100 less its log-sum rounds by 1e-5."""


def server_nll(
    url: str,
    sequences: Sequence[Int64[np.ndarray, " position"]],
    repetition: int = 0,
    *,
    model: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Float64[np.ndarray, " position"]]:
    """Return -log p of each token given those before it, in nats, as a server computes it; NaN at position 0.

    Parameters
    ----------
    url
        Address of the server, such as `http://localhost:8000`. A key is taken from `LORASCOPE_API_KEY` alone.
    sequences
        Token ids of each sequence; they are sent as ids, in this order.
    repetition
        0 or 1, for another number of requests at once, which the server batches otherwise.
    model
        Name of the model or adapter on the server; by default the only one that it lists.
    progress
        Function called with the number of sequences done, and of all.

    Raises
    ------
    ValueError
        If `url` isn't an address of http or https, or has a user or question mark; or the key isn't ASCII.
    ServerError
        If the server can't be reached, refuses, lists several models and `model` names none, answers too late, too much
        or no JSON, or has no log-probabilities of these tokens. By `echo`, the ids of the tokens can't be checked.

    Examples
    --------
    >>> from functools import partial
    >>> from lorascope.analyze import server_nll, verify_against
    >>> nll = partial(server_nll, "http://localhost:8000", model="mine")  # doctest: +SKIP
    >>> verify_against("runs/mine", nll).attrs["sentence"]  # doctest: +SKIP
    """
    if not sequences:
        return []
    server = Server(url)
    name = model or only_model(server)

    def ask(ids: np.ndarray, extra: Mapping[str, Any]) -> np.ndarray | None:
        question = {"model": name, "prompt": ids.tolist(), "max_tokens": 1, "temperature": 0, **extra}
        answer = server.ask("/v1/completions", question, n_tokens=len(ids))
        return _read_nll(answer, ids, f"{server.url}, model {name!r}")

    shortest = min(sequences, key=len)
    extra = next((extra for extra in QUESTIONS if ask(shortest, extra) is not None), None)
    values: list[np.ndarray] = []
    with ThreadPool(PARALLEL[repetition]) as pool:
        for nll in pool.imap(lambda ids: None if extra is None else ask(ids, extra), sequences):
            if nll is None:
                raise ServerError(
                    f"{server.url} has no log-probabilities of a prompt's tokens, neither by `prompt_logprobs` nor by "
                    "`echo` (as llama.cpp's server, which only has those of written tokens); serve the model with vLLM"
                )
            values.append(nll)
            if progress is not None:
                progress(len(values), len(sequences))
    return values


def only_model(server: Server) -> str:
    """Return the name of the only model that the server lists; ServerError if it lists none or several."""
    listed = item(server.ask("/v1/models"), "data")
    names = [str(item(entry, "id")) for entry in (listed if isinstance(listed, list) else [])]
    if len(names) != 1:
        shown = ", ".join(map(repr, names[:20])) or "no model"
        raise ServerError(f"{server.url} lists {shown}; say which one to ask, with `--served-model NAME`")
    return names[0]


def _read_nll(answer: Any, ids: np.ndarray, place: str) -> np.ndarray | None:
    """Return -log p of each token as a server's answer has it, NaN at position 0; None without any."""
    by_id = item(answer, "choices", 0, "prompt_logprobs")
    echoed = item(answer, "choices", 0, "logprobs", "token_logprobs")
    values = by_id or echoed
    if not isinstance(values, list) or (values is echoed and (len(values) < 2 or values[0] is not None)):
        return None  # or those of written tokens alone
    n_read = len(values) if values is by_id else item(answer, "usage", "prompt_tokens") or len(values) - 1
    if n_read != len(ids) or len(values) < len(ids):
        raise ServerError(
            f"{place} answers for {reprlib.repr(n_read)} tokens, where {len(ids)} were sent; it adds or drops some"
        )
    nll = np.full(len(ids), np.nan)
    for position, token in enumerate(ids.tolist()[1:], 1):
        value = values[position]
        if values is by_id:
            if isinstance(value, dict) and str(token) not in value:
                raise ServerError(
                    f"{place} answers for token {one_line(str(next(iter(value), None)))[:40]} at position "
                    f"{position}, where {token} was sent; its tokenizer is another, or it changes what it is sent"
                )
            value = item(value, str(token), "logprob")
        if type(value) not in (int, float) or not LOWEST < value <= HIGHEST:  # or NaN
            raise ServerError(
                f"{place} gives the token at position {position} a log-probability of {reprlib.repr(value)}; "
                "allowed are finite numbers of at most 0, look at the server's log"
            )
        nll[position] = -value
    return nll
