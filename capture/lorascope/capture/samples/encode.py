"""Encoding of items: token ids and their roles, ready for the model."""

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from lorascope.stores.confined import ConfinedProcess

from .chats import encode_chat, render_chats, render_process, special_tokens
from .encoded import (
    ANSWER,
    CHOICE,
    PROMPT,
    TEXT,
    EncodedChoice,
    EncodedSample,
    TokenIds,
    require_context_fit,
    require_short,
    tokenize,
)
from .items import ChatItem, ChoiceItem, CompletionItem, Item, TextItem, TokensItem
from .prompt import Examples, Template, read_template, render


def encode_items(
    items: Sequence[Item],
    tokenizer: Any,
    *,
    max_length: int,
    window_tokens: int,
    prompt: Template | None = None,
    examples: Examples | None = None,
    renderer: ConfinedProcess | None = None,
) -> list[EncodedSample]:
    """Encode items (questions, texts, chats, token ids) as samples for the model, in order.

    Each sample is at most `max_length` tokens long.

    Parameters
    ----------
    items
        A text gives a sample for each of its windows, any other item one.
    tokenizer
        A fast tokenizer of transformers.
    max_length
        The model's context in tokens; a prompt with each of its choices must fit, and so must a chat or completion.
    window_tokens
        Number of tokens in a window of text, with the tokenizer's start tokens.
    prompt
        Prompt of multiple-choice items; None for `main`, the paper's prompt for training.
    examples
        Examples that the prompt shows, if it shows any.
    renderer
        Process of `render_process` in which chats are rendered; None for one of their own.

    Raises
    ------
    ValueError
        If there are no items, a sample is longer than the context, a choice or text has no tokens, a window leaves no
        token to predict or is longer than the context, the tokenizer isn't a fast one, or the prompt shows examples
        that aren't given; or as `render_chats`, `encode_chat`, `encode_completion` and `encode_token_ids` do.

    Notes
    -----
    The special tokens that the tokenizer puts before a text are put before every prompt and every window; special
    tokens after a text are removed. Answers are tokenized without their prompt, but as they follow the template's last
    words ("Answer:"): a tokenizer that adds a space at the start of a text doesn't add it there. A window at the end of
    a text without a token to predict gets one from the window before. A token belongs to a choice if it covers any of
    its characters; an example's choices and answer belong to the prompt.
    """
    if not items:
        raise ValueError("`items` is empty; give at least one")
    if not tokenizer.is_fast:
        kind = type(tokenizer).__name__
        raise ValueError(f"the tokenizer is a {kind}, which doesn't report a token's place in a text; give a fast one")
    template = read_template("main") if prompt is None else prompt
    asked = [item for item in items if isinstance(item, ChoiceItem)]
    choice_samples = iter(_encode_choice_items(asked, template, examples, tokenizer, max_length) if asked else ())
    special = special_tokens(tokenizer)
    samples: list[EncodedSample] = []
    with render_process() if renderer is None else nullcontext(renderer) as process:
        chats = render_chats((item for item in items if isinstance(item, ChatItem)), tokenizer, process)
        for item in items:
            if isinstance(item, ChoiceItem):
                samples.append(next(choice_samples))
            elif isinstance(item, TextItem):
                samples += _encode_text(item, tokenizer, max_length=max_length, window_tokens=window_tokens)
            elif isinstance(item, ChatItem):
                samples.append(encode_chat(item, next(chats), tokenizer, max_length=max_length, special=special))
            elif isinstance(item, CompletionItem):
                samples.append(encode_completion(item, tokenizer, max_length=max_length))
            else:
                samples.append(encode_token_ids(item, tokenizer, max_length=max_length))
    return samples


def require_known_tokens(n_known: int, samples: Sequence[EncodedSample]) -> None:
    """Raise ValueError if a sample has a token id of `n_known` or more, the size of the model's vocabulary."""
    for sample in samples:
        sequences = (sample.token_ids, *(choice.token_ids for choice in sample.choices))
        highest = max(int(ids.max()) for ids in sequences)
        if highest >= n_known:
            raise ValueError(
                f"sample {sample.id!r} has token {highest}, but the model knows {n_known}, from 0; give the tokenizer "
                "that belongs to the model"
            )


def _encode_choice_items(
    items: Sequence[ChoiceItem], template: Template, examples: Examples | None, tokenizer: Any, max_length: int
) -> list[EncodedSample]:
    """Encode multiple-choice items as samples: filled prompt and right answer, and the tokens of each choice."""
    shown = examples if template.shows_examples else None
    rendered = [render(template, item, shown.draw(item) if shown else None) for item in items]
    for item, asked in zip(items, rendered, strict=True):
        for words in (asked.text, *item.choices):
            require_short(tokenizer, item.id, words, max_length)
    prompts = tokenize(tokenizer, [prompt.text for prompt in rendered])
    answers = iter(_tokenize_answers(tokenizer, template.cue, [choice for item in items for choice in item.choices]))
    samples = []
    for item, text, prompt in zip(items, rendered, prompts, strict=True):
        choices = tuple(EncodedChoice(text=choice, token_ids=next(answers)) for choice in item.choices)
        lengths = [len(choice.token_ids) for choice in choices]
        if not all(lengths):
            empty = lengths.index(0)
            raise ValueError(
                f"sample {item.id!r}: `choices[{empty}]`, {item.choices[empty]!r}, makes no tokens; leave it out"
            )
        if (longest := len(prompt.ids) + max(lengths)) > max_length:
            words = f"has {longest} tokens with its longest choice; the context has {max_length}"
            raise ValueError(f"sample {item.id!r} {words}; leave the item out")
        roles = np.full(len(prompt.ids), PROMPT)
        start, stop = prompt.offsets.T
        for first, last in text.choice_spans:
            roles[(start < last) & (stop > first)] = CHOICE
        gold = choices[item.answer].token_ids
        ids, roles = np.concatenate([prompt.ids, gold]), np.concatenate([roles, np.full(len(gold), ANSWER)])
        samples.append(EncodedSample.from_item(item, template.name, ids, roles, choices=choices, answer=item.answer))
    return samples


def _tokenize_answers(tokenizer: Any, cue: str, answers: Sequence[str]) -> list[TokenIds]:
    """Return the token ids of each answer as it follows `cue`, the prompt's last words."""
    texts = [f" {answer}" for answer in answers]
    answer_ids: list[TokenIds | None] = [None] * len(texts)
    # If a tokenizer joins characters of cue and answer, the answer is tokenized after a line's end. The start of a text
    # is tried last, since a tokenizer may add a space there.
    for before in (cue, "\n", ""):
        anchor = tokenize(tokenizer, [before], special_tokens=False)[0].ids if before else np.empty(0, np.int64)
        whole = tokenize(tokenizer, [before + text for text in texts], special_tokens=False)
        for place, (ids, _, _) in enumerate(whole):
            if answer_ids[place] is None and np.array_equal(ids[: len(anchor)], anchor):
                answer_ids[place] = ids[len(anchor) :]
    return [ids for ids in answer_ids if ids is not None]


def _encode_text(item: TextItem, tokenizer: Any, *, max_length: int, window_tokens: int) -> list[EncodedSample]:
    """Cut a text into windows of at most `window_tokens` tokens, and return one sample per window."""
    if window_tokens > max_length:
        raise ValueError(f"`window_tokens` is {window_tokens}; the context has {max_length} tokens, give at most that")
    tokens = tokenize(tokenizer, [item.text])[0]
    start, body = tokens.ids[: tokens.n_start], tokens.ids[tokens.n_start :]
    # In a window without start tokens, the first token can't be predicted.
    n_unpredicted = 0 if len(start) else 1
    step = window_tokens - len(start)
    if step <= 2 * n_unpredicted:
        raise ValueError(f"`window_tokens` is {window_tokens}; give at least {len(start) + 2 * n_unpredicted + 1}")
    if len(body) <= n_unpredicted:
        raise ValueError(f"text {item.id!r} has {len(body)} tokens, which leaves none to predict; give a longer text")
    cuts = [*range(0, len(body), step), len(body)]
    if len(cuts) > 2 and cuts[-1] - cuts[-2] <= n_unpredicted:
        cuts[-2] -= 1  # a last window of one token gets the token before it, to be predicted from
    return [
        EncodedSample.from_item(
            item,
            "text",
            np.concatenate([start, body[first:last]]),
            np.repeat([PROMPT, TEXT], [len(start), last - first]),
            id=f"{item.id}:{number}",
        )
        for number, (first, last) in enumerate(itertools.pairwise(cuts))
    ]


def encode_completion(item: CompletionItem, tokenizer: Any, *, max_length: int) -> EncodedSample:
    """Encode prompt, completion and end token as one sample; the completion's tokens are to be predicted.

    Raises
    ------
    ValueError
        If the text is longer than the context.

    Notes
    -----
    The completion begins with the first token of the whole text that differs from the prompt's own tokens, as in TRL's
    `SFTTrainer`: a token with characters of both belongs to the completion. The end token is added unless the
    completion ends with its text.
    """
    end = tokenizer.eos_token or ""
    text = item.prompt + item.completion + ("" if item.completion.endswith(end) else end)
    require_short(tokenizer, item.id, text, max_length)
    before, whole = (tokens.ids for tokens in tokenize(tokenizer, [item.prompt, text]))
    require_context_fit(item.id, len(whole), max_length)
    n = min(len(before), len(whole))
    differing = np.flatnonzero(before[:n] != whole[:n])
    n_prompt = int(differing[0]) if len(differing) else n
    if n_prompt == len(whole) or len(whole) < 2:
        raise ValueError(f"sample {item.id!r}: its completion makes no tokens; leave the item out")
    roles = np.repeat([PROMPT, ANSWER], [n_prompt, len(whole) - n_prompt])
    return EncodedSample.from_item(item, "completion", whole, roles)


def encode_token_ids(item: TokensItem, tokenizer: Any, *, max_length: int) -> EncodedSample:
    """Make a sample of token ids as given; their roles are `prompt` and `answer`, or `text` if all are targets.

    Raises
    ------
    ValueError
        If an id isn't one of the tokenizer's, the sequence is longer than the context, or it begins or ends with two or
        more of the tokenizer's padding tokens (as it does if `attention_mask` is missing).
    """
    require_context_fit(item.id, len(item.token_ids), max_length)
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
    return EncodedSample.from_item(item, "tokens", token_ids, roles)
