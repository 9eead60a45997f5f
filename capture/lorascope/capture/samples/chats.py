"""Encoding of chats by the tokenizer's own template, with roles that are checked against the template's text."""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jinja2 import TemplateError

from lorascope.stores.format.tables import ROLES

from .encoded import ASSISTANT, TEMPLATE, EncodedSample, require_context_fit, require_short, require_splittable
from .items import ChatItem

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_STANDS_FOR = re.compile("\ue000lorascope([0-9]+)\ue001")
"""Mark that stands for a message's content, to find where the template writes contents."""
MARKED = "a template that marks what the assistant says with {% generation %}"

Messages = Sequence[Mapping[str, Any]]


class _ContentSpan(NamedTuple):
    """Span (start, stop), in characters, of one message's content in the rendered text of a chat."""

    message: int
    start: int
    stop: int


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Return token id -> text of a tokenizer's special tokens.

    Call it once, since some tokenizers have thousands.
    """
    return {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def encode_chat(
    item: ChatItem, tokenizer: Any, *, max_length: int, special: Mapping[int, str] | None = None
) -> EncodedSample:
    """Encode a chat by the tokenizer's template; each token gets a role, and the assistant's are to be predicted.

    Raises
    ------
    ValueError
        If the tokenizer has no chat template, the template refuses the chat or changes its contents, no token is the
        assistant's, or the chat is longer than the context.

    Notes
    -----
    A token has a message's role if it covers any character of the message's content; all other tokens are `template`.
    If the template marks what the assistant says (`{% generation %}`), the marks decide which tokens are `assistant`.
    Otherwise these are the contents of the assistant's messages, each with the special token right after it, which ends
    the model's turn.

    To find the contents, the chat is rendered once with a mark in place of each content. With the contents in place of
    the marks, that text must equal the rendered chat, except for white space around the contents.
    """
    special = special_tokens(tokenizer) if special is None else special
    template = _chat_template(item, tokenizer)
    text = _render_chat(item, tokenizer, item.messages)
    require_splittable(text)
    require_short(tokenizer, item.id, text, max_length)
    marks = _GENERATION.search(template) is not None
    if not marks:
        _require_plain_turns(item, tokenizer, text)
    spans = _find_contents(item, tokenizer, text, marks=marks)
    encoding = tokenizer.apply_chat_template(
        list(item.messages),
        **_template_options(item, tokenizer),
        return_dict=True,
        return_assistant_tokens_mask=marks,
        tokenizer_kwargs={"return_offsets_mapping": True, "verbose": False},
    )
    token_ids = np.array(encoding["input_ids"], dtype=np.int64)
    require_context_fit(item.id, len(token_ids), max_length)
    starts, stops = np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    roles = np.full(len(token_ids), TEMPLATE, dtype=np.uint8)
    for message, start, stop in spans:
        # A token of white space may cover nothing by its offsets: what lies between a content's tokens is its own too.
        covers = (starts < stop) & (stops > start) | ((starts == stops) & (starts > start) & (stops <= stop))
        where = np.flatnonzero(covers)
        if not len(where):
            continue
        role, last = item.messages[message]["role"], where[-1]
        if role == "assistant" and last + 1 < len(token_ids) and starts[last + 1] == stop:
            last += (end := int(token_ids[last + 1])) == tokenizer.eos_token_id or end in special
        roles[where[0] : last + 1] = ROLES.index(role)
    if marks:
        roles[np.array(encoding["assistant_masks"]) == 1] = ASSISTANT
    is_assistant = roles == ASSISTANT
    after_prompt = starts >= max((span.stop for span in spans if span.message < item.n_prompt), default=0)
    if not (is_assistant & after_prompt)[1:].any():
        raise ValueError(
            f"sample {item.id!r}: by the tokenizer's chat template none of its {len(token_ids)} tokens is the "
            "assistant's; give a chat in which the assistant says something, or a template that marks it"
        )
    targets = is_assistant & after_prompt if (is_assistant & ~after_prompt).any() else None
    return EncodedSample.from_item(item, "chat", token_ids, roles, targets=targets)


def special_token_in(item: ChatItem, special: Mapping[int, str]) -> str | None:
    """Return the text of a special token that a chat's messages contain; None if they contain no such text.

    transformers would encode that text as the special token.
    """
    contents = "\0".join(message["content"] or "" for message in item.messages)
    return next((name for name in special.values() if name in contents), None)


def _chat_template(item: ChatItem, tokenizer: Any) -> str:
    """Return the tokenizer's template (Jinja text) for a chat; raise ValueError if it has no such template."""
    try:
        return str(tokenizer.get_chat_template(tools=item.tools))
    except ValueError as error:
        raise ValueError(
            f"sample {item.id!r} is a chat, but the tokenizer has no chat template for it; set "
            "`tokenizer.chat_template` to the one it was trained with and save it to the model's folder, or give "
            "`prompt` and `completion` as texts"
        ) from error


def _template_options(item: ChatItem, tokenizer: Any) -> dict[str, Any]:
    """Return the chat template's arguments; raise ValueError if an item sets one that is transformers' own.

    One such option is `chat_template`, another template.
    """
    own = inspect.signature(tokenizer.apply_chat_template).parameters.keys() - {"documents"}
    if taken := sorted(own & item.template_options.keys()):
        raise ValueError(
            f"sample {item.id!r}: `chat_template_kwargs` has `{taken[0]}`, which isn't for the template to read; leave "
            "it out, and set the template itself as `tokenizer.chat_template`"
        )
    return {**item.template_options, "tools": item.tools, "add_generation_prompt": False}


def _render_chat(item: ChatItem, tokenizer: Any, messages: Messages) -> str:
    """Return the messages' text as the tokenizer's chat template writes it; raise ValueError if it refuses them."""
    options = _template_options(item, tokenizer)
    try:
        text = str(tokenizer.apply_chat_template(list(messages), **options, tokenize=False))
        text.encode()  # half of a surrogate pair may stand in whatever else the template writes
    except (
        TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())
        message = f"sample {item.id!r}: the tokenizer's chat template doesn't take the chat: {reason}"
        raise ValueError(message) from error
    return text


def _require_plain_turns(item: ChatItem, tokenizer: Any, text: str) -> None:
    """Raise ValueError if the chat template writes more of the assistant's messages than their `content`."""
    plain = [
        {"role": "assistant", "content": message["content"] or ""} if message["role"] == "assistant" else message
        for message in item.messages
    ]
    keys = {key for message in item.messages for key in message if message["role"] == "assistant"}
    others = sorted(keys - {"role", "content"})
    if others and _render_chat(item, tokenizer, plain) != text:
        raise ValueError(
            f"sample {item.id!r}: the tokenizer's chat template writes more of the assistant's messages than their "
            f"`content` ({', '.join(others)}), so that its tokens can't be identified; give the tokenizer {MARKED}"
        )


def _find_contents(item: ChatItem, tokenizer: Any, text: str, *, marks: bool) -> list[_ContentSpan]:
    """Return where each message's content stands in the chat's `text`; ValueError if the template changes one.

    With `marks`, the template itself marks the assistant's contents, and these are skipped.
    """
    contents = {
        number: message["content"]
        for number, message in enumerate(item.messages)
        if message.get("content") and not (marks and message["role"] == "assistant")
    }
    hidden = [
        {**message, "content": f"\ue000lorascope{number}\ue001"} if number in contents else message
        for number, message in enumerate(item.messages)
    ]
    first, *pieces = _STANDS_FOR.split(_render_chat(item, tokenizer, hidden))
    numbers = [int(number) for number in pieces[::2]]
    for number in contents:
        if (times := numbers.count(number)) != 1:
            raise ValueError(_unidentified_message(item, number, f"writes {times} times what"))
    spans: list[_ContentSpan] = []
    place = len(first) if text.startswith(first) else -1
    for number, after in zip(numbers, pieces[1::2], strict=True):
        content = contents[number]
        trims = (str.strip, str.lstrip, str.rstrip)
        trimmed = [trim(content, signs) for trim in trims for signs in (None, "\n")]
        # Some templates write what a tool says as JSON.
        written = (content, *trimmed, json.dumps(content, ensure_ascii=False)[1:-1])
        matches = [form for form in written if place >= 0 and text.startswith(form + after, place)]
        if not matches:
            raise ValueError(_unidentified_message(item, number, "changes what"))
        spans.append(_ContentSpan(number, place, place + len(matches[0])))
        place += len(matches[0] + after)
    if place != len(text):
        raise ValueError(_unidentified_message(item, numbers[-1] if numbers else 0, "changes what"))
    return spans


def _unidentified_message(item: ChatItem, number: int, what: str) -> str:
    """Return the error text for message `number`, whose tokens can't be found since the template changes it.

    `what` says how the template changes the message's content.
    """
    role = item.messages[number]["role"]
    way = f"give the tokenizer {MARKED}" if role == "assistant" else "give it as the template writes it"
    return (
        f"sample {item.id!r}: the tokenizer's chat template {what} message {number} ({role}) says, so that its tokens "
        f"can't be identified; {way}, or leave the item out"
    )
