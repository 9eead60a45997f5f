"""Neutral texts that the base model writes itself, on which one sees what an adapter changes beyond its task."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from lorascope.stores import Run

from ..models.device import Ranks
from ..models.model import context_length
from ..models.passes import Pass
from ..models.weights import plain_model
from .encoded import TEXT, EncodedSample
from .generate import end_tokens, generate, generation_batches
from .items import TextItem
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
    share the texts. Raises ValueError if there is no start token, the model can't generate, or a logit isn't a number.
    """
    config, ends = plain_model(model).config.get_text_config(), end_tokens(model)
    first = (tokenizer.bos_token_id, config.bos_token_id, tokenizer.eos_token_id, *ends)
    start = next((int(token) for token in first if token is not None), None)
    if start is None:
        raise ValueError(
            "the base can't write `neutral` texts, since neither tokenizer nor model names a token that begins or ends "
            "a text; name a file of texts instead"
        )
    samples = [as_sample(number, np.array([start]), np.array([TEXT])) for number in range(n_texts)]
    n = min(TOKENS, context_length(plain_model(model)) or TOKENS) - 1
    options: dict[str, Any] = {"n": n, "batch_tokens": max(batch_tokens, LEAST_BATCH_TOKENS)}

    def write(part: Sequence[EncodedSample]) -> list[EncodedSample]:
        """Return the samples with what the base writes after their start token."""
        uniforms = [np.random.default_rng([seed, _STREAM, int(sample.id)]).random(n) for sample in part]
        with Pass("base", None).enabled(model):
            return generate(model, part, **options, uniforms=np.stack(uniforms), progress=progress)

    written = chain.from_iterable(ranks.map_batches(samples, generation_batches(samples, **options), write))
    lengths = ((text, len(text.token_ids) - int(text.token_ids[-1] in ends)) for text in written)
    return [as_sample(int(text.id), text.token_ids[:length], text.roles[:length]) for text, length in lengths]


def read_neutral_texts(run: Run) -> list[EncodedSample]:
    """Return the samples of a run of neutral texts from its tables, with the tokens and roles that it stores."""
    columns = (run.read_static(f"tokens/{name}").astype(np.int64) for name in ("token_id", "role"))
    cuts = run.read_static("samples/token_start")[1:]
    return [as_sample(n, *text) for n, text in enumerate(zip(*(np.split(c, cuts) for c in columns), strict=True))]


def as_sample(number: int, token_ids: np.ndarray, roles: np.ndarray) -> EncodedSample:
    """Return a neutral text as a sample."""
    item = TextItem(id=str(number), dataset="neutral", split="base", text="written by the base")
    return EncodedSample.from_item(item, "text", token_ids, roles)
