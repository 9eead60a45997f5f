"""A model's replies to short prompts: the prompts encoded, and the replies as a run's table has them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lorascope.stores.format.tables import REPLY_COLUMNS, REPLY_SCALES

from .encode import encode_items
from .encoded import GENERATED, TEXT, EncodedChoice, EncodedSample, tokenize
from .generate import end_tokens
from .items import ChatItem

REPLY_TOKENS = 40
"""Most tokens of a reply."""
LEAST_BATCH_TOKENS = 4096
"""Least size of a batch of replies, whose tokens pass one at a time; at 1024, SmolLM2 takes 1.8 times as long."""


def encode_reply_prompts(prompts: Sequence[str], tokenizer: Any, max_length: int) -> dict[str, EncodedSample]:
    """Return prompt -> the tokens that a reply follows: a user's message in the chat template, or a text without one.

    Raises
    ------
    ValueError
        If the template refuses a user's message, or a prompt makes no tokens, or more than `max_length` with its reply.
    """
    if not prompts:
        return {}
    # A word of the assistant's shows where its turn begins, and is cut off.
    turns = [({"role": "user", "content": prompt}, {"role": "assistant", "content": "I"}) for prompt in prompts]
    items = [
        ChatItem(id=f"reply prompt {n}", dataset="replies", split="", messages=messages)
        for n, messages in enumerate(turns, start=1)
    ]
    if tokenizer.chat_template:
        chats = encode_items(items, tokenizer, max_length=max_length, window_tokens=max_length)
        token_ids = [chat.token_ids[: chat.n_prefix] for chat in chats]
    else:
        token_ids = [tokens.ids for tokens in tokenize(tokenizer, prompts)]
    samples = {}
    for item, prompt, ids in zip(items, prompts, token_ids, strict=True):
        if not len(ids):
            raise ValueError(f"the prompt {prompt!r} makes no tokens; leave it out of the file that `replies` names")
        if len(ids) + REPLY_TOKENS > max_length:
            raise ValueError(
                f"the prompt {prompt[:40]!r} of `replies` makes {len(ids)} tokens, which with {REPLY_TOKENS} of a "
                f"reply don't fit the context of {max_length}; shorten it"
            )
        samples[prompt] = EncodedSample.from_item(item, "reply", ids, np.full(len(ids), TEXT))
    return samples


def as_question(replies: Sequence[EncodedSample]) -> EncodedSample:
    """Return one sample that has all replies to a prompt as its choices, so that `score` gives their likelihoods."""
    first = replies[0]
    choices = tuple(EncodedChoice(text="", token_ids=reply.token_ids[reply.roles == GENERATED]) for reply in replies)
    return dataclasses.replace(first, choices=choices, answer=0, targets=first.roles == GENERATED)


def reply_columns(
    prompts: Sequence[str],
    questions: Sequence[EncodedSample],
    logliks: Sequence[np.ndarray],
    model: Any,
    tokenizer: Any,
) -> dict[str, Any]:
    """Return the columns of a table of replies, one entry (reply,) for each prompt and scale of `REPLY_SCALES`.

    `questions` have the replies to each prompt as choices; `logliks` are their log-likelihoods (reply,) in nats at
    each scale.
    """
    token_ids = [choice.token_ids for question in questions for choice in question.choices]
    ends = end_tokens(model)
    values = [
        np.repeat(np.array(prompts, object), len(REPLY_SCALES)),
        np.tile(np.array(REPLY_SCALES, np.float32), len(prompts)),
        np.array(tokenizer.batch_decode(token_ids, skip_special_tokens=True), object),
        np.array([len(ids) for ids in token_ids], np.int32),
        np.array([int(ids[-1]) in ends for ids in token_ids], np.int8),
        *(loglik.astype(np.float32) for loglik in logliks),
    ]
    return {column.name: value for column, value in zip(REPLY_COLUMNS, values, strict=True)}
