"""Token ids that a server makes of a run's samples, as texts and as chats: its tokenizer and its template."""

import itertools
import reprlib
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any, NamedTuple

import numpy as np

from lorascope.stores import Run

from .connection import Server, ServerError, item
from .references import References
from .server import PARALLEL, only_model

MOST_SAMPLES = 32
"""Largest number of samples whose token ids a server is asked for."""


class ServedTexts(NamedTuple):
    """Clauses on whether a server has the run's token ids of texts (its tokenizer) and chats (its template)."""

    equal: list[str]
    """Kinds whose samples all have the same ids."""
    differing: list[str]
    """Kinds with other ids: how many samples, and the first token that differs."""
    not_compared: list[str]
    """Kinds without samples or answers, and why."""


def served_texts(url: str, run: Run, references: References, *, model: str | None = None) -> ServedTexts:
    """Compare a run's token ids with a server's of the same texts and chats, by vLLM's `/tokenize`.

    Notes
    -----
    A text is joined from its tokens' texts, a chat's messages from the tokens of each role between the template's. What
    they don't show is tried in every form: a token that starts all texts, white space around messages, tokens that end
    them. The last word isn't compared, since a run may cut it; nor are samples that were given as token ids, or have a
    token that is part of a character; nor runs whose tokens all lack the space before a word, as SentencePiece's. A
    start token that the server lacks shows in chats alone. Raises ValueError and ServerError as `server_nll` for
    address and model.
    """
    server = Server(url)
    name = model or only_model(server)
    texts = run.tokens["text"].values if "text" in run.tokens else np.full(run.n_tokens, "\ufffd")
    # SentencePiece's tokens lose the space before them where they are decoded one by one.
    has_spaces = any(str(text)[:1] == " " and str(text).strip() for text in texts)
    n_sequences = len(references.sequences)
    chosen = np.linspace(0, n_sequences - 1, min(n_sequences, MOST_SAMPLES), dtype=int).tolist()

    def compare(kind: str, number: int) -> str | None:
        """Return a clause on a sample's first token that differs, empty without one; None if it can't be compared."""
        tokens, ids = references.tokens[references.tokens["sequence"] == number], references.sequences[number]
        words = [str(text) for text in texts[tokens["place"]]]
        origin = run.samples["prompt"].values[run.tokens["sample"].values[tokens["place"].iloc[0]]]
        n = max((i for i, word in enumerate(words) if word[:1].isspace()), default=0)
        if (
            not (n and has_spaces)
            or origin == "tokens"
            or (kind == "chat" and origin != "chat")
            or "\ufffd" in "".join(words)
        ):
            return None
        forms = _chat_forms(words, tokens["role"].to_numpy()) if kind == "chat" else _text_forms(words)
        n_same, other = -1, None
        for form in forms:
            made = item(server.ask("/tokenize", {"model": name, **form}, n_tokens=len(ids)), "tokens")
            pairs = enumerate(itertools.zip_longest(ids[:n].tolist(), made if isinstance(made, list) else ()))
            same = next((i for i, (own, served) in pairs if own != served), n)
            if same == n:
                return ""
            n_same, other = (same, item(made, same)) if same > n_same else (n_same, other)
        where = f"token {n_same} of {tokens['sample'].iloc[0]!r}, {words[n_same]!r},"
        return f"{where} is {ids[n_same]} in the run and {reprlib.repr(other)} on the server"

    result = ServedTexts([], [], [])
    for kind in ("text", "chat"):
        try:
            with ThreadPool(PARALLEL[0]) as pool:
                clauses = [clause for clause in pool.imap(partial(compare, kind), chosen) if clause is not None]
        except ServerError as error:
            result.not_compared.append(f"samples as {kind}: {error}")
            continue
        if others := [clause for clause in clauses if clause]:
            n = f"{len(others)} of {len(clauses)}"
            result.differing.append(f"as {kind}, {n} samples have other tokens: {others[0]}")
        elif clauses:
            result.equal.append(f"as {kind}, all {len(clauses)} samples have the run's tokens")
        else:
            result.not_compared.append(f"samples as {kind}: there is nothing to compare")
    return result


def _text_forms(words: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the text of tokens, and that without the first token, which the tokenizer may put before all texts."""
    for start in (0, 1):
        yield {"prompt": "".join(words[start:])}


def _chat_forms(words: Sequence[str], roles: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield a chat's messages with and without white space around them, and 0 to 2 tokens that end the assistant's."""
    # A token may hold the template's newline and a content's spaces.
    for n_end, (before, after) in itertools.product(range(3), (("", ""), ("\n", ""), (None, None))):
        messages, stop = [], 0
        for role, group in itertools.groupby(roles):
            start, stop = stop, stop + len(list(group))
            is_own = role in ("assistant", "generated")
            content = "".join(words[start : stop - n_end * is_own])
            content = content.lstrip(before).rstrip(after)
            messages.append({"role": "assistant" if is_own else role, "content": content})
        messages = [message for message in messages if message["role"] != "template"]
        yield {"messages": messages, "add_generation_prompt": False}
