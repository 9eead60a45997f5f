"""Encoding of chats by the tokenizer's own template, with roles that are checked against the template's text."""

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _plain_template_data as as_plain
from transformers.utils.chat_template_utils import get_json_schema

from lorascope.stores.confined import ConfinedProcess
from lorascope.stores.format.tables import ROLES

from .encoded import ASSISTANT, TEMPLATE, EncodedSample, require_context_fit, require_short, require_splittable
from .items import ChatItem
from .render_texts import Rendered, marks_assistant, render_texts

MAX_SECONDS, MAX_BYTES = 10.0, 2**30
"""CPU time and memory in which a template must write the chats of a batch; usual ones take less than a second."""
BATCH_CHATS = 16
"""Number of chats in a batch, to which the limits apply."""
_STANDS_FOR = re.compile("\ue000lorascope([0-9]{1,9})\ue001")
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


def render_process() -> ConfinedProcess:
    """Return the process in which templates of chats are rendered, with its limits of time and memory."""
    return ConfinedProcess(render_texts, seconds=MAX_SECONDS, max_bytes=MAX_BYTES)


def render_chats(items: Iterable[ChatItem], tokenizer: Any, process: ConfinedProcess) -> Iterator[list[Rendered]]:
    """Yield the texts of each chat as the tokenizer's template writes its `_variants`, in the process.

    Raises
    ------
    ValueError
        If the tokenizer has no chat template, a chat brings arguments that aren't the template's, or the template
        needs more time or memory than the process has.
    """
    name, left = tokenizer.name_or_path or type(tokenizer).__name__, iter(items)
    while batch := [*islice(left, BATCH_CHATS)]:
        requests = [_request(item, tokenizer) for item in batch]
        results = process.run(requests)
        for item, request in zip(batch, requests, strict=True):
            try:
                yield [Rendered(*next(results)) for _ in request["chats"]]
            except (TimeoutError, MemoryError, ChildProcessError) as error:
                raise ValueError(
                    f"sample {item.id!r}: the chat template of tokenizer {name!r} {error} to write it and up to "
                    f"{BATCH_CHATS - 1} chats before it; set `tokenizer.chat_template` to the one that the model was "
                    "trained with, or leave the item out"
                ) from error


def _request(item: ChatItem, tokenizer: Any) -> dict[str, Any]:
    """Return what `render_texts` needs to write a chat, as JSON values."""
    template = _chat_template(item, tokenizer)
    tools = None if item.tools is None else [get_json_schema(t) if inspect.isroutine(t) else t for t in item.tools]
    options = {**tokenizer.special_tokens_map, **_template_options(item, tokenizer)}
    chats = _variants(item, marks=marks_assistant(template))
    return {"template": template, "chats": as_plain(chats), "tools": as_plain(tools), "options": as_plain(options)}


def encode_chat(
    item: ChatItem, texts: Sequence[Rendered], tokenizer: Any, *, max_length: int, special: Mapping[int, str]
) -> EncodedSample:
    """Encode a chat whose texts `render_chats` gave; each token gets a role, and the assistant's are to be predicted.

    Raises
    ------
    ValueError
        If the template refuses the chat or changes its contents, no token is the assistant's, or the chat is longer
        than the context.

    Notes
    -----
    A token has a message's role if it covers any character of the message's content; all other tokens are `template`.
    If the template marks what the assistant says (`{% generation %}`), the marks decide which tokens are `assistant`.
    Otherwise these are the contents of the assistant's messages, each with the special token right after it, which ends
    the model's turn.

    To find the contents, the chat is rendered once with a mark in place of each content. With the contents in place of
    the marks, that text must equal the rendered chat, except for white space around the contents.
    """
    text = _require_text(item, texts[0])
    require_splittable(text)
    require_short(tokenizer, item.id, text, max_length)
    if len(texts) == 3 and _require_text(item, texts[2]) != text:
        raise ValueError(
            f"sample {item.id!r}: the tokenizer's chat template writes more of the assistant's messages than their "
            f"`content` ({', '.join(_other_keys(item))}), so that its tokens can't be identified; give the tokenizer "
            f"{MARKED}"
        )
    contents = _contents(item, marks=marks_assistant(_chat_template(item, tokenizer)))
    spans = _find_contents(item, contents, text, _require_text(item, texts[1]))
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
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
    for start, stop in texts[0].assistant_spans:
        roles[(starts < stop) & (stops > start)] = ASSISTANT
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
    if getattr(tokenizer.apply_chat_template, "__func__", None) is not PreTrainedTokenizerBase.apply_chat_template:
        raise ValueError(
            f"sample {item.id!r} is a chat, but {type(tokenizer).__name__} writes chats by Python code of its own "
            "instead of a template; give `prompt` and `completion` as texts"
        )
    try:
        return str(tokenizer.get_chat_template(tools=item.tools))
    except ValueError as error:
        raise ValueError(
            f"sample {item.id!r} is a chat, but the tokenizer has no chat template for it; set "
            "`tokenizer.chat_template` to the one it was trained with and save it to the model's folder, or give "
            "`prompt` and `completion` as texts"
        ) from error


def _template_options(item: ChatItem, tokenizer: Any) -> Mapping[str, Any]:
    """Return a chat's own arguments of the template; raise ValueError if one is transformers' own.

    One such option is `chat_template`, another template.
    """
    own = inspect.signature(tokenizer.apply_chat_template).parameters.keys() - {"documents"}
    if taken := sorted(own & item.template_options.keys()):
        raise ValueError(
            f"sample {item.id!r}: `chat_template_kwargs` has `{taken[0]}`, which isn't for the template to read; leave "
            "it out, and set the template itself as `tokenizer.chat_template`"
        )
    return item.template_options


def _require_text(item: ChatItem, rendered: Rendered) -> str:
    """Return a rendered text; raise ValueError if the template refused the chat."""
    if rendered.refusal:
        raise ValueError(f"sample {item.id!r}: the tokenizer's chat template doesn't take the chat: {rendered.refusal}")
    return rendered.text


def _other_keys(item: ChatItem) -> list[str]:
    """Return what the assistant's messages hold besides `role` and `content`."""
    keys = {key for message in item.messages for key in message if message["role"] == "assistant"}
    return sorted(keys - {"role", "content"})


def _contents(item: ChatItem, *, marks: bool) -> dict[int, str]:
    """Return number -> content of the messages whose place is to be found: not the assistant's if there are marks."""
    return {
        number: message["content"]
        for number, message in enumerate(item.messages)
        if message.get("content") and not (marks and message["role"] == "assistant")
    }


def _variants(item: ChatItem, *, marks: bool) -> list[Messages]:
    """Return a chat's messages; with a mark in place of each content; and with nothing but the assistant's content.

    The last one is missing if the template has `marks` or the assistant's messages hold nothing else.
    """
    contents = _contents(item, marks=marks)
    masked = [
        {**message, "content": f"\ue000lorascope{number}\ue001"} if number in contents else message
        for number, message in enumerate(item.messages)
    ]
    plain = [
        {"role": "assistant", "content": message["content"] or ""} if message["role"] == "assistant" else message
        for message in item.messages
    ]
    return [item.messages, masked] if marks or not _other_keys(item) else [item.messages, masked, plain]


def _find_contents(item: ChatItem, contents: Mapping[int, str], text: str, masked: str) -> list[_ContentSpan]:
    """Return where each content stands in the chat's `text`; ValueError if the template changes one.

    `masked` is the text with a mark in place of each content.
    """
    first, *pieces = _STANDS_FOR.split(masked)
    numbers = [int(number) for number in pieces[::2]]
    if foreign := set(numbers) - contents.keys():
        raise ValueError(
            f"sample {item.id!r}: the chat, or the tokenizer's chat template, writes 'lorascope{min(foreign)}' between "
            "U+E000 and U+E001, which mark contents here; leave the item out"
        )
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
