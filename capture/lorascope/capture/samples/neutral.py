"""Neutral texts that the base model writes itself, on which one sees what an adapter changes beyond its task."""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from lorascope.stores import Run

from ..models.device import Ranks
from ..models.model import context_length
from ..models.passes import Pass
from ..models.weights import plain_model
from .encoded import GENERATED, PROMPT, TEXT, EncodedSample
from .generate import end_tokens, generate, generation_batches
from .replies import LEAST_BATCH_TOKENS

TOKENS = 128
"""Largest number of tokens in a neutral text, with the start token."""
_STREAM = 4
"""Second word of the seed of the texts' random numbers, so that they differ from others of the same seed."""


def write_neutral_texts(
    model: Any, tokenizer: Any, n_texts: int, ranks: Ranks, *, seed: int, batch_tokens: int, progress: Any
) -> list[EncodedSample]:
    """Let the base model write texts from its start token, each token drawn at temperature 1; return them as samples.

    A text has up to 128 tokens, or as many as the context, and ends before a token that ends a text: after that nothing
    is predicted. Its random numbers depend on `seed` and on its own number alone. Processes of a capture, its `ranks`,
    share the texts. Raises ValueError if the model has no start token, can't generate, or a logit isn't a number.
    """
    first = _start_token(model, tokenizer)
    starts = [as_sample(number, np.array([first]), np.array([TEXT])) for number in range(n_texts)]
    n = min(TOKENS, context_length(plain_model(model)) or TOKENS) - 1
    options: dict[str, Any] = {"n": n, "batch_tokens": max(batch_tokens, LEAST_BATCH_TOKENS)}

    def write(part: Sequence[EncodedSample]) -> list[EncodedSample]:
        """Return the samples with what the base writes after their start token."""
        uniforms = [np.random.default_rng([seed, _STREAM, int(sample.id)]).random(n) for sample in part]
        with Pass("base", None).enabled(model):
            return generate(model, part, **options, uniforms=np.stack(uniforms), progress=progress)

    written = chain.from_iterable(ranks.map_batches(starts, generation_batches(starts, **options), write))
    ends = end_tokens(model)
    texts = (sample.token_ids[: len(sample.token_ids) - (sample.token_ids[-1] in ends)] for sample in written)
    roles = partial(np.repeat, [PROMPT, GENERATED])
    return [as_sample(number, ids, roles([1, len(ids) - 1])) for number, ids in enumerate(texts)]


def read_neutral_texts(run: Run) -> list[EncodedSample]:
    """Return the samples of a run of neutral texts from its tables, with the tokens and roles that it stores."""
    ids, roles = (run.read_static(f"tokens/{name}") for name in ("token_id", "role"))
    spans = zip(*(run.read_static(f"samples/token_{end}").tolist() for end in ("start", "stop")), strict=True)
    return [as_sample(n, ids[slice(*span)].astype(np.int64), roles[slice(*span)]) for n, span in enumerate(spans)]


def as_sample(number: int, token_ids: np.ndarray, roles: np.ndarray) -> EncodedSample:
    """Return a neutral text as a sample."""
    return EncodedSample(
        id=str(number),
        dataset="neutral",
        split="base",
        prompt="text",
        token_ids=token_ids,
        roles=roles.astype(np.uint8),
    )


def _start_token(model: Any, tokenizer: Any) -> int:
    """Return the id of the token that begins a text of this model, or that ends one where it is the same for both.

    Raises ValueError if neither tokenizer nor model names any.
    """
    config = plain_model(model).config.get_text_config()
    named = (tokenizer.bos_token_id, config.bos_token_id, tokenizer.eos_token_id, *end_tokens(model))
    known = [int(token) for token in named if token is not None]
    if not known:
        raise ValueError(
            "the base can't write `neutral` texts, since neither tokenizer nor model names a token that begins or ends "
            "a text; name a file of texts instead"
        )
    return known[0]
