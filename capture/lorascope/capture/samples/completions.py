"""Prompts with their completions as texts, and sequences that came as token ids."""

from typing import Any

import numpy as np

from .encoded import ANSWER, PROMPT, TEXT, EncodedSample
from .items import CompletionItem, TokensItem
from .tokens import require_fitting, require_short, tokenize


def encode_completion(item: CompletionItem, tokenizer: Any, *, max_length: int) -> EncodedSample:
    """Prompt and completion as one text, ended by the tokenizer's end token; the completion is to be predicted.

    Raises
    ------
    ValueError
        If it is longer than the context.

    Notes
    -----
    The completion begins where the tokens of the whole text leave those of the prompt alone, as in TRL's `SFTTrainer`:
    where the tokenizer joins characters across the seam, that token is the completion's. The end token is added unless
    the completion ends in its text.
    """
    end = tokenizer.eos_token or ""
    text = item.prompt + item.completion + ("" if item.completion.endswith(end) else end)
    require_short(tokenizer, item.id, text, max_length)
    before, whole = (tokens.ids for tokens in tokenize(tokenizer, [item.prompt, text]))
    require_fitting(item.id, len(whole), max_length)
    n = min(len(before), len(whole))
    differing = np.flatnonzero(before[:n] != whole[:n])
    n_prompt = int(differing[0]) if len(differing) else n
    if n_prompt == len(whole) or len(whole) < 2:
        raise ValueError(f"sample {item.id!r}: its completion makes no tokens; leave the item out")
    roles = np.repeat([PROMPT, ANSWER], [n_prompt, len(whole) - n_prompt])
    return EncodedSample.of(item, "completion", whole, roles)


def encode_token_ids(item: TokensItem, tokenizer: Any, *, max_length: int) -> EncodedSample:
    """Token ids as they were given; roles are `prompt` and `answer` where only some are to be predicted, else `text`.

    Raises
    ------
    ValueError
        If an id isn't one of the tokenizer's, the sequence is longer than the context, or two tokens or more with which
        the tokenizer pads stand at one of its ends, as where there is no `attention_mask`.
    """
    require_fitting(item.id, len(item.token_ids), max_length)
    n_known = len(tokenizer)
    if strange := [token for token in item.token_ids if not 0 <= token < n_known]:
        raise ValueError(
            f"sample {item.id!r}: `input_ids` holds {strange[0]}, but the tokenizer has the ids 0 to "
            f"{n_known - 1}; give ids of the model's own tokenizer"
        )
    if [tokenizer.pad_token_id] * 2 in ([*item.token_ids[:2]], [*item.token_ids[-2:]]):
        raise ValueError(
            f"sample {item.id!r}: `input_ids` begins or ends with tokens {tokenizer.pad_token_id}, with which the "
            "tokenizer pads; give `attention_mask` with them, or leave the padding out"
        )
    token_ids, targets = np.array(item.token_ids, dtype=np.int64), np.array(item.targets, dtype=bool)
    roles = np.full(len(token_ids), TEXT) if targets[1:].all() else np.where(targets, ANSWER, PROMPT)
    return EncodedSample.of(item, "tokens", token_ids, roles)
