"""Parsing of records (JSON lines, rows of a table, dictionaries) in one of the known formats into items."""

import json
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lorascope.stores.json_document import object_with_unique_keys
from lorascope.stores.names import suggestion

from .items import ChatItem, ChoiceItem, CompletionItem, Item, TextItem, TokensItem

IGNORED = -100
"""Label of a token that isn't to be predicted, as in transformers."""
KNOWN_FORMATS = (
    "`messages`; `prompt` and `completion`; `text`; `question`, `choices` and `answer`; or `input_ids`, with `labels`"
)
TOKEN_FIELDS = ("input_ids", "labels", "position_ids", "attention_mask", "assistant_masks", "completion_mask")
"""Fields with one entry per token: three of numbers, then masks; the last two are TRL's, for labels."""
FIELDS = (
    *("id", "messages", "tools", "chat_template_kwargs", "prompt", "completion", "text"),
    *("question", "choices", "answer", *TOKEN_FIELDS, "seq_lengths"),
)
"""The fields that are read; others are ignored."""


def parse_records(records: Iterable[tuple[str, str, Any]], *, source: str, dataset: str, split: str) -> list[Item]:
    """Parse records (dictionaries or JSON texts), all of one format and with different ids, into items.

    Parameters
    ----------
    records
        (place, default id, record) of each: errors name the place, and a record without id gets the default. A record
        is a mapping, or the text of a JSON object. Blank texts are skipped.
    source
        The records' source, for errors.

    Raises
    ------
    ValueError
        If a record isn't in a known format, or isn't in the format of the first.
    """
    items: list[Item] = []
    places: dict[str, str] = {}
    first: tuple[str, str] | None = None
    for place, default_id, record in records:
        try:
            fields = _record_fields(record)
            fmt = _find_format(fields)
            first = first or (fmt, place)
            if fmt != first[0]:
                raise ValueError(f"it holds `{fmt}`, where {first[1]} holds `{first[0]}`; give each format apart")
            text = fields.get("text")
            if fmt == "text" and isinstance(text, str) and not text.strip():
                continue
            item = _MAKERS[fmt](fields, {"id": _item_id(fields, default_id), "dataset": dataset, "split": split})
            if item.id in places:
                raise ValueError(f"`id` is {item.id!r}, as in {places[item.id]}; ids must be unique within a file")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source}, {place}: {error}") from error
        places[item.id] = place
        items.append(item)
    return items


def _record_fields(record: Any) -> Mapping[str, Any]:
    """Return a record's fields, parsing it if it is a JSON text; raise ValueError unless it is an object."""
    if isinstance(record, str):
        record = _from_json(record, "not JSON", "give one object per line")
    if not isinstance(record, Mapping):
        raise ValueError(f"it holds {reprlib.repr(record)}; give an object with {KNOWN_FORMATS}")
    return record


def _from_json(text: str, what: str, advice: str) -> Any:
    """Parse JSON without repeated keys; raise ValueError with the texts `what` (is wrong) and `advice` if it can't."""
    try:
        return json.loads(text, object_pairs_hook=object_with_unique_keys)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} ({error}); {advice}") from error


def _find_format(fields: Mapping[str, Any]) -> str:
    """Return the field that identifies a record's format, such as `messages`; ValueError if no format fits.

    Of several formats, it is the one closest to a model's input.
    """
    filled = {name for name, value in fields.items() if value is not None}  # tables have null where a row lacks a field
    for names in (filled, set(fields)):
        for name in _MAKERS:
            if name in names and (name != "completion" or "prompt" in names):
                return name
        if {"question", "answer"} <= names:
            return "choices"
    keys = reprlib.repr(sorted(map(str, fields)))[1:-1] or "none"
    close = next(filter(None, (suggestion(str(name), FIELDS) for name in fields if name not in FIELDS)), "")
    raise ValueError(f"the format isn't known: the keys are {keys}; known are {KNOWN_FORMATS}{close}")


def _item_id(fields: Mapping[str, Any], default: str) -> str:
    """Return a record's `id` as a text, or `default` without one; ValueError unless it is a text or whole number."""
    name = default if fields.get("id") is None else fields["id"]
    if type(name) is int:  # as tables number their rows
        return str(name)
    if not _is_text(name):
        raise ValueError(f"`id` is {reprlib.repr(name)}; give a string of characters, a whole number, or none")
    return str(name)


def _is_text(value: Any) -> bool:
    """Whether a value is a string that can be encoded as UTF-8, without half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()  # JSON can spell half of a surrogate pair, which is no character and which no tokenizer takes
    except UnicodeEncodeError:
        return False
    return True


_TYPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("question", "text"), (_is_text, "a string of characters")),
    "choices": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of strings of characters"),
    # bool is an int to Python, but no index to whoever wrote the file.
    "answer": (lambda value: type(value) is int, "a whole number, counted from 0"),
}
"""Field -> function that checks its type, and the type in words."""


def _checked_fields(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return a record's fields with these names; raise ValueError if one is missing or of a wrong type."""
    for name in names:
        accepts, description = _TYPES[name]
        if name not in fields:
            raise ValueError(f"`{name}` is missing; give {description}")
        if not accepts(fields[name]):
            raise ValueError(f"`{name}` is {reprlib.repr(fields[name])}; give {description}")
    return {name: fields[name] for name in names}


def _choice_item(fields: Mapping[str, Any], names: Mapping[str, Any]) -> ChoiceItem:
    """Make a multiple-choice item of a record's fields; `names` has its id, data set and split."""
    checked = _checked_fields(fields, "question", "choices", "answer")
    return ChoiceItem(**names, **{**checked, "choices": tuple(checked["choices"])})


def _chat_item(fields: Mapping[str, Any], names: Mapping[str, Any]) -> ChatItem:
    """Make a chat item of a record's `messages` and template options; `names` has its id, data set and split."""
    messages = _parse_messages("messages", fields["messages"])
    return ChatItem(**names, messages=messages, **_template_fields(fields))


def _completion_item(fields: Mapping[str, Any], names: Mapping[str, Any]) -> ChatItem | CompletionItem:
    """Make an item of `prompt` and `completion`: a chat if they are lists of messages, else a text to continue.

    `names` has its id, data set and split.
    """
    prompt, completion = fields["prompt"], fields["completion"]
    if _is_text(prompt) and _is_text(completion):
        return CompletionItem(**names, prompt=prompt, completion=completion)
    if not (isinstance(prompt, list) and isinstance(completion, list)):
        values = f"`prompt` is {reprlib.repr(prompt)} and `completion` {reprlib.repr(completion)}"
        raise ValueError(f"{values}; give two strings of characters, or two lists of messages")
    first = _parse_messages("prompt", prompt)
    return ChatItem(
        **names,
        messages=first + _parse_messages("completion", completion),
        n_prompt=len(first),
        **_template_fields(fields),
    )


def _template_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chat record's tools and template arguments, as the keyword arguments of `ChatItem`."""
    tools, options = fields.get("tools"), fields.get("chat_template_kwargs") or {}
    if isinstance(tools, str):  # tables keep what has no fixed form as a text
        tools = _from_json(tools, "`tools` is a text that isn't JSON", "give a list of tools")
    if not isinstance(tools, list | None) or not isinstance(options, Mapping):
        values = f"`tools` is {reprlib.repr(tools)}, `chat_template_kwargs` {reprlib.repr(options)}"
        raise ValueError(f"{values}; give a list of tools, and an object")
    # A table has null where a row lacks an option, which to a template isn't the same.
    template_options = {key: value for key, value in options.items() if value is not None}
    return {"tools": tuple(tools) if tools else None, "template_options": template_options}


def _parse_messages(name: str, value: Any) -> tuple[dict[str, Any], ...]:
    """Return a chat's messages with contents as texts and without null fields; ValueError if one is malformed."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"`{name}` is {reprlib.repr(value)}; give a list of messages with `role` and `content`")
    messages = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping) or "role" not in message:
            words = "give an object with `role` and `content`"
            raise ValueError(f"`{name}[{number}]` is {reprlib.repr(message)}; {words}")
        content = message.get("content")
        if isinstance(content, list):
            if not all(isinstance(p, Mapping) and p.get("type") == "text" and _is_text(p.get("text")) for p in content):
                words = "give a text, or parts of the type 'text'"
                raise ValueError(f"`{name}[{number}].content` is {reprlib.repr(content)}; {words}")
            content = "".join(part["text"] for part in content)
        if isinstance(content, str) and not _is_text(content):
            words = "give a string of characters"
            raise ValueError(f"`{name}[{number}].content` is {reprlib.repr(content)}; {words}")
        rest = {key: entry for key, entry in message.items() if entry is not None}
        messages.append({**rest, "content": content})
    return tuple(messages)


def _tokens_item(fields: Mapping[str, Any], names: Mapping[str, Any]) -> TokensItem:
    """Make an item of a record's `input_ids` without padding; labels and masks say which to predict.

    A ValueError is raised if several sequences are packed into one, or labels are shifted.
    """
    columns = {name: fields[name] for name in TOKEN_FIELDS if fields.get(name) is not None}
    masks = [columns[name] for name in TOKEN_FIELDS[4:] if name in columns]
    for name, values in columns.items():
        is_mask = name in TOKEN_FIELDS[3:]  # of any type; other numbers would number packed sequences
        if not isinstance(values, list) or not all(v in (0, 1) if is_mask else type(v) is int for v in values):
            expected = "zeros and ones" if is_mask else "whole numbers"
            raise ValueError(f"`{name}` is {reprlib.repr(values)}; give a list of {expected}")
        if len(values) != (n := len(columns["input_ids"])):
            raise ValueError(f"`{name}` has {len(values)} entries where `input_ids` has {n}; give one a token")
    ids = columns["input_ids"]
    attention = columns.get("attention_mask", [1] * len(ids))
    places = [place for place, value in enumerate(attention) if value]
    if places and len(places) != places[-1] + 1 - places[0]:
        raise ValueError("`attention_mask` has gaps; give sequences that are padded at one side, one a row")
    positions = columns.get("position_ids", range(len(ids)))
    jumps = any(positions[place] != positions[places[0]] + place - places[0] for place in places)
    if len(fields.get("seq_lengths") or ()) > 1 or jumps:
        raise ValueError("it packs several sequences into one, by its `position_ids` or `seq_lengths`; give one a row")
    labels = columns.get("labels", ids)
    for place in places:
        if labels[place] not in (IGNORED, ids[place]):
            raise ValueError(
                f"`labels[{place}]` is {labels[place]} where `input_ids[{place}]` is {ids[place]}; give each token its "
                f"own id, not shifted, or {IGNORED} where nothing is to be predicted"
            )
    return TokensItem(
        **names,
        token_ids=tuple(ids[place] for place in places),
        targets=tuple(labels[place] != IGNORED and all(mask[place] for mask in masks) for place in places),
    )


_MAKERS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Item]] = {
    "input_ids": _tokens_item,
    "choices": _choice_item,
    "completion": _completion_item,
    "messages": _chat_item,
    "text": lambda fields, names: TextItem(**names, **_checked_fields(fields, "text")),
}
"""Field that identifies a format -> function that makes an item from a record's fields and names."""
