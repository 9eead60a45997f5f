"""Neutral texts, in which one sees what an adapter changes beyond its task: of a file, or written by the base itself.

They are captured as a run of their own inside the run of the user's data.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from lorascope.stores import Run
from lorascope.stores.format.layout import IN_RUN, NEUTRAL

from ..config import LOADING, CaptureConfig
from ..models.components import LoraComponent
from ..models.model import ModelFacts, context_length
from ..models.passes import Pass
from ..models.ranks import Ranks
from ..models.weights import plain_model
from ..recording.layout import Layout
from ..samples.encoded import TEXT, EncodedSample
from ..samples.generate import end_tokens, generate, generation_batches
from ..samples.items import TextItem
from ..samples.replies import LEAST_BATCH_TOKENS
from .data import encode_data, read_data
from .make_layout import make_layout

TOKENS = 128
"""Largest number of tokens of a text that the base writes, with the start token."""
_STREAM = 4
"""Second word of the seed of the texts' random numbers."""
OWN_SETTINGS = (
    *("model", "adapter", "component", "stream", "device", "queue", "overfill", "allow_zero", *LOADING),
    *("limit", "window_tokens", "batch_tokens", "store", "seed"),
)
"""Settings of a capture that its neutral texts share; all others are off, or as they are by default."""


def neutral_config(config: CaptureConfig, facts: ModelFacts) -> CaptureConfig:
    """Return the settings with which neutral texts are captured: measures and next-token changes of all their tokens.

    A file's texts are limited as those of the data are. No base and delta is stored, no text is scored. Raises
    ValueError if the model predicts no next token.
    """
    neutral, own = config.neutral, {name: getattr(config, name) for name in OWN_SETTINGS}
    if not facts.is_causal:
        raise ValueError(
            f"`neutral` is {neutral!r}, but {facts.class_name} doesn't predict the next token, and neutral texts show "
            "how predictions change; leave `neutral` out"
        )
    data = neutral if isinstance(neutral, str) else f"{neutral} texts by the base {IN_RUN}"
    out = f"{config.out.rstrip('/')}/{NEUTRAL}"
    return CaptureConfig(**own, data=(data,), out=out, states="none", changes="all", score=False)


def longest_layout(
    config: CaptureConfig,
    facts: ModelFacts,
    tokenizer: Any,
    components: Mapping[str, Sequence[LoraComponent]],
    dtypes: Mapping[str, torch.dtype],
    device: torch.device,
    n_logits: int,
) -> Layout:
    """Return the layout of the neutral texts' run if the base writes each to its full length, before it writes any.

    The arguments are those of `make_layout`, with the settings of the run around it.
    """
    own = neutral_config(config, facts)
    if isinstance(config.neutral, str):
        texts, _ = encode_data(read_data(own), tokenizer, own, facts.context_length)
    else:
        ids = np.zeros(min(TOKENS, facts.context_length), np.int64)
        texts = [as_sample(number, ids, ids) for number in range(config.neutral or 0)]
    return make_layout(own, facts, texts, components, dtypes, device, n_logits=n_logits)


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
